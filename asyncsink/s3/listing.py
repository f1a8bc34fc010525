"""Listings, for both lanes: pages up to their end, and the XML by boto3's names with the server's texts as values.

botocore's parser is not used: it takes IsTruncated "True" for the end, and rejects a page for one malformed size.

Source: Amazon S3 API Reference, ListObjectsV2, ListObjects, ListParts and ListMultipartUploads.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Hashable, Iterable
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.parsers import expat

from asyncsink.errors import ServerFault
from asyncsink.s3.codec import CHECKSUM_FIELDS
from asyncsink.s3.errors_map import ENTRIES_MAX, one_line
from asyncsink.s3.operations import ListMultipartUploads, ListObjects, ListParts, ObjectPage, PartPage, UploadPage
from asyncsink.s3.transport import Transport

# -- Pages of a listing, up to its end or to pages without new entries -------------------------------------------------
# The order of keys proves nothing (S3 Express and SeaweedFS have their own), and a token may hold anything. Entries are
# remembered in a fixed amount of memory, as bits of a Bloom filter, which takes a new entry for a known one now and
# then, but never a whole page.

PAGES_WITHOUT_NEWS_MAX: Final = 100
"""Consecutive pages without a new entry: legal after many deletions, but not without limit."""
BITS: Final = 1 << 23
"""One MiB of memory."""
REMEMBERED_MAX: Final = 1 << 20
"""Entries, after which the filter starts anew: one in twenty new ones is then taken for known."""


class PageGuard:
    """Ends a listing that makes no progress. `check` it between two pages.

    Args:
        name: of the operation.
        what: the place that is listed, for the message.
    """

    def __init__(self, name: str, what: str) -> None:
        self._name = name
        self._what = what
        self._bits = bytearray()
        self._remembered = 0
        self._without_news = 0
        self._pages = 0
        self._anchor: Hashable = None
        self._anchor_until = 1

    def check(self, entries: Iterable[Hashable], goes_on: Hashable) -> None:
        """Check a page of `entries` after which the listing is to continue at `goes_on`.

        Raises:
            ServerFault: the position repeats, or too many pages brought nothing new.
        """
        if goes_on == self._anchor:
            raise self._stuck("the same token came twice")
        # Brent's algorithm finds a cycle of any length with one token in memory.
        self._pages += 1
        if self._pages == self._anchor_until:
            self._anchor, self._anchor_until = goes_on, 2 * self._anchor_until
        self._without_news = 0 if self._has_news(entries) else self._without_news + 1
        if self._without_news >= PAGES_WITHOUT_NEWS_MAX:
            raise self._stuck(f"{PAGES_WITHOUT_NEWS_MAX} pages in a row had nothing new")

    def _has_news(self, entries: Iterable[Hashable]) -> bool:
        if not self._bits or self._remembered > REMEMBERED_MAX:
            self._bits = bytearray(BITS // 8)
            self._remembered = 0
        bits, news = self._bits, 0
        for entry in entries:
            mixed = hash(entry)
            first, second = mixed & (BITS - 1), (mixed >> 32) & (BITS - 1)
            if bits[first >> 3] >> (first & 7) & bits[second >> 3] >> (second & 7) & 1:
                continue
            bits[first >> 3] |= 1 << (first & 7)
            bits[second >> 3] |= 1 << (second & 7)
            news += 1
        self._remembered += news
        return news > 0

    def _stuck(self, why: str) -> ServerFault:
        return ServerFault(
            f"{self._name} {self._what} does not go on: {why}; check that the endpoint is S3.",
            operation=self._name,
            status=200,
        )


async def object_pages(transport: Transport, prefix: str, start_after: str = "") -> AsyncGenerator[ObjectPage, None]:
    """All pages of the objects whose keys begin with `prefix`, and come behind `start_after`.

    Raises:
        TransferError: they cannot be listed; ServerFault where the listing has no end.
    """
    guard = PageGuard(ListObjects.name, f"below {prefix!r}")
    token = after = ""
    while True:
        page = await transport.send(ListObjects(prefix=prefix, start_after=start_after, token=token, after=after))
        yield page
        token, after = page.next_token, page.next_after
        if not token and not after:
            return
        guard.check((*(listed.key for listed in page.objects), *page.vague), token or after)


async def part_pages(
    transport: Transport, key: str, upload_id: str, sse_customer_key: object = None
) -> AsyncGenerator[PartPage, None]:
    """All pages of the parts of an upload.

    Raises:
        UploadMissing: the server has no such upload.
        TransferError: they cannot be listed; ServerFault where the listing has no end.
    """
    guard = PageGuard(ListParts.name, f"of {key!r}")
    marker: int | None = 0
    while marker is not None:
        page = await transport.send(
            ListParts(key=key, upload_id=upload_id, marker=marker, sse_customer_key=sse_customer_key)
        )
        yield page
        marker = page.next_marker
        if marker is not None:
            guard.check((part.part_number for part in page.parts), marker)


async def upload_pages(transport: Transport, prefix: str) -> AsyncGenerator[UploadPage, None]:
    """All pages of the uploads whose keys begin with `prefix`.

    Uploads that end meanwhile do no harm: the next page begins behind the last key of this one.

    Raises:
        TransferError: they cannot be listed; ServerFault where the listing has no end.
    """
    guard = PageGuard(ListMultipartUploads.name, f"below {prefix!r}")
    key_marker = upload_id_marker = ""
    while True:
        page = await transport.send(
            ListMultipartUploads(prefix=prefix, key_marker=key_marker, upload_id_marker=upload_id_marker)
        )
        yield page
        key_marker, upload_id_marker = page.next_key_marker, page.next_upload_id_marker
        if not key_marker:
            return
        guard.check(((each.key, each.upload_id) for each in page.uploads), (key_marker, upload_id_marker))


# -- XML of an answer, read as a stream (expat) ------------------------------------------------------------------------
# Only the wanted elements are kept, nesting is bounded, and a document type, which could declare entities, is refused.

DEPTH_MAX: Final = 16
"""Nested elements; S3's answers have four levels."""


