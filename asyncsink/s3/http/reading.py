"""Pure: bytes from a server, in any portions, as answers.

httptools (llhttp) parses, in its strict mode; the limits are ours. Source: RFC 9112.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from asyncsink.errors import ConnectionLost, RetryableError, ServerFault
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, HEAD_BYTES_MAX, one_line
from asyncsink.s3.http.answers import Answer

RANGE_PIECE_BYTES: Final = 1024 * 1024
"""Of a body that is passed on as it arrives: small enough to be still in the processor's caches when it is checksummed
and written, and large enough that threads which write to one file seldom wait for each other."""
INTERIM_ANSWERS_MAX: Final = 16
"""1xx answers before the final one."""

TEXT: Final = rb"[\t\x20-\x7e\x80-\xff]*"
LINE: Final = rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(" + TEXT + rb")"
"""A reason or a header's value, and a header line (RFC 9112, 5), for reading usual answers without a parser: what the
parser refuses (a folded line, a bare line feed) does not match."""
FRAMING: Final = frozenset({b"connection", b"proxy-connection", b"transfer-encoding", b"upgrade"})
"""Headers after which a connection may not stay open, or the answer may not end where it seems to."""

Take = Callable[[int, memoryview], None]
"""Takes each piece of a body in order, with its position; the bytes are valid until it returns."""


class ExchangeError(Exception):
    """A request got no whole answer.

    Attributes:
        reason: a phrase for a person, without a full stop.
        error: the class of the caller's error.
        unanswered: the connection ended before the first byte of an answer.
        overfull: the status of an answer whose body had more bytes than requested, else 0.
    """

    def __init__(
        self,
        reason: str,
        error: type[RetryableError] = ConnectionLost,
        *,
        unanswered: bool = False,
        overfull: int = 0,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.error = error
        self.unanswered = unanswered
        self.overfull = overfull


class NoThread(ExchangeError):
    """The system has no thread to spare; the reason is a sentence, and neither server nor network is to blame."""


class AnswerReader:
    """Reads the answers of one connection, one after another: `begin`, `feed` until `answer` is set, `begin` …"""

    def __init__(self) -> None:
        self._parser: HttpResponseParser | None = None
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._interim = 0
        self._bodiless = False
        self._into: memoryview | None = None
        self._filled = 0
        self._unparsed = 0
        self._bytes_max = ANSWER_BYTES_MAX
        self.answer: Answer | None = None
        """The whole answer, once it is complete."""
        self.status = 0
        """Of the final answer, once its headers are complete."""
        self.received = 0
        """Bytes fed since `begin`."""
        self.keep_alive = False
        """Whether the connection serves for another exchange; final only when `answer` is set."""

    def __repr__(self) -> str:
        return f"<AnswerReader: {self.received} bytes, status {self.status}>"

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes may be received without `feed`: the rest of a body with a length."""
        if not self._unparsed or self._into is None:
            return None
        return self._into[self._filled : self._filled + self._unparsed]

    def begin(self, *, bodiless: bool, bytes_max: int = ANSWER_BYTES_MAX, into: memoryview | None = None) -> None:
        """Wait for the next answer, of `bytes_max` at most; `bodiless` (HEAD): without a body, whatever its headers
        are. The body of a 2xx answer is received `into` a buffer, where one is given; one that does not fit is not
        read."""
        self._into = into
        self._filled = self._unparsed = 0
        self._bytes_max = bytes_max
        self._headers, self._body = {}, []
        self._interim = self.status = self.received = 0
        self._bodiless = bodiless
        self.answer = None
        self.keep_alive = False
        if self._parser is None:
            self._parser = HttpResponseParser(self)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes.

        Raises:
            ExchangeError: they are no answer, or too long a one. Nothing more can be read from the connection.
        """
        if self._parser is None:
            # More bytes after the answer to a HEAD: a body that is not allowed, or a farewell.
            self.keep_alive = False
            return
        self.received += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.keep_alive = False
            if self.answer is None:
                text = one_line(str(error)) if isinstance(error, HttpParserError) else "another protocol"
                raise ExchangeError(f"the answer is no HTTP answer that is understood ({text})") from error
        if self.answer is not None and self._bytes_max:
            return
        if self._interim > INTERIM_ANSWERS_MAX:
            raise ExchangeError(f"there were {self._interim} interim answers and no final one", ServerFault)
        if not self.status and self.received > HEAD_BYTES_MAX:
            raise ExchangeError(f"the answer's headers are longer than {HEAD_BYTES_MAX} bytes", ServerFault)
        if not self._bytes_max:
            raise ExchangeError("more bytes came than were asked for", ServerFault, overfull=self.status)
        if self.received > self._bytes_max:
            raise ExchangeError(f"the answer is longer than {self._bytes_max} bytes", ServerFault)
        self._leave_the_parser()

    def received_into_room(self, count: int) -> None:
        """Count bytes that were received into `room`, neither parsed nor copied."""
        self.received += count
        self._filled += count
        self._unparsed -= count
        if not self._unparsed:
            self._complete()

    def end(self, reason: str) -> None:
        """Take the end of the bytes: an answer without a length is whole now (RFC 9112, 6.3, rule 8).

        Raises:
            ExchangeError: the answer is not whole; `reason` is why nothing more comes.
        """
        if self.status and b"content-length" not in self._headers and b"transfer-encoding" not in self._headers:
            self._complete()
            self.keep_alive = False
            return
        when = "in the middle of its answer" if self.received else "before it answered"
        raise ExchangeError(f"{reason} {when}", unanswered=not self.received)

    def close(self) -> None:
        """Release the parser, which refers to this object, and the caller's buffer."""
        self._parser = None
        self._into = None

    # -- Callbacks of the parser ---------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin an answer; a second one to the same request makes the connection unusable."""
        if self.answer is not None:
            self.keep_alive = False

    def on_header(self, name: bytes, value: bytes | None) -> None:
        """Keep a header; trailers, which come after the body, are ignored."""
        if not self.status:
            self._headers[name.lower()] = value or b""

    def on_headers_complete(self) -> None:
        """Read the status."""
        if self._parser is None or self.answer is not None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim += 1
            return
        self.status = status
        self.keep_alive = self._parser.should_keep_alive()
        if self._bodiless:
            # llhttp cannot skip the body; the next answer gets a new parser.
            self._parser = None
            self._complete()
        elif self._into is not None and status >= 300:
            self._into = None
        elif self._into is not None and self._length() > len(self._into):
            self.keep_alive = False
            self._complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self.answer is not None:
            self.keep_alive = False
        elif self._into is None:
            self._body.append(body)
        elif self._filled + len(body) <= len(self._into):
            self._into[self._filled : self._filled + len(body)] = body
            self._filled += len(body)
        else:
            self._bytes_max = 0

    def on_message_complete(self) -> None:
        """End an answer."""
        if self.answer is None and self.status:
            self._complete()
        elif self.answer is None:
            self._headers = {}

    def _length(self) -> int:
        """The body's length where the headers have it, else 0."""
        text = self._headers.get(b"content-length", b"")
        coded = b"transfer-encoding" in self._headers
        return int(text) if text.isdigit() and len(text) < 20 and not coded else 0

    def _leave_the_parser(self) -> None:
        """Read the rest of a body with a length without the parser; llhttp cannot skip it, so the next answer gets a
        new one."""
        if self._into is not None and self.status and self._filled < self._length() <= len(self._into):
            self._unparsed = self._length() - self._filled
            self._parser = None

    def _complete(self) -> None:
        data = self._into[: self._filled] if self._into is not None else None
        self.answer = Answer(self.status, self._headers, b"".join(self._body), data)
        self._headers, self._body, self._into = {}, [], None


