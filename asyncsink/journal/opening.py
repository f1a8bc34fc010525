"""Opening of a journal's file: it is created or recognized, locked for this run alone, and checked.

Only SQLite opens the file: closing any other descriptor of it would release this process's locks (POSIX, fcntl: "All
locks associated with a file … shall be removed when a file descriptor for that file is closed"). For the same reason
one thread opens journals at a time.
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
from asyncsink.options.settings import VERSION
from asyncsink.value import dataclass

# -- SQLite's errors as errors of a journal: one table (sqlite.org/rescode.html) ---------------------------------------

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
"""SQLite reports SQLITE_ERROR for a missing table or column."""
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PRIMARY = 0xFF
"""The mask of the primary result code in an extended one."""


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged; all other faults have causes outside of it."""
    return _code(error) in _DAMAGED


def fault_of(error: sqlite3.Error, path: str) -> AsyncSinkError:
    """The error with which a run reports a fault of SQLite. Pure."""
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


def is_in_use(error: sqlite3.Error) -> bool:
    """Whether another run has the file."""
    return _code(error) in _IN_USE


def _code(error: sqlite3.Error) -> int:
    # Errors of the Python module itself have no code.
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY


# -- Opening, checking, creating and removing a journal's file ---------------------------------------------------------

APPLICATION_ID: Final = 0x61736A6E
"""The identifier of asyncsink's journals (sqlite.org/pragma.html, "application_id"): "asjn"."""
FORMAT: Final = 1
"""The version of the tables; a file of another version is refused."""
BUSY_SECONDS: Final = 0.1
CACHE_KIB: Final = 8192
SALT_BYTES: Final = 32
_ANYTHING: Final = "SELECT EXISTS (SELECT 1 FROM published) OR EXISTS (SELECT 1 FROM upload)"
SQLITE_HEADER_BYTES: Final = 100
"""The smallest database, other than an empty one (SQLite, "Database File Format", 1.3)."""

OPENING = threading.Lock()
"""Held by the thread that opens a journal, or looks at one."""


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
    """The journal is intact but not available to this run; `error` is the reason.

    Attributes:
        in_use: another run has it.
    """

    def __init__(self, error: AsyncSinkError, *, in_use: bool = False) -> None:
        super().__init__(str(error))
        self.error = error
        self.in_use = in_use


@dataclass(frozen=True, slots=True)
class Opened:
    """An open journal: its connection, which holds the lock, the salt of its digests, whether it is blank, its file
    (path with links resolved, device and inode), and whether it is left unchanged."""

    database: sqlite3.Connection
    salt: bytes
    blank: bool
    real: str
    place: tuple[int, int]
    dry_run: bool = False


def open_database(path: str, identity: Identity, *, dry_run: bool, rollback: bool = False) -> Opened | None:
    """Open the journal at the absolute `path` for this run alone. Blocking.

    A missing journal is created with mode 0600. A dry run creates none (the result is None) and changes nothing. With
    `rollback`, transactions are written with a rollback journal instead of WAL: for network file systems.

    Raises:
        JournalError: the file is not regular, not a journal, damaged, or of another version or destination.
        UnusableJournal: the journal is in use, or cannot be written.
    """
    with OPENING:
        try:
            real = os.path.realpath(path)  # SQLite keeps its log beside the file itself, not beside a link to it
            found = _look(real)
            if found is None:
                if dry_run:
                    return None
                _make(real)
            only_read = not writable(real)
            if only_read and not dry_run:
                raise UnusableJournal(
                    JournalError(
                        f"The journal {path!r} cannot be written; it and its directory must be writable for you: "
                        "change their permissions, or name another file."
                    )
                )
            opened = _open(real, identity, dry_run=dry_run, only_read=only_read, rollback=rollback)
            if opened is not None and not dry_run and found is not None and found.st_uid == os.geteuid():
                os.chmod(real, 0o600)
            if opened is not None and not dry_run:
                used_now(real)
            return opened
        except OSError as error:
            raise UnusableJournal(
                JournalError(
                    f"The journal {path!r} cannot be opened: {error.strerror}; name a file that you may write."
                )
            ) from error
        except sqlite3.Error as error:
            fault = fault_of(error, path)
            in_use = is_in_use(error)
            raise (fault if is_damage(error) else UnusableJournal(fault, in_use=in_use)) from error


