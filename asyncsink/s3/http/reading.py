"""Pure: bytes from a server, in any portions, as answers; and an answer as an operation's response, or as an error.

httptools (llhttp) parses, in its strict mode; the limits are ours. Source: RFC 9112.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from asyncsink.errors import AsyncSinkError, ClockSkew, ConnectionLost, RetryableError, ServerFault
from asyncsink.s3.codec import CALLS, CHECKSUM_FIELDS, http_date, plain_etag
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX, HEAD_BYTES_MAX, error_from_answer, kept, one_line
from asyncsink.s3.get_object import GetObject, check_range, check_received
from asyncsink.s3.http.requests import BOOKKEEPING, HotOperation, ObjectOperation, told_by
from asyncsink.s3.operations import HeadObject, ObjectStored, PutObject, Response, UploadPart
from asyncsink.value import dataclass

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


@dataclass(slots=True)
class Answer:
    """A whole HTTP answer.

    Attributes:
        status: of the final answer, 200 to 999.
        headers: lower-case names; of a repeated header the last one.
        body: without transfer coding.
        data: the body instead, where it was received into the caller's buffer.
    """

    status: int
    headers: dict[bytes, bytes]
    body: bytes
    data: memoryview | None = None


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
        self._cut = False
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

    def begin(
        self,
        *,
        bodiless: bool,
        bytes_max: int = ANSWER_BYTES_MAX,
        into: memoryview | None = None,
        cut: bool = False,
    ) -> None:
        """Wait for the next answer, of `bytes_max` at most; `bodiless` (HEAD): without a body, whatever its headers
        are. The body of a 2xx answer is received `into` a buffer, where one is given; of one that does not fit, nothing
        is read, or with `cut` what fits, which ends the connection."""
        self._into = into
        self._cut = cut
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
            if not self._cut:
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
        elif self._cut:
            self._into[self._filled :] = body[: len(self._into) - self._filled]
            self._filled = len(self._into)
            self.keep_alive = False
            self._complete()
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
        if self._into is None or not self.status:
            return
        length = min(self._length(), len(self._into)) if self._cut else self._length()
        if self._filled < length <= len(self._into):
            self._unparsed = length - self._filled
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


# -- The meaning of an answer ------------------------------------------------------------------------------------------
# Answers are converted to boto3's names and read by `s3.codec`, so that both lanes understand them alike. Error bodies
# are searched, not parsed: no entity is expanded, nothing nested is built (S3 API Reference, "REST error responses").

SKEW_SECONDS_MAX: Final = 15 * 60
"""S3 refuses requests whose date is further from its own (S3 API Reference, RequestTimeTooSkewed)."""

_METADATA: Final = b"x-amz-meta-"
_NAMES: Final[dict[bytes, str]] = {
    b"etag": "ETag",
    b"x-amz-version-id": "VersionId",
    b"x-amz-server-side-encryption": "ServerSideEncryption",
    b"x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
    b"x-amz-checksum-type": "ChecksumType",
    b"content-type": "ContentType",
    b"content-range": "ContentRange",
    b"x-amz-storage-class": "StorageClass",
    **{f"x-amz-checksum-{name.lower()}".encode(): field for name, field in CHECKSUM_FIELDS.items()},
}
_NAMES_BESIDE_XML: Final = {
    name: _NAMES[name]
    for name in (
        b"x-amz-version-id",
        b"x-amz-server-side-encryption",
        b"x-amz-server-side-encryption-customer-algorithm",
    )
}
"""Headers that complete an XML body; an ETag in a header does not prove that an upload was completed."""
_TYPE, _FULL = b"x-amz-checksum-type", b"FULL_OBJECT"
_SSE, _SSE_C = b"x-amz-server-side-encryption", b"x-amz-server-side-encryption-customer-algorithm"
CHECKSUM_HEADERS: Final = {name: f"x-amz-checksum-{name.lower()}".encode() for name in CHECKSUM_FIELDS}
_FIELDS: Final = {
    name: rf"<{name}>\s*([^<]{{0,4096}})".encode() for name in ("Code", "Message", "Region", "CalculatedDigest")
}
_ERROR: Final = re.compile(rb"\s*+(?:<\?[^>]*+>\s*+)?<Error\b")
"""S3 sends spaces while it joins parts, and may end them with an error. Possessive, so that spaces are read once."""


def response_of(operation: ObjectOperation, answer: Answer) -> Response:
    """The response in a 2xx answer.

    Raises:
        ServerFault: the answer to a HEAD has no size, or that to a multipart operation is not S3's XML.
    """
    if (stored := _as_sent(operation, answer)) is not None:
        return stored
    told: dict[str, Any] = {}
    names = _NAMES
    if isinstance(operation, BOOKKEEPING):
        told, names = told_by(operation, answer.body), _NAMES_BESIDE_XML
    for name, value in answer.headers.items():
        if (known := names.get(name)) is not None:
            told[known] = _text(value)
    if isinstance(operation, HeadObject):
        _add_head(operation, answer, told)
    elif isinstance(operation, GetObject):
        told["Body"] = answer.data
        told["ContentLength"] = _number(answer, b"content-length")
    return CALLS[type(operation)].response(operation, told)


def _as_sent(operation: ObjectOperation, answer: Answer) -> ObjectStored | None:
    """The response in the usual answer to a body, which repeats the checksum that was sent; else None."""
    if not isinstance(operation, (PutObject, UploadPart)) or operation.checksum is None:
        return None
    headers, sent = answer.headers, operation.checksum
    name = CHECKSUM_HEADERS.get(sent.algorithm)
    if name is None or headers.get(name) != sent.value.encode() or headers.get(_TYPE, _FULL) != _FULL:
        return None
    etag = plain_etag({"ETag": kept(_header(answer, b"etag"))})
    if not etag and isinstance(operation, UploadPart):
        return None
    return ObjectStored(
        etag=etag,
        checksum=sent,
        version_id=kept(_header(answer, b"x-amz-version-id")),
        sse=kept(_header(answer, _SSE)) or ("customer" if headers.get(_SSE_C) else ""),
    )


def check_answered_range(operation: GetObject, bucket: str, answer: Answer, received: int) -> None:
    """Refuse an answer with other bytes than the requested ones; raises as `get_object.check_range` and
    `check_received`. `received`: bytes of its body."""
    expected = check_range(
        operation,
        bucket,
        _header(answer, b"content-range"),
        _number(answer, b"content-length"),
        etag=plain_etag({"ETag": _header(answer, b"etag")}),
        dated=b"last-modified" in answer.headers,
    )
    check_received(operation, bucket, expected, received)


def is_error(answer: Answer) -> bool:
    """Whether the answer refuses the request; some servers put an `<Error>` into the body of a 200."""
    if not 200 <= answer.status < 300:
        return True
    return bool(answer.body) and (b"<Error" in answer.body[:1024] or _ERROR.match(answer.body) is not None)


def error_of_answer(
    operation: HotOperation, bucket: str, answer: Answer, signed_at: float | None, signed_for: str = ""
) -> AsyncSinkError:
    """The error that an answer means.

    Args:
        operation: what was sent.
        bucket: for the message.
        answer: a HEAD's has no body, so that only its status counts.
        signed_at: the time in the request's signature, seconds since the epoch, or None where it had none. A refused
            HEAD is a ClockSkew where the answer's Date is too far from it.
        signed_for: the region in that signature.
    """
    status = 500 if 200 <= answer.status < 300 else answer.status
    told = {name: _field(name, answer.body) for name in _FIELDS} if answer.body else dict.fromkeys(_FIELDS, "")
    code = told["Code"]
    if not code and status == 403 and signed_at is not None and isinstance(operation, HeadObject):
        now = date_of(answer)
        if now is not None and abs(now - signed_at) > SKEW_SECONDS_MAX:
            code = "RequestTimeTooSkewed"
    checksum = getattr(operation, "checksum", None)
    return error_from_answer(
        operation.name,
        getattr(operation, "key", ""),
        bucket,
        code,
        status,
        told["Message"],
        _header(answer, b"retry-after") or None,
        date=_header(answer, b"date"),
        region=_header(answer, b"x-amz-bucket-region") or told["Region"],
        signed_for=signed_for,
        expected=str(checksum) if checksum is not None else "",
        actual=one_line(told["CalculatedDigest"] or told["Message"]),
    )


def corrected_time(error: AsyncSinkError, answer: Answer) -> float | None:
    """The server's time, seconds since the epoch, where the error is about clocks and the answer has a date."""
    return date_of(answer) if isinstance(error, ClockSkew) else None


