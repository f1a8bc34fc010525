"""GetObject and DeleteObjects as operations: an object, or a range of it, received where the caller wants it, with its
checked answer; and up to 1,000 objects deleted by one request, with an answer for each of them.

Source: Amazon S3 API Reference, GetObject and DeleteObjects.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar, Final, NamedTuple, Protocol

from asyncsink.errors import AsyncSinkError, PermanentError, PreconditionFailed, ServerFault
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import FirstAttempt
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.s3.errors_map import kept, one_line
from asyncsink.s3.operations import Operation, Response
from asyncsink.value import dataclass

AS_STORED: Final = "gzip, identity"
"""Accept-Encoding of requests that read objects. Without gzip in it, Google Cloud Storage decompresses objects that
were stored with Content-Encoding: gzip; the bytes received are taken as they are."""


@dataclass(slots=True, kw_only=True)
class ObjectData(Response):
    """Answer to GetObject: the requested bytes, and their object; fields as in ObjectHead.

    Attributes:
        object_bytes: size of the whole object, for a range, and where it was not known; None where the answer does not
            name it.
    """

    data: ByteBody
    object_bytes: int | None = None
    etag: str = ""
    checksums: Mapping[ChecksumAlgorithm, str] = field(default_factory=dict)
    composite: bool = False
    version_id: str = ""
    sse: str = ""

    @property
    def object_bytes_received(self) -> int:
        """See Response."""
        return len(self.data)


@dataclass(slots=True, frozen=True, kw_only=True)
class GetObject(Operation[ObjectData]):
    """`length` bytes (1 or more) from `offset`; `if_match` (an ETag) guards against a replaced object.

    Attributes:
        whole: request the object instead of a range: S3 sends the object's checksum only with all of its bytes.
            `length` is then its size.
        size_known: False, with `whole`: `length` bounds the bytes that are received, and a larger object ends behind
            them, with its connection.
        into: receives the bytes, has room for `length` at least, and is overwritten by each attempt; None makes room.
        ask_checksum: request the object's checksums too.
        first: an attempt that GetObjects has made already, or None.
    """

    name: ClassVar[str] = "GetObject"
    key: str
    offset: int = 0
    length: int
    whole: bool = False
    size_known: bool = True
    into: memoryview | None = None
    if_match: str = ""
    version_id: str = ""
    sse_customer_key: Any = None
    ask_checksum: bool = True
    first: FirstAttempt | None = None


@dataclass(slots=True, kw_only=True)
class ObjectReceived(Response):
    """Answer to GetObjectTo: the number of bytes taken, and their object; fields as in ObjectHead."""

    length: int
    etag: str = ""
    version_id: str = ""

    @property
    def object_bytes_received(self) -> int:
        """See Response."""
        return self.length


class RangeTaker(Protocol):
    """Takes the bytes of a range, in a thread of the lane. Its exceptions end the request, and are raised to the
    caller."""

    def take(self, position: int, piece: memoryview) -> None:
        """Take the bytes at `position` in this range; 0 begins anew. They must not be kept."""
        ...

    def end(self, answer: ObjectReceived) -> None:
        """The whole requested range was taken."""
        ...


@dataclass(slots=True, frozen=True, kw_only=True)
class GetObjectTo(Operation[ObjectReceived]):
    """GetObject of a range whose bytes are taken as they arrive, in a thread that holds a small piece of them at a
    time.

    Sending raises the errors of a Transport and those of `taker`. Other fields as in GetObject.
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
        """The GetObject to send."""
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


# -- Many small objects as one operation -------------------------------------------------------------------------------
# One operation for each object would cost more than receiving it. Only plain answers with the object count here; all
# else is left to the ordinary way, which continues after the failed attempt. The first failure that is not one object's
# own (404, 412) ends the batch: the objects that have not begun are not requested.


class ObjectToGet(NamedTuple):
    """A whole object; fields as in GetObject."""

    key: str
    length: int
    if_match: str


GetResult = ObjectData | AsyncSinkError | None
"""The object, or the error of the attempt, or None where the request was not begun."""


@dataclass(slots=True, kw_only=True)
class ObjectsGot(Response):
    """Answer to GetObjects, beside its `results`: the number of objects that were received."""

    received: int = 0

    @property
    def successes(self) -> int:
        """0: lanes count objects as they are received (`Traffic.small_received`)."""
        return 0


