"""GetObject as an operation: an object, or a range of it, received where the caller wants it.

Source: Amazon S3 API Reference, GetObject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Final, Protocol

from asyncsink.errors import PermanentError, PreconditionFailed, ServerFault
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import ChecksumAlgorithm
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.operations import Operation, Response
from asyncsink.value import dataclass

AS_STORED: Final = "gzip, identity"
"""Accept-Encoding of what reads objects. Without gzip in it, Google Cloud Storage unzips objects on the way that were
stored with Content-Encoding: gzip; what comes is taken as it is."""


@dataclass(slots=True, kw_only=True)
class ObjectData(Response):
    """Answer to GetObject: the bytes asked for, and the object they came from; fields as in ObjectHead.

    Attributes:
        object_bytes: size of the whole object, of which a range was asked for; None where the answer does not say it.
    """

    data: ByteBody
    object_bytes: int | None = None
    etag: str = ""
    checksums: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    composite: bool = False
    version_id: str = ""
    sse: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class GetObject(Operation[ObjectData]):
    """`length` bytes (1 or more) from `offset`; `if_match` (an ETag) guards against a replaced object.

    Attributes:
        whole: ask for the object, not for a range of it: S3 sends the object's checksum only with all of its bytes.
            `length` is then its size.
        into: where the bytes are received, `length` bytes at least, overwritten by each attempt; None makes room.
        ask_checksum: ask for the object's checksums too.
    """

    name: ClassVar[str] = "GetObject"
    key: str
    offset: int = 0
    length: int
    whole: bool = False
    into: memoryview | None = None
    if_match: str = ""
    version_id: str = ""
    sse_customer_key: Any = None
    ask_checksum: bool = True


@dataclass(slots=True, kw_only=True)
class ObjectReceived(Response):
    """Answer to GetObjectTo: how many bytes were taken, and the object they came from; fields as in ObjectHead."""

    length: int
    etag: str = ""
    version_id: str = ""


class RangeTaker(Protocol):
    """Who takes the bytes of a range, in a thread of the lane. What it raises ends the request, and is raised."""

    def take(self, position: int, piece: memoryview) -> None:
        """The next bytes, `position` of them came before in this range: 0 begins anew. They must not be kept."""
        ...

    def end(self, answer: ObjectReceived) -> None:
        """Everything was taken, and it is the range that was asked for."""
        ...


@dataclass(slots=True, frozen=True, kw_only=True)
class GetObjectTo(Operation[ObjectReceived]):
    """GetObject of a range whose bytes are taken as they come, in a thread that holds a small piece of them at a time.

    Sending raises, besides what a Transport raises, what `taker` raises. Other fields as in GetObject.
    """

    name: ClassVar[str] = "GetObject"
    key: str
    offset: int
    length: int
    taker: RangeTaker
    whole: bool = False
    if_match: str = ""
    version_id: str = ""
    sse_customer_key: Any = None
    ask_checksum: bool = True

    def request(self) -> GetObject:
        """What is asked for."""
        return GetObject(
            key=self.key,
            offset=self.offset,
            length=self.length,
            whole=self.whole,
            if_match=self.if_match,
            version_id=self.version_id,
            sse_customer_key=self.sse_customer_key,
            ask_checksum=self.ask_checksum,
        )


# -- Pure: whether the answer to a GetObject holds the bytes that were asked for ---------------------------------------
# Sources: Amazon S3 API Reference, GetObject; RFC 9110, 14.4 (Content-Range).


class RangesUnknown(PermanentError):
    """The server sends the whole object where a range of it was asked for, as RFC 9110, 14.2, lets it."""


def ranges_unknown(operation: GetObject, bucket: str) -> RangesUnknown:
    """The error that an answer with the whole object is to a request for a range. Pure."""
    return RangesUnknown(
        f"{_where(operation, bucket)}: the server sent the whole object instead of the range that was asked for; read "
        "it in one piece.",
        operation=operation.name,
    )


_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


def check_range(
    operation: GetObject, bucket: str, content_range: str, length: int | None, *, etag: str, dated: bool
) -> int | None:
    """Refuse an answer with other bytes than the operation's, before they are taken for those. Returns how many bytes
    the answer has to bring, or None where nothing says that; see `check_received`.

    Args:
        operation: what was sent.
        bucket: for the message.
        content_range: the answer's Content-Range header, or "".
        length: the answer's Content-Length, or None where it has none.
        etag: the answer's, without quotes, or "".
        dated: whether the answer says when the object was stored.

    Raises:
        PreconditionFailed: the object is not as long as it was said to be, or has another ETag: it was replaced.
        RangesUnknown: the server does not know ranges.
        ServerFault: the answer is about another range, or about no object.
    """
    if not operation.whole and operation.if_match and not etag and not dated:
        # Of a whole object, the bytes themselves are compared.
        raise ServerFault(
            f"{_where(operation, bucket)}: the answer describes no object (neither ETag nor date); check that the "
            "endpoint is S3, and what answers on the way there.",
            operation=operation.name,
        )
    if operation.if_match and etag and etag != operation.if_match:
        raise PreconditionFailed(
            f"{_where(operation, bucket)}: the object has the ETag {one_line(etag)}; {one_line(operation.if_match)} "
            "was expected. It was replaced; look at it again.",
            operation=operation.name,
        )
    if operation.whole:
        if length is not None and length != operation.length:
            raise PreconditionFailed(
                f"{_where(operation, bucket)}: the object has {length:,} bytes; {operation.length:,} were expected. It "
                "was replaced; look at it again.",
                operation=operation.name,
            )
        return None
    if not content_range:
        if operation.offset or (length is not None and length > operation.length):
            raise ranges_unknown(operation, bucket)
        return None
    found = _CONTENT_RANGE.fullmatch(content_range.strip())
    first, last = (int(found[1]), int(found[2])) if found else (-1, -1)
    ends, told, known = operation.offset + operation.length, last + 1 - first, found is not None and found[3] != "*"
    if found is not None and known:
        # Fewer bytes than were asked for are right only where the object ends.
        ends = min(ends, int(found[3]))
    right = first == operation.offset and first <= last < ends and (last + 1 == ends or not known)
    if not right or length not in (None, told):
        raise ServerFault(
            f"{_where(operation, bucket)}: the range from {operation.offset:,} was asked for, and "
            f"{one_line(content_range)!r} was answered; check that the endpoint is S3.",
            operation=operation.name,
        )
    return told


def check_received(operation: GetObject, bucket: str, expected: int | None, received: int) -> None:
    """Refuse a body that is not as long as its answer said.

    Raises:
        ServerFault: it is longer or shorter.
    """
    if expected is not None and received != expected:
        raise ServerFault(
            f"{_where(operation, bucket)}: {expected:,} bytes from {operation.offset:,} were announced, and "
            f"{received:,} came; look at the server and the network.",
            operation=operation.name,
        )


def _where(operation: GetObject, bucket: str) -> str:
    return f"{operation.name} of s3://{bucket}/{one_line(operation.key, 1200)} failed"
