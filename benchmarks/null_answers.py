"""The shapes of the null server's answers.

Source: Amazon S3 API Reference, the page of each operation's name.
"""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import NamedTuple
from xml.sax.saxutils import escape

_XML = '<?xml version="1.0" encoding="UTF-8"?>\n'
_CHECKSUM = b"\r\nx-amz-checksum-"
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
