"""Pure: an HTTP answer as an operation's response, or as the error that it means.

Answers are converted to boto3's names and read by `s3.codec`, so that both lanes understand them alike. Error bodies
are searched, not parsed: no entity is expanded, nothing nested is built (S3 API Reference, "REST error responses").
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

from asyncsink.errors import AsyncSinkError, ClockSkew, ServerFault
from asyncsink.s3.codec import CALLS, CHECKSUM_FIELDS, http_date, plain_etag
from asyncsink.s3.errors_map import error_from_answer, kept, one_line
from asyncsink.s3.get_object import GetObject, check_range, check_received
from asyncsink.s3.http.requests import BOOKKEEPING, HotOperation, ObjectOperation, told_by
from asyncsink.s3.operations import HeadObject, ObjectStored, PutObject, Response, UploadPart
from asyncsink.value import dataclass

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
