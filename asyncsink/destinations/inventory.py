"""What a listing said is stored below a prefix: in memory while that is little, on disk so that memory does not grow.

A listing that was not followed to its end says what is there, and nothing about what is not: S3 lists in UTF-8 byte
order, but S3 Express and look-alikes (SeaweedFS, between "a/" and "a.txt") do not.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from asyncsink.routing.spelling import fingerprint
from asyncsink.s3.operations import ListedObject
from asyncsink.temporary import TemporaryDatabase

IN_MEMORY_MAX = 25_000
"""Listed objects, and keys written since, that are kept in memory: about 10 MB and 5 MB. More go into a database on
disk."""
_GET = "SELECT size, etag, modified FROM object WHERE key = ?"
_TABLES = """
CREATE TABLE forgotten (key TEXT PRIMARY KEY, alike INTEGER) WITHOUT ROWID;
CREATE INDEX forgotten_alike ON forgotten (alike);
CREATE TABLE object (key TEXT PRIMARY KEY, size INTEGER, etag TEXT, modified REAL, alike INTEGER) WITHOUT ROWID;
CREATE INDEX object_alike ON object (alike);
"""


class Inventory:
    """Listed objects by key. Unless it is `in_memory`, methods block for microseconds: call them in worker threads.

    They raise a JournalError where the directory for temporary files cannot take what is kept.
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
        """Whether no method but `forget` asks a disk."""
        return self._objects is not None and self._forgotten is not None

    def forgets_in_memory(self, keys: int) -> bool:
        """Whether `forget` of so many keys asks no disk."""
        forgotten = self._forgotten
        return forgotten is not None and len(forgotten) + keys <= IN_MEMORY_MAX

    def add_page(self, objects: Iterable[ListedObject], *, last: bool) -> None:
        """Take over one page of a listing; pages come in order. What lies outside the prefix was not asked for."""
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
        """The objects under `keys` are no longer what was listed. Returns, for some of them, another key that was
        forgotten and is alike."""
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
        """Those of `keys` that were forgotten."""
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
        """Release the file."""
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
