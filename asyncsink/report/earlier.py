"""What the manifests of earlier runs prove, by key: on disk, so that memory does not grow with them.

An object that is there already is no new receipt: it rests on the one that an earlier run wrote. What that proved is
carried over, so that a run that finishes loses nothing that the manifest it replaces had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from asyncsink.model import Outcome, Receipt, Skip
from asyncsink.report.records import parse_checksum
from asyncsink.temporary import TemporaryDatabase

_TABLE = (
    "CREATE TABLE proof (key BLOB, file INTEGER, checksum TEXT, etag TEXT, version_id TEXT, attempts INTEGER,"
    " confirmed_by TEXT, PRIMARY KEY (key, file)) WITHOUT ROWID;"
)
_PROOFS = "SELECT checksum, etag, version_id, attempts, confirmed_by FROM proof WHERE key = ? ORDER BY file DESC"


def promise_of(record: object) -> Receipt | Skip | None:
    """The record, where it says that an object is in its place: a receipt, or a skip of what was there. Pure."""
    return record if isinstance(record, Receipt) or (isinstance(record, Skip) and record.already_there) else None


class EarlierProofs:
    """The promises of some manifests. Methods block, and are for one thread at a time.

    They raise a JournalError where the temporary directory cannot take what is kept.
    """

    def __init__(self) -> None:
        self._database = TemporaryDatabase("The receipts of earlier manifests", _TABLE)

    def add(self, file: int, records: Iterable[object]) -> None:
        """Take over the promises among `records`; a higher number of `file` is a later manifest.

        Raises:
            ConfigError: a record is malformed; the promises before it are taken over.
        """
        with self._database.at_once():
            for record in records:
                promise = promise_of(record)
                if promise is not None:
                    self._database.change(
                        "INSERT OR REPLACE INTO proof VALUES (?, ?, ?, ?, ?, ?, ?)",
                        _encode(promise.key),
                        file,
                        "" if promise.checksum is None else str(promise.checksum),
                        promise.etag,
                        promise.version_id,
                        promise.attempts,
                        promise.confirmed_by,
                    )

    def carried(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The same outcomes; what is there already has the proofs of the receipt it rests on.

        A key that is published, or found to be there, is no longer in the care of the earlier manifests.
        """
        carried: list[Outcome] = []
        with self._database.at_once():
            for outcome in outcomes:
                promise = promise_of(outcome)
                if promise is None:
                    carried.append(outcome)
                    continue
                key = _encode(promise.key)
                if isinstance(promise, Skip):
                    rows = self._database.rows(_PROOFS, key)
                    promise = next((_resting_on(promise, row) for row in rows if _is_of(promise, row)), promise)
                carried.append(promise)
                self._database.change("DELETE FROM proof WHERE key = ?", key)
        return carried

    def left(self) -> dict[int, int]:
        """How many promises of each manifest were not carried over; manifests without any are left out."""
        rows = self._database.rows("SELECT file, count(*) FROM proof GROUP BY file")
        return {int(file): int(number) for file, number in rows}

    def close(self) -> None:
        """Release the file."""
        self._database.close()


def _is_of(skip: Skip, row: tuple[Any, ...]) -> bool:
    """Whether an earlier proof is of the object that is there now: the same ETag, or else the same checksum."""
    checksum, etag = row[:2]
    if skip.etag and etag:
        return bool(skip.etag == etag)
    return skip.checksum is not None and str(skip.checksum) == checksum


def _resting_on(skip: Skip, row: tuple[Any, ...]) -> Skip:
    checksum, etag, version_id, attempts, confirmed_by = row
    return replace(
        skip,
        checksum=skip.checksum or (parse_checksum(checksum) if checksum else None),
        etag=skip.etag or etag,
        version_id=skip.version_id or version_id,
        attempts=attempts,
        confirmed_by=confirmed_by,
    )


def _encode(key: str) -> bytes:
    # Local names that are no UTF-8 hold surrogates, which SQLite's TEXT refuses.
    return key.encode("utf-8", "surrogatepass")
