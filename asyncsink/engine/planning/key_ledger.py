"""What a survey keeps for the run, in bounded memory: the source of each key, and its entries.

Collisions are found before anything is sent. Only runs whose keys could meet keep a ledger: a plain directory export
cannot collide.
"""

from __future__ import annotations

import marshal
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, Final

from asyncsink import errors
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import ObjectOptions
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.routing.keys import fingerprint
from asyncsink.temporary import TemporaryDatabase, file_fault

ALIKE_IN_MEMORY_MAX = 250_000
"""Most keys whose fingerprints are kept in memory: about 15 MB."""
_CLAIMS = (
    "CREATE TABLE claim (key BLOB PRIMARY KEY, first BLOB, last BLOB, ordinal INTEGER, again INTEGER DEFAULT 0)"
    " WITHOUT ROWID;"
)

_CLAIM = (
    "INSERT INTO claim (key, first, last, ordinal) VALUES (?, ?, ?, ?) ON CONFLICT (key)"
    " DO UPDATE SET last = excluded.last, ordinal = excluded.ordinal, again = 1 RETURNING first, again"
)


class KeyLedger:
    """The first and the last source of every key, on disk. Methods block, and are called from worker threads.

    They raise a JournalError where the directory for temporary files cannot take the keys.

    Attributes:
        repeated: whether any key was claimed more than once.
    """

    def __init__(self) -> None:
        self.repeated = False
        self._lock = threading.Lock()
        self._database = TemporaryDatabase("The keys of the run", _CLAIMS)

    def claim(self, claims: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, str]]:
        """Record (key, source, ordinal) triples; returns (key, first source, this source) for every key met again.

        The same source under the same key again is no collision.
        """
        with self.claiming() as claim:
            return [(key, first, source) for key, source, number in claims if (first := claim(key, source, number))]

    @contextmanager
    def claiming(self) -> Iterator[Callable[[str, str, int], str]]:
        """Many claims at once. The function that the block gets records a key, a source and an ordinal, and
        returns the first source of the key where that is another one, else ""."""
        with self._lock:
            self._database.begin()
            yield self._claim

    def _claim(self, key: str, source: str, ordinal: int) -> str:
        path = encoded_name(source)
        row = self._database.row(_CLAIM, encoded_name(key), path, path, ordinal)
        assert row is not None
        first, again = row
        if not again:
            return ""
        self.repeated = True
        return decoded_name(first) if first != path else ""

    def last(self, key: str) -> tuple[str, int] | None:
        """The last source that claimed `key`, and its ordinal."""
        with self._lock:
            row = self._database.row("SELECT last, ordinal FROM claim WHERE key = ?", encoded_name(key))
        return None if row is None else (decoded_name(row[0]), int(row[1]))

    def given_before(self, key: str) -> bool:
        """Whether this was called before with `key`; False at every call for a key that was claimed only once."""
        with self._lock:
            asked = self._database.row(
                "UPDATE claim SET again = again + 1 WHERE key = ? AND again > 0 RETURNING again", encoded_name(key)
            )
        return asked is not None and asked[0] > 2

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._database.close()


class RecentKeys:
    """As KeyLedger, of the newest keys alone: of so many as `records_max`, and of twice as many at most. A key that
    was forgotten may get another source."""

    def __init__(self, records_max: int) -> None:
        self._records_max = records_max
        self._older: KeyLedger | None = None
        self._newer = KeyLedger()
        self._claimed = 0

    @contextmanager
    def claiming(self) -> Iterator[Callable[[str, str, int], str]]:
        """As in KeyLedger."""
        if self._claimed >= self._records_max:
            if self._older is not None:
                self._older.close()
            self._older, self._newer, self._claimed = self._newer, KeyLedger(), 0
        older = self._older
        with self._newer.claiming() as claim:

            def claim_recent(key: str, source: str, ordinal: int) -> str:
                last = older.last(key) if older is not None else None
                if last is not None and last[0] != source:
                    return last[0]
                self._claimed += 1
                return claim(key, source, ordinal)

            yield claim_recent

    def close(self) -> None:
        """Release the files."""
        for ledger in (self._older, self._newer):
            if ledger is not None:
                ledger.close()


def ledger_of(records_max: int | None) -> KeyLedger | RecentKeys:
    """The ledger of a sink's keys, whose size has that bound, if any."""
    return KeyLedger() if records_max is None else RecentKeys(records_max)


