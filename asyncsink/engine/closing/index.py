"""The index: a list of everything that an export published or found in its place, by key, as CSV or JSON.

It is sorted on disk, so that memory does not grow with it, and that an unchanged export has the same index.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio.from_thread

from asyncsink.model import Receipt, Skip, SourceFile, promise_of
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.temporary import TemporaryDatabase, file_fault
from asyncsink.value import dataclass

COLUMNS: Final = ("key", "size_bytes", "checksum", "etag", "version_id")
_TABLE = (
    "CREATE TABLE object (key BLOB PRIMARY KEY, size_bytes INTEGER, checksum TEXT, etag TEXT, version_id TEXT)"
    " WITHOUT ROWID;"
)
_BATCH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexFile:
    """An index on disk.

    Attributes:
        source: the file, to be published.
        objects, objects_bytes: the number of objects that it lists, and of their bytes.
        sha256: of its content, in hexadecimal digits.
    """

    source: SourceFile
    objects: int
    objects_bytes: int
    sha256: str


def write_index(log: OutcomeLog, folder: str, name: str) -> IndexFile:
    """Write the index of a run's outcomes into `folder`; the suffix of `name` says how. Blocking.

    Called in a thread of the event loop, it ends between two objects where that is cancelled.

    Raises:
        JournalError: the directory for temporary files cannot hold it.
    """
    path = Path(os.path.realpath(folder)) / f"index{Path(name).suffix.lower()}"
    database = TemporaryDatabase("The entries of the index", _TABLE)
    digest, objects, objects_bytes = hashlib.sha256(), 0, 0
    try:
        for rows in _batched(log):
            anyio.from_thread.check_cancelled()
            with database.at_once():
                database.change_many("INSERT OR REPLACE INTO object VALUES (?, ?, ?, ?, ?)", rows)
        ((objects, objects_bytes),) = database.rows("SELECT count(*), total(size_bytes) FROM object")
        with path.open("wb") as file:
            for piece in _formatted(database, path.suffix):
                anyio.from_thread.check_cancelled()
                digest.update(piece)
                file.write(piece)
    except OSError as error:
        raise file_fault("The index", error) from error
    finally:
        database.close()
    seen = path.stat()
    source = SourceFile(
        str(path), seen.st_size, seen.st_mtime_ns, ctime_ns=seen.st_ctime_ns, inode=seen.st_ino, readable=True
    )
    return IndexFile(source=source, objects=objects, objects_bytes=int(objects_bytes), sha256=digest.hexdigest())


def _batched(log: OutcomeLog) -> Iterator[list[tuple[Any, ...]]]:
    batch: list[tuple[Any, ...]] = []
    for outcomes in (log.receipts, log.skips):
        for outcome in outcomes:
            promise = promise_of(outcome)
            if promise is None:
                continue
            batch.append(_row(promise))
            if len(batch) >= _BATCH:
                yield batch
                batch = []
    yield batch


def _row(promise: Receipt | Skip) -> tuple[Any, ...]:
    checksum = "" if promise.checksum is None else str(promise.checksum)
    return encoded_name(promise.key), promise.size_bytes, checksum, promise.etag, promise.version_id


def _formatted(database: TemporaryDatabase, suffix: str) -> Iterator[bytes]:
    """The content of the index, in pieces."""
    last, first = b"", True
    yield f"{','.join(COLUMNS)}\n".encode() if suffix == ".csv" else b"[\n" if suffix == ".json" else b""
    while rows := database.rows("SELECT * FROM object WHERE key > ? ORDER BY key LIMIT ?", last, _BATCH):
        last = rows[-1][0]
        values = [(decoded_name(key), *rest) for key, *rest in rows]
        if suffix == ".csv":
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(values)
            yield text.getvalue().encode()
            continue
        lines = [json.dumps(dict(zip(COLUMNS, each, strict=True)), ensure_ascii=False) for each in values]
        joined = (",\n" if suffix == ".json" else "\n").join(lines)
        if suffix == ".json":
            yield (joined if first else f",\n{joined}").encode()
        else:
            yield f"{joined}\n".encode()
        first = False
    if suffix == ".json":
        yield b"\n]\n"
