"""The objects of a grab: all below a prefix, page by page, or the matches of templates, found before the first is
received."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import count
from typing import Any

import anyio
import anyio.to_thread

from asyncsink.destinations.heads import equal_part_size, existing_by_head, needs_part_size
from asyncsink.download.options import GrabSettings
from asyncsink.download.placement import FOLDER
from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    InvalidKey,
    ObjectMissing,
    PermanentError,
    ServerFault,
    SourceMissing,
    TransferError,
)
from asyncsink.integrity.promises import promised
from asyncsink.integrity.sameness import Existing
from asyncsink.options.settings import Secret
from asyncsink.routing.keys import PATH_BYTES_MAX, show
from asyncsink.routing.templates import Pattern, natural_order, shaped
from asyncsink.s3.get_object import GetObject, ObjectData
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import MD5_ETAG_SSE, HeadObject, ListedObject, ListObjects, ObjectHead
from asyncsink.s3.transport import Transport
from asyncsink.temporary import TemporaryDatabase
from asyncsink.value import dataclass

# -- Objects and their paths: whether a key can be a path below a directory. Pure --------------------------------------

PLACEHOLDERS_MAX = 50_000
"""Most empty objects, and most folders, that are kept until a listing has ended: about 20 MB."""


@dataclass(frozen=True, slots=True)
class DownloadItem:
    """One object and its place.

    Attributes:
        listed: its entry in a listing, or what a HEAD gave.
        relative: its path below the target directory.
        receipt: what its receipt says of it, or None without a manifest.
    """

    listed: ListedObject
    relative: str
    receipt: Existing | None = None

    def described(self, existing: Existing, url: str) -> Existing:
        """What its bytes have to be: what the server says, or its receipt.

        Raises:
            IntegrityError: it is not the object of its receipt.
        """
        return existing if self.receipt is None else promised(existing, self.receipt, url)


def is_marker(listed: ListedObject) -> bool:
    """Whether the object only stands for a folder (empty: "a/" as the S3 console makes it, "a_$folder$" as Hadoop
    does)."""
    return listed.key.endswith(("/", "_$folder$")) and not listed.size_bytes


class Placeholders:
    """Empty objects that may stand for folders: "a" beside "a/b", as some tools make them. Only one can be in a file
    system.

    They wait until everything is listed, since the order of keys is not certain. Beyond PLACEHOLDERS_MAX empty objects,
    or as many folders, no more are kept: an object that cannot be written is a failure then.
    """

    def __init__(self) -> None:
        self._folders: set[str] = set()
        self._waiting: list[DownloadItem] = []

    def add(self, wanted: DownloadItem) -> bool:
        """Note an object; returns whether it has to wait."""
        folder = wanted.relative.rpartition("/")[0]
        while folder and folder not in self._folders and len(self._folders) < PLACEHOLDERS_MAX:
            self._folders.add(folder)
            folder = folder.rpartition("/")[0]
        if wanted.listed.size_bytes or len(self._waiting) >= PLACEHOLDERS_MAX:
            return False
        self._waiting.append(wanted)
        return True

    def sort_out(self) -> tuple[list[DownloadItem], list[DownloadItem]]:
        """The objects that waited: the files, and those that only stand for a folder."""
        files = [wanted for wanted in self._waiting if wanted.relative not in self._folders]
        return files, [wanted for wanted in self._waiting if wanted.relative in self._folders]


def check_asked_for(key: str, prefix: str) -> None:
    """Refuse a key of a listing that does not begin with the requested prefix.

    Raises:
        ServerFault: the key does not begin with `prefix`, which every key of the listing must begin with.
    """
    if not key.startswith(prefix):
        raise ServerFault(
            f"The server listed the key {show(key)}, which was not asked for: it does not begin with {show(prefix)}; "
            "nothing is written. Check that the endpoint is S3.",
            operation="ListObjectsV2",
        )


def check_relative(relative: str, key: str) -> None:
    """Refuse a key that is no path below a directory; S3 takes any text of up to 1,024 bytes for a key.

    Args:
        relative: what comes after the prefix that is left out.
        key: the whole key, for the message.

    Raises:
        InvalidKey: with the reason.
    """
    fault = ""
    if "\0" in relative:
        fault = "holds a NUL character"
    elif relative.startswith("/"):
        fault = 'would be an absolute path, since "//" stands in it or "/" before it'
    else:
        parts = relative.split("/")
        if ".." in parts or "." in parts:
            fault = "has '.' or '..' between slashes, which file systems resolve"
        elif "" in parts:
            fault = 'has an empty name between slashes ("//"), which file systems fold'
        elif parts[0] == FOLDER:
            fault = f"begins with {FOLDER}, which is where unfinished files lie"
        elif len(relative.encode("utf-8", "surrogatepass")) > PATH_BYTES_MAX:
            fault = f"is longer than a path may be ({PATH_BYTES_MAX} bytes)"
    if fault:
        raise InvalidKey(f"The key {show(key)} {fault}; nothing is written. Copy the object under another key first.")


# -- Descriptions of an object for the rules of sameness ---------------------------------------------------------------


def existing_by_listing(listed: ListedObject, secret: Secret | None) -> Existing:
    """From the object's entry in a listing, which has no checksum and no encryption."""
    return Existing(
        size_bytes=listed.size_bytes, etag=listed.etag, modified=listed.last_modified, etag_is_md5=secret is None
    )


