"""Listings page by page, to their end or to the point where pages bring nothing new.

The order of keys proves nothing (S3 Express and SeaweedFS have their own), and a token may say anything. What a listing
has brought is remembered in a fixed amount of memory: as bits, in which a new entry is taken for a known one now and
then, which whole pages never are.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Hashable, Iterable
from typing import Final

from asyncsink.errors import ServerFault
from asyncsink.s3.operations import ListMultipartUploads, ListObjects, ListParts, ObjectPage, PartPage, UploadPage
from asyncsink.s3.transport import Transport

PAGES_WITHOUT_NEWS_MAX: Final = 100
"""Pages in a row that bring no entry: legal where much was deleted lately, but not for ever."""
BITS: Final = 1 << 23
"""One MiB of memory."""
REMEMBERED_MAX: Final = 1 << 20
"""Entries, of which one in twenty is then taken for a known one. What was remembered before is forgotten."""


class PageGuard:
    """Ends a listing that does not. `check` it between two pages.

    Args:
        name: of the operation.
        what: is listed, for the message.
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
        """A page had `entries`, and the listing is said to go on at `goes_on`.

        Raises:
            ServerFault: it has been there before, or has brought nothing new for too long.
        """
        if goes_on == self._anchor:
            raise self._stuck("the same token came twice")
        # Brent's way to notice a cycle of any length with one token in memory.
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


async def object_pages(transport: Transport, prefix: str) -> AsyncGenerator[ObjectPage, None]:
    """Every page of the objects whose keys begin with `prefix`.

    Raises:
        TransferError: they cannot be listed; ServerFault where the listing has no end.
    """
    guard = PageGuard(ListObjects.name, f"below {prefix!r}")
    token = after = ""
    while True:
        page = await transport.send(ListObjects(prefix=prefix, token=token, after=after))
        yield page
        token, after = page.next_token, page.next_after
        if not token and not after:
            return
        guard.check((*(listed.key for listed in page.objects), *page.vague), token or after)


async def part_pages(
    transport: Transport, key: str, upload_id: str, sse_customer_key: object = None
) -> AsyncGenerator[PartPage, None]:
    """Every page of the parts of an upload.

    Raises:
        UploadMissing: the server does not know it.
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
    """Every page of the uploads whose keys begin with `prefix`.

    Uploads that are ended meanwhile do not disturb it: the next page begins behind the last key of this one.

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