def _look(path: str) -> os.stat_result | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise JournalError(f"The journal {path!r} is {kind}; give the name of a file.")
    if 0 < found.st_size < SQLITE_HEADER_BYTES:
        # SQLite treats so short a file as an empty database, and would overwrite it.
        raise JournalError(
            f"{path!r} exists and is no journal of asyncsink, so it is left as it is; choose another name."
        )
    return found


def _make(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return  # another run was faster; the first to lock the file has it


def writable(path: str) -> bool:
    """Whether the file and its directory, which gets SQLite's log, are writable for this user."""
    return os.access(path, os.R_OK | os.W_OK) and os.access(os.path.dirname(path), os.W_OK | os.X_OK)


def _open(path: str, identity: Identity, *, dry_run: bool, only_read: bool, rollback: bool) -> Opened | None:
    database = connect(path, only_read=only_read)
    try:
        salt = _checked(database, path, identity, dry_run=dry_run, rollback=rollback)
        blank = salt is not None and not database.execute(_ANYTHING).fetchone()[0]
        found = os.stat(path)
    except BaseException:
        database.close()
        raise
    if salt is None:
        database.close()
        return None
    return Opened(database, salt, blank, path, (found.st_dev, found.st_ino), dry_run)


def connect(path: str, *, only_read: bool, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
    """A connection to a journal's file, neither locked nor checked."""
    # A read-only file cannot be locked either. Without a log beside it, no other process is writing to it.
    logs = [log for log in (f"{path}-wal", f"{path}-journal") if os.path.exists(log) and os.path.getsize(log)]
    still = only_read and not logs
    mode = "mode=ro&immutable=1" if still else "mode=rw"
    return sqlite3.connect(
        f"file:{quote(os.fsencode(path))}?{mode}",
        uri=True,
        timeout=busy_seconds,
        isolation_level=None,
        check_same_thread=False,  # used by the journal's thread
    )


def _checked(
    database: sqlite3.Connection, path: str, identity: Identity, *, dry_run: bool, rollback: bool
) -> bytes | None:
    """Lock, check and set up; the salt, or None where a dry run finds an empty file."""
    execute = database.execute
    execute("PRAGMA locking_mode=EXCLUSIVE")
    execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    # The rollback data of statements stay in memory, because faults of the directory for temporary files are not faults
    # of the journal's disk.
    execute("PRAGMA temp_store=MEMORY")
    if dry_run:
        execute("PRAGMA query_only=ON")
    # Of two runs at the same time one gets the lock here, and in this locking mode keeps it to the end.
    execute("BEGIN" if dry_run else "BEGIN EXCLUSIVE")
    salt = None if _is_empty(database, path) else _salt(database, path, identity)
    execute("COMMIT")
    if not dry_run:
        # Set after the checks, so that a foreign file stays unchanged.
        execute(f"PRAGMA journal_mode={'DELETE' if rollback else 'WAL'}")
        # NORMAL is safe in WAL only: with a rollback journal, a power cut might damage the file.
        execute(f"PRAGMA synchronous={'FULL' if rollback else 'NORMAL'}")
        salt = salt or _set_up(database, identity)
    return salt


def _salt(database: sqlite3.Connection, path: str, identity: Identity) -> bytes:
    """The salt of a journal's digests.

    Raises:
        JournalError: the journal is of another destination, or names none.
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
    """Whether the file has no tables yet.

    Raises:
        JournalError: the content is not a journal of this version.
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
    """Create the tables, and return the salt. One transaction: after a kill, the next run finds an empty file."""
    execute = database.execute
    salt = os.urandom(SALT_BYTES)
    meta = {
        "destination": json.dumps([identity.endpoint_url, identity.bucket, identity.prefix]),
        "salt": salt,
        "asyncsink": VERSION,
    }
    with database:
        execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            execute(statement)
        database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        execute(f"PRAGMA application_id={APPLICATION_ID}")
        execute(f"PRAGMA user_version={FORMAT}")
    return salt


def used_now(path: str) -> None:
    """Note in the file's time of modification that a run uses it. No descriptor is opened. Blocking."""
    with contextlib.suppress(OSError):
        os.utime(path)


def remove_database(path: str) -> None:
    """Remove a closed journal, and the files that SQLite keeps beside it, as far as possible. Blocking."""
    real = os.path.realpath(path)
    for name in (real, f"{real}-wal", f"{real}-journal", f"{real}-shm"):
        with contextlib.suppress(OSError):
            os.unlink(name)