class DocumentRefused(Exception):
    """The document cannot be the answer."""


NOT_UNDERSTOOD: Final = (DocumentRefused, expat.ExpatError, KeyError, ValueError)
"""Exceptions of reading an answer that is not S3's: the reader's, and those of converting its values."""


class XmlReader:
    """Keeps the entries of an answer, and the fields of its first level. Reads one answer.

    Args:
        root: the root element, or "" for any.
        told: elements of the first level to keep.
        entry: the repeated element of the first level, or "".
        fields: elements to keep of each entry.

    Attributes:
        root: the root element that was read, without its namespace.
    """

    def __init__(self, root: str, told: tuple[str, ...], entry: str = "", fields: tuple[str, ...] = ()) -> None:
        self.told: dict[str, str] = {}
        self.found: list[dict[str, str]] = []
        self.root = ""
        self._expected = root
        self._wanted = told
        self._entry = entry
        self._fields = fields
        self._depth = 0
        self._inside = False
        self._name = ""
        self._text: list[str] | None = None

    def read(self, body: bytes) -> None:
        """Read a whole answer.

        Raises:
            DocumentRefused, ExpatError: it is another document, or none.
        """
        # With namespaces processed, names come as "namespace name", whatever prefix the server chose.
        parser = expat.ParserCreate("UTF-8", " ")
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._data
        parser.StartDoctypeDeclHandler = _refuse_doctype
        # Spaces that kept the connection alive may precede the XML declaration, which must come first.
        parser.Parse(body.lstrip(), True)

    def _start(self, name: str, _: dict[str, str]) -> None:
        plain = name.rpartition(" ")[2]
        self._depth += 1
        self._text = None
        if self._depth == 1:
            self.root = plain
            if self._expected and plain != self._expected:
                raise DocumentRefused("another outermost element")
        elif self._depth == 2:
            self._inside = plain == self._entry
            if self._inside:
                if len(self.found) >= ENTRIES_MAX:
                    raise DocumentRefused("too many entries")
                self.found.append({})
            elif plain in self._wanted:
                self._name, self._text = plain, []
        elif self._depth == 3:
            if self._inside and plain in self._fields:
                self._name, self._text = plain, []
        elif self._depth > DEPTH_MAX:
            raise DocumentRefused("nesting")

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, _: str) -> None:
        if self._text is not None:
            into = self.found[-1] if self._depth == 3 else self.told
            into[self._name] = _unwrapped("".join(self._text))
            self._text = None
        self._depth -= 1


# A page has a thousand entries, nearly always laid out alike and in ASCII: one pattern reads them in a third of the
# parser's time. The parser reads the rest, and every document that is not so plain.

