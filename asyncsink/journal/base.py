"""The journal: the memory of one S3 destination across runs, its tables, and the protocol that a run uses.

It records two facts: a key holds the bytes of a source file in a certain state, sent with certain object options; and a
multipart upload is open. A journal also satisfies `destinations.base.UploadLog`.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import chain
from typing import Any, Final, Protocol, cast

from asyncsink.journal.states import UploadState, after
from asyncsink.model import (
    BYTES,
    STREAM,
    Checksum,
    JournalEntry,
    PendingUpload,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadPartStored,
    UploadStep,
)
from asyncsink.options.schema import ObjectOptions
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.value import dataclass

# -- Tables of a journal, and reading and writing of their rows. Blocking; for one thread at a time --------------------

SCHEMA: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
    # `path` and `key` are bytes: names that are not UTF-8 hold surrogates, which TEXT refuses. `stat` is one text,
    # because inodes and times of some file systems exceed SQLite's 63 bits.
    "CREATE TABLE published (key BLOB PRIMARY KEY, path BLOB, stat TEXT, options BLOB, etag TEXT, version_id TEXT, "
    "checksum TEXT) WITHOUT ROWID",
    "CREATE TABLE upload (key BLOB PRIMARY KEY, state TEXT, path BLOB, stat TEXT, options BLOB, upload_id TEXT, "
    "part_size_bytes INTEGER, algorithm TEXT, token TEXT, begun_seconds REAL) WITHOUT ROWID",
    "CREATE TABLE part (key BLOB, part_number INTEGER, etag TEXT, checksum TEXT, PRIMARY KEY (key, part_number)) "
    "WITHOUT ROWID",
)
ROWS_PER_INSERT: Final = 128
KEYS_PER_QUERY: Final = 500
"""Keys of one query: old SQLite versions accept 999 variables per statement (sqlite.org/limits.html, 9)."""
OPTIONS_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Forgotten:
    """See `Journal.forget`."""

    keys: tuple[str, ...]


PublishedRow = tuple[bytes, bytes, str, ObjectOptions | None, str, str, str]
"""A confirmed object, as encoded by `published_row`: key, path, stat, its own object options (None: the run's), etag,
version_id and checksum."""

Writing = Sequence[PublishedRow] | UploadStep | Forgotten
"""One item that a journal writes."""


def options_digest(objects: ObjectOptions, algorithm: ChecksumAlgorithm | None, salt: bytes) -> bytes:
    """A digest of 16 bytes of all that an object is given besides its bytes (BLAKE2b, RFC 7693, keyed with `salt`).

    It covers a customer key, so that another key is detected; the key cannot be recovered from the digest. Pure.
    """
    said = (
        objects.sse,
        objects.sse_kms_key_id,
        objects.storage_class,
        objects.acl,
        sorted(objects.tags),
        sorted(objects.metadata),
        objects.content_type,
        algorithm,
        objects.sse_customer_key is not None,
    )
    digest = blake2b(encoded_name(repr(said)), key=salt, digest_size=OPTIONS_DIGEST_BYTES)
    if objects.sse_customer_key is not None:
        digest.update(objects.sse_customer_key.reveal())
    return digest.digest()


class OptionsDigests:
    """The digests of the object options of a run and of single transfers, in one journal.

    Args:
        objects, algorithm: of the run.
        salt: of the journal.
    """

    def __init__(self, objects: ObjectOptions, algorithm: ChecksumAlgorithm | None, salt: bytes) -> None:
        self._algorithm = algorithm
        self._salt = salt
        self._of_run = options_digest(objects, algorithm, salt)

    def of(self, objects: ObjectOptions | None) -> bytes:
        """The digest of a transfer's own object options; of the run's where they are None."""
        return self._of_run if objects is None else options_digest(objects, self._algorithm, self._salt)


class Rows:
    """The tables of one open journal."""

    def __init__(self, database: sqlite3.Connection, digests: OptionsDigests) -> None:
        """Use `database`, in autocommit mode."""
        self._database = database
        self._execute = database.execute
        self._digests = digests
        # NULL, which nearly all rows have here, stands for the run's own digest: it is written in the statement.
        self._marks = f"(?,?,?,coalesce(?,x'{digests.of(None).hex()}'),?,?,?)"
        # As the file was opened: FULL with a rollback journal, else NORMAL.
        self._synchronous = "FULL" if database.execute("PRAGMA synchronous").fetchone() == (2,) else "NORMAL"

    def write(self, everything: Sequence[Writing]) -> None:
        """Write all items in one transaction, in order; an exception rolls all of them back.

        Raises:
            JournalError: a step cannot follow the state of its upload.
            sqlite3.Error: the file cannot be written.
        """
        durable = any(type(what) is UploadOpened for what in everything)
        if durable:
            self._execute("PRAGMA synchronous=FULL")
        try:
            # The connection commits at the end of the block, and rolls back on an exception.
            with self._database:
                self._execute("BEGIN IMMEDIATE")
                for what in everything:
                    if isinstance(what, Sequence):
                        self._publish(what)
                    elif isinstance(what, Forgotten):
                        keys = [(encoded_name(key),) for key in what.keys]
                        self._database.executemany("DELETE FROM published WHERE key = ?", keys)
                    else:
                        self._step(what)
        finally:
            if durable:
                self._execute(f"PRAGMA synchronous={self._synchronous}")

    def _publish(self, rows: Sequence[PublishedRow]) -> None:
        for start in range(0, len(rows), ROWS_PER_INSERT):
            # One statement for many rows: around each, sqlite3 releases the interpreter's lock, and then competes for
            # it with the event loop.
            some = rows[start : start + ROWS_PER_INSERT]
            marks = ",".join([self._marks] * len(some))
            values: list[Any] = list(chain.from_iterable(some))
            for number, row in enumerate(some):
                if row[3] is not None:
                    values[number * len(row) + 3] = self._digests.of(row[3])
            self._execute(f"INSERT OR REPLACE INTO published VALUES {marks}", values)  # noqa: S608 - marks alone
        uploads = {key for (key,) in self._execute("SELECT key FROM upload")}
        if uploads:
            for key in uploads.intersection([row[0] for row in rows]):
                self._forget_upload(key)

    def _step(self, step: UploadStep) -> None:
        key = encoded_name(step.key)
        row = self._execute("SELECT state FROM upload WHERE key = ?", (key,)).fetchone()
        state: UploadState = row[0] if row is not None else "none"
        following = after(state, step)
        match step:
            case UploadCreating():
                self._forget_upload(key)
                values = (
                    key,
                    following,
                    encoded_name(step.source.path),
                    _stat(step.source),
                    self._digests.of(step.objects),
                    "",
                    step.part_size_bytes,
                    step.algorithm or "",
                    step.token,
                    time.time(),
                )
                self._execute("INSERT INTO upload VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            case UploadOpened():
                self._execute("UPDATE upload SET upload_id = ? WHERE key = ?", (step.upload_id, key))
            case UploadPartStored():
                part = (key, step.part.part_number, step.part.etag, _checksum_text(step.part.checksum))
                self._execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)", part)
            case UploadCompleting():
                # The object under the key is unknown from here on: the one before, or the new one.
                self._execute("DELETE FROM published WHERE key = ?", (key,))
            case UploadGone():
                self._forget_upload(key)
        if following not in (state, "none"):
            self._execute("UPDATE upload SET state = ? WHERE key = ?", (following, key))

    def _forget_upload(self, key: bytes) -> None:
        self._execute("DELETE FROM upload WHERE key = ?", (key,))
        self._execute("DELETE FROM part WHERE key = ?", (key,))

    def known(self, transfers: Sequence[Transfer]) -> list[JournalEntry | None]:
        """See `Journal.known`.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        found: list[JournalEntry | None] = []
        # Most journals have no open upload.
        any_upload = self._execute("SELECT 1 FROM upload LIMIT 1").fetchone() is not None
        for start in range(0, len(transfers), KEYS_PER_QUERY):
            found += self._known(transfers[start : start + KEYS_PER_QUERY], any_upload=any_upload)
        return found

    def contents_left(self) -> list[str]:
        """See `Journal.contents_left`.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        ask = "SELECT key FROM upload WHERE path IN (?, ?)"
        return [decoded_name(key) for (key,) in self._execute(ask, (encoded_name(BYTES), encoded_name(STREAM)))]

    def _known(self, transfers: Sequence[Transfer], *, any_upload: bool) -> Iterator[JournalEntry | None]:
        keys = [encoded_name(transfer.key) for transfer in transfers]
        published = self._select("published", keys)
        uploads = self._select("upload", keys) if any_upload else {}
        for transfer, key in zip(transfers, keys, strict=True):
            row, upload_row = published.get(key), uploads.get(key)
            upload = None if upload_row is None else self._open_upload(transfer, key, upload_row)
            if row is not None and self._is_same(transfer, row[1], row[2], row[3]):
                yield JournalEntry(True, row[4], row[5], _checksum(row[6]), upload)
            else:
                yield None if row is None and upload is None else JournalEntry(upload=upload, stale=row is not None)

    def _select(self, table: str, keys: list[bytes]) -> dict[bytes, tuple[Any, ...]]:
        wanted = ",".join("?" * len(keys))
        rows = self._execute(f"SELECT * FROM {table} WHERE key IN ({wanted})", keys)  # noqa: S608 - our own names
        return {row[0]: row for row in rows}

    def _is_same(self, transfer: Transfer, path: bytes, stat: str, options: bytes) -> bool:
        source = transfer.source
        same_file = stat == _stat(source) and path == encoded_name(source.path)
        return same_file and options == self._digests.of(transfer.objects)

    def _open_upload(self, transfer: Transfer, key: bytes, row: tuple[Any, ...]) -> PendingUpload:
        _, state, path, stat, options, upload_id, part_size_bytes, algorithm, token, begun_seconds = row
        parts = self._execute(
            "SELECT part_number, etag, checksum FROM part WHERE key = ? ORDER BY part_number", (key,)
        ).fetchall()
        return PendingUpload(
            upload_id=upload_id,
            part_size_bytes=part_size_bytes,
            algorithm=algorithm or None,
            token=token,
            begun_seconds=begun_seconds,
            completing=state == "completing",
            same_source=self._is_same(transfer, path, stat, options),
            parts=tuple(StoredPart(number, etag, _checksum(text)) for number, etag, text in parts),
        )


def published_row(transfer: Transfer, etag: str, version_id: str, checksum: Checksum | None) -> PublishedRow:
    """The row of a published file: `transfer` as it was read, the other values as in Receipt. Pure."""
    source, encoded = transfer.source, _checksum_text(checksum)
    path = encoded_name(source.path)
    return encoded_name(transfer.key), path, _stat(source), transfer.objects, etag, version_id, encoded


def _stat(source: SourceFile) -> str:
    return f"{source.size_bytes} {source.mtime_ns} {source.ctime_ns} {source.inode}"


def _checksum_text(checksum: Checksum | None) -> str:
    return "" if checksum is None else f"{checksum.algorithm}:{checksum.value}"


def _checksum(text: str) -> Checksum | None:
    if not text:
        return None
    algorithm, _, value = text.partition(":")
    return Checksum(cast("ChecksumAlgorithm", algorithm), value)


# -- The journal of one run --------------------------------------------------------------------------------------------


class Journal(Protocol):
    """One journal, opened for one run. Every method may raise JournalError or DestinationFull, and the run stops then:
    without the record, objects would be sent again and uploads would stay open unnoticed."""

    @property
    def path(self) -> str:
        """Absolute path of the file."""
        ...

    @property
    def blank(self) -> bool:
        """Whether it was empty when it was opened: keys that a run submits only once need no query."""
        ...

    def in_place(self) -> bool:
        """Whether the opened file still has its name, so that the next run finds it. Blocking."""
        ...

    def known(self, transfers: Sequence[Transfer]) -> list[JournalEntry | None]:
        """The entry of each transfer's key, in order; None where there is none.

        Blocking: for a reader thread, one call for some hundred transfers. `published` is True only for the same source
        file, unchanged, and the same object options. An open upload is always included, because it has to be continued
        or aborted.
        """
        ...

    def contents_left(self) -> list[str]:
        """The keys of open uploads that were begun for content without a file. Blocking: for a reader thread."""
        ...

    def forget(self, keys: Sequence[str]) -> None:
        """Delete the entries of these keys: they are about to be written to, or were, with an unknown result.

        Blocking: for a reader thread. On return the deletion is committed, in one commit for all keys.
        """
        ...

    async def publish(self, published: Sequence[PublishedRow]) -> None:
        """Record published objects; an upload of the same key is deleted in the same commit.

        On return they are committed: they survive a kill -9 of this process. Cancellation ends the wait only; the
        objects are committed all the same.
        """
        ...

    async def step(self, step: UploadStep) -> None:
        """Record one step of a multipart upload; see `states` for the possible sequences.

        UploadCreating, UploadOpened and UploadCompleting are committed on return, UploadOpened is also on the disk
        (fsync: it survives a power cut). The others are committed soon, and by `aclose` at the latest; while very many
        are queued, they are committed on return too. Cancellation as in `publish`.
        """
        ...

    def stop_asking(self) -> None:
        """Called when the run is being cancelled: calls of `known` and `forget` return at once, with a JournalError."""
        ...

    def withdraw(self) -> None:
        """Remove what would mislead the next run of a closed journal that could not be written. Blocking."""
        ...

    async def aclose(self, seconds: float | None = None) -> None:
        """Commit all queued items and release the file, within `seconds`. Shielded from cancellation; harmless when
        repeated.

        Raises:
            JournalError, DestinationFull: an item was not written, or not within `seconds`, and no call has raised that
                yet.
        """
        ...
