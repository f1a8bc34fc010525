"""What a proxy before an S3 server sees, read well enough to know what is asked for: operation, key, upload, part.

Sources: RFC 9112 (messages and their framing); Amazon S3 API Reference, the request syntax of each operation.
Bucket names are taken from the path ("path style"), as clients send them to an address of this machine.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import field
from typing import Final
from urllib.parse import parse_qs, unquote

from asyncsink.value import dataclass

HEAD_BYTES_MAX: Final = 128 * 1024
"""Of a request or an answer. A proxy's streams must be opened with this limit."""
PIECE_BYTES: Final = 16 * 1024
"""Most bytes that are passed on at once."""

_OF_OBJECTS: Final = {
    # (method, a name in the query, or "" where none of the others is): operation
    ("PUT", "uploadId"): "UploadPart",
    ("PUT", ""): "PutObject",
    ("POST", "uploads"): "CreateMultipartUpload",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("DELETE", ""): "DeleteObject",
    ("HEAD", ""): "HeadObject",
    ("GET", "uploadId"): "ListParts",
    ("GET", ""): "GetObject",
}
_OF_BUCKETS: Final = {
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "list-type"): "ListObjectsV2",
    ("GET", ""): "ListObjects",
    ("HEAD", ""): "HeadBucket",
    ("PUT", ""): "CreateBucket",
    ("DELETE", ""): "DeleteBucket",
    ("POST", "delete"): "DeleteObjects",
}


@dataclass(frozen=True, slots=True)
class Head:
    """Everything of a message before its body. `headers` has lower-case names; of a repeated one, the last value."""

    raw: bytes = field(repr=False)
    first_line: str
    headers: dict[str, str] = field(repr=False)

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.first_line.split(" ", 2)[1])

    @property
    def length(self) -> int | None:
        """Of the body in bytes, where it is told."""
        told = self.headers.get("content-length")
        return int(told) if told is not None else None

    @property
    def chunked(self) -> bool:
        """Whether the body has a transfer coding."""
        return "chunked" in self.headers.get("transfer-encoding", "").lower()


@dataclass(frozen=True, slots=True)
class Request:
    """One request. Its headers may hold what must not be shown, and are not part of its repr.

    Attributes:
        operation: S3's name ("PutObject"), or "Unknown".
        bucket, key: unquoted; the key is "" for requests about a bucket.
        upload_id: of a multipart upload, or "".
        part_number: 0 where it is no part.
        repeat: how many requests with the same operation, key and part number came before it.
        head: its first line and headers.
    """

    operation: str
    bucket: str
    key: str
    upload_id: str
    part_number: int
    repeat: int
    head: Head = field(repr=False)

    @property
    def body_bytes(self) -> int:
        """Length of the body as it is told; 0 where it is not."""
        return self.head.length or 0

    @property
    def waits_for_continue(self) -> bool:
        """Whether the body comes only after an interim answer (RFC 9110, 10.1.1)."""
        return self.head.headers.get("expect", "").lower() == "100-continue"


def request_of(head: Head) -> Request:
    """What a request asks for, as the first of its kind. Pure.

    Raises:
        ValueError: it is no HTTP request.
    """
    method, target, _ = head.first_line.split(" ")
    path, _, query = target.partition("?")
    asked = parse_qs(query, keep_blank_values=True)
    bucket, _, key = unquote(path, errors="surrogateescape").lstrip("/").partition("/")
    table = _OF_OBJECTS if key else _OF_BUCKETS
    name = next((name for known, name in table if known == method and name and name in asked), "")
    operation = table.get((method, name), "Unknown") if bucket else "ListBuckets"
    number = asked.get("partNumber", ["0"])[0]
    return Request(
        operation=operation,
        bucket=bucket,
        key=key,
        upload_id=asked.get("uploadId", [""])[0],
        part_number=int(number) if operation == "UploadPart" and number.isdigit() else 0,
        repeat=0,
        head=head,
    )


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next message's first line and headers.

    Raises:
        asyncio.IncompleteReadError, ConnectionError: there is none.
        asyncio.LimitOverrunError: it is longer than HEAD_BYTES_MAX.
    """
    raw = await reader.readuntil(b"\r\n\r\n")
    first, *lines = raw.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Head(raw, first, {name.strip().lower(): value.strip() for name, _, value in pairs})


async def read_body(reader: asyncio.StreamReader, head: Head, *, until_end: bool = False) -> AsyncIterator[bytes]:
    """The pieces of a message's body as they come, with their transfer coding (RFC 9112, 6.3).

    Args:
        reader: stands behind the head.
        head: tells how long the body is.
        until_end: one of unknown length ends with the connection, as an answer's does; else there is none.

    Raises:
        asyncio.IncompleteReadError, ConnectionError: it is not whole.
    """
    if head.chunked:
        size = -1
        while size:
            line = await reader.readuntil(b"\r\n")
            yield line
            size = int(line.split(b";")[0], 16)
            if size:
                async for piece in _exactly(reader, size + 2):
                    yield piece
        while line != b"\r\n":  # trailers
            line = await reader.readuntil(b"\r\n")
            yield line
    elif head.length is not None:
        async for piece in _exactly(reader, head.length):
            yield piece
    elif until_end:
        while piece := await reader.read(PIECE_BYTES):
            yield piece


async def _exactly(reader: asyncio.StreamReader, size_bytes: int) -> AsyncIterator[bytes]:
    while size_bytes:
        piece = await reader.read(min(size_bytes, PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", size_bytes)
        size_bytes -= len(piece)
        yield piece
