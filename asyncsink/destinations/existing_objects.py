"""The existing objects of a bucket, found with as few requests as possible.

One LIST below the longest prefix that all keys share (an empty prefix costs that one request), followed to its end
where the run has enough objects to be worth it, and a HEAD only for keys that the listing does not cover, or whose ETag
does not settle the comparison.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.destinations.base import Existing, RunForecast, Unknown
from asyncsink.destinations.heads import equal_part_size, existing_by_head, needs_part_size
from asyncsink.destinations.object_options import OptionsOf
from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    ObjectMissing,
    PreconditionFailed,
    TransferError,
    UploadMissing,
)
from asyncsink.model import Transfer
from asyncsink.options.schema import S3Target, Settings
from asyncsink.routing.key_range import KeyRange, ListingOrder
from asyncsink.routing.keys import fingerprint
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import (
    HeadObject,
    HeadObjects,
    HeadResult,
    ListedObject,
    ObjectHead,
    UploadPart,
)
from asyncsink.s3.stack import S3Stack
from asyncsink.temporary import TemporaryDatabase

# -- The inventory: listed objects below a prefix, in memory while they are few, then on disk --------------------------
# A listing that was not followed to its end proves which objects exist, and not which are missing: S3 lists in UTF-8
# byte order, but S3 Express and other servers (SeaweedFS, between "a/" and "a.txt") do not.

IN_MEMORY_MAX = 25_000
"""Most listed objects, and most keys written since, that are kept in memory: about 10 MB and 5 MB. More go into a
database on disk."""
_GET = "SELECT size, etag, modified FROM object WHERE key = ?"
_TABLES = """
CREATE TABLE forgotten (key TEXT PRIMARY KEY, alike INTEGER) WITHOUT ROWID;
CREATE INDEX forgotten_alike ON forgotten (alike);
CREATE TABLE object (key TEXT PRIMARY KEY, size INTEGER, etag TEXT, modified REAL, alike INTEGER) WITHOUT ROWID;
CREATE INDEX object_alike ON object (alike);
"""


class Inventory:
    """Listed objects by key. Unless it is `in_memory`, methods block for microseconds: call them in worker threads.

    They raise a JournalError where the directory for temporary files cannot take the entries.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.count = 0
        self.complete = False
        self._lock = threading.Lock()
        self._objects: dict[str, ListedObject] | None = {}
        self._spellings: dict[int, str] | None = None
        self._forgotten: set[str] | None = set()
        self._forgotten_alike: dict[int, str] = {}
        self._disk: TemporaryDatabase | None = None

    def __repr__(self) -> str:
        extent = "complete" if self.complete else "in part"
        return f"<Inventory of {self.prefix!r}: {self.count} objects, {extent}>"

    @property
    def in_memory(self) -> bool:
        """Whether no method but `forget` reads from the disk."""
        return self._objects is not None and self._forgotten is not None

    def forgets_in_memory(self, keys: int) -> bool:
        """Whether `forget` of this many keys uses no disk."""
        forgotten = self._forgotten
        return forgotten is not None and len(forgotten) + keys <= IN_MEMORY_MAX

    def add_page(self, objects: Iterable[ListedObject], *, last: bool) -> None:
        """Add one page of a listing; pages come in order. Entries outside the prefix are ignored."""
        page = [listed for listed in objects if listed.key.startswith(self.prefix)]
        with self._lock:
            self._spellings = None
            if self._objects is not None:
                self._objects.update((listed.key, listed) for listed in page)
                if len(self._objects) > IN_MEMORY_MAX:
                    self._store(self._objects.values())
                    self._objects = None
            else:
                self._store(page)
        self.count += len(page)
        self.complete = last

    def forget(self, keys: Sequence[str]) -> dict[str, str]:
        """Mark `keys`: their objects are no longer those that were listed. Returns, for some of them, another marked
        key that some server takes for the same."""
        numbers = [fingerprint(key) for key in keys]
        others: dict[str, str] = {}
        with self._lock:
            if self._forgotten is not None:
                for key, number in zip(keys, numbers, strict=True):
                    other = self._forgotten_alike.get(number, key)
                    if other != key:
                        others[key] = other
                    self._forgotten_alike[number] = key
                self._forgotten.update(keys)
                if len(self._forgotten) > IN_MEMORY_MAX:
                    rows = [(key, fingerprint(key)) for key in self._forgotten]
                    self._forgotten = None
                    self._forgotten_alike.clear()
                    self._forget(rows)
            else:
                ask = "SELECT key FROM forgotten WHERE alike = ? AND key <> ? LIMIT 1"
                for key, number in zip(keys, numbers, strict=True):
                    if (row := self._database().row(ask, number, key)) is not None:
                        others[key] = str(row[0])
                self._forget(zip(keys, numbers, strict=True))
        return others

    def forgotten(self, keys: Sequence[str]) -> frozenset[str]:
        """The keys among `keys` that were marked by `forget`."""
        with self._lock:
            if self._forgotten is not None:
                return frozenset(self._forgotten.intersection(keys)) if self._forgotten else frozenset()
            row, ask = self._database().row, "SELECT 1 FROM forgotten WHERE key = ?"
            return frozenset([key for key in keys if row(ask, key) is not None])

    def get(self, key: str) -> ListedObject | None:
        """The listed object, or None where `key` was not listed."""
        return self.get_many((key,)).get(key)

    def get_many(self, keys: Sequence[str]) -> dict[str, ListedObject]:
        """The listed objects among `keys`."""
        with self._lock:
            if self._objects is not None:
                return {key: self._objects[key] for key in keys if key in self._objects}
            rows = [(key, self._database().row(_GET, key)) for key in keys]
        return {key: ListedObject(key, row[0], row[1], _time(row[2])) for key, row in rows if row is not None}

    def alike(self, key: str) -> str | None:
        """Another listed key that some server takes for `key`, where `key` itself was not listed."""
        number = fingerprint(key)
        with self._lock:
            if self._objects is not None:
                if self._spellings is None:
                    self._spellings = {fingerprint(listed): listed for listed in self._objects}
                return None if key in self._objects else self._spellings.get(number)
            ask = self._database().row
            if ask("SELECT 1 FROM object WHERE key = ?", key) is not None:
                return None
            row = ask("SELECT key FROM object WHERE alike = ? LIMIT 1", number)
        return None if row is None else str(row[0])

    def close(self) -> None:
        """Release the database."""
        with self._lock:
            if self._disk is not None:
                self._disk.close()

    def _database(self) -> TemporaryDatabase:
        if self._disk is None:
            self._disk = TemporaryDatabase("The objects that were listed", _TABLES)
        return self._disk

    def _forget(self, rows: Iterable[tuple[str, int]]) -> None:
        database = self._database()
        with database.at_once():
            database.change_many("INSERT OR IGNORE INTO forgotten VALUES (?, ?)", rows)

    def _store(self, objects: Iterable[ListedObject]) -> None:
        rows = [
            (o.key, o.size_bytes, o.etag, o.last_modified and o.last_modified.timestamp(), fingerprint(o.key))
            for o in objects
        ]
        database = self._database()
        with database.at_once():
            database.change_many("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", rows)


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


