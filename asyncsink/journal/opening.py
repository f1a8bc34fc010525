"""Opening a journal's file: it is made or recognized, locked for this run alone, and refused by name where it is wrong.

Nothing here opens the file except SQLite itself: closing any other descriptor of it would take this process's locks
away (POSIX, fcntl: "All locks associated with a file … shall be removed when a file descriptor for that file is
closed"). That is also why one thread opens at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import threading
from typing import Final
from urllib.parse import quote

from asyncsink.errors import AsyncSinkError, DestinationFull, JournalError
from asyncsink.journal.base import SCHEMA
from asyncsink.value import dataclass

# -- What SQLite's errors mean for a journal: one table (sqlite.org/rescode.html) --------------------------------------

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


# -- opening -----------------------------------------------------------------------------------------------------------

APPLICATION_ID: Final = 0x61736A6E
"""Marks the file as a journal of asyncsink (sqlite.org/pragma.html, "application_id"): "asjn"."""
FORMAT: Final = 1
"""The version of the tables; a file of another one is refused."""
BUSY_SECONDS: Final = 0.1
CACHE_KIB: Final = 8192
SALT_BYTES: Final = 32
_ANYTHING: Final = "SELECT EXISTS (SELECT 1 FROM published) OR EXISTS (SELECT 1 FROM upload)"
SQLITE_HEADER_BYTES: Final = 100
"""No database is shorter (SQLite, "Database File Format", 1.3), but an empty one."""

_OPENING = threading.Lock()


@dataclass(frozen=True, slots=True)
class Identity:
    """The destination that a journal belongs to. `endpoint_url` is "" for Amazon's own."""

    endpoint_url: str
    bucket: str
    prefix: str

    def __str__(self) -> str:
        place = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        return f"{place} at {self.endpoint_url}" if self.endpoint_url else place


class UnusableJournal(Exception):
    """There is nothing wrong with the journal, but this run cannot have it; `error` says why."""

    def __init__(self, error: AsyncSinkError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True)
class Opened:
    """An open journal: the connection, which holds the lock, the salt of its digests, whether it knows nothing, and its
    file: the path, links resolved, and device and inode."""

    database: sqlite3.Connection
    salt: bytes
    blank: bool
    real: str
    place: tuple[int, int]


def open_database(path: str, identity: Identity, *, dry_run: bool) -> Opened | None:
    """Open the journal at `path`, an absolute one, for this run alone. Blocking.

    It is made, readable by its owner only (0600), where it does not exist. A dry run makes none (None is returned),
    and changes nothing in the one that is there.

    Raises:
        JournalError: it is no regular file, no journal, damaged, of another version or of another destination.
        UnusableJournal: it is in use, or cannot be written.
    """
    with _OPENING:
        try:
            real = os.path.realpath(path)  # SQLite keeps its log beside the file itself, not beside a link to it
            found = _look(real)
            if found is None:
                if dry_run:
                    return None
                _make(real)
            only_read = not _writable(real)
            if only_read and not dry_run:
                raise UnusableJournal(
                    JournalError(
                        f"The journal {path!r} cannot be written; it and its directory must be writable for you: "
                        "change their permissions, or name another file."
                    )
                )
            opened = _open(real, identity, dry_run=dry_run, only_read=only_read)
            if opened is not None and not dry_run and found is not None and found.st_uid == os.geteuid():
                os.chmod(real, 0o600)
            return opened
        except OSError as error:
            raise UnusableJournal(
                JournalError(
                    f"The journal {path!r} cannot be opened: {error.strerror}; name a file that you may write."
                )
            ) from error
        except sqlite3.Error as error:
            fault = fault_of(error, path)
            raise (fault if is_damage(error) else UnusableJournal(fault)) from error


def _look(path: str) -> os.stat_result | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise JournalError(f"The journal {path!r} is {kind}; give the name of a file.")
    if 0 < found.st_size < SQLITE_HEADER_BYTES:
        # SQLite takes so short a file for an empty database, and would write over it.
        raise JournalError(
            f"{path!r} exists and is no journal of asyncsink, so it is left as it is; choose another name."
        )
    return found