def existing_by_answer(answer: ObjectData, listed: ListedObject) -> Existing:
    """From the answer to a GET of the whole object."""
    return Existing(
        size_bytes=len(answer.data),
        etag=answer.etag or listed.etag,
        modified=listed.last_modified,
        checksums={} if answer.composite else answer.checksums,
        looked_closely=True,
        etag_is_md5=answer.sse in MD5_ETAG_SSE,
    )


async def head_of(transport: Transport, key: str, secret: Secret | None) -> ObjectHead:
    """From a HEAD, or, where that is refused, from the answer to a GET of the first byte, as far as that has it.

    Raises:
        ObjectMissing, AccessDenied, TransferError: the object cannot be looked at.
    """
    try:
        return await transport.send(HeadObject(key=key, sse_customer_key=secret))
    except AccessDenied as denied:
        try:
            first = await transport.send(GetObject(key=key, length=1, sse_customer_key=secret))
        except AccessDenied:
            raise denied from None
        except PermanentError as error:
            if error.status != 416:
                raise
            return ObjectHead(size_bytes=0)  # there is no first byte
    # Checksums in the answer to a range may not be those of the whole object.
    size_bytes = len(first.data) if first.object_bytes is None else first.object_bytes
    return ObjectHead(size_bytes=size_bytes, etag=first.etag, version_id=first.version_id, sse=first.sse)


async def look_closer(transport: Transport, key: str, secret: Secret | None) -> Existing:
    """As `head_of`; where only a multipart ETag can prove the bytes, also by HEADs of the first and the last part.

    Raises:
        ObjectMissing, AccessDenied, TransferError: it cannot be looked at.
    """
    head = await head_of(transport, key, secret)
    part_size = await equal_part_size(transport, key, secret, head) if needs_part_size(head) else None
    return existing_by_head(head, part_size_bytes=part_size)


# -- Listings: several prefixes are listed at once, each page by page --------------------------------------------------
# A HEAD completes an entry that has no valid size; where it fails, the entry is one failure. Source: Amazon S3 API
# Reference, ListObjectsV2.

LISTINGS_MAX = 16
"""Prefixes listed at the same time; the pages of one prefix are sequential, each named by a token of the one before."""

LOOKS_MAX = 16
"""HEAD requests at the same time, for the objects of a page whose entries are incomplete."""

Deliver = Callable[[str, Sequence[ListedObject]], Awaitable[None]]
Refuse = Callable[[str, AsyncSinkError], None]


