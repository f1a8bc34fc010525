"""What the transport suite shares: the names of capabilities, how a transport is opened, and uploads in parts."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from asyncsink.config import MIB, RetryPolicy
from asyncsink.integrity.checksums import checksum_of, combine
from asyncsink.model import Checksum
from asyncsink.s3.operations import (
    NO_ATTRIBUTES,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    ObjectAttributes,
    ObjectStored,
    UploadPart,
)
from asyncsink.s3.transport import Transport

Capability = Literal[
    "enforces-checksums",  # a wrong checksum header is refused
    "answers-checksums",  # HEAD tells the checksum that was sent
    "mpu-checksum",  # a multipart object keeps a full-object checksum
    "checks-signatures",  # a wrong secret is refused
    "sse-s3",
    "sse-c",
    "tags",
    "storage-class",
    "part-1-head",  # HEAD with a part number tells the part's size
    "list-parts-checksums",
    "list-uploads",
    "if-match",  # GET with another ETag is refused
    "if-none-match",  # a PUT that is to replace nothing is refused where something is there
    "if-none-match-complete",  # and so is a CompleteMultipartUpload
    "unknown-upload",  # a part for an upload that is gone is answered with NoSuchUpload
]

IMPATIENT = RetryPolicy(stall_seconds=0.2, complete_seconds=0.2, connect_seconds=0.2)


class OpenTransport(Protocol):
    """Opens a transport to the suite's empty bucket, with single things changed where a test asks for it."""

    def __call__(
        self,
        *,
        bucket: str | None = None,
        endpoint_url: str | None = None,
        secret_access_key: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> AbstractAsyncContextManager[Transport]:
        """Leaving the block closes the transport."""
        ...


def crc64(data: bytes | bytearray | memoryview) -> Checksum:
    """The default checksum."""
    return checksum_of(data, "CRC64NVME")


def canned(status: int, body: bytes, *headers: str) -> bytes:
    """An HTTP answer, whole."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


async def upload_in_parts(
    transport: Transport,
    key: str,
    data: bytes,
    *,
    attributes: ObjectAttributes = NO_ATTRIBUTES,
    total: Checksum | None = None,
) -> ObjectStored:
    """Upload `data` in parts of 5 MiB, completing with `total` (the right checksum where None)."""
    created = await transport.send(CreateMultipartUpload(key=key, algorithm="CRC64NVME", attributes=attributes))
    parts: list[CompletedPart] = []
    lengths: list[tuple[Checksum, int]] = []
    for number, start in enumerate(range(0, len(data), 5 * MIB), 1):
        body = memoryview(data)[start : start + 5 * MIB]
        part = UploadPart(
            key=key,
            upload_id=created.upload_id,
            part_number=number,
            body=body,
            checksum=crc64(body),
            sse_customer_key=attributes.sse_customer_key,
        )
        stored = await transport.send(part)
        parts.append(CompletedPart(part_number=number, etag=stored.etag, checksum=crc64(body)))
        lengths.append((crc64(body), len(body)))
    return await transport.send(
        CompleteMultipartUpload(
            key=key,
            upload_id=created.upload_id,
            parts=tuple(parts),
            size_bytes=len(data),
            checksum=total or combine("CRC64NVME", lengths),
            sse_customer_key=attributes.sse_customer_key,
        )
    )
