"""Journals that no run has open: what they hold, and their removal. All functions block.

A journal that a run has is locked: it is neither read nor removed, except that its destination may be read.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import field
from typing import Final, Literal
from urllib.parse import quote

from asyncsink.journal.opening import (
    APPLICATION_ID,
    FORMAT,
    OPENING,
    Identity,
    connect,
    fault_of,
    is_in_use,
    remove_database,
    writable,
)
from asyncsink.model import Resumable
from asyncsink.paths import decoded_name
from asyncsink.value import dataclass

SUFFIX: Final = ".sqlite"
UPLOADS_SHOWN: Final = 1000
"""Most open uploads of a journal that are kept; all are counted."""
Removal = Literal["removed", "in use", "open uploads", "no journal"]

_UPLOADS = """
SELECT upload.key, upload.path, upload.stat, upload.part_size_bytes,
    (SELECT count(*) FROM part WHERE part.key = upload.key) FROM upload ORDER BY upload.key LIMIT ?
"""

# -- What a journal holds ----------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class JournalAtRest:
    """One journal.

    Attributes:
        path: of the file.
        used_seconds: when a run last used it, since the epoch.
        in_use: whether a run has it now; then nothing below is known, except, perhaps, the destination.
        identity: its destination, or None.
        asyncsink: the version that made it, or "".
        objects_total: number of objects that it has as published.
        uploads_total: number of multipart uploads that the next run goes on with.
        uploads: these uploads, the first thousand of them.
        problem: a sentence where the file is damaged, or of another version; or "".
    """

    path: str
    used_seconds: float
    in_use: bool = False
    identity: Identity | None = None
    asyncsink: str = ""
    objects_total: int = 0
    uploads_total: int = 0
    uploads: list[Resumable] = field(default_factory=list)
    problem: str = ""


def journals_in(directory: str) -> list[JournalAtRest]:
    """The journals in a directory, the one that was used last first; none where there is no such directory."""
    try:
        with os.scandir(directory) as entries:
            paths = [e.path for e in entries if e.name.endswith(SUFFIX) and e.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    found = []
    for path in paths:
        with contextlib.suppress(FileNotFoundError):  # a run has removed it meanwhile
            found.append(look_at(path))
    return sorted(found, key=lambda each: (-each.used_seconds, each.path))


def look_at(path: str) -> JournalAtRest:
    """What a journal holds. The time of its last use is not changed.

    Raises:
        OSError: there is no such file, or it may not be looked at.
    """
    found = JournalAtRest(path=path, used_seconds=_last_used(path))
    with OPENING, _unchanged(path):
        try:
            with contextlib.closing(connect(path, only_read=not writable(path), busy_seconds=0.0)) as database:
                # Without the shared memory of a log, which would need a file of its own.
                database.execute("PRAGMA locking_mode=EXCLUSIVE")
                database.execute("PRAGMA query_only=ON")
                database.execute("BEGIN")
                _read(database, found)
        except sqlite3.Error as error:
            if is_in_use(error):
                found.in_use = True
                found.identity = _identity_in_use(path)
            else:
                found.problem = str(fault_of(error, path))
    return found


def _read(database: sqlite3.Connection, found: JournalAtRest) -> None:
    application_id, written = (
        database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not application_id and not written and not tables:
        return  # a run was killed before it had made the tables
    if application_id != APPLICATION_ID:
        found.problem = f"{found.path!r} is no journal of asyncsink."
        return
    if written != FORMAT:
        found.problem = f"{found.path!r} has format {written}, of another version of asyncsink."
        return
    meta = dict(database.execute("SELECT name, value FROM meta").fetchall())
    found.identity = _identity(meta.get("destination"))
    found.asyncsink = str(meta.get("asyncsink", ""))
    found.objects_total = database.execute("SELECT count(*) FROM published").fetchone()[0]
    found.uploads_total = database.execute("SELECT count(*) FROM upload").fetchone()[0]
    for key, source, stat, part_size_bytes, parts in database.execute(_UPLOADS, (UPLOADS_SHOWN,)):
        size_bytes = int(stat.partition(" ")[0])
        stored = min(parts * part_size_bytes, size_bytes) if size_bytes else parts * part_size_bytes
        found.uploads.append(Resumable(decoded_name(source), decoded_name(key), stored, size_bytes))


def _identity(said: object) -> Identity | None:
    try:
        return Identity(*json.loads(str(said)))
    except (TypeError, ValueError):
        return None


def _identity_in_use(path: str) -> Identity | None:
    """The destination of a journal that is locked, as far as the file has it: a new one may have all in its log."""
    uri = f"file:{quote(os.fsencode(path))}?mode=ro&immutable=1"  # reads the file without its lock
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True)) as database:
        row = database.execute("SELECT value FROM meta WHERE name = 'destination'").fetchone()
        return None if row is None else _identity(row[0])
    return None


@contextlib.contextmanager
def _unchanged(path: str) -> Iterator[None]:
    """The block in which a journal is looked at: the last use by a run stays in its time of modification, also where
    SQLite has moved a log into the file."""
    before = _last_used(path)
    yield
    with contextlib.suppress(OSError):
        if _last_used(path) > before:
            os.utime(path, (before, before))


def _last_used(path: str) -> float:
    # A run that was killed has left its last writes in the log beside the file.
    newest = os.stat(path).st_mtime
    with contextlib.suppress(FileNotFoundError):
        newest = max(newest, os.stat(f"{path}-wal").st_mtime)
    return newest


# -- Removal -----------------------------------------------------------------------------------------------------------

RETENTION_SECONDS: Final = 180 * 24 * 3600
"""Seconds after its last use for which a default journal is kept. A run without one compares with the server."""
REMOVED_MAX: Final = 16
"""Most journals that one run removes."""


def remove_unused(directory: str, *, now_seconds: float, but: str) -> None:
    """Remove default journals that no run has used for RETENTION_SECONDS. One that is in use, or that knows an open
    upload, stays; so does every file that is no journal.

    Args:
        directory: of default journals.
        now_seconds: since the epoch.
        but: the path of the journal of this run.
    """
    removed = 0
    with OPENING, contextlib.suppress(OSError), os.scandir(directory) as entries:
        for entry in entries:
            journal = entry.name.endswith(SUFFIX) and entry.is_file(follow_symlinks=False) and entry.path != but
            if journal and _last_used(entry.path) < now_seconds - RETENTION_SECONDS:
                # Whatever is wrong with another destination's file is for that destination's runs to tell.
                with contextlib.suppress(sqlite3.Error):
                    removed += _remove(entry.path, with_uploads=False) == "removed"
            if removed == REMOVED_MAX:
                return


def remove_journal(path: str, *, with_uploads: bool = False) -> Removal:
    """Remove a journal under its lock, so that no run opens it meanwhile.

    Args:
        with_uploads: also one that has open uploads, which no run can go on with then.

    Raises:
        OSError: there is no such file.
    """
    os.stat(path)
    with OPENING:
        try:
            return _remove(path, with_uploads=with_uploads)
        except sqlite3.Error as error:
            return "in use" if is_in_use(error) else "no journal"


def _remove(path: str, *, with_uploads: bool) -> Removal:
    with contextlib.closing(connect(path, only_read=False, busy_seconds=0.0)) as database:
        database.execute("PRAGMA locking_mode=EXCLUSIVE")
        database.execute("BEGIN EXCLUSIVE")
        if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            if os.path.getsize(path):
                return "no journal"
        elif not with_uploads and database.execute("SELECT EXISTS (SELECT 1 FROM upload)").fetchone()[0]:
            return "open uploads"
        remove_database(path)
    return "removed"
