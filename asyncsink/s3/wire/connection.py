"""One HTTP/1.1 connection: writes a request, reads its answer, says when nothing moves.

Works on uvloop and on asyncio's own loops. httptools (llhttp) parses, in its strict mode. Whatever a peer sends, an
exchange ends in an Answer or in ExchangeFailed. Source: RFC 9112.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from asyncsink.errors import ConnectionLost, RetryableError, ServerFault, Stalled
from asyncsink.s3.body import SLICE_BYTES, SMALL_BODY_BYTES, ByteBody
from asyncsink.s3.error_map import one_line
from asyncsink.s3.wire.answers import Answer

HEAD_BYTES_MAX: Final = 64 * 1024
"""Status line and headers of an answer."""
ANSWER_BYTES_MAX: Final = HEAD_BYTES_MAX + 1024 * 1024
"""A whole answer, with its transfer coding: nothing that the wire lane asks for is answered with more."""
INTERIM_ANSWERS_MAX: Final = 16
"""1xx answers before the final one."""


class ExchangeFailed(Exception):
    """A request got no whole answer.

    Attributes:
        reason: a phrase for a person, without a full stop.
        error: what it is for the caller.
        unanswered: no byte of an answer came, and it was not for lack of waiting.
    """

    def __init__(self, reason: str, error: type[RetryableError] = ConnectionLost, *, unanswered: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error
        self.unanswered = unanswered


class Connection(asyncio.Protocol):
    """A connection for one exchange after another.

    Args:
        on_lost: called once, when the connection is gone.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_lost: Callable[[Connection], None]) -> None:
        self._loop = loop
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused = False
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._status = 0
        self._interim = 0
        self._bodiless = False
        self._keep_alive = False
        self._stop_writing = False
        self._received = 0
        self._handed = 0
        self._unhanded = 0
        self._mark = -1
        self._moved_at = 0.0
        self.exchanges = 0
        """How many were begun."""
        self.idle_since = 0.0
        """Loop time of the end of the last exchange."""

    def __repr__(self) -> str:
        state = "busy" if self._busy else "idle" if self.usable else "closed"
        return f"<Connection {state}, {self.exchanges} exchanges>"

    @property
    def usable(self) -> bool:
        """Whether another exchange can begin."""
        return self._transport is not None and not self._transport.is_closing() and not self._busy

    @property
    def _busy(self) -> bool:
        return self._answer is not None and not self._answer.done()

    async def exchange(self, head: bytes, body: ByteBody, *, bodiless: bool) -> Answer:
        """Send a request and wait for the whole answer.

        Args:
            head: request line and headers.
            body: sent after it; neither copied nor to be changed until the exchange ended.
            bodiless: the answer has no body whatever its headers say (HEAD).

        Raises:
            ExchangeFailed: there is none, or it is broken. The connection is closed.

        Cancellation closes the connection.
        """
        if self._transport is None or self._transport.is_closing():
            raise ExchangeFailed("the connection was closed", unanswered=True)
        answer = self._begin(len(body), bodiless)
        try:
            if len(body) <= SMALL_BODY_BYTES:
                self._handed = len(head) + len(body)
                self._unhanded = 0
                if body:
                    self._transport.writelines((head, body))
                else:
                    self._transport.write(head)
            else:
                await self._write(self._transport, head, body)
            return await answer
        finally:
            # Also after an answer: one that says "close", or that came before the request was out.
            if not answer.done() or answer.cancelled() or answer.exception() is not None or not self._keep_alive:
                self.abort()

    def abort(self) -> None:
        """Close at once; what was not sent yet is never sent. Harmless when closed."""
        self._keep_alive = False
        if self._transport is not None:
            self._transport.abort()

    def check_progress(self, now: float, stall_seconds: float) -> None:
        """Fail the exchange where no byte moved either way for `stall_seconds`; to be called now and then."""
        if not self._busy or self._transport is None:
            return
        mark = self._received + self._handed - self._transport.get_write_buffer_size()
        if mark != self._mark:
            self._mark, self._moved_at = mark, now
        elif now - self._moved_at >= stall_seconds:
            self.fail(f"no byte moved for {stall_seconds:g} s", Stalled)

    def fail(self, reason: str, error: type[RetryableError] = ConnectionLost, *, unanswered: bool = False) -> None:
        """End the exchange, if there is one, and close."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ExchangeFailed(reason, error, unanswered=unanswered))
        self._wake_writer()
        self.abort()

    def _begin(self, body_bytes: int, bodiless: bool) -> asyncio.Future[Answer]:
        self.exchanges += 1
        self._answer = self._loop.create_future()
        self._headers, self._body = {}, []
        self._status = self._interim = self._received = self._handed = 0
        self._unhanded = body_bytes
        self._mark = -1
        self._bodiless = bodiless
        self._keep_alive = self._stop_writing = False
        if self._parser is None:
            self._parser = HttpResponseParser(self)
        return self._answer

    async def _write(self, transport: asyncio.Transport, head: bytes, body: ByteBody) -> None:
        view = memoryview(body).cast("B")
        transport.write(head)
        self._handed = len(head)
        for start in range(0, len(view), SLICE_BYTES):
            if self._paused and not self._stop_writing:
                self._writable = self._loop.create_future()
                await self._writable
            if self._stop_writing or not self._busy:
                return
            piece = view[start : start + SLICE_BYTES]
            self._handed += len(piece)
            self._unhanded -= len(piece)
            transport.write(piece)

    def _wake_writer(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    # What the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._paused = True

    def resume_writing(self) -> None:
        """The transport's buffer has room."""
        self._paused = False
        self._wake_writer()

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        if not self._busy or self._parser is None:
            # Nothing was asked: a server that says good-bye, or that cannot count.
            self.abort()
            return
        self._received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            text = one_line(str(error)) if isinstance(error, HttpParserError) else "another protocol"
            self.fail(f"the answer is no HTTP answer ({text})")
        if self._received > HEAD_BYTES_MAX and self._busy:
            if not self._status:
                self.fail(f"the answer's headers are longer than {HEAD_BYTES_MAX} bytes", ServerFault)
            elif self._received > ANSWER_BYTES_MAX:
                self.fail(f"the answer is longer than {ANSWER_BYTES_MAX} bytes", ServerFault)

    def eof_received(self) -> None:
        """The peer will send no more: the end of an answer without a length."""
        self._complete_at_end()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if error is None:
            self._complete_at_end()
        if self._busy:
            reason = one_line(str(error)) if error is not None else "the server closed the connection"
            told = "before it answered" if not self._received else "in the middle of its answer"
            self.fail(f"{reason or type(error).__name__} {told}", unanswered=not self._received)
        self._transport = None
        self._parser = None  # it holds this object
        self._on_lost(self)

    # What the parser calls

    def on_message_begin(self) -> None:
        """An answer; a second one to the same request makes the connection unusable."""
        if not self._busy:
            self.abort()

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """A header, or a trailer."""
        self._headers[name.lower()] = value or b""

    def on_headers_complete(self) -> None:
        """The status is known: the rest of the body is not sent to a server that refused."""
        if not self._busy or self._parser is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            if self._interim > INTERIM_ANSWERS_MAX or status < 100:
                self.fail(f"the server sent {self._interim} interim answers and no final one", ServerFault)
            return
        self._status = status
        self._keep_alive = self._parser.should_keep_alive()
        if status >= 300:
            self._stop_writing = True
            self._wake_writer()
        if self._bodiless:
            # llhttp cannot be told; a fresh parser for the next answer is how the body is not waited for.
            self._parser = None
            self._complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The end of an answer."""
        if self._status:
            self._complete()
        else:
            self._headers = {}

    def _complete_at_end(self) -> None:
        if not self._busy or not self._status:
            return
        if b"content-length" not in self._headers and b"transfer-encoding" not in self._headers:
            self._keep_alive = False
            self._complete()

    def _complete(self) -> None:
        if self._answer is None or self._answer.done():
            return
        buffered = self._transport.get_write_buffer_size() if self._transport is not None else 0
        if self._unhanded or buffered:
            self._keep_alive = False
            if self._status < 300:
                self.fail(f"the server answered {self._status} before it had the whole body", ServerFault)
                return
        self._answer.set_result(Answer(self._status, self._headers, b"".join(self._body)))
        self._wake_writer()
