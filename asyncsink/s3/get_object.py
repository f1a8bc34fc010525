"""GetObject as an operation: an object, or a range of it, received where the caller wants it.

Source: Amazon S3 API Reference, GetObject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, ClassVar, Final, Protocol

from asyncsink.model import ChecksumAlgorithm
from asyncsink.s3.operations import ByteBody, Operation, Response
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