def _make(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return  # another run was faster; whoever locks it first has it


def _writable(path: str) -> bool:
    return os.access(path, os.R_OK | os.W_OK) and os.access(os.path.dirname(path), os.W_OK | os.X_OK)


def _open(path: str, identity: Identity, *, dry_run: bool, only_read: bool) -> Opened | None:
    database = _connect(path, only_read=only_read)
    try:
        salt = _checked(database, path, identity, dry_run=dry_run)
        blank = salt is not None and not database.execute(_ANYTHING).fetchone()[0]
        found = os.stat(path)
    except BaseException:
        database.close()
        raise
    if salt is None:
        database.close()
        return None
    return Opened(database, salt, blank, path, (found.st_dev, found.st_ino))


def _connect(path: str, *, only_read: bool) -> sqlite3.Connection:
    # What may not be written cannot be locked either; nobody else will be writing to it, unless a log stands beside it.
    log = f"{path}-wal"
    still = only_read and not (os.path.exists(log) and os.path.getsize(log))
    mode = "mode=ro&immutable=1" if still else "mode=rw"
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{mode}",
        uri=True,
        timeout=BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # the journal's thread takes it over
    )


def _checked(database: sqlite3.Connection, path: str, identity: Identity, *, dry_run: bool) -> bytes | None:
    """Lock, check and set up; the salt, or None where a dry run finds an empty file."""
    execute = database.execute
    execute("PRAGMA locking_mode=EXCLUSIVE")
    execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    # What takes back a statement that fails would be in the directory for temporary files, whose faults are not those
    # of the journal's disk.
    execute("PRAGMA temp_store=MEMORY")
    if dry_run:
        execute("PRAGMA query_only=ON")
    # Of two runs that come at the same time one gets the lock here; in this locking mode it is kept to the end.
    execute("BEGIN" if dry_run else "BEGIN EXCLUSIVE")
    salt = None if _is_empty(database, path) else _salt(database, path, identity)
    execute("COMMIT")
    if not dry_run:
        # Only now: a file that is not ours is left as it is.
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=NORMAL")
        salt = salt or _set_up(database, identity)
    return salt


def _salt(database: sqlite3.Connection, path: str, identity: Identity) -> bytes:
    """The salt of a journal's digests.

    Raises:
        JournalError: the journal is of another destination, or does not say of which.
    """
    meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
    try:
        of = Identity(*json.loads(meta["destination"]))
        salt = bytes(meta["salt"])
    except (KeyError, TypeError, ValueError) as error:
        raise JournalError(
            f"The journal {path!r} is damaged: it does not say what it belongs to; remove the file, or use "
            "journal=False."
        ) from error
    if of != identity:
        raise JournalError(
            f"The journal {path!r} belongs to {of}, and this run publishes to {identity}; give every destination a "
            "journal of its own."
        )
    return salt


def _is_empty(database: sqlite3.Connection, path: str) -> bool:
    """Whether there is nothing in the file yet.

    Raises:
        JournalError: there is something else than a journal of this version.
    """
    application_id, written = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not application_id and not written and not tables:
        return True
    if application_id != APPLICATION_ID:
        raise JournalError(
            f"{path!r} exists and is no journal of asyncsink, so it is left as it is; choose another name."
        )
    if written != FORMAT:
        raise JournalError(
            f"The journal {path!r} has format {written}, of another version of asyncsink; this one has {FORMAT}; "
            "remove the file, so that the next run compares everything with the server and begins a new one, or use "
            "journal=False."
        )
    return False


def _set_up(database: sqlite3.Connection, identity: Identity) -> bytes:
    """Make the tables, and return the salt. All or nothing: what is killed here is found empty by the next run."""
    from importlib.metadata import version  # only a new journal asks, and it takes milliseconds to load

    execute = database.execute
    salt = os.urandom(SALT_BYTES)
    meta = {
        "destination": json.dumps([identity.endpoint_url, identity.bucket, identity.prefix]),
        "salt": salt,
        "asyncsink": version("asyncsink"),
    }
    with database:
        execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            execute(statement)
        database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        execute(f"PRAGMA application_id={APPLICATION_ID}")
        execute(f"PRAGMA user_version={FORMAT}")
    return salt


def remove_database(path: str) -> None:
    """Remove a journal that is closed, with what SQLite keeps beside it, as far as that can be removed. Blocking."""
    real = os.path.realpath(path)
    for name in (real, f"{real}-wal", f"{real}-journal", f"{real}-shm"):
        with contextlib.suppress(OSError):
            os.unlink(name)
