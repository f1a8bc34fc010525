"""Large bodies: one hop each to a thread that reads, checksums, copies and sends them; the event loop only waits.

Reading, checksumming, sealing and sending large buffers all release the interpreter's lock, so that a few threads fill
a network from Python at the price of the copies alone. Memory is `threads` buffers of a part's size, and they are
given back when nothing was sent for a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

import anyio

from asyncsink.config import RetryPolicy
from asyncsink.errors import AsyncSinkError, ClockSkew, ConfigError, ConnectionLost, ExpiredCredentials
from asyncsink.model import Checksum
from asyncsink.os_errors import shortage
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.error_map import one_line
from asyncsink.s3.get_object import GetObjectTo, ObjectReceived
from asyncsink.s3.operations import (
    Confirm,
    ObjectStored,
    PartSource,
    PutObject,
    PutObjectFrom,
    StoredFrom,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.ranges import ranges_unknown
from asyncsink.s3.wire.answers import corrected_time
from asyncsink.s3.wire.endpoint import Endpoint
from asyncsink.s3.wire.keyring import Keyring
from asyncsink.s3.wire.reading import ExchangeError
from asyncsink.s3.wire.requests import RequestWriter
from asyncsink.s3.wire.sender_connection import Address, in_turn
from asyncsink.s3.wire.sender_thread import (
    Assignment,
    Errand,
    ObjectToSend,
    PartToSend,
    Post,
    Refused,
    Sender,
)
from asyncsink.s3.wire.waiting import Interrupted

__all__ = ["ObjectToSend", "PartToSend", "SenderPool"]

THREADS: Final = 8
RESOLVERS: Final = 2
"""Threads that look names up: that can block for long, and cannot be interrupted."""
FAILED_ADDRESSES_MAX: Final = 64
JOIN_SECONDS_MAX: Final = 5.0
"""So long `aclose` waits for threads that hang in a file system; they end when it lets go of them."""


class SenderPool:
    """Sends files and parts of them to one bucket, each once, from threads of its own. For one event loop.

    Args:
        bucket: its name, for messages.
        endpoint: where requests go.
        keyring: signs them. The pool uses it in several threads: it must be the pool's own.
        retry: connect_seconds and stall_seconds.
        tls: the context for HTTPS, None for plain HTTP.
        threads: bodies that are sent at once, at most; each holds a buffer of a body's size. Threads are started
            when they are needed.
        bandwidth: the limit on what is sent in a second, or None.
    """

    def __init__(
        self,
        bucket: str,
        endpoint: Endpoint,
        keyring: Keyring,
        retry: RetryPolicy,
        tls: ssl.SSLContext | None,
        *,
        threads: int = THREADS,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._post = Post(bucket, endpoint, keyring, retry, tls, self._loop, threading.current_thread(), bandwidth)
        self._slots = asyncio.Semaphore(threads)
        self._resolvers = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="asyncsink-resolver")
        self._senders: list[Sender] = []
        self._ending: list[Sender] = []
        self._kept_max = threads
        self._idle: list[Sender] = []
        self._under_way: dict[Sender, Assignment] = {}
        self._closed = False
        self.connections_total = 0
        """Connections asked for so far."""

    def __repr__(self) -> str:
        url = self._post.endpoint.url
        return f"<SenderPool {url}: {len(self._senders)} threads, {len(self._under_way)} sending>"

    async def send(self, operation: UploadPartFrom | PutObjectFrom) -> StoredFrom:
        """`send_part` for an operation; raises the same, and what opening and closing a PutObjectFrom's source raise.

        Cancellation as there: it propagates when the thread has closed that source.
        """
        if isinstance(operation, PutObjectFrom):
            whole = ObjectToSend(
                key=operation.key,
                algorithm=operation.algorithm,
                attributes=operation.attributes,
                only_new=operation.only_new,
                write_token=operation.write_token,
                md5_instead=operation.md5_instead,
            )
            stored, sent = await self._carry(
                Errand(
                    source=operation.source,
                    offset=0,
                    length=operation.length,
                    what=whole,
                    local=operation.local,
                    confirm=operation.confirm,
                )
            )
        else:
            part = PartToSend(
                key=operation.key,
                upload_id=operation.upload_id,
                part_number=operation.part_number,
                algorithm=operation.algorithm,
                sse_customer_key=operation.sse_customer_key,
                md5_instead=operation.md5_instead,
            )
            stored, sent = await self.send_part(
                operation.source, operation.offset, operation.length, part, operation.local, confirm=operation.confirm
            )
        return StoredFrom(
            etag=stored.etag, checksum=stored.checksum, version_id=stored.version_id, sse=stored.sse, sent=sent
        )

    async def send_part(
        self,
        source: PartSource,
        offset: int,
        length: int,
        what: PartToSend | ObjectToSend,
        local: Callable[[memoryview], None] | None = None,
        *,
        confirm: Confirm | None = None,
    ) -> tuple[ObjectStored, Checksum | None]:
        """Read `length` bytes from `offset` of `source` and send them; the answer, and the checksum that was sent.

        Sends the part once; only a request on a kept connection that turns out to be closed is sent again, on a new
        one (and the bytes are read, and given to `local`, again).

        Args:
            source: in use until this returns or raises.
            offset, length: bytes in the source.
            what: where they go.
            local: called in the thread with the bytes before they are sent, to write the local copy; must not keep
                them. What it raises is raised, and nothing is sent: a copy that may fail by itself keeps its error.
            confirm: called in the thread with the answer, while the bytes are still at hand; what it raises is raised.

        Raises:
            SourceError: the bytes could not be read; nothing was sent.
            ConfigError, CredentialsError, InvalidKey: nothing will succeed with this target, key or attributes.
            ConnectionLost, Stalled, ServerFault: there was no whole answer.
            ClockSkew, ExpiredCredentials: the next request is signed with the server's time, or new credentials.
            AsyncSinkError: as `s3.error_map` reads the answer.

        Cancellation resets the connection, and propagates when the thread has let go of `source`: at once, unless the
        file system keeps a read or a local write waiting.
        """
        # Whoever opened it closes it.
        errand = Errand(
            source=lambda: contextlib.nullcontext(source),
            offset=offset,
            length=length,
            what=what,
            local=local,
            confirm=confirm,
        )
        stored, sent = await self._carry(errand)
        return stored, sent

    async def receive(self, operation: GetObjectTo) -> ObjectReceived:
        """Have a thread receive a range, and give its bytes to the operation's `taker` as they come.

        Receives it once; only a request on a kept connection that turns out to be closed is sent again, on a new one.

        Raises:
            ConfigError, CredentialsError, InvalidKey: nothing will succeed with this target or key.
            ConnectionLost, Stalled, ServerFault, ClockSkew, ExpiredCredentials: as in `send_part`.
            AsyncSinkError: as `s3.error_map` reads the answer; as `s3.ranges` does, where it holds other bytes.
            Exception: what the taker raises.

        Cancellation resets the connection, and propagates when the thread has let go of the taker.
        """
        received: ObjectReceived = await self._carry(operation)
        return received

    async def _carry(self, errand: Errand | GetObjectTo) -> Any:
        """Give it to a sender as soon as one is free."""
        async with self._slots:
            try:
                sender = self._idle.pop() if self._idle else self._start()
            except ExchangeError as failure:
                raise self._failed(errand, failure) from failure.__cause__
            except (OSError, RuntimeError) as error:
                # Others have threads, which may end: it is tried again.
                why = shortage(error) or one_line(str(error))
                raise ConnectionLost(
                    f"{self._where(errand)} failed: no thread could be started to send it. {why}",
                    operation=_operation_name(errand),
                ) from error
            try:
                return await self._send(sender, errand)
            finally:
                self._idle.append(sender)
                self._end_surplus()

    def bound(self, threads: int) -> None:
        """Keep `threads` at most; those that rest beyond that end now, others when they have nothing to do."""
        self._kept_max = threads
        self._end_surplus()

    def _end_surplus(self) -> None:
        while self._idle and len(self._senders) > self._kept_max:
            sender = self._idle.pop(0)
            self._senders.remove(sender)
            self._ending = [each for each in self._ending if not each.ended.done()]
            self._ending.append(sender)
            sender.stop()

    async def aclose(self) -> None:
        """End the threads and close their connections; what is under way fails. Calling it twice is harmless.

        Waits JOIN_SECONDS_MAX at most for a thread that hangs in a file system.
        """
        self._closed = True
        for sender, assignment in self._under_way.items():
            sender.give_up(assignment)
        for sender in self._senders:
            sender.stop()
        senders, self._senders, self._ending = [*self._senders, *self._ending], [], []
        self._resolvers.shutdown(wait=False)
        if not senders:
            return
        ended, _ = await asyncio.wait([sender.ended for sender in senders], timeout=JOIN_SECONDS_MAX)
        for sender in senders:
            if sender.ended in ended:
                sender.thread.join()

    async def _send(self, sender: Sender, errand: Errand | GetObjectTo) -> Any:
        keyring = self._post.keyring
        kept = sender.connected
        while True:
            writer = keyring.ready() or await keyring.renewed()
            try:
                addresses = () if kept else await self._resolve()
                assignment = Assignment(
                    errand=errand, writer=writer, addresses=addresses, done=self._loop.create_future()
                )
                return await self._run(sender, assignment)
            except ExchangeError as failure:
                if not (kept and failure.unanswered):
                    raise self._failed(errand, failure) from failure.__cause__
                kept = False
            except Refused as refused:
                self._learn(writer, refused)
                raise refused.error from None
            except ssl.SSLCertVerificationError as error:
                reason = one_line(error.verify_message or str(error))
                raise ConfigError(
                    f"{self._where(errand)} failed: the certificate of {self._post.endpoint.url} is not trusted "
                    f"({reason}); give ca_bundle=."
                ) from error

    async def _run(self, sender: Sender, assignment: Assignment) -> Any:
        if self._closed:
            raise ExchangeError("the pool was closed")
        self._under_way[sender] = assignment
        sender.give(assignment)
        try:
            # Waited for, not awaited: cancelling this task must not complete what the thread has yet to complete.
            await asyncio.wait([assignment.done])
            return assignment.done.result()
        except asyncio.CancelledError:
            sender.give_up(assignment)
            await _over(assignment)
            raise
        except Interrupted:
            raise ExchangeError("the pool was closed") from None
        finally:
            del self._under_way[sender]

    async def _resolve(self) -> list[Address]:
        endpoint, seconds = self._post.endpoint, self._post.retry.connect_seconds
        if self._closed:
            raise ExchangeError("the pool was closed")
        lookup = partial(socket.getaddrinfo, endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        try:
            async with asyncio.timeout(seconds):
                found = await self._loop.run_in_executor(self._resolvers, lookup)
        except TimeoutError as error:
            raise ExchangeError(f"the name {endpoint.host!r} was not resolved within {seconds:g} s") from error
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or "it is malformed"
            raise ExchangeError(f"the name {endpoint.host!r} cannot be resolved: {reason}") from error
        addresses: list[Address] = list(dict.fromkeys((each[0], each[4]) for each in found))  # type: ignore[misc]
        if not addresses:
            raise ExchangeError(f"the name {endpoint.host!r} has no address")
        # Names change their addresses over a long run: those of yesterday are not kept.
        if len(self._post.failed_at) > FAILED_ADDRESSES_MAX:
            self._post.failed_at.clear()
        self.connections_total += 1
        return in_turn(addresses, self.connections_total, self._post.failed_at)

    def _start(self) -> Sender:
        if self._closed:
            raise ExchangeError("the pool was closed")
        sender = Sender(self._post, len(self._senders))
        self._senders.append(sender)
        return sender

    def _learn(self, writer: RequestWriter, refused: Refused) -> None:
        keyring = self._post.keyring
        if isinstance(refused.error, ExpiredCredentials):
            keyring.expire(writer)
        elif isinstance(refused.error, ClockSkew):
            server_time = corrected_time(refused.error, refused.answer)
            if server_time is not None:
                keyring.correct_clock(server_time)

    def _failed(self, errand: Errand | GetObjectTo, failure: ExchangeError) -> AsyncSinkError:
        if failure.overfull == 200 and isinstance(errand, GetObjectTo) and not errand.whole:
            return ranges_unknown(errand.request(), self._post.bucket)
        return failure.error(
            f"{self._where(errand)} failed: {failure.reason} at {self._post.endpoint.url}; "
            "look at the server and the network.",
            operation=_operation_name(errand),
        )

    def _where(self, errand: Errand | GetObjectTo) -> str:
        what = errand if isinstance(errand, GetObjectTo) else errand.what
        part = f"part {what.part_number} of " if isinstance(what, PartToSend) else ""
        return f"{_operation_name(errand)} of {part}s3://{self._post.bucket}/{one_line(what.key, 1200)}"


async def _over(assignment: Assignment) -> None:
    """Wait until the thread has let go of the source, however often the task is cancelled meanwhile."""
    with anyio.CancelScope(shield=True):
        while not assignment.done.done():
            # The first cancellation propagates when this returns; a source that is still being read must stay open.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([assignment.done])
    # Nobody wants to know how it ended.
    assignment.done.exception()


def _operation_name(errand: Errand | GetObjectTo) -> str:
    if isinstance(errand, GetObjectTo):
        return errand.name
    return PutObject.name if isinstance(errand.what, ObjectToSend) else UploadPart.name