_VALUE: Final = "[ -%'-;=?-~]*"
"""Text that needs no parser: printable ASCII without "&", "<" and ">"."""
CHILDREN_MAX: Final = 32
"""Elements of a plain entry: the time to compile the pattern grows with them, and S3's entries have about ten."""
_CHILD: Final = re.compile(f"<([A-Za-z]+)>{_VALUE}</\\1>")
_BEFORE: Final = re.compile(
    rb"\s*(?:<\?xml [^<>]*\?>\s*)?<[A-Za-z]+(?: xmlns=\"[^\"<>&]*\")?>\s*(?:<([A-Za-z]+)>[^<>]*</\1>|<[A-Za-z]+/>)*"
)
"""What precedes the first entry: the root element and flat elements of the first level."""


def _plain_entries(body: bytes, entry: str, fields: tuple[str, ...]) -> tuple[list[dict[str, str]], bytes]:
    """The entries of a document, where all are laid out as the first one, and the document without them.

    Args:
        body: of the answer.
        entry, fields: as in XmlReader.

    Returns:
        No entries and the whole document where these are not so plain.
    """
    opening, closing = f"<{entry}>", f"</{entry}>"
    start, end = body.find(opening.encode()), body.rfind(closing.encode()) + len(closing)
    if start < 0 or end < start or not body.isascii() or _BEFORE.fullmatch(body, 0, start) is None:
        return [], body
    text = body[start:end].decode("ascii").replace("&quot;", '"')
    names = [child[1] for child in _CHILD.finditer(text, 0, text.find(closing))]
    kept = [name for name in names if name in fields]
    if not len(names) == len(set(names)) <= CHILDREN_MAX or len(kept) < 2:
        return [], body
    children = (f"<{name}>({_VALUE})</{name}>" if name in fields else f"<{name}>{_VALUE}</{name}>" for name in names)
    pattern = re.compile(f"{opening}{''.join(children)}{closing}")
    found = pattern.findall(text)
    if len(found) > ENTRIES_MAX or pattern.sub("", text):
        return [], body
    return [dict(zip(kept, values, strict=True)) for values in found], body[:start] + body[end:]


def _unwrapped(text: str) -> str:
    """A value without the line breaks and the indentation of a pretty-printer."""
    return text.strip() if text[:1] == "\n" and text.rstrip(" \t")[-1:] == "\n" else text


def _refuse_doctype(*_: object) -> None:
    raise DocumentRefused("document type")


# -- XML of the three listings -----------------------------------------------------------------------------------------

Listing = ListObjects | ListParts | ListMultipartUploads
LISTINGS: Final = (ListObjects, ListParts, ListMultipartUploads)

_SHAPES: Final[dict[type[Any], tuple[str, str, tuple[str, ...], str, tuple[str, ...]]]] = {
    # operation: (root element or "", name of its entries, fields of the first level, entry element, entry fields)
    ListObjects: (
        "ListBucketResult",
        "Contents",
        ("IsTruncated", "NextContinuationToken", "NextMarker", "Marker", "EncodingType"),
        "Contents",
        ("Key", "Size", "ETag", "LastModified"),
    ),
    # Servers differ in the root element, and some omit the upload id; one of the two identifies the answer.
    ListParts: (
        "",
        "Parts",
        ("UploadId", "IsTruncated", "NextPartNumberMarker"),
        "Part",
        ("PartNumber", "Size", "ETag", *CHECKSUM_FIELDS.values()),
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
    """Fields and entries of the answer's body. Takes some microseconds for each entry.

    Raises:
        ServerFault: it is no such listing.
    """
    root, name, told, element, fields = _SHAPES[type(operation)]
    reader = XmlReader(root, told, element, fields)
    plain, rest = _plain_entries(body, element, fields)
    try:
        reader.read(rest)
        if isinstance(operation, ListParts) and not reader.told.get("UploadId") and reader.root != "ListPartsResult":
            raise DocumentRefused("no list of parts")
    except NOT_UNDERSTOOD as error:
        where = f"of {operation.key}" if isinstance(operation, ListParts) else f"below {operation.prefix}"
        raise ServerFault(
            f"{operation.name} {one_line(where, 1200)} failed: the answer is no listing of S3; check that the "
            "endpoint is S3.",
            operation=operation.name,
            status=200,
        ) from error
    answer: dict[str, Any] = dict(reader.told)
    entries: list[dict[str, Any]] = [*reader.found, *plain]
    if isinstance(operation, ListObjects) and answer.get("EncodingType", "").strip() == "url":
        _decode(answer, ("NextMarker", "Marker"))
        for entry in entries:
            _decode(entry, ("Key",))
    return answer | ({name: entries} if entries else {})


def _decode(told: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in told:
            told[name] = unquote_plus(told[name])
