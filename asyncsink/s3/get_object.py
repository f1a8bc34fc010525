"""GetObject as an operation: an object, or a range of it, received where the caller wants it.

Source: Amazon S3 API Reference, GetObject.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from asyncsink.model import ChecksumAlgorithm
from asyncsink.s3.operations import ByteBody, Operation, Response


@dataclass(slots=True, kw_only=True)
class ObjectData(Response):
    """Answer to GetObject: the bytes asked for, and the object they came from; fields as in ObjectHead."""

    data: ByteBody
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
