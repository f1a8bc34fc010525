"""Which source has which key: how collisions are found before anything is sent, in bounded memory.

Only runs whose keys could meet keep a ledger: a plain directory export cannot collide.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable

from asyncsink.routing.spelling import fingerprint

ALIKE_IN_MEMORY_MAX = 250_000
"""Keys whose fingerprints are kept in memory: about 15 MB."""
CACHE_KIB = 2048
"""SQLite's page cache: the part of a ledger that is held in memory."""


class KeyLedger:
    """The first and the last source of every key, on disk. Methods block, and are called from worker threads.

    Attributes:
        repeated: whether any key was claimed more than once.
    """

    def __init__(self) -> None:
        # An empty name is a private file that SQLite makes, and removes when the connection closes.
        self.repeated = False
        self._lock = threading.Lock()
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        self._database.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode=OFF")
        self._database.execute(
            "CREATE TABLE claim (key BLOB PRIMARY KEY, first BLOB, last BLOB, ordinal INTEGER, again INTEGER DEFAULT 0)"
            " WITHOUT ROWID"
        )

    def claim(self, claims: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, str]]:
        """Record (key, source, ordinal) triples; returns (key, first source, this source) for every key met again.

        The same source under the same key again is no collision.
        """
        with self._lock:
            return self._claim(claims)

    def _claim(self, claims: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, str]]:
        met: list[tuple[str, str, str]] = []
        execute = self._database.execute
        execute("BEGIN")
        try:
            for key, source, ordinal in claims:
                encoded = _encode(key)
                row = execute("SELECT first FROM claim WHERE key = ?", (encoded,)).fetchone()
                if row is None:
                    execute(
                        "INSERT INTO claim (key, first, last, ordinal) VALUES (?, ?, ?, ?)",
                        (encoded, _encode(source), _encode(source), ordinal),
                    )
                    continue
                self.repeated = True
                execute(
                    "UPDATE claim SET last = ?, ordinal = ?, again = 1 WHERE key = ?",
                    (_encode(source), ordinal, encoded),
                )
                if _decode(row[0]) != source:
                    met.append((key, _decode(row[0]), source))
        finally:
            execute("COMMIT")
        return met

    def last(self, key: str) -> tuple[str, int] | None:
        """The last source that claimed `key`, and its ordinal."""
        with self._lock:
            row = self._database.execute("SELECT last, ordinal FROM claim WHERE key = ?", (_encode(key),)).fetchone()
        return None if row is None else (_decode(row[0]), int(row[1]))

    def given_before(self, key: str) -> bool:
        """Whether this was asked before of `key`, which several sources claimed, or one of them several times."""
        with self._lock:
            asked = self._database.execute(
                "UPDATE claim SET again = again + 1 WHERE key = ? AND again > 0 RETURNING again", (_encode(key),)
            ).fetchone()
        return asked is not None and asked[0] > 2

    def close(self) -> None:
        """Release the file."""
        with self._lock:
            self._database.close()


class AlikeKeys:
    """Which keys some server takes for one: in memory while they are few, on disk so that memory does not grow.

    Attributes:
        found: fingerprints that more than one key has (see `routing.spelling`).
    """

    def __init__(self) -> None:
        self.found: set[int] = set()
        self._seen: set[int] | None = set()
        self._disk: sqlite3.Connection | None = None

    def add(self, keys: Iterable[str]) -> None:
        """Take over some keys. Blocks where they are on disk."""
        for number in map(fingerprint, keys):
            if self._seen is not None:
                if number in self._seen:
                    self.found.add(number)
                self._seen.add(number)
            elif self._database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (number,)).rowcount == 0:
                self.found.add(number)
        if self._seen is not None and len(self._seen) > ALIKE_IN_MEMORY_MAX:
            seen, self._seen = self._seen, None
            self._database.executemany("INSERT INTO seen VALUES (?)", ((number,) for number in seen))

    def close(self) -> None:
        """Release the file."""
        if self._disk is not None:
            self._disk.close()

    @property
    def _database(self) -> sqlite3.Connection:
        if self._disk is None:
            self._disk = sqlite3.connect("", check_same_thread=False)
            self._disk.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
            self._disk.execute("PRAGMA journal_mode=OFF")
            self._disk.execute("CREATE TABLE seen (number INTEGER PRIMARY KEY)")
        return self._disk


def _encode(text: str) -> bytes:
    # File names that are no UTF-8 hold surrogates, which SQLite's TEXT refuses.
    return text.encode("utf-8", "surrogatepass")


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
