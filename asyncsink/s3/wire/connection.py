"""One HTTP/1.1 connection: writes a request, waits for its answer, says when nothing moves.

Works on uvloop and on asyncio's own loops. Whatever a peer does, an exchange ends in an Answer or an ExchangeError.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Final, cast

from asyncsink.errors import ServerFault, Stalled
from asyncsink.s3.answer_limits import ANSWER_BYTES_MAX
from asyncsink.s3.bandwidth import Bandwidth
from asyncsink.s3.body import SLICE_BYTES, SMALL_BODY_BYTES, ByteBody
from asyncsink.s3.error_map import one_line
from asyncsink.s3.wire.answers import Answer
from asyncsink.s3.wire.reading import AnswerReader, ExchangeError

BUFFER_BYTES: Final = 64 * 1024
"""What one read takes: a small object with its headers, whole. A buffer of our own spares the loops one of 256 KiB for
every read."""


def at_once(head: bytes, body: ByteBody) -> int:
    """Bytes that an exchange writes in one piece: a small body goes with its head, a large one in slices after it."""
    return len(head) + (len(body) if len(body) <= SMALL_BODY_BYTES else 0)


class Connection(asyncio.BufferedProtocol):
    """A connection for one exchange after another.

    Args:
        loop: the running loop.
        on_lost: called once, when the connection is gone.
        bandwidth: the limit on what is sent in a second, or None. The caller of `exchange` waits for what it sends
            `at_once`; what follows waits here.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_lost: Callable[[Connection], None],
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._bandwidth = bandwidth
        self._slice_bytes = SLICE_BYTES if bandwidth is None else min(SLICE_BYTES, bandwidth.slice_bytes)
        self._held = False
        self._reader = AnswerReader()
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._room: memoryview | None = None
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._refused = False
        self._handed = 0
        self._unhanded = 0
        self._mark: int | None = None
        self._moved_at = 0.0
        self.idle_since = 0.0
        """Loop time of the end of the last exchange."""
        self.stall_seconds = math.inf
        """So long nothing may move in the exchange; see config.RetryPolicy."""

    def __repr__(self) -> str:
        return f"<Connection {'busy' if self._busy else 'idle' if self.usable else 'closed'}>"

    @property
    def usable(self) -> bool:
        """Whether another exchange can begin."""
        return self._transport is not None and not self._transport.is_closing() and not self._busy

    @property
    def _busy(self) -> bool:
        return self._answer is not None and not self._answer.done()

    async def exchange(
        self,
        head: bytes,
        body: ByteBody,
        *,
        bodiless: bool,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        into: memoryview | None = None,
    ) -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            head: request line and headers.
            body: sent after it; not to be changed until the exchange ended.
            bodiless: the answer has no body whatever its headers say (HEAD).
            answer_bytes_max: of the whole answer.
            into: where the body of a 2xx answer is received; written to until the exchange ended, and not after.

        Raises:
            ExchangeError: there is none, or it is broken. The connection is closed.

        Cancellation closes the connection.
        """
        if self._transport is None or self._transport.is_closing():
            raise ExchangeError("the server hung up before it answered", unanswered=True)
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._answer = answer
        self._reader.begin(bodiless=bodiless, bytes_max=answer_bytes_max, into=into)
        self._refused = False
        self._mark = None
        self._handed, self._unhanded = 0, len(body)
        try:
            if len(body) <= SMALL_BODY_BYTES:
                self._handed, self._unhanded = len(head) + len(body), 0
                # One piece: a copy of it costs less than what a loop does for two.
                self._transport.write(b"".join((head, body)) if body else head)
            else:
                await self._write(self._transport, head, body)
            found = await answer
        except BaseException:
            # Nobody waits for it any more; a failure that comes later is nobody's.
            answer.cancel()
            self.abort()
            raise
        if not self._reader.keep_alive or self._unsent():
            # It says "close", or came before the request was out.
            self.abort()
        return found

    def abort(self) -> None:
        """Close at once; what was not sent yet is never sent. Harmless when closed."""
        if self._transport is not None:
            self._transport.abort()

    def check_progress(self, now: float) -> None:
        """Fail the exchange where no byte moved either way for `stall_seconds`; to be called now and then.

        Args:
            now: loop time.
        """
        if not self._busy or self._transport is None:
            return
        if self._held:
            # It waits for its own turn: the server is not to blame.
            self._mark = None
            return
        mark = self._reader.received + self._handed - self._transport.get_write_buffer_size()
        if mark != self._mark:
            self._mark, self._moved_at = mark, now
        elif now - self._moved_at >= self.stall_seconds:
            self.fail(ExchangeError(f"no byte moved for {self.stall_seconds:g} s", Stalled))

    def fail(self, error: ExchangeError) -> None:
        """End the exchange, if there is one, and close."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self._wake_writer()
        self.abort()

    async def _write(self, transport: asyncio.Transport, head: bytes, body: ByteBody) -> None:
        """Write as fast as the socket takes it, until everything is written or the server has refused it."""
        view = memoryview(body).cast("B")
        transport.write(head)
        self._handed = len(head)
        for start in range(0, len(view), self._slice_bytes):
            piece = view[start : start + self._slice_bytes]
            if self._bandwidth is not None:
                self._held = True
                try:
                    await self._bandwidth.turn(len(piece))
                finally:
                    self._held = False
            if self._paused and self._busy and not self._refused:
                self._writable = self._loop.create_future()
                await self._writable
            if self._refused or not self._busy:
                return
            self._handed += len(piece)
            self._unhanded -= len(piece)
            transport.write(piece)

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _unsent(self) -> bool:
        return bool(self._unhanded) or (self._transport is not None and self._transport.get_write_buffer_size() > 0)

    def _finish(self, answer: Answer) -> None:
        if answer.status < 300 and self._unsent():
            self.fail(ExchangeError(f"the server answered {answer.status} before it had the whole body", ServerFault))
        elif self._answer is not None:
            self._answer.set_result(answer)
            self._wake_writer()

    def _end(self, reason: str) -> None:
        if not self._busy:
            return
        try:
            self._reader.end(reason)
        except ExchangeError as error:
            self.fail(error)
        if self._reader.answer is not None and self._busy:
            self._finish(self._reader.answer)

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self._paused = False
        self._wake_writer()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - the loop names it
        """Where the next bytes go."""
        self._room = self._reader.room if self._busy else None
        return self._buffer if self._room is None else self._room

    def buffer_updated(self, nbytes: int) -> None:
        """Read; a server that speaks without being asked says good-bye, or cannot count."""
        if not self._busy:
            self.abort()
            return
        try:
            if self._room is not None:
                self._room = None
                self._reader.received_into_room(nbytes)
            else:
                self._reader.feed(self._buffer[:nbytes])
        except ExchangeError as error:
            self.fail(error)
            return
        if self._reader.answer is not None:
            self._finish(self._reader.answer)
        elif self._reader.status >= 300:
            # The rest of the body is not sent to a server that has refused.
            self._refused = True
            self._wake_writer()

    def eof_received(self) -> None:
        """The peer will send no more: the end of an answer without a length, or of every hope for one."""
        self._end("the server hung up")

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        self._end("the server hung up" if error is None else one_line(str(error) or type(error).__name__))
        self._transport = None
        self._reader.close()
        self._on_lost(self)
