"""The wire lane's Transport: operations from the event loop to lanes, and their results back.

Small requests share one lane, which is enough for all that Python can send; another is started only where that one
hangs in a file system. Large bodies have a few lanes, because reading, checksumming and sending them release the
interpreter's lock.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import anyio

from asyncsink.errors import ConfigError, UploadMissing
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.os_errors import shortage
from asyncsink.s3.availability import is_mute, reason_of
from asyncsink.s3.endpoint import context_trusting
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.get_object import GetObject, GetObjects, GetObjectTo, ranges_unknown
from asyncsink.s3.http.addresses import Addresses
from asyncsink.s3.http.exchange import Exchange, ExchangeInterrupted, LaneWork, Outbox, single
from asyncsink.s3.http.exchanges import (
    Awaited,
    BatchPlace,
    ExchangeBatch,
    FileRefused,
    FromFile,
    Heads,
    InMemory,
    Range,
)
from asyncsink.s3.http.keyring import CredentialsProvider, Keyring
from asyncsink.s3.http.lane import Lane, Shared
from asyncsink.s3.http.reading import ExchangeError, NoThread
from asyncsink.s3.http.requests import BOOKKEEPING, HotOperation, RequestWriter
from asyncsink.s3.http.signing import Endpoint, endpoint_of
from asyncsink.s3.http.small_files import SmallFileBatch, SmallObjectBatch
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    Done,
    HeadObject,
    HeadObjects,
    ListObjects,
    Operation,
    PutFiles,
    PutObject,
    PutObjectFrom,
    Response,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.pacing import Bandwidth, Pacer, usable_cores

R = TypeVar("R", bound=Response)

LARGE: Final = (UploadPartFrom, PutObjectFrom, GetObjectTo)
MANY: Final = (PutFiles, HeadObjects, GetObjects)
HOT: Final = (PutObject, UploadPart, HeadObject, GetObject, ListObjects, *BOOKKEEPING, *LARGE, *MANY)
"""The operations that lanes carry."""

SMALL_LANES_MAX: Final = 4
LARGE_LANES_PER_CORE: Final = 2
LARGE_LANES_MIN: Final = 4
STUCK_SECONDS: Final = 0.25
"""Seconds with one action after which a lane hangs in a file system, and its waiting work moves to another."""
HUNG_SECONDS: Final = 1.0
"""Seconds after which the pacer no longer counts what a hanging lane carries: others would wait for its tokens."""
JOIN_SECONDS_MAX: Final = 5.0
"""Seconds that `aclose` waits for lanes that hang in a file system, and end when its calls return."""


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
        self._addresses = Addresses(endpoint.host, endpoint.port)
        self._place = BatchPlace(bucket, endpoint.url, keyring, endpoint.sign_payload, pacer.traffic)
        self._shared = Shared(
            host=endpoint.host,
            tls=tls,
            retry=retry,
            pacer=pacer,
            addresses=self._addresses,
            bandwidth=bandwidth,
            outbox=self._outbox,
            owner=threading.current_thread(),
        )
        self._small: list[Lane] = []
        self._large: list[Lane] = []
        self._large_max = max(LARGE_LANES_MIN, LARGE_LANES_PER_CORE * usable_cores())
        self._kept_max: int | None = None
        self._watching: asyncio.TimerHandle | None = None
        self._hanging = 0
        self._closed = False

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
        lanes = len(self._small) + len(self._large)
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
        done: asyncio.Future[Any] = self._loop.create_future()
        if isinstance(operation, MANY):
            batch: ExchangeBatch
            if isinstance(operation, PutFiles):
                batch = SmallFileBatch(operation, self._place, writer, self._outbox, done)
            elif isinstance(operation, GetObjects):
                batch = SmallObjectBatch(operation, self._place, writer, self._outbox, done)
            else:
                batch = Heads(operation, self._place, writer, self._outbox, done)
            work = LaneWork(batch.take)
            try:
                self._give_small(work)
                return cast("R", await _end_of(done, lambda: self._give_up(batch, self._small, work, batch.has)))
            except ExchangeError as failure:
                raise self._place.failed(operation.name, self._bucket, failure) from failure.__cause__
        try:
            return cast("R", await self._carried(operation, writer, done))
        except ExchangeError as failure:
            if failure.overfull == 200 and isinstance(operation, (GetObject, GetObjectTo)) and not operation.whole:
                request = operation.request() if isinstance(operation, GetObjectTo) else operation
                raise ranges_unknown(request, self._bucket) from failure.__cause__
            raise self._place.failed(operation.name, self._where(operation), failure) from failure.__cause__
        except ssl.SSLCertVerificationError as error:
            reason = one_line(error.verify_message or str(error))
            raise ConfigError(
                f"{operation.name} of {self._where(operation)} failed: the certificate of {self._endpoint.url} is not "
                f"trusted ({reason}); give ca_bundle=."
            ) from error
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
        """Keep at most `connections` for small requests and as many for large ones, and one in each lane; surplus idle
        ones are closed now, others when they become idle."""
        self._kept_max = connections
        self._divide(self._small)
        self._divide(self._large)

    async def aclose(self) -> None:
        """End the lanes and close their connections; requests under way fail. Calling it twice is harmless.

        Waits JOIN_SECONDS_MAX at most for a lane that hangs in a file system.
        """
        self._closed = True
        if self._watching is not None:
            self._watching.cancel()
        self._shared.pacer.hang(-self._hanging)
        self._hanging = 0
        self._addresses.close()
        lanes = [*self._small, *self._large]
        self._small, self._large = [], []
        ended = [asyncio.wrap_future(lane.ended_future) for lane in lanes]
        for lane in lanes:
            lane.stop()
        if ended:
            with anyio.CancelScope(shield=True):
                await asyncio.wait(ended, timeout=JOIN_SECONDS_MAX)

    async def _carried(self, operation: Any, writer: RequestWriter, done: asyncio.Future[Any]) -> Any:
        place, outbox = self._place, self._outbox
        exchange: Awaited
        if isinstance(operation, GetObjectTo):
            exchange = Range(operation, place, writer, outbox, done)
        elif isinstance(operation, (UploadPartFrom, PutObjectFrom)):
            exchange = FromFile(operation, place, writer, outbox, done)
        else:
            exchange = InMemory(operation, place, writer, outbox, done)
        work, lanes = single(exchange), self._large if isinstance(operation, LARGE) else self._small
        if exchange.urgent:
            work.take()
            self._small_lane().give_urgent(exchange)
            self._shared.pacer.count_unpaced()
            self._watch_later()
        elif lanes is self._large:
            self._large_lane().give(work)
            self._watch_later()
        else:
            self._give_small(work)

        return await _end_of(done, lambda: self._give_up(exchange, lanes, work, lambda each: each is exchange))

    def _give_up(
        self, whole: Exchange | ExchangeBatch, lanes: list[Lane], work: LaneWork, is_of: Callable[[Exchange], bool]
    ) -> None:
        whole.given_up = True
        for lane in lanes:
            lane.give_up_work(work, is_of)

    # -- Choice of a lane ----------------------------------------------------------------------------------------------

    def _small_lane(self) -> Lane:
        """The small lane that is least stuck, or a new one."""
        for lane in self._small:
            if not self._stuck(lane):
                return lane
        if len(self._small) < SMALL_LANES_MAX:
            return self._started(self._small, "small", large=False)
        return min(self._small, key=lambda lane: (lane.over, lane.load))

    def _give_small(self, work: LaneWork) -> None:
        self._small_lane().give(work)
        self._watch_later()

    def _watch_later(self) -> None:
        if self._watching is None and not self._closed:
            self._watching = self._loop.call_later(STUCK_SECONDS, self._watch)

    def _watch(self) -> None:
        """Move work that waits for a hanging lane to another, and let other requests go on beside what it carries."""
        self._watching = None
        for lane in [lane for lane in (*self._small, *self._large) if lane.waiting and self._stuck(lane)]:
            other = self._large_lane() if lane.large else self._small_lane()
            if not self._stuck(other):
                lane.hand_over(other)
        lanes = [*self._small, *self._large]
        hanging = sum(lane.tokens for lane in lanes if self._stuck(lane, HUNG_SECONDS))
        if hanging != self._hanging:
            self._shared.pacer.hang(hanging - self._hanging)
            self._hanging = hanging
        if any(lane.load for lane in lanes):
            self._watch_later()

    def _stuck(self, lane: Lane, seconds: float = STUCK_SECONDS) -> bool:
        began = lane.began_at
        return lane.over or (bool(began) and lane.clock() - began > seconds)

    def _large_lane(self) -> Lane:
        """The large lane with the least load, or a new one."""
        if len(self._large) < self._large_max and all(lane.load or self._stuck(lane) for lane in self._large):
            return self._started(self._large, "large", large=True)
        return min(self._large, key=lambda lane: (self._stuck(lane), lane.load))

    def _started(self, lanes: list[Lane], name: str, *, large: bool) -> Lane:
        if self._closed:
            raise ExchangeError("the transport was closed")
        try:
            lane = Lane(self._shared, f"asyncsink-{name}-{len(lanes)}", large=large)
        except (OSError, RuntimeError) as error:
            if lanes:
                return min(lanes, key=lambda lane: lane.load)
            # Retryable: other threads may end.
            why = shortage(error) or one_line(str(error))
            raise NoThread(f"no thread could be started to send it. {why}") from error
        lanes.append(lane)
        self._divide(lanes)
        return lane

    def _divide(self, lanes: list[Lane]) -> None:
        if self._kept_max is not None:
            for lane in lanes:
                lane.bound(max(1, self._kept_max // len(lanes)))

    def _where(self, operation: HotOperation | UploadPartFrom | PutObjectFrom | GetObjectTo) -> str:
        part = f"part {operation.part_number} of " if isinstance(operation, UploadPartFrom) else ""
        return f"{part}s3://{self._bucket}/{one_line(getattr(operation, 'key', ''), 1200)}"


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


def tls_context(ca_bundle: str, verify: bool = True) -> ssl.SSLContext:
    """The context for HTTPS: certificates and host names are checked, TLS 1.2 or later. Blocking: reads certificates.

    Args:
        ca_bundle: PEM file with the certificates to trust, or "" for the system's.
        verify: False checks nothing.

    Raises:
        ConfigError: the ca_bundle cannot be used.
    """
    context = context_trusting(ca_bundle)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # With renegotiation a write may have to wait for a read. TLS 1.3 has none, and S3 requests none.
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