class PieceReader(AnswerReader):
    """Reads one answer, whose body is passed on piece by piece as it arrives, however long it is.

    The body of a 2xx one goes to `take`; that of any other is in the answer, as usual.

    Args:
        length: most bytes of the body; one that is announced as longer is not read.
        buffer: receives the pieces; RANGE_PIECE_BYTES serve well.
        take: see Take. Its exceptions come out of `feed` and `received_into_room`.
    """

    def __init__(self, length: int, buffer: memoryview, take: Take) -> None:
        super().__init__()
        self._length_max = length
        self._buffer = buffer
        self._take = take
        self._held = 0
        self.taken = 0
        """Bytes of the body that were passed on."""
        # Chunked coding may double the bytes.
        self.begin(bodiless=False, bytes_max=ANSWER_BYTES_MAX + 2 * length)

    def __repr__(self) -> str:
        return f"<PieceReader: {self.taken} bytes of {self._length_max} at most, status {self.status}>"

    @property
    def room(self) -> memoryview | None:
        """Where the next bytes may be received without `feed`."""
        if not self._unparsed:
            return None
        return self._buffer[self._held : min(len(self._buffer), self._held + self._unparsed)]

    def feed(self, data: bytes | memoryview) -> None:
        """As `AnswerReader.feed`."""
        super().feed(data)
        if 200 <= self.status < 300:
            # Outside the parser's callbacks, which would take a disk error for one of the answer.
            ready, self._body = self._body, []
            for piece in ready:
                self._give(memoryview(piece))

    def received_into_room(self, count: int) -> None:
        """As `AnswerReader.received_into_room`."""
        self.received += count
        self._held += count
        self._unparsed -= count
        if self._held == len(self._buffer) or not self._unparsed:
            held, self._held = self._held, 0
            self._give(self._buffer[:held])
        if not self._unparsed:
            self._complete()

    def on_headers_complete(self) -> None:
        """Read the status."""
        super().on_headers_complete()
        if 200 <= self.status < 300 and self.answer is None and self._length() > self._length_max:
            self.keep_alive = False
            self._complete()

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        super().on_body(body)
        if self.answer is None and 200 <= self.status < 300:
            self._filled += len(body)
            if self._filled > self._length_max:
                self._bytes_max = 0

    def _give(self, piece: memoryview) -> None:
        self._take(self.taken, piece)
        self.taken += len(piece)

    def _leave_the_parser(self) -> None:
        if 200 <= self.status < 300 and self._filled < self._length() <= self._length_max:
            self._unparsed = self._length() - self._filled
            self._parser = None

    def _complete(self) -> None:
        ready = self._body if 200 <= self.status < 300 else []
        self._body = [] if ready else self._body
        super()._complete()
        self._body = ready