async def list_below(
    transport: Transport, prefixes: Sequence[str], deliver: Deliver, refuse: Refuse, secret: Secret | None = None
) -> None:
    """List all objects below each prefix, and deliver each page with its prefix as it arrives.

    Args:
        deliver: awaited by the listing that received the page, so that pages do not accumulate before a slow receiver.
        refuse: called with the key of an unusable entry ("" where it has none) and the error.
        secret: the customer key of the objects (SSE-C), or None.

    Raises:
        ExceptionGroup: of the exceptions of the transport or `deliver`; the other listings are cancelled.
    """
    waiting = iter(prefixes)
    async with anyio.create_task_group() as group:
        for _ in range(min(LISTINGS_MAX, len(prefixes))):
            group.start_soon(_list_each, transport, waiting, deliver, refuse, secret)


async def _list_each(
    transport: Transport, prefixes: Iterator[str], deliver: Deliver, refuse: Refuse, secret: Secret | None
) -> None:
    for prefix in prefixes:
        async with aclosing(complete_pages(transport, prefix, refuse, secret)) as pages:
            async for objects in pages:
                await deliver(prefix, objects)


async def complete_pages(
    transport: Transport, prefix: str, refuse: Refuse, secret: Secret | None = None
) -> AsyncGenerator[Sequence[ListedObject], None]:
    """The objects below a prefix, page by page, with those whose entries a HEAD had to complete; arguments as
    `list_below`. Raises TransferError where they cannot be listed."""
    async with aclosing(object_pages(transport, prefix)) as pages:
        async for page in pages:
            objects = page.objects
            if page.vague:
                objects = (*objects, *await _looked_at(transport, page.vague, refuse, secret))
            if page.unnamed:
                refuse("", _unnamed(prefix, page.unnamed))
            if objects:
                yield objects


async def pages_below(
    transport: Transport, prefix: str, secret: Secret | None
) -> AsyncGenerator[Sequence[ListedObject], None]:
    """The objects below a prefix, page by page; the first fault ends the listing. Objects that are gone before a HEAD
    has completed their entries are left out.

    Raises:
        ServerFault: a key that was not asked for, or an entry without one.
        TransferError: they cannot be listed.
    """
    errors: list[AsyncSinkError] = []

    def refuse(_key: str, error: AsyncSinkError) -> None:
        if not isinstance(error, ObjectMissing):
            errors.append(error)

    async with aclosing(complete_pages(transport, prefix, refuse, secret)) as pages:
        async for objects in pages:
            for listed in objects:
                check_asked_for(listed.key, prefix)
            if errors:
                raise errors[0]
            yield objects
    if errors:
        raise errors[0]


async def _looked_at(
    transport: Transport, keys: Sequence[str], refuse: Refuse, secret: Secret | None
) -> list[ListedObject]:
    found: list[ListedObject] = []
    waiting = iter(keys)

    async def look() -> None:
        for key in waiting:
            try:
                head = await transport.send(HeadObject(key=key, sse_customer_key=secret))
            except (TransferError, InvalidKey) as error:
                refuse(key, error)
            else:
                found.append(ListedObject(key, head.size_bytes, head.etag, head.last_modified))

    async with anyio.create_task_group() as group:
        for _ in range(min(LOOKS_MAX, len(keys))):
            group.start_soon(look)
    return found


def _unnamed(prefix: str, number: int) -> ServerFault:
    return ServerFault(
        f"The listing below {prefix!r} has {number} {'entry' if number == 1 else 'entries'} without a key; check that "
        "the endpoint is S3.",
        operation=ListObjects.name,
        status=200,
    )


# -- Finding the objects -----------------------------------------------------------------------------------------------

LOOKS_AT_ONCE = 16
"""Objects that are looked at concurrently where they may not be listed."""


PAGE_OBJECTS = 1000
"""Objects in a page of the matches."""
_TABLES = """
CREATE TABLE object (number INTEGER PRIMARY KEY, key TEXT UNIQUE, size INTEGER, etag TEXT, modified REAL);
CREATE TABLE match (number INTEGER PRIMARY KEY, pattern INTEGER, key TEXT, UNIQUE (pattern, key));
"""