class AlikeKeys:
    """Keys that some server takes for one: in memory while they are few, then on disk.

    Attributes:
        found: fingerprints that more than one key has (see `routing.keys.fingerprint`).
    """

    def __init__(self) -> None:
        self.found: set[int] = set()
        self._seen: set[int] | None = set()
        self._disk: TemporaryDatabase | None = None

    def add(self, keys: Iterable[str]) -> None:
        """Add keys. Blocks where they are on disk.

        Raises:
            JournalError: the directory for temporary files cannot take them.
        """
        for number in map(fingerprint, keys):
            if self._seen is not None:
                if number in self._seen:
                    self.found.add(number)
                self._seen.add(number)
            elif self._database.change("INSERT OR IGNORE INTO seen VALUES (?)", number) == 0:
                self.found.add(number)
        if self._seen is not None and len(self._seen) > ALIKE_IN_MEMORY_MAX:
            seen, self._seen = self._seen, None
            self._database.change_many("INSERT INTO seen VALUES (?)", ((number,) for number in seen))

    def close(self) -> None:
        """Release the file."""
        if self._disk is not None:
            self._disk.close()

    @property
    def _database(self) -> TemporaryDatabase:
        if self._disk is None:
            self._disk = TemporaryDatabase("The keys of the run", "CREATE TABLE seen (number INTEGER PRIMARY KEY);")
            self._disk.begin()
        return self._disk


# -- Entries of a survey, kept for the run: in memory while they are few, else in a temporary file ---------------------
# A tree is walked once, however large it is, and the files that were checked are those that are published.

IN_MEMORY_MAX: Final = 25_000
"""Most entries that are kept in memory: about 15 MB."""


class Kept:
    """The entries of a survey, in their order; iterating blocks, and may be repeated. `add` and iterating are for one
    thread at a time. Entries from the file are equal; a problem's error has the same class and the same sentence.

    Attributes:
        whole: False where the directory for temporary files could not take all entries: then they are of no use.
    """

    def __init__(self) -> None:
        self.whole = True
        self._recent: list[Transfer | SourceProblem] = []
        self._file: IO[bytes] | None = None
        self._pieces: list[int] = []
        self._objects: list[ObjectOptions | None] = [None]
        """The object options that transfers in the file have of their own: few, as patterns are."""

    def __repr__(self) -> str:
        return f"<Kept {len(self._recent)} entries in memory, {sum(self._pieces):,} bytes in a file>"

    @property
    def in_memory(self) -> bool:
        """Whether iterating reads no file."""
        return self._file is None

    def add(self, found: Sequence[Transfer | SourceProblem]) -> None:
        """Add entries. Blocks once the file is in use."""
        if not self.whole:
            return
        self._recent += found
        if len(self._recent) > IN_MEMORY_MAX or self._file is not None:
            try:
                self._write_out()
            except OSError:
                self.whole = False
                self.close()

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        """The entries in their order; raises JournalError where the file cannot be read."""
        start = 0
        for size in self._pieces:
            assert self._file is not None
            try:
                piece = os.pread(self._file.fileno(), size, start)
            except OSError as error:
                raise file_fault("The files that were found", error) from error
            for row in marshal.loads(piece):  # noqa: S302 - written by this process
                yield _found(row, self._objects)
            start += size
        yield from self._recent

    def close(self) -> None:
        """Release the file. Harmless when repeated."""
        self._recent.clear()
        self._pieces.clear()
        if self._file is not None:
            self._file.close()

    def _write_out(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="asyncsink-", buffering=0)  # noqa: SIM115 - see close
        piece = marshal.dumps([self._row(found) for found in self._recent])
        written = 0
        while written < len(piece):
            written += self._file.write(piece[written:])
        self._pieces.append(len(piece))
        self._recent.clear()

    def _row(self, found: Transfer | SourceProblem) -> tuple[Any, ...]:
        objects = found.objects if isinstance(found, Transfer) else None
        if objects not in self._objects:
            self._objects.append(objects)
        return _row(found, self._objects.index(objects))


def _row(found: Transfer | SourceProblem, objects: int) -> tuple[Any, ...]:
    if isinstance(found, SourceProblem):
        return (
            None,
            type(found.error).__name__,
            str(found.error),
            found.path,
            found.entry,
            found.attribute,
            found.skippable,
            found.skipped,
            found.unreadable,
            found.reason,
            found.unmatched,
        )
    file = found.source
    return (
        found.key,
        found.local,
        objects,
        file.path,
        file.size_bytes,
        file.mtime_ns,
        file.attribute,
        file.entry,
        file.root,
        file.relative,
        file.key,
        file.ctime_ns,
        file.inode,
        file.real_path,
        file.readable,
        file.pinned,
    )


def _found(row: tuple[Any, ...], objects: Sequence[ObjectOptions | None]) -> Transfer | SourceProblem:
    if row[0] is None:
        _, kind, message, path, *rest = row
        return SourceProblem(path, getattr(errors, kind)(message), *rest)
    key, local, own, *file = row
    return Transfer(SourceFile(*file), key, local, objects=objects[own])