@dataclass(slots=True, frozen=True, kw_only=True)
class GetObjects(Operation[ObjectsGot]):
    """GetObject of many small whole objects; `send` raises only where none was begun.

    Attributes:
        objects: at least one.
        results: filled as answers come, one for each object.
        sse_customer_key, ask_checksum: as in GetObject.
    """

    name: ClassVar[str] = "GetObject"
    objects: Sequence[ObjectToGet]
    results: list[GetResult]
    sse_customer_key: Any = None
    ask_checksum: bool = True


# -- Check of an answered range (pure) ---------------------------------------------------------------------------------
# Sources: Amazon S3 API Reference, GetObject; RFC 9110, 14.4 (Content-Range).


class RangesUnknown(PermanentError):
    """The server sends the whole object in answer to a range request, as RFC 9110, 14.2, allows."""


def ranges_unknown(operation: GetObject, bucket: str) -> RangesUnknown:
    """The error for a whole object in answer to a range request. Pure."""
    return RangesUnknown(
        f"{_where(operation, bucket)}: the server sent the whole object instead of the range that was asked for; read "
        "it in one piece.",
        operation=operation.name,
    )


_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)")


def check_range(
    operation: GetObject, bucket: str, content_range: str, length: int | None, *, etag: str, dated: bool
) -> int | None:
    """Refuse an answer with other bytes than the requested ones, before they are taken. Returns the number of bytes
    that must follow, or None where the answer does not name it; see `check_received`.

    Args:
        operation: what was sent.
        bucket: for the message.
        content_range: the answer's Content-Range header, or "".
        length: the answer's Content-Length, or None where it has none.
        etag: the answer's, without quotes, or "".
        dated: whether the answer has the date of the object.

    Raises:
        PreconditionFailed: the object has another size or ETag than expected: it was replaced.
        RangesUnknown: the server does not support ranges.
        ServerFault: the answer is about another range, or about no object.
    """
    if not operation.whole and operation.if_match and not etag and not dated:
        # A whole object is proved by its bytes.
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
        if operation.size_known and length is not None and length != operation.length:
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
        # Fewer bytes than requested are right only where the object ends.
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
    """Refuse a body of another length than its answer announced.

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


# -- DeleteObjects -----------------------------------------------------------------------------------------------------

KEYS_MAX: Final = 1000
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\t\n\r]")
"""Characters that XML 1.0 cannot carry, or that its readers change."""


@dataclass(slots=True, kw_only=True)
class ObjectsDeleted(Response):
    """Answer to DeleteObjects, by key. A key that is in neither was not answered.

    Attributes:
        versions: the version of the delete marker, or "", of each deleted object.
        errors: S3's code and message for each object that was not deleted.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, tuple[str, str]] = field(default_factory=dict)


@dataclass(slots=True, frozen=True, kw_only=True)
class DeleteObjects(Operation[ObjectsDeleted]):
    """Delete objects, given as (key, ETag) pairs. A server that knows conditional deletes keeps an object whose ETag is
    another one; others ignore it. A missing object counts as deleted."""

    name: ClassVar[str] = "DeleteObjects"
    objects: tuple[tuple[str, str], ...]


def has_xml_name(key: str) -> bool:
    """Whether a key can stand in the body of DeleteObjects."""
    return _NOT_IN_XML.search(key) is None


def deletion_parameters(operation: DeleteObjects) -> dict[str, Any]:
    """The parameters of the SDK's call."""
    objects = [{"Key": key, **({"ETag": f'"{etag}"'} if etag else {})} for key, etag in operation.objects]
    return {"Delete": {"Objects": objects, "Quiet": False}}


def deletion_told(_: Any, answer: Mapping[str, Any]) -> ObjectsDeleted:
    """The answer by boto3's names."""
    deleted, errors = answer.get("Deleted") or (), answer.get("Errors") or ()
    return ObjectsDeleted(
        versions={str(each.get("Key")): kept(str(each.get("DeleteMarkerVersionId") or "")) for each in deleted},
        errors={
            str(each.get("Key")): (kept(str(each.get("Code"))), kept(str(each.get("Message") or ""))) for each in errors
        },
    )
