"""Pure: the XML of a listing by boto3's names, for both lanes; every value is the text that the server sent.

botocore's own reading is not asked: it ends a listing at "True", and a whole page at one size that is none.

Source: Amazon S3 API Reference, ListObjectsV2, ListObjects, ListParts and ListMultipartUploads.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import unquote_plus

from asyncsink.errors import ServerFault
from asyncsink.s3.aioboto3_calls import HEADER_ALGORITHMS
from asyncsink.s3.error_map import one_line
from asyncsink.s3.operations import ListMultipartUploads, ListObjects, ListParts
from asyncsink.s3.xml_reader import NOT_UNDERSTOOD, Refused, XmlReader

Listing = ListObjects | ListParts | ListMultipartUploads
LISTINGS: Final = (ListObjects, ListParts, ListMultipartUploads)

_CHECKSUMS: Final = tuple(f"Checksum{name}" for name in HEADER_ALGORITHMS)
_SHAPES: Final[dict[type[Any], tuple[str, str, tuple[str, ...], str, tuple[str, ...]]]] = {
    # operation: (outermost element or "", name of its entries, what the first level says, element, fields)
    ListObjects: (
        "ListBucketResult",
        "Contents",
        ("IsTruncated", "NextContinuationToken", "NextMarker", "Marker", "EncodingType"),
        "Contents",
        ("Key", "Size", "ETag", "LastModified"),
    ),
    # Servers differ in the outermost name, and some leave the upload's ID out; one of the two makes it an answer.
    ListParts: (
        "",
        "Parts",
        ("UploadId", "IsTruncated", "NextPartNumberMarker"),
        "Part",
        ("PartNumber", "Size", "ETag", *_CHECKSUMS),
    ),
    ListMultipartUploads: (
        "ListMultipartUploadsResult",
        "Uploads",
        ("IsTruncated", "NextKeyMarker", "NextUploadIdMarker"),
        "Upload",
        ("Key", "UploadId", "Initiated"),
    ),
}


def listing_told(operation: Listing, body: bytes) -> dict[str, Any]:
    """What the answer's body says. Takes some ten microseconds for each entry.

    Raises:
        ServerFault: it is no such listing.
    """
    root, name, told, element, fields = _SHAPES[type(operation)]
    reader = XmlReader(root, told, element, fields)
    try:
        reader.read(body)
        if isinstance(operation, ListParts) and not reader.told.get("UploadId") and reader.root != "ListPartsResult":
            raise Refused("no list of parts")
    except NOT_UNDERSTOOD as error:
        where = f"of {operation.key}" if isinstance(operation, ListParts) else f"below {operation.prefix}"
        raise ServerFault(
            f"{operation.name} {one_line(where, 1200)} failed: the answer is no listing of S3; check that the "
            "endpoint is S3.",
            operation=operation.name,
            status=200,
        ) from error
    answer: dict[str, Any] = dict(reader.told)
    entries: list[dict[str, Any]] = [dict(found) for found in reader.found]
    if isinstance(operation, ListObjects) and answer.get("EncodingType", "").strip() == "url":
        _decode(answer, ("NextMarker", "Marker"))
        for entry in entries:
            _decode(entry, ("Key",))
    return answer | ({name: entries} if entries else {})


def _decode(told: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in told:
            told[name] = unquote_plus(told[name])