# -- Existing objects: the listing first, HEADs where it does not settle the comparison --------------------------------

OBJECTS_PER_EXTRA_PAGE = 50
"""Transfers for each further page of the listing (1,000 keys): a page costs about as much as a few dozen HEADs, and
spares up to 1,000."""
LISTING_SECONDS_MAX = 60.0
"""Seconds that a listing is used in a run that may last for months; from then on, each object is looked at by HEAD."""
OTHERS_MAX = 10_000
"""Most keys that are kept with another spelling: many more than are written at once, which is when they count."""
PROBE_UPLOAD_ID = "asyncsink-write-probe"


class ExistingObjects:
    """The existing objects under the keys of one run.

    Args:
        stack: the bucket's transport.
        settings: of the run; its target is in S3.
        threads: bounds calls that read a listing on disk.
        notice: called with a sentence where objects cannot be looked at.

    Attributes:
        name: the destination as the user wrote it.
        options: of each transfer.
    """

    def __init__(
        self, stack: S3Stack, settings: Settings, *, threads: CapacityLimiter, notice: Callable[[str], None]
    ) -> None:
        target = settings.target
        assert isinstance(target, S3Target)
        self.name = target.url or f"s3://{target.bucket}/{target.prefix}".rstrip("/")
        self._transport = stack.transport
        self._target = target
        self.options = options = OptionsOf(settings, target.bucket)
        self._threads = threads
        self._notice = notice
        # Otherwise one LIST proves bucket and credentials, and no more is listed.
        self._look_first = options.overwrite_of_run != "always"
        self._heads_together = stack.batches
        self._inventory: Inventory | None = None
        self._keys_return = True
        self._listing_ends: float | None = None
        self._blind = False
        self._others: dict[str, str] = {}
        # Only where content decides: a server that ignores the condition replaces an object, as the policy does.
        self._may_guess = settings.policies.overwrite in ("checksum", "journal")
        self._new_lately = False

    async def prepare(self, forecast: RunForecast) -> None:
        """List below the keys' common prefix, or of a part the range of its keys: proves bucket and credentials, and
        finds the existing objects.

        One page of the whole folder is used instead where it lists everything: it also has the keys that the server may
        take for those of the run.

        Credentials that may write but not list (rule 28) are recognised by a probe that stores nothing; then every file
        counts as new.

        Raises:
            BucketMissing, AccessDenied, CredentialsError, ConfigError, RetryableError: the run cannot start.
        """
        inventory = Inventory(forecast.common_prefix[: forecast.common_prefix.rfind("/") + 1])
        self._listing_ends = time.monotonic() + LISTING_SECONDS_MAX if forecast.lasting else None
        # After a survey, every key comes once; without one, a key may come again after it was written.
        self._keys_return = forecast.objects_total is None
        self._may_guess = self._may_guess and forecast.lasting
        wanted = forecast.objects_total if forecast.unknown_total is None else forecast.unknown_total
        extra = (wanted or 0) // OBJECTS_PER_EXTRA_PAGE
        pages_max = 1 + extra if self._look_first else 1
        try:
            if forecast.keys is not None:
                inventory = Inventory(forecast.keys.prefix)
                await self._list_range(inventory, forecast.keys, pages_max)
            elif inventory.prefix == forecast.common_prefix:
                await self._list(inventory, pages_max)
            elif not await self._list_folder(inventory):
                inventory.close()
                inventory = Inventory(forecast.common_prefix)
                await self._list(inventory, pages_max)
        except AccessDenied as denied:
            inventory.close()
            await self._probe_writing(forecast, denied)
            return
        except BaseException:
            inventory.close()
            raise
        self._inventory = inventory

    async def _list_folder(self, inventory: Inventory) -> bool:
        """Fill an inventory with one page; returns whether that is the whole listing. False where listing is denied."""
        try:
            return await self._list(inventory, 1)
        except AccessDenied:
            return False

    async def _list(self, inventory: Inventory, pages_max: int) -> bool:
        """Fill an inventory with up to `pages_max` pages; returns whether they are the whole listing."""
        covers = True
        async with aclosing(object_pages(self._transport, inventory.prefix)) as pages:
            async for page in pages:
                # An incomplete entry is left out, and the listing covers less: a HEAD has what the entry lacks.
                covers = covers and not page.vague and not page.unnamed
                last = not page.next_token and not page.next_after
                add = partial(inventory.add_page, page.objects, last=last and covers)
                await anyio.to_thread.run_sync(add, limiter=self._threads)
                pages_max -= 1
                if last or not pages_max:
                    return last
        return True

    async def _list_range(self, inventory: Inventory, keys: KeyRange, pages_max: int) -> None:
        """Fill an inventory with what is there of a range. Where the pages come in no order that is known, what they
        lack is not known to be missing."""
        covers, order = True, ListingOrder()
        async with aclosing(object_pages(self._transport, keys.prefix, keys.start_after)) as pages:
            async for page in pages:
                order.add(listed.key for listed in page.objects)
                covers = covers and not page.vague and not page.unnamed and order.is_known
                last = not page.next_token and not page.next_after
                last = last or (order.latest is not None and keys.is_passed(order.latest))
                add = partial(inventory.add_page, page.objects, last=last and covers)
                await anyio.to_thread.run_sync(add, limiter=self._threads)
                pages_max -= 1
                if last or not pages_max:
                    return

    @property
    def _listing(self) -> Inventory | None:
        """The inventory, while it is young enough to be used."""
        old = self._listing_ends is not None and time.monotonic() > self._listing_ends
        return None if old else self._inventory

    async def _probe_writing(self, forecast: RunForecast, denied: AccessDenied) -> None:
        """Distinguish credentials that may only write from credentials that may do nothing.

        A part for an upload that does not exist needs the right to put, and stores nothing: NoSuchUpload means that
        writing is allowed.
        """
        key = forecast.sample_key or forecast.common_prefix or "asyncsink"
        try:
            await self._transport.send(UploadPart(key=key, upload_id=PROBE_UPLOAD_ID, part_number=1, body=b""))
        except UploadMissing:
            self._blind = True
            self._notice(
                f"{self.name} may be written to but not listed with these credentials: files that are there already "
                "are sent again unless a HEAD is allowed."
            )
        except AccessDenied:
            raise denied from None

    def contradicts(self, key: str, etag: str) -> bool:
        """Whether the listing, followed to its end, has no object under `key`, or one with another ETag. Blocks.

        False where the listing proves nothing: it does not cover the key, or this run has written the key since.
        """
        inventory = self._listing
        if inventory is None or not inventory.complete or not key.startswith(inventory.prefix):
            return False
        if self._keys_return and inventory.forgotten((key,)):
            return False
        listed = inventory.get(key)
        return listed is None or listed.etag != etag

    @property
    def replaces_unseen(self) -> bool:
        """Whether listed objects are replaced without a look, and the listing is in memory."""
        inventory = self._listing
        seen = self._look_first or self._keys_return
        return not seen and inventory is not None and inventory.count > 0 and inventory.in_memory

    def replaced(self, transfer: Transfer) -> str:
        """The listed ETag of an object of another size under the key, where objects are replaced without a look: it
        cannot prove the new object. Else "". Uses neither server nor disk."""
        if self._inventory is None or not self.replaces_unseen:
            return ""
        listed = self._inventory.get(transfer.key)
        return listed.etag if listed is not None and listed.size_bytes != transfer.source.size_bytes else ""

    async def look_many(
        self, transfers: Sequence[Transfer], *, guess: bool = False
    ) -> Sequence[Existing | Unknown | None]:
        """The objects by the listing, with at most one call to a thread; the others by HEADs, sent together where the
        transport takes them.

        Without HEADs, and LIKELY_NEW, are keys that a sink meets for the first time, in no listing however old, as long
        as such keys prove new.
        """
        inventory, keys = self._listing, [transfer.key for transfer in transfers]
        found: list[Existing | Unknown | None] = [Unknown.UNKNOWN] * len(keys)
        if inventory is not None:
            found = await self._as_known(inventory, transfers)
        if guess and self._may_guess and self._new_lately and Unknown.UNKNOWN in found:
            await self._guess(transfers, found)
        secret = self.options.customer_key_of_run
        asked = [
            number
            for number, (each, transfer) in enumerate(zip(found, transfers, strict=True))
            if each is Unknown.UNKNOWN and self.options.customer_key(transfer) == secret
        ]
        if asked and self._heads_together:
            results: list[HeadResult] = [None] * len(asked)
            asking = [keys[number] for number in asked]
            # Where nothing was begun, each object is looked at by itself, and may fail there.
            with suppress(AsyncSinkError):
                await self._transport.send(HeadObjects(keys=asking, results=results, sse_customer_key=secret))
            for number, result in zip(asked, results, strict=True):
                found[number] = self._as_answered(transfers[number], result)
            missing = sum([found[number] is None for number in asked])
            self._new_lately = missing > len(asked) - missing
        return found

    async def _guess(self, transfers: Sequence[Transfer], found: list[Existing | Unknown | None]) -> None:
        """Replace UNKNOWN by LIKELY_NEW where neither this run, nor an earlier one, nor the listing has the key."""
        inventory = self._inventory
        if inventory is None:
            return
        asked = [
            number
            for number, each in enumerate(found)
            if each is Unknown.UNKNOWN and not ((known := transfers[number].known) and known.published)
        ]
        listed, written = await self._entries(inventory, [transfers[number].key for number in asked])
        for number in asked:
            key = transfers[number].key
            if key not in listed and key not in written:
                found[number] = Unknown.LIKELY_NEW

    def guess_failed(self, refusal: AsyncSinkError | None) -> bool:
        """Whether a refused write says only that LIKELY_NEW was wrong, or that the server lacks conditions; the next
        keys are looked at then."""
        if not isinstance(refusal, TransferError):
            return False
        lacking = refusal.status == 501 or refusal.code == "NotImplemented"
        if not lacking and not isinstance(refusal, PreconditionFailed):
            return False
        self._new_lately = False
        self._may_guess = self._may_guess and not lacking
        return True

    def _as_answered(self, transfer: Transfer, result: HeadResult) -> Existing | Unknown | None:
        """The object by the result of one of many HEADs, where that needs no further request."""
        if isinstance(result, ObjectHead):
            return Unknown.UNKNOWN if needs_part_size(result) else self._as_found(transfer, result)
        if isinstance(result, AccessDenied) and not self._is_other_key(transfer):
            self._cannot_look()
            return None if self._listing is None else Unknown.UNKNOWN
        return None if isinstance(result, ObjectMissing) else Unknown.UNKNOWN

    async def _entries(
        self, inventory: Inventory, keys: Sequence[str]
    ) -> tuple[dict[str, ListedObject], frozenset[str]]:
        """The listed objects, and the keys that this run has written since."""
        if inventory.in_memory:
            listed, written, others = self._get_many(inventory, keys)
        else:
            get = partial(self._get_many, inventory, keys)
            listed, written, others = await anyio.to_thread.run_sync(get, limiter=self._threads)
        self._remember(others)
        return listed, written

    async def _as_known(self, inventory: Inventory, transfers: Sequence[Transfer]) -> list[Existing | Unknown | None]:
        keys = [transfer.key for transfer in transfers]
        listed, written = await self._entries(inventory, keys)
        complete, inside = inventory.complete, inventory.prefix
        return [
            Unknown.UNKNOWN
            if key in written
            else self._as_listed(transfer, listed.get(key), complete and key.startswith(inside))
            for transfer, key in zip(transfers, keys, strict=True)
        ]

    def _as_listed(self, transfer: Transfer, listed: ListedObject | None, covered: bool) -> Existing | Unknown | None:
        """The object by its entry of the listing; None where the listing covers the key and has no entry."""
        if listed is None:
            return None if covered else Unknown.UNKNOWN
        if transfer.objects is not None or self.options.encryption_of_run:
            return Unknown.UNKNOWN  # a listing has neither encryption nor metadata
        return Existing(
            size_bytes=listed.size_bytes,
            etag=listed.etag,
            modified=listed.last_modified,
            etag_is_md5=self.options.etag_is_md5(transfer),
        )

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """The object under the key: by the listing, or by HEAD where that does not cover the key, or `closely` is
        True."""
        if not closely and (inventory := self._listing) and transfer.key.startswith(inventory.prefix):
            # A listing that was not followed to its end does not prove what is missing: not every server lists in the
            # order of the keys.
            (found,) = await self._as_known(inventory, (transfer,))
            if not isinstance(found, Unknown):
                return found
        return await self._head(transfer)

    async def _head(self, transfer: Transfer) -> Existing | None:
        key, secret = transfer.key, self.options.customer_key(transfer)
        try:
            head = await self._transport.send(HeadObject(key=key, sse_customer_key=secret))
        except ObjectMissing:
            return None
        except AccessDenied as denied:
            if self._is_other_key(transfer):
                raise AccessDenied(
                    f"s3://{self._target.bucket}/{key} is there, and cannot be looked at with this customer key; give "
                    "the key it was encrypted with, or overwrite='always' to replace it.",
                    transfer=transfer,
                    operation="HeadObject",
                    status=403,
                ) from denied
            self._cannot_look()
            return await self._unlooked(transfer)
        part_size = await equal_part_size(self._transport, key, secret, head) if needs_part_size(head) else None
        return self._as_found(transfer, head, part_size)

    async def _unlooked(self, transfer: Transfer) -> Existing | None:
        """What the listing has of an object at which the credentials may not look."""
        listed, written = await self._entries(self._listing, [transfer.key]) if self._listing else ({}, frozenset())
        if (entry := listed.get(transfer.key)) is None or transfer.key in written:
            return None
        if isinstance(known := self._as_listed(transfer, entry, covered=True), Existing):
            return replace(known, looked_closely=True)
        return Existing(size_bytes=entry.size_bytes, outdated="its encryption and metadata cannot be looked at")

    def _is_other_key(self, transfer: Transfer) -> bool:
        """Whether a denied HEAD means that the object has another customer key: S3 answers 403 then, and where listing
        is allowed, a HEAD is too."""
        return self.options.customer_key(transfer) is not None and self._inventory is not None

    def _cannot_look(self) -> None:
        # Rule 28: for credentials that may neither look nor list, every file is new (403 may mean "not there" then).
        if not self._blind:
            self._blind = True
            how = "is compared by its listing alone" if self._listing else "cannot be compared"
            self._notice(f"HEAD is denied below {self.name}: what is there already {how}.")

    def _as_found(self, transfer: Transfer, head: ObjectHead, part_size_bytes: int | None = None) -> Existing:
        outdated = self.options.other_than(transfer, head)
        return existing_by_head(
            head, part_size_bytes=part_size_bytes, etag_is_md5=self.options.etag_is_md5(transfer), outdated=outdated
        )

    def _get_many(
        self, inventory: Inventory, keys: Sequence[str]
    ) -> tuple[dict[str, ListedObject], frozenset[str], dict[str, str]]:
        """The listed objects; the keys that this run has written since; and, where the inventory is on disk, other
        spellings of the rest."""
        written = inventory.forgotten(keys) if self._keys_return else frozenset[str]()
        listed = inventory.get_many(keys)
        others = {} if inventory.in_memory else _alike(inventory, [key for key in keys if key not in listed])
        return listed, written, others

    def other_spelling(self, key: str) -> str | None:
        """Another key, listed or written by this run, that some server takes for this one. Only for a key that was
        looked at, or is about to be written."""
        inventory = self._inventory
        if inventory is None or not (inventory.count or self._others):
            return None
        other = self._others.get(key)
        return inventory.alike(key) if other is None and inventory.in_memory and inventory.count else other

    async def forget(self, *transfers: Transfer) -> None:
        """Mark the transfers' keys, which are about to be written: their listed objects are out of date."""
        inventory = self._inventory
        if not self._keys_return or inventory is None:
            return
        keys = [transfer.key for transfer in transfers]
        # A listing that is too old for its objects is still used for the spelling of their keys.
        unseen = not inventory.in_memory and (
            self._listing is None or any(self.options.overwrite(each) == "always" for each in transfers)
        )
        if not unseen and inventory.forgets_in_memory(len(keys)):
            self._remember(inventory.forget(keys))
        else:
            forget = partial(_forget, inventory, keys, unseen=unseen)
            self._remember(await anyio.to_thread.run_sync(forget, limiter=self._threads))

    def _remember(self, others: dict[str, str]) -> None:
        for key, other in others.items():
            self._others.pop(key, None)  # so that the latest come last
            self._others[key] = other
            if len(self._others) > OTHERS_MAX:
                del self._others[next(iter(self._others))]

    def close(self) -> None:
        """Release the inventory."""
        if self._inventory is not None:
            self._inventory.close()
            self._inventory = None


def _forget(inventory: Inventory, keys: Sequence[str], *, unseen: bool) -> dict[str, str]:
    """As `Inventory.forget`. With `unseen`, other spellings in the listing are returned too, because `_get_many`, which
    finds them otherwise, was not called for these keys."""
    return (_alike(inventory, keys) if unseen else {}) | inventory.forget(keys)


def _alike(inventory: Inventory, keys: Sequence[str]) -> dict[str, str]:
    """For some of the keys, a listed one that some server takes for it. Blocks where the inventory is on disk."""
    return {key: other for key in keys if (other := inventory.alike(key)) is not None}
