"""The shapes of the null server's answers.

Source: Amazon S3 API Reference, the page of each operation's name.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import NamedTuple
from xml.sax.saxutils import escape

from awscrt.checksums import crc64nvme

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_CHECKSUM = b"\r\nx-amz-checksum-"
ZEROS = bytes(8 * 1024 * 1024)
_MODIFIED = "2026-01-01T00:00:00.000Z"


class Stored(NamedTuple):
    """An object or a part: its size, its ETag (quotes included), and the checksum headers it came with."""

    size_bytes: int
    etag: bytes
    checksums: bytes


class Answer(NamedTuple):
    """Status line's end ("200 OK"), further header lines (each ends in CRLF), and a body."""

    status: str
    headers: bytes = b""
    body: bytes = b""


@dataclass(slots=True)
class Request:
    """A request that is not hot, with its whole body (at most a few MB)."""

    method: str
    target: str
    head: bytes
    body: bytes


def checksum_lines(head: bytes, low: bytes) -> bytes:
    """The x-amz-checksum-* header lines of a request, each with its CRLF. `low` is the head in lower case."""
    lines = b""
    at = low.find(_CHECKSUM)
    while at >= 0:
        end = low.find(b"\r\n", at + 2)
        end = end if end >= 0 else len(low)
        lines += head[at + 2 : end] + b"\r\n"
        at = low.find(_CHECKSUM, end)
    return lines


def zeros_of(size_bytes: int) -> Stored:
    """An object of zeros, with its MD5 and its CRC64NVME, as S3 describes each object that came in one PutObject."""
    md5, crc, left = hashlib.md5(usedforsecurity=False), 0, size_bytes
    while left:
        piece = ZEROS[: min(left, len(ZEROS))]
        md5.update(piece)
        crc = crc64nvme(piece, crc)
        left -= len(piece)
    value = base64.b64encode(crc.to_bytes(8, "big"))
    checksums = b"x-amz-checksum-crc64nvme: %s\r\nx-amz-checksum-type: FULL_OBJECT\r\n" % value
    return Stored(size_bytes, f'"{md5.hexdigest()}"'.encode(), checksums)


def object_range(found: Stored, wanted: bytes) -> tuple[bytes, int]:
    """Status line's end and headers of an answer to GET, and how many bytes follow.

    Args:
        wanted: the value of the Range header ("bytes=0-99", "bytes=100-"), or b"".
    """
    if not wanted.startswith(b"bytes="):
        return b"200 OK\r\n" + object_headers(found), found.size_bytes
    first, _, last = wanted[6:].partition(b"-")
    start, end = int(first), min(int(last or found.size_bytes), found.size_bytes - 1)
    length = end - start + 1
    # Without the checksums, which are of the whole object.
    part_of = object_headers(Stored(length, found.etag, b""))
    return b"206 Partial Content\r\nContent-Range: bytes %d-%d/%d\r\n%s" % (
        start, end, found.size_bytes, part_of,
    ), length  # fmt: skip


def error(status: str, code: str) -> Answer:
    """S3's error document."""
    return xml("Error", tags(Code=code, Message=f"The null server answers {code}."), status)


def object_headers(found: Stored) -> bytes:
    """The headers by which HEAD describes an object."""
    modified = formatdate(time(), usegmt=True).encode()
    return b"ETag: %s\r\nLast-Modified: %s\r\nContent-Length: %d\r\n%s" % (
        found.etag,
        modified,
        found.size_bytes,
        found.checksums,
    )


def contents(key: str, stored: Stored) -> str:
    """An object in a listing."""
    size, etag = str(stored.size_bytes), stored.etag.decode()
    return (
        f"<Contents>{tags(Key=key, LastModified=_MODIFIED, ETag=etag, Size=size, StorageClass='STANDARD')}</Contents>"
    )


def part(number: int, stored: Stored) -> str:
    """A part in a listing."""
    return f"<Part>{tags(PartNumber=str(number), Size=str(stored.size_bytes), ETag=stored.etag.decode())}</Part>"


def tags(**values: str) -> str:
    """Elements with text."""
    return "".join(f"<{name}>{escape(value)}</{name}>" for name, value in values.items())


def xml(root: str, inside: str, status: str = "200 OK") -> Answer:
    """An answer with an XML document."""
    namespace = "" if root == "Error" else ' xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    text = f"{_XML}<{root}{namespace}>{inside}</{root}>"
    return Answer(status, b"Content-Type: application/xml\r\n", text.encode())
