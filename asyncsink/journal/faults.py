"""What SQLite's errors mean for a journal: one table (sqlite.org/rescode.html)."""

from __future__ import annotations

import sqlite3

from asyncsink.errors import AsyncSinkError, DestinationFull, JournalError

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""SQLITE_ERROR is what SQLite says where a table or a column is missing."""
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PRIMARY = 0xFF
"""An extended result code has the primary one in its lowest byte."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is wrong; all other faults are of its surroundings."""
    return _code(error) in _DAMAGED


def fault_of(error: sqlite3.Error, path: str) -> AsyncSinkError:
    """The error that a person is told. Pure."""
    code = _code(error)
    if code in _DAMAGED:
        return JournalError(
            f"The journal {path!r} is damaged, or no journal at all ({error}); remove the file, so that the next run "
            "compares everything with the server and begins a new one, or use journal=False."
        )
    if code in _IN_USE:
        return JournalError(
            f"The journal {path!r} is in use by another run; wait for its end, or give each run a journal of its own."
        )
    if code == sqlite3.SQLITE_FULL:
        return DestinationFull(
            f"The journal {path!r} cannot be written: no space is left; free some space, or put it elsewhere.",
            operation="journal",
        )
    return JournalError(
        f"The journal {path!r} cannot be used: {error}; look at the disk it is on, or name a file on another one."
    )


def _code(error: sqlite3.Error) -> int:
    # Errors of the Python module itself have no code.
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY
