"""What the manifests of earlier runs prove, by key: on disk, unless they are few, so that memory does not grow.

An object that is there already is no new receipt: it rests on the one that an earlier run wrote. What that proved is
carried over, so that a run that finishes loses nothing that the manifest it replaces had.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, cast

from asyncsink.model import ConfirmedBy, Outcome, Receipt, Skip
from asyncsink.report.records import parse_checksum
from asyncsink.temporary import TemporaryDatabase

IN_MEMORY_MAX = 25_000
"""Promises that are kept in memory: about 15 MB. More go into a database on disk."""
_TABLE = (
    "CREATE TABLE proof (key BLOB, file INTEGER, checksum TEXT, etag TEXT, version_id TEXT, attempts INTEGER,"
    " confirmed_by TEXT, PRIMARY KEY (key, file)) WITHOUT ROWID;"
)
_PROOFS = "SELECT file, checksum, etag, version_id, attempts, confirmed_by FROM proof WHERE key = ? ORDER BY file DESC"
Proof = tuple[int, str, str, str, int, ConfirmedBy | Literal[""]]
"""A manifest's number, and what it says of a key: checksum, etag, version_id, attempts and confirmed_by."""


def promise_of(record: object) -> Receipt | Skip | None:
    """The record, where it says that an object is in its place: a receipt, or a skip of what was there. Pure."""
    return record if isinstance(record, Receipt) or (isinstance(record, Skip) and record.already_there) else None


class EarlierProofs:
    """The promises of some manifests. Methods block, and are for one thread at a time.

    They raise a JournalError where the temporary directory cannot take what is kept.
    """

    def __init__(self) -> None:
        # Of each key the latest manifest first; on disk is what was there before these.
        self._recent: dict[str, list[Proof]] = {}
        self._disk: TemporaryDatabase | None = None

    def add(self, file: int, records: Iterable[object]) -> None:
        """Take over the promises among `records`; a higher number of `file` is a later manifest, and comes later.

        Raises:
            ConfigError: a record is malformed; the promises before it are taken over.
        """
        for record in records:
            promise = promise_of(record)
            if promise is None:
                continue
            checksum = "" if promise.checksum is None else str(promise.checksum)
            proof = (file, checksum, promise.etag, promise.version_id, promise.attempts, promise.confirmed_by)
            proofs = self._recent.setdefault(promise.key, [])
            if proofs and proofs[0][0] == file:
                proofs[0] = proof
            else:
                proofs.insert(0, proof)
            if len(self._recent) > IN_MEMORY_MAX:
                self._store_recent()

    def carried(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """The same outcomes; what is there already has the proofs of the receipt it rests on.

        A key that is published, or found to be there, is no longer in the care of the earlier manifests.
        """
        promises = [promise_of(outcome) for outcome in outcomes]
        found = self._taken([promise.key for promise in promises if promise is not None])
        return [
            _resting_on(promise, found.get(promise.key, ())) if isinstance(promise, Skip) else outcome
            for outcome, promise in zip(outcomes, promises, strict=True)
        ]

    def left(self) -> dict[int, int]:
        """How many promises of each manifest were not carried over; manifests without any are left out."""
        if self._disk is None:
            return dict(Counter(proof[0] for proofs in self._recent.values() for proof in proofs))
        rows = self._store_recent().rows("SELECT file, count(*) FROM proof GROUP BY file")
        return {int(file): int(number) for file, number in rows}

    def close(self) -> None:
        """Release the file."""
        if self._disk is not None:
            self._disk.close()

    def _taken(self, keys: Sequence[str]) -> dict[str, list[Proof]]:
        """What there is of these keys, the latest manifest first; it is there no longer."""
        if self._disk is None:
            return {key: self._recent.pop(key) for key in keys if key in self._recent}
        found: dict[str, list[Proof]] = {}
        database = self._store_recent()
        with database.at_once():
            for key in keys:
                if rows := database.rows(_PROOFS, _encode(key)):
                    found[key] = cast("list[Proof]", rows)
                    database.change("DELETE FROM proof WHERE key = ?", _encode(key))
        return found

    def _store_recent(self) -> TemporaryDatabase:
        """Move everything to the disk."""
        if self._disk is None:
            self._disk = TemporaryDatabase("The receipts of earlier manifests", _TABLE)
        if self._recent:
            rows = [(_encode(key), *proof) for key, proofs in self._recent.items() for proof in proofs]
            with self._disk.at_once():
                self._disk.change_many("INSERT OR REPLACE INTO proof VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._recent.clear()
        return self._disk


def _is_of(skip: Skip, proof: Proof) -> bool:
    """Whether an earlier proof is of the object that is there now: the same ETag, or else the same checksum."""
    _, checksum, etag, *_ = proof
    if skip.etag and etag:
        return skip.etag == etag
    return skip.checksum is not None and str(skip.checksum) == checksum


def _resting_on(skip: Skip, proofs: Sequence[Proof]) -> Skip:
    """The skip with the first proof that is of its object, or as it is."""
    proof = next((each for each in proofs if _is_of(skip, each)), None)
    if proof is None:
        return skip
    _, checksum, etag, version_id, attempts, confirmed_by = proof
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