def date_of(answer: Answer) -> float | None:
    """The answer's Date header (RFC 9110, 6.6.1) in seconds since the epoch, or None."""
    found = _date(answer, b"date")
    return found.timestamp() if found is not None else None


def _add_head(operation: HeadObject, answer: Answer, told: dict[str, Any]) -> None:
    size = _number(answer, b"content-length")
    if size is None:
        raise ServerFault(
            f"{operation.name} of {operation.key} was answered without a size; check that the endpoint is S3.",
            operation=operation.name,
            status=answer.status,
        )
    told["ContentLength"] = size
    told["PartsCount"] = _number(answer, b"x-amz-mp-parts-count")
    told["Metadata"] = {
        _text(name.removeprefix(_METADATA)): _text(value)
        for name, value in answer.headers.items()
        if name.startswith(_METADATA)
    }
    told["LastModified"] = _date(answer, b"last-modified")


def _date(answer: Answer, name: bytes) -> datetime | None:
    return http_date(_header(answer, name))


def _number(answer: Answer, name: bytes) -> int | None:
    value = answer.headers.get(name, b"").strip()
    return int(value) if value.isdigit() and len(value) < 20 else None


def _header(answer: Answer, name: bytes) -> str:
    return _text(answer.headers.get(name, b""))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape").strip()


def _field(name: str, body: bytes) -> str:
    found = re.search(_FIELDS[name], body)
    if found is None:
        return ""
    return _unescape(found[1].decode("utf-8", "surrogateescape").strip())


def _unescape(text: str) -> str:
    # As xml.sax.saxutils, which would load an HTTP client.
    for escaped, plain in (("&quot;", '"'), ("&apos;", "'"), ("&#34;", '"'), ("&gt;", ">"), ("&lt;", "<")):
        text = text.replace(escaped, plain)
    return text.replace("&amp;", "&")
