"""Proofs in the manifests of earlier runs, by key: on disk, unless they are few, so that memory does not grow.

An object that is there already gets no new receipt: it rests on that of an earlier run. Its proof is carried over, so
that a complete run loses nothing of the manifest that it replaces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, cast

from asyncsink.model import ConfirmedBy, Outcome, Skip, promise_of
from asyncsink.paths import encoded_name
from asyncsink.report.outcomes import parse_checksum
from asyncsink.temporary import TemporaryDatabase

IN_MEMORY_MAX = 25_000
"""Proofs kept in memory: about 15 MB. More are kept in a database on disk."""
_TABLE = (
    "CREATE TABLE proof (key BLOB, file INTEGER, checksum TEXT, etag TEXT, version_id TEXT, attempts INTEGER,"
    " confirmed_by TEXT, PRIMARY KEY (key, file)) WITHOUT ROWID;"
)
_PROOFS = "SELECT file, checksum, etag, version_id, attempts, confirmed_by FROM proof WHERE key = ? ORDER BY file DESC"
EarlierProof = tuple[int, str, str, str, int, ConfirmedBy | Literal[""]]
"""A manifest's number, and its record of a key: checksum, etag, version_id, attempts and confirmed_by."""


class EarlierProofs:
    """The proofs of earlier manifests. Methods block, and are for one thread at a time.

    They raise a JournalError where the temporary directory cannot hold the database.
    """

    def __init__(self) -> None:
        # By key, the latest manifest first; rows on disk are older.
        self._recent: dict[str, list[EarlierProof]] = {}
        self._disk: TemporaryDatabase | None = None

    def add(self, file: int, records: Iterable[object]) -> None:
        """Add the proofs among `records`; a higher number of `file` is a later manifest, and is added later.

        Raises:
            ConfigError: a record is malformed; the proofs before it are added.
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
        """The same outcomes; skips of existing objects have the proofs of the receipts on which they rest.

        A key that is published, or found in its place, is removed from the proofs of earlier manifests.
        """
        promises = [promise_of(outcome) for outcome in outcomes]
        found = self._taken([promise.key for promise in promises if promise is not None])
        return [
            _resting_on(promise, found.get(promise.key, ())) if isinstance(promise, Skip) else outcome
            for outcome, promise in zip(outcomes, promises, strict=True)
        ]

    def drop(self, keys: Sequence[str]) -> None:
        """Remove the proofs of objects that were deleted."""
        self._taken(keys)

    def left(self) -> dict[int, int]:
        """The number of proofs of each manifest that were not carried over; manifests without any are omitted."""
        if self._disk is None:
            return dict(Counter(proof[0] for proofs in self._recent.values() for proof in proofs))
        rows = self._store_recent().rows("SELECT file, count(*) FROM proof GROUP BY file")
        return {int(file): int(number) for file, number in rows}

    def close(self) -> None:
        """Close the database."""
        if self._disk is not None:
            self._disk.close()

    def _taken(self, keys: Sequence[str]) -> dict[str, list[EarlierProof]]:
        """Remove and return the proofs of these keys, the latest manifest first."""
        if self._disk is None:
            return {key: self._recent.pop(key) for key in keys if key in self._recent}
        found: dict[str, list[EarlierProof]] = {}
        database = self._store_recent()
        with database.at_once():
            for key in keys:
                if rows := database.rows(_PROOFS, encoded_name(key)):
                    found[key] = cast("list[EarlierProof]", rows)
                    database.change("DELETE FROM proof WHERE key = ?", encoded_name(key))
        return found

    def _store_recent(self) -> TemporaryDatabase:
        """Move all proofs in memory to the disk."""
        if self._disk is None:
            self._disk = TemporaryDatabase("The receipts of earlier manifests", _TABLE)
        if self._recent:
            rows = [(encoded_name(key), *proof) for key, proofs in self._recent.items() for proof in proofs]
            with self._disk.at_once():
                self._disk.change_many("INSERT OR REPLACE INTO proof VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._recent.clear()
        return self._disk


def _is_of(skip: Skip, proof: EarlierProof) -> bool:
    """Whether an earlier proof is of the present object: the same ETag, or else the same checksum."""
    _, checksum, etag, *_ = proof
    if skip.etag and etag:
        return skip.etag == etag
    return skip.checksum is not None and str(skip.checksum) == checksum


def _resting_on(skip: Skip, proofs: Sequence[EarlierProof]) -> Skip:
    """The skip with the first proof of its object, or unchanged."""
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
