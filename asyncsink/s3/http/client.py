"""The wire lane's Transport: operations from the event loop to lanes, and their results back."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, TypeVar, cast, get_args

import anyio

from asyncsink.errors import ConfigError, UploadMissing
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.availability import is_mute, reason_of
from asyncsink.s3.endpoint import tls_context
from asyncsink.s3.http.batches import MANY, SmallFileBatch, SmallPut, batch_of, exchange_of
from asyncsink.s3.http.exchange import (
    BatchPlace,
    Exchange,
    ExchangeBatch,
    ExchangeInterrupted,
    FileRefused,
    LaneWork,
    Outbox,
    Sending,
    single,
)
from asyncsink.s3.http.exchanges import LARGE
from asyncsink.s3.http.keyring import CredentialsProvider, Keyring
from asyncsink.s3.http.lane_pool import LanePool
from asyncsink.s3.http.reading import ExchangeError
from asyncsink.s3.http.requests import HotOperation
from asyncsink.s3.http.signing import Endpoint, endpoint_of
from asyncsink.s3.operations import AbortMultipartUpload, Done, Operation, Response
from asyncsink.s3.pacing import Bandwidth, Pacer

R = TypeVar("R", bound=Response)

HOT: Final = (*get_args(HotOperation), *LARGE, *MANY)
"""The operations that lanes carry."""


class HttpTransport:
    """A Transport for the operations in HOT; see `s3.transport.Transport` for the contract.

    Sends each operation once; only an idempotent one on a kept connection that proves closed is sent again, on a new
    one. Each request holds one of the pacer's tokens. Belongs to the event loop it was opened in. Use `open`.

    Cancelling `send` closes its connection: what was not sent yet is never sent. The cancellation propagates when the
    lane has released the operation's source or taker: at once, unless a read or a write blocks in the file system.
    """

    def __init__(
        self,
        bucket: str,
        endpoint: Endpoint,
        keyring: Keyring,
        retry: RetryPolicy,
        *,
        tls: ssl.SSLContext | None,
        pacer: Pacer,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._bucket = bucket
        self._endpoint = endpoint
        self._keyring = keyring
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(self._loop)
        self._place = BatchPlace(bucket, endpoint.url, keyring, endpoint.sign_payload, pacer.traffic)
        self._lanes = LanePool(endpoint, tls, retry, pacer, bandwidth=bandwidth, outbox=self._outbox)

    @classmethod
    async def open(
        cls,
        target: S3Target,
        retry: RetryPolicy,
        *,
        region: str,
        credentials: CredentialsProvider | None,
        pacer: Pacer,
        verify: bool = True,
        bandwidth: Bandwidth | None = None,
    ) -> HttpTransport:
        """A transport for `target`. Sends nothing, and starts no thread.

        Args:
            target: its bucket, endpoint_url, addressing_style, anonymous, request_payer and ca_bundle apply.
            retry: its connect_seconds, stall_seconds and complete_seconds apply.
            region: of the bucket, for signatures and for Amazon's host names.
            credentials: called before the first request and whenever they are about to expire; None only for an
                anonymous target.
            pacer: bounds the requests in flight.
            verify: False accepts any certificate (only where a caller's own client did so already).
            bandwidth: the limit on bytes sent in a second, or None.

        Raises:
            ConfigError: no endpoint is known, the ca_bundle cannot be read, or `credentials` is missing.
        """
        endpoint = endpoint_of(target, region)
        if credentials is None and not target.anonymous:
            raise ConfigError("The wire lane was given no credentials; give some, or say anonymous=True.")
        tls = await asyncio.to_thread(tls_context, target.ca_bundle, verify) if endpoint.tls else None
        provider = None if target.anonymous else credentials
        keyring = Keyring(endpoint, region, provider, request_payer=target.request_payer)
        return cls(target.bucket, endpoint, keyring, retry, tls=tls, pacer=pacer, bandwidth=bandwidth)

    def __repr__(self) -> str:
        lanes = len(self._lanes.small) + len(self._lanes.large)
        return f"<HttpTransport s3://{self._bucket} at {self._endpoint.url}, {lanes} lanes>"

    async def send(self, operation: Operation[R]) -> R:
        """Send one operation and return its answer.

        Raises:
            TypeError: the operation is none of HOT.
            Stalled: no byte moved for `stall_seconds` (`complete_seconds` for CompleteMultipartUpload).
            ClockSkew: the clocks differ; the next request is signed with the server's time.
            ExpiredCredentials: the next request is signed with new ones.
            SourceError: the bytes could not be read; nothing was sent.
            AsyncSinkError: as `s3.errors_map` reads the answer; ConnectionLost or ServerFault where there was no whole
                one.
        """
        if not isinstance(operation, HOT):
            raise TypeError(f"the wire lane does not send {operation.name}")
        writer = self._keyring.ready() or await self._keyring.renewed()
        sending = Sending(self._place, writer, self._outbox, self._loop.create_future())
        if isinstance(operation, MANY):
            batch = batch_of(operation, sending)
            work = LaneWork(batch.take)
            try:
                with self._ending_withdrawn(batch):
                    self._lanes.give(work, large=False)
                    return cast("R", await _end_of(sending.done, partial(self._give_up, batch, work, batch.has)))
            except ExchangeError as failure:
                raise self._place.failed(operation.name, self._bucket, failure) from failure.__cause__
        try:
            return cast("R", await self._carried(operation, sending))
        except ExchangeError as failure:
            raise self._place.unanswered(operation, failure) from failure.__cause__
        except ssl.SSLCertVerificationError as error:
            raise self._place.unanswered(operation, error) from error
        except FileRefused as refused:
            found = refused.error
            if isinstance(found, UploadMissing) and isinstance(operation, AbortMultipartUpload):
                return cast("R", Done(was_there=False))
            self._place.learn(writer, refused)
            if is_mute(operation, found) and writer.temporary:
                again = await reason_of(operation, found, self.send, lambda: self._keyring.ready() is not writer)
                raise again from None
            raise found from None

    def bound(self, connections: int) -> None:
        """As `LanePool.bound`."""
        self._lanes.bound(connections)

    async def aclose(self) -> None:
        """As `LanePool.aclose`."""
        await self._lanes.aclose()

    async def _carried(self, operation: Operation[Any], sending: Sending) -> Any:
        exchange = exchange_of(operation, sending)
        work = single(exchange)
        if exchange.urgent:
            work.take()
            self._lanes.give_urgent(exchange)
        else:
            self._lanes.give(work, large=isinstance(operation, LARGE))
        return await _end_of(sending.done, partial(self._give_up, exchange, work, lambda each: each is exchange))

    @contextmanager
    def _ending_withdrawn(self, batch: ExchangeBatch) -> Iterator[None]:
        """Within the block, single files of a batch end as soon as their callers give them up."""
        if not isinstance(batch, SmallFileBatch) or (withdrawn := batch.operation.withdrawn) is None:
            yield
            return

        def end(key: str) -> None:
            self._lanes.give_up_begun(lambda put: isinstance(put, SmallPut) and put.batch is batch and put.key == key)

        withdrawn.end = end
        try:
            yield
        finally:
            withdrawn.end = None

    def _give_up(self, whole: Exchange | ExchangeBatch, work: LaneWork, is_of: Callable[[Exchange], bool]) -> None:
        whole.given_up = True
        self._lanes.give_up(work, is_of)


async def _end_of(done: asyncio.Future[Any], give_up: Any) -> Any:
    """The result. Cancelled, it gives up, and propagates when the lane has released everything."""
    try:
        # Not awaited itself: cancelling this task must not cancel the future that the lane is to complete.
        await asyncio.wait([done])
        return done.result()
    except asyncio.CancelledError:
        give_up()
        with anyio.CancelScope(shield=True):
            while not done.done():
                try:
                    await asyncio.wait([done])
                except asyncio.CancelledError:
                    continue
        done.exception()
        raise
    except ExchangeInterrupted:
        raise ExchangeError("the transport was closed") from None
