"""Temporary files of a run, which keep its memory bounded: SQLite databases, and the errors of their directory."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asyncsink.errors import JournalError

CACHE_KIB = 2048
"""SQLite's page cache of one database, which is on disk only beyond that."""
_SETTINGS = f"PRAGMA cache_size=-{CACHE_KIB}; PRAGMA journal_mode=OFF;"


class TemporaryDatabase:
    """An SQLite database in a private file without a name, which ends with the connection or the process.

    Methods block, are for one thread at a time, and raise a JournalError, which stops the run, where the directory for
    temporary files cannot hold the database.
    """

    def __init__(self, what: str, tables: str) -> None:
        """Create an empty database with `tables` (SQL); `what` is its content, as a sentence's plural subject."""
        self._what = what
        # For an empty name SQLite creates a private file, and removes it when the connection closes.
        self._database = sqlite3.connect("", check_same_thread=False, isolation_level=None)
        with self._kept():
            self._database.executescript(_SETTINGS + tables)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of the answer."""
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def row(self, query: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of the answer, or None."""
        return next(iter(self.rows(query, *values)), None)

    def change(self, statement: str, *values: Any) -> int:
        """Execute the statement; the number of rows that it changed."""
        try:
            return self._database.execute(statement, values).rowcount
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def change_many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute the statement for each of the rows."""
        with self._kept():
            self._database.executemany(statement, rows)

    def begin(self) -> None:
        """Begin a transaction of all further changes, which is never committed: nobody else reads the file, and a
        commit takes as long as a change. Harmless when repeated; where the disk is full, SQLite ends it itself."""
        if not self._database.in_transaction:
            self.change("BEGIN")

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """One transaction. Changes before an exception in the block stay."""
        self.change("BEGIN")
        try:
            yield
        finally:
            if self._database.in_transaction:  # SQLite ends it itself where the disk is full
                self.change("COMMIT")

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _fault(self, error: sqlite3.Error) -> JournalError:
        return temporary_fault(self._what, _directory_of_sqlite(), str(error))


def file_fault(what: str, error: OSError) -> JournalError:
    """The error for a file of `tempfile` that cannot hold its data; `what` as in TemporaryDatabase."""
    try:
        directory = tempfile.gettempdir()
    except OSError:  # no directory is writable
        directory = os.environ.get("TMPDIR") or "/tmp"  # noqa: S108 - named, not used
    return temporary_fault(what, directory, error.strerror or str(error))


def temporary_fault(what: str, directory: str, why: str) -> JournalError:
    """The error of a run that cannot keep `what`, the plural subject of the sentence, in a directory. Pure."""
    return JournalError(
        f"{what} cannot be kept in {directory!r}, the directory for temporary files: {why}; free some space there, or "
        "set TMPDIR to a directory that has it."
    )


def _directory_of_sqlite() -> str:
    """SQLite's directory for temporary files: the first writable one, in its own order (sqlite.org/tempfiles.html)."""
    named = (os.environ.get("SQLITE_TMPDIR"), os.environ.get("TMPDIR"), "/var/tmp", "/usr/tmp", "/tmp")  # noqa: S108
    return next((each for each in named if each and os.path.isdir(each) and os.access(each, os.W_OK | os.X_OK)), ".")