class Matches:
    """The matches of the templates, on disk where they are many. Methods block for milliseconds; for any thread.

    They raise a JournalError where the directory for temporary files cannot take the matches.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._disk = TemporaryDatabase("The objects that match", _TABLES)

    def add(self, found: Iterable[tuple[ListedObject, Sequence[int]]]) -> None:
        """Add objects, each with the numbers of the patterns that it matches; an earlier entry of the key is
        replaced."""
        rows, matched = [], []
        for listed, patterns in found:
            modified = listed.last_modified and listed.last_modified.timestamp()
            rows.append((listed.key, listed.size_bytes, listed.etag, modified))
            matched += [(number, listed.key) for number in patterns]
        replace_objects = "INSERT OR REPLACE INTO object (key, size, etag, modified) VALUES (?, ?, ?, ?)"
        with self._lock, self._disk.at_once():
            self._disk.change_many(replace_objects, rows)
            self._disk.change_many("INSERT OR IGNORE INTO match (pattern, key) VALUES (?, ?)", matched)

    def totals(self) -> tuple[int, int]:
        """The numbers of objects and of bytes."""
        (row,) = self._rows("SELECT count(*), total(size) FROM object")
        return int(row[0]), int(row[1])

    def has(self, pattern: int) -> bool:
        """Whether the pattern of this number found anything."""
        return bool(self._rows("SELECT 1 FROM match WHERE pattern = ? LIMIT 1", pattern))

    def page(self, after: int) -> tuple[list[ListedObject], int]:
        """Up to PAGE_OBJECTS objects, and the `after` of the next page; 0 is the beginning."""
        query = "SELECT number, key, size, etag, modified FROM object WHERE number > ? ORDER BY number LIMIT ?"
        rows = self._rows(query, after, PAGE_OBJECTS)
        objects = [
            ListedObject(row[1], row[2], row[3], None if row[4] is None else datetime.fromtimestamp(row[4], UTC))
            for row in rows
        ]
        return objects, rows[-1][0] if rows else after

    def outputs(self, settings: GrabSettings, path_of: Callable[[str], str | None]) -> dict[str, Any]:
        """The outputs of the fields, with a path in place of each key, or None where it has none; all in memory."""
        numbers = count()
        return {
            each.name: shaped(
                [
                    [path_of(key) for key in self._keys(next(numbers), in_order=settings.sort_filelist)]
                    for _ in each.patterns
                ],
                with_arguments=each.name in settings.with_arguments,
            )
            for each in settings.fields
        }

    def _keys(self, pattern: int, *, in_order: bool) -> list[str]:
        keys = [str(row[0]) for row in self._rows("SELECT key FROM match WHERE pattern = ? ORDER BY number", pattern)]
        return sorted(keys, key=natural_order) if in_order else keys

    def _rows(self, query: str, *values: int) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._disk.rows(query, *values)


async def find_matches(transport: Transport, settings: GrabSettings, refuse: Refuse, secret: Secret | None) -> Matches:
    """List below the templates' prefixes, and keep the matches; folder markers ("a/") never match.

    Args:
        refuse: called with each key that cannot be taken from a listing, and its error.
        secret: the customer's own key of the objects (SSE-C), or None.

    Raises:
        SourceMissing: a template matches nothing, and raise_on_empty is True; `problems` has the other ones.
        TransferError: a listing failed.
    """
    patterns = [pattern for each in settings.fields for pattern in each.patterns]
    by_prefix = _grouped(patterns, settings.prefixes)
    matches = Matches()

    async def match(prefix: str, page: Sequence[ListedObject]) -> None:
        found: list[tuple[ListedObject, list[int]]] = []
        for listed in page:
            try:
                check_asked_for(listed.key, prefix)
            except ServerFault as error:
                refuse(listed.key, error)
                continue
            if listed.key.endswith("/"):
                continue
            numbers = [number for number, pattern in by_prefix[prefix] if pattern.matches(listed.key)]
            if numbers:
                found.append((listed, numbers))
        if found:
            await anyio.to_thread.run_sync(matches.add, found)

    if patterns:
        await list_below(transport, settings.prefixes, match, refuse, secret)
    _check_all_found(matches, settings, f"no key below s3://{settings.target.bucket}/{settings.base} matches")
    return matches


def _check_all_found(matches: Matches, settings: GrabSettings, nothing: str) -> None:
    """Refuse templates without a match, with raise_on_empty.

    Args:
        nothing: the beginning of the message, before the pattern's text.

    Raises:
        SourceMissing: as `find_matches`.
    """
    missing, numbers = [], count()
    for each in settings.fields:
        if not each.patterns:
            missing.append(
                SourceMissing(
                    f"The output field {show(each.name)} finds nothing: one of its arguments is an empty list; give it "
                    "values, or give raise_on_empty=False."
                )
            )
        missing += [
            SourceMissing(
                f"The output field {show(each.name)} finds nothing: {nothing} {show(pattern.text)}; correct the "
                f"template{_in_folders(pattern)}, or give raise_on_empty=False."
            )
            for pattern in each.patterns
            if not matches.has(next(numbers))
        ]
    if missing and settings.raise_on_empty:
        missing[0].problems = missing[1:]
        raise missing[0]


def _in_folders(pattern: Pattern) -> str:
    return (
        f" (* stays within one folder, {show(pattern.deeper)} finds its names in all below)" if pattern.deeper else ""
    )


def _grouped(patterns: Iterable[Pattern], prefixes: Sequence[str]) -> Mapping[str, list[tuple[int, Pattern]]]:
    grouped = defaultdict(list)
    for number, pattern in enumerate(patterns):
        (prefix,) = (each for each in prefixes if pattern.prefix.startswith(each))
        grouped[prefix].append((number, pattern))
    return grouped


async def find_single(transport: Transport, settings: GrabSettings, secret: Secret | None) -> ListedObject | None:
    """The object that the source itself names ("s3://bucket/scan.nii"), or None."""
    key = settings.target.prefix
    if settings.fields or not key:
        return None
    try:
        return await _by_key(transport, key, secret)
    except (ObjectMissing, AccessDenied):
        return None  # the listing will find it, or be denied


async def _by_key(transport: Transport, key: str, secret: Secret | None) -> ListedObject:
    head = await head_of(transport, key, secret)
    return ListedObject(key, head.size_bytes, head.etag, head.last_modified)


async def find_unlisted(
    transport: Transport, settings: GrabSettings, secret: Secret | None, denied: AccessDenied
) -> tuple[Matches | None, ListedObject | None]:
    """Without the right to list: the object that the source names, or those that templates name by their whole keys.

    S3 has separate rights for listing a bucket and for reading its objects; a public or shared object may often be read
    where its neighbours may not be listed.

    Args:
        denied: the error of the listing.

    Raises:
        AccessDenied: nothing names a whole key, or no object can be read under one; the message has both answers.
        SourceMissing: as `find_matches`.
        TransferError: an object could not be asked for.
    """
    patterns = [pattern for each in settings.fields for pattern in each.patterns]
    keys = dict.fromkeys(pattern.key for pattern in patterns) if settings.fields else {settings.target.prefix: None}
    if "" in keys or settings.names_folder:
        raise _unlisted(denied, "Only an object whose whole key is given can be grabbed without the right to list.")
    objects: dict[str, ListedObject] = {}
    errors: list[tuple[str, AsyncSinkError]] = []
    waiting = iter(keys)

    async def ask() -> None:
        for key in waiting:
            try:
                found = await _by_key(transport, key, secret)
            except (ObjectMissing, AccessDenied) as error:
                errors.append((key, error))
            else:
                objects[key] = found

    async with anyio.create_task_group() as group:
        for _ in range(LOOKS_AT_ONCE):
            group.start_soon(ask)
    for key, error in errors:
        if not settings.fields or isinstance(error, AccessDenied):
            raise _unlisted(denied, f"The object {show(key)} itself cannot be had either: {error}") from error
    if not settings.fields:
        return None, objects.get(settings.target.prefix)
    matches = Matches()
    numbers = {key: [number for number, pattern in enumerate(patterns) if pattern.key == key] for key in objects}
    matches.add((listed, numbers[key]) for key, listed in objects.items())
    _check_all_found(matches, settings, f"s3://{settings.target.bucket} may not be listed, and has no object")
    return matches, None


def _unlisted(denied: AccessDenied, why: str) -> AccessDenied:
    return AccessDenied(f"{denied} {why}", operation=denied.operation, code=denied.code, status=denied.status)
