"""Pure: what begins, ends and lists multipart uploads, as queries and bodies, and the answers as boto3's names.

Source: Amazon S3 API Reference, CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload and ListParts.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final
from urllib.parse import quote

from asyncsink.errors import PermanentError, ServerFault
from asyncsink.s3.aioboto3_calls import HEADER_ALGORITHMS
from asyncsink.s3.error_map import one_line
from asyncsink.s3.listings import listing_told
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    ListParts,
)
from asyncsink.s3.wire.signing import canonical_query
from asyncsink.s3.xml_reader import NOT_UNDERSTOOD, Refused, XmlReader

Bookkeeping = CreateMultipartUpload | CompleteMultipartUpload | AbortMultipartUpload | ListParts
BOOKKEEPING: Final = (CreateMultipartUpload, CompleteMultipartUpload, AbortMultipartUpload, ListParts)

METHODS: Final[dict[type[Any], str]] = {
    CreateMultipartUpload: "POST",
    CompleteMultipartUpload: "POST",
    AbortMultipartUpload: "DELETE",
    ListParts: "GET",
}

_NAMESPACE: Final = "http://s3.amazonaws.com/doc/2006-03-01/"
_CHECKSUMS: Final = tuple(f"Checksum{name}" for name in HEADER_ALGORITHMS)
_TOLD: Final = ("UploadId", "ETag", "ChecksumType", *_CHECKSUMS)
_PLAIN: Final = re.compile(r"[A-Za-z0-9+/=_.-]*")


@cache
def _not_xml() -> re.Pattern[str]:
    """What an XML 1.0 document cannot say, not even escaped (XML 1.0, 2.2)."""
    # Compiling so large a class takes milliseconds; no server of the usual kind makes it needed.
    return re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def bookkeeping_query(operation: Bookkeeping) -> str:
    """The query string, as it is signed and sent."""
    if isinstance(operation, CreateMultipartUpload):
        return "uploads="
    if isinstance(operation, ListParts) and operation.marker:
        return canonical_query([("part-number-marker", str(operation.marker)), ("uploadId", operation.upload_id)])
    return f"uploadId={quote(operation.upload_id, safe='-_.~')}"


def parts_document(operation: CompleteMultipartUpload) -> bytes:
    """The parts as CompleteMultipartUpload's body. Takes about a microsecond for each.

    Raises:
        PermanentError: an ETag or a checksum that XML cannot say.
    """
    pieces = [f'<CompleteMultipartUpload xmlns="{_NAMESPACE}">']
    for part in operation.parts:
        pieces.append(f'<Part><PartNumber>{part.part_number}</PartNumber><ETag>"{_text(operation, part.etag)}"</ETag>')
        if part.checksum is not None and part.checksum.algorithm != "MD5":
            name = f"Checksum{part.checksum.algorithm}"
            pieces.append(f"<{name}>{_text(operation, part.checksum.value)}</{name}>")
        pieces.append("</Part>")
    pieces.append("</CompleteMultipartUpload>")
    return "".join(pieces).encode()


def told_by(operation: Bookkeeping, body: bytes) -> dict[str, Any]:
    """What an answer's body says, by boto3's names. Takes some ten microseconds for each part of a list.

    Raises:
        ServerFault: it is not the XML that S3 answers.
    """
    if isinstance(operation, AbortMultipartUpload):
        return {}
    if isinstance(operation, ListParts):
        return listing_told(operation, body)
    try:
        # Not its outermost name but what it holds makes it an answer: servers differ in the name.
        reader = XmlReader("", _TOLD)
        reader.read(body)
        told: dict[str, Any] = dict(reader.told)
        if not told.get("UploadId") and not isinstance(operation, CompleteMultipartUpload):
            raise Refused("no UploadId")
        return told
    except NOT_UNDERSTOOD as error:
        raise ServerFault(
            f"{operation.name} of {one_line(operation.key, 1200)} failed: the answer is not the XML that S3 gives; "
            "check that the endpoint is S3.",
            operation=operation.name,
            status=200,
        ) from error


def _text(operation: CompleteMultipartUpload, value: str) -> str:
    # The usual ETag and checksum need no escaping.
    if _PLAIN.fullmatch(value):
        return value
    if _not_xml().search(value):
        raise PermanentError(
            f"{operation.name} of {one_line(operation.key, 1200)} cannot be sent: the ETag or checksum "
            f"{one_line(value)!r} of a part holds characters that XML cannot say; check that the endpoint is S3.",
            operation=operation.name,
        )
    # A bare carriage return would be read as a line feed (XML 1.0, 2.11).
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return escaped.replace("\r", "&#13;")
