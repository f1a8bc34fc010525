"""Pure: ListObjectsV2 as a query, and its answer as a page.

The answer is read as a stream of elements (expat): nothing but the entries is kept, nesting is bounded, and a document
type, which could declare entities, is refused. Keys are asked for URL-encoded, since XML 1.0 cannot say every
character that a key may hold. Source: Amazon S3 API Reference, ListObjectsV2.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.parsers import expat

from asyncsink.errors import ServerFault
from asyncsink.s3.aioboto3_calls import CALLS
from asyncsink.s3.operations import ListObjects, ObjectPage
from asyncsink.s3.wire.signing import canonical_query

LISTING_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of an answer: 1,000 keys of 1,024 bytes, three bytes for each once encoded, and 2 KiB of markup around each."""
DEPTH_MAX: Final = 16
"""Of elements; S3's answer has four."""

_ROOT: Final = "ListBucketResult"
_TOLD: Final = ("IsTruncated", "NextContinuationToken", "EncodingType")
_ENTRY: Final = ("Key", "Size", "ETag", "LastModified")


class _Refused(Exception):
    """What was read cannot be a listing."""


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
    reader = _Reader()
    try:
        reader.read(body)
        told: dict[str, Any] = dict(reader.told)
        told["IsTruncated"] = reader.told.get("IsTruncated", "").strip() == "true"
        decode = unquote_plus if told.get("EncodingType") == "url" else str
        told["Contents"] = [_entry(found, decode) for found in reader.found]
    except (_Refused, expat.ExpatError, KeyError, ValueError) as error:
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


class _Reader:
    """Keeps the entries of a listing, and what its first level says."""

    def __init__(self) -> None:
        self.told: dict[str, str] = {}
        self.found: list[dict[str, str]] = []
        self._depth = 0
        self._inside = False
        self._name = ""
        self._text: list[str] | None = None

    def read(self, body: bytes) -> None:
        """Read a whole answer.

        Raises:
            _Refused, ExpatError: it is no listing.
        """
        # With namespaces told apart, names come as "namespace name", whichever prefix the server chose.
        parser = expat.ParserCreate("UTF-8", " ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.Parse(body, True)

    def _start(self, name: str, _: dict[str, str]) -> None:
        plain = name.rpartition(" ")[2]
        self._depth += 1
        self._text = None
        if self._depth == 1:
            if plain != _ROOT:
                raise _Refused(plain)
        elif self._depth == 2:
            self._inside = plain == "Contents"
            if self._inside:
                self.found.append({})
            elif plain in _TOLD:
                self._name, self._text = plain, []
        elif self._depth == 3:
            if self._inside and plain in _ENTRY:
                self._name, self._text = plain, []
        elif self._depth > DEPTH_MAX:
            raise _Refused("nesting")

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, _: str) -> None:
        if self._text is not None:
            into = self.found[-1] if self._depth == 3 else self.told
            into[self._name] = "".join(self._text)
            self._text = None
        self._depth -= 1


def _refuse_doctype(*_: object) -> None:
    raise _Refused("document type")
