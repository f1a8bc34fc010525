"""The source of each key: collisions are found before anything is sent, in bounded memory.

Only runs whose keys could meet keep a ledger: a plain directory export cannot collide.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from asyncsink.paths import decoded_name, encoded_name
from asyncsink.routing.keys import fingerprint
from asyncsink.temporary import TemporaryDatabase

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
        """Many claims in one transaction. The function that the block gets records a key, a source and an ordinal, and
        returns the first source of the key where that is another one, else ""."""
        with self._lock, self._database.at_once():
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
            self._disk.change("BEGIN")  # never committed: a transaction for each number would take far longer
        return self._disk
