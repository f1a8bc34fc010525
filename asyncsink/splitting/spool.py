"""What the survey of a split found, in the order of the keys: on disk, so that memory does not grow with it.

A walk is not in that order: names of a directory are, but "a/b" comes before "a.txt" in a directory and after it among
keys, and substitutions may give any key.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from asyncsink.engine.planning.survey import Discovery
from asyncsink.engine.transfer.outcomes import SUPERSEDED, problem_outcome
from asyncsink.model import Skip, SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import Policies
from asyncsink.paths import decoded_name, encoded_name
from asyncsink.routing.keys import fingerprint
from asyncsink.temporary import TemporaryDatabase

_BATCH = 1000
_PROBLEMS_KEPT = 1000
_NEXT = "SELECT key, path, size, mtime, ctime, inode, real, entry FROM file WHERE key > ? ORDER BY key LIMIT 1000"
_TABLE = (
    "CREATE TABLE file (key BLOB PRIMARY KEY, path BLOB, size INTEGER, mtime INTEGER, ctime INTEGER, inode BLOB,"
    " real BLOB, entry INTEGER) WITHOUT ROWID;"
)
_ADD = "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


class Spool:
    """Transfers by key; of several with one key the last one. Methods block, and are for one thread at a time.

    They raise a JournalError where the directory for temporary files cannot take them.

    Attributes:
        added: number of transfers that were added.
    """

    def __init__(self) -> None:
        self.added = 0
        self._database = TemporaryDatabase("The files of the split", _TABLE)

    def add(self, transfers: list[Transfer]) -> None:
        """Take over some transfers."""
        with self._database.at_once():
            self._database.change_many(_ADD, map(_row, transfers))
        self.added += len(transfers)

    def totals(self) -> tuple[int, int]:
        """Number of objects and of bytes."""
        row = self._database.row("SELECT count(*), total(size) FROM file")
        assert row is not None
        return int(row[0]), int(row[1])

    def __iter__(self) -> Iterator[Transfer]:
        """Everything, in the order of the keys' UTF-8, which is that of S3's listings."""
        last = b""
        while rows := self._database.rows(_NEXT, last):
            last = rows[-1][0]
            for key, path, size, mtime, ctime, inode, real, entry in rows:
                source = SourceFile(
                    decoded_name(path),
                    size,
                    mtime,
                    entry=entry,
                    ctime_ns=ctime,
                    inode=int(inode),
                    real_path=decoded_name(real),
                )
                yield Transfer(source, decoded_name(key), decoded_name(key))

    def alike(self, fingerprints: frozenset[int]) -> dict[int, list[str]]:
        """The keys that have these fingerprints, which are few."""
        keys: dict[int, list[str]] = {}
        for transfer in self if fingerprints else ():
            number = fingerprint(transfer.key)
            if number in fingerprints:
                keys.setdefault(number, []).append(transfer.key)
        return keys

    def close(self) -> None:
        """Release the file."""
        self._database.close()


class SpooledDiscovery(Discovery):
    """A Discovery whose walk fills a spool, and that remembers what is in no part.

    Attributes:
        spool: what was found.
        left_out: by reason, the number of files that were left out as a policy says.
        failed: the number of files that no policy leaves out; failures: the sentences of the first of them.
    """

    def __init__(self, whole: Discovery, spool: Spool, policies: Policies) -> None:
        super().__init__(whole.source, whole.router, whole.prefix, leaves_out_unreadable=whole.leaves_out_unreadable)
        self._policies = policies
        self.spool = spool
        self.left_out: Counter[str] = Counter()
        self.failed = 0
        self.failures: list[str] = []

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        batch: list[Transfer] = []
        for found in super().__iter__():
            if isinstance(found, SourceProblem):
                self._count(found)
            else:
                batch.append(found)
                if len(batch) == _BATCH:
                    self.spool.add(batch)
                    batch = []
            yield found
        self.spool.add(batch)

    def _count(self, problem: SourceProblem) -> None:
        outcome = problem_outcome(problem, self._policies)
        if isinstance(outcome, Skip):
            self.left_out[outcome.reason] += 1
            return
        self.failed += 1
        if len(self.failures) < _PROBLEMS_KEPT:
            self.failures.append(str(problem.error))

    def totals(self) -> tuple[int, int]:
        """Number of objects and of bytes; files that another one of the same key replaces count as left out."""
        objects_total, bytes_total = self.spool.totals()
        if self.spool.added > objects_total:
            self.left_out[SUPERSEDED] += self.spool.added - objects_total
        return objects_total, bytes_total


def _row(transfer: Transfer) -> tuple[object, ...]:
    source = transfer.source
    # Inodes have 64 bits without a sign, which SQLite's integers have.
    return (
        encoded_name(transfer.key), encoded_name(source.path), source.size_bytes, source.mtime_ns, source.ctime_ns,
        str(source.inode), encoded_name(source.real_path), source.entry,
    )  # fmt: skip
