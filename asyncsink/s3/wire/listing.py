"""Pure: ListObjectsV2 as a query, and its answer as a page.

Keys are asked for URL-encoded, since XML 1.0 cannot say every character that a key may hold. Source: Amazon S3 API
Reference, ListObjectsV2.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import unquote_plus

from asyncsink.errors import ServerFault
from asyncsink.s3.aioboto3_calls import CALLS
from asyncsink.s3.operations import ListObjects, ObjectPage
from asyncsink.s3.wire.signing import canonical_query
from asyncsink.s3.wire.xml_reader import NOT_UNDERSTOOD, XmlReader

_ROOT: Final = "ListBucketResult"
_TOLD: Final = ("IsTruncated", "NextContinuationToken", "EncodingType")
_ENTRY: Final = ("Key", "Size", "ETag", "LastModified")


def listing_query(operation: ListObjects) -> str:
    """The query string, as it is signed and sent.

    Raises:
        UnicodeEncodeError: the prefix holds a lone surrogate.
    """
    parameters = [("list-type", "2"), ("encoding-type", "url"), ("max-keys", str(operation.max_keys))]
    parameters.append(("prefix", operation.prefix))
    if operation.token:
        parameters.append(("continuation-token", operation.token))
    return canonical_query(parameters)


def page_of(operation: ListObjects, bucket: str, body: bytes) -> ObjectPage:
    """The page that an answer's body says. Takes some ten microseconds for each key.

    Raises:
        ServerFault: it is no listing, or one that cannot go on.
    """
    reader = XmlReader(_ROOT, _TOLD, "Contents", _ENTRY)
    try:
        reader.read(body)
        told: dict[str, Any] = dict(reader.told)
        told["IsTruncated"] = reader.told.get("IsTruncated", "").strip() == "true"
        decode = unquote_plus if told.get("EncodingType") == "url" else str
        told["Contents"] = [_entry(found, decode) for found in reader.found]
    except NOT_UNDERSTOOD as error:
        raise ServerFault(
            f"{operation.name} of bucket {bucket} failed: the answer is no listing of S3; check that the endpoint is "
            "S3.",
            operation=operation.name,
            status=200,
        ) from error
    page = CALLS[ListObjects].response(operation, told)
    assert isinstance(page, ObjectPage)
    return page


def _entry(found: dict[str, str], decode: Any) -> dict[str, Any]:
    return {
        "Key": decode(found["Key"]),
        "Size": int(found["Size"]),
        "ETag": found.get("ETag", ""),
        "LastModified": _time(found["LastModified"].strip()),
    }


def _time(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = parsedate_to_datetime(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
