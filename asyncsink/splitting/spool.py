"""What the survey of a split found, in the order of the keys; memory does not grow with it.

A walk is not in that order: names of a directory are, but "a/b" comes before "a.txt" in a directory and after it among
keys, and substitutions may give any key. Beyond `IN_MEMORY_MAX` files, sorted runs are written to a file without a
name, and merged where they are read.
"""

from __future__ import annotations

import heapq
import marshal
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from typing import IO, Any, Final

from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.transfer.outcomes import SUPERSEDED, problem_outcome
from asyncsink.errors import JournalError
from asyncsink.model import Skip, SourceFile, SourceProblem, Transfer
from asyncsink.options.schema import Policies
from asyncsink.paths import encoded_name
from asyncsink.routing.keys import fingerprint
from asyncsink.temporary import file_fault

IN_MEMORY_MAX: Final = 25_000
"""Most files in memory: some 20 MB."""
_PIECE: Final = 100
"""Files of one run that are in memory while the runs are merged: 15 million files are 600 runs."""
_BATCH = 1000
_PROBLEMS_KEPT = 1000


class Spool:
    """Transfers by key; of several with one key the last one. Methods block, and are for one thread at a time.

    They raise a JournalError where the directory for temporary files cannot take them.

    Attributes:
        added: number of transfers that were added.
    """

    def __init__(self) -> None:
        self.added = 0
        self._recent: dict[str, Transfer] = {}
        self._file: IO[bytes] | None = None
        self._runs: list[list[int]] = []
        """The sizes of the pieces of each run, in bytes; they follow one another in the file."""

    def __repr__(self) -> str:
        return f"<Spool of {self.added:,} files, {len(self._recent):,} of them in memory>"

    def add(self, transfers: list[Transfer]) -> None:
        """Take over some transfers."""
        self._recent.update((each.key, each) for each in transfers)
        self.added += len(transfers)
        if len(self._recent) > IN_MEMORY_MAX:
            try:
                self._write_out()
            except OSError as error:
                raise _fault(error) from error

    def totals(self) -> tuple[int, int]:
        """Number of objects and of bytes."""
        objects_total = bytes_total = 0
        for each in self:
            objects_total += 1
            bytes_total += each.source.size_bytes
        return objects_total, bytes_total

    def __iter__(self) -> Iterator[Transfer]:
        """Everything, in the order of the keys' UTF-8, which is that of S3's listings."""
        runs, start = list[Iterator[Transfer]](), 0
        for sizes in self._runs:
            runs.append(self._run(start, sizes))
            start += sum(sizes)
        runs.append(iter(sorted(self._recent.values(), key=_order)))
        # The merge is stable: of equal keys, the one that was added last comes last.
        last: Transfer | None = None
        for each in heapq.merge(*runs, key=_order) if len(runs) > 1 else runs[0]:
            if last is not None and last.key != each.key:
                yield last
            last = each
        if last is not None:
            yield last

    def alike(self, fingerprints: frozenset[int]) -> dict[int, list[str]]:
        """The keys that have these fingerprints, which are few."""
        keys: dict[int, list[str]] = {}
        for transfer in self if fingerprints else ():
            number = fingerprint(transfer.key)
            if number in fingerprints:
                keys.setdefault(number, []).append(transfer.key)
        return keys

    def close(self) -> None:
        """Release the file. Harmless when repeated."""
        self._recent.clear()
        self._runs.clear()
        if self._file is not None:
            self._file.close()

    def _write_out(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="asyncsink-", buffering=0)  # noqa: SIM115 - see close
        run = sorted(self._recent.values(), key=_order)
        pieces = [marshal.dumps([_row(each) for each in run[at : at + _PIECE]]) for at in range(0, len(run), _PIECE)]
        left = memoryview(b"".join(pieces))
        while left:
            left = left[self._file.write(left) :]
        self._runs.append([len(piece) for piece in pieces])
        self._recent.clear()

    def _run(self, start: int, sizes: list[int]) -> Iterator[Transfer]:
        assert self._file is not None
        for size in sizes:
            try:
                piece = os.pread(self._file.fileno(), size, start)
            except OSError as error:
                raise _fault(error) from error
            for key, path, size_bytes, mtime_ns, entry, ctime_ns, inode, real_path in marshal.loads(piece):  # noqa: S302 - written by this process
                source = SourceFile(
                    path, size_bytes, mtime_ns, entry=entry, ctime_ns=ctime_ns, inode=inode, real_path=real_path
                )
                yield Transfer(source, key, key)
            start += size


class SpooledDiscovery(Discovery):
    """A Discovery whose walk fills a spool, and that remembers what is in no part.

    Attributes:
        spool: what was found.
        left_out: by reason, the number of files that were left out as a policy says.
        failed: the number of files that no policy leaves out; failures: the sentences of the first of them.
    """

    def __init__(self, whole: Discovery, spool: Spool, policies: Policies) -> None:
        super().__init__(
            whole.source,
            whole.router,
            whole.prefix,
            leaves_out_unreadable=whole.leaves_out_unreadable,
            bounds=whole.bounds,
        )
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


def _order(transfer: Transfer) -> bytes:
    return encoded_name(transfer.key)


def _row(transfer: Transfer) -> tuple[Any, ...]:
    source = transfer.source
    return (
        transfer.key, source.path, source.size_bytes, source.mtime_ns, source.entry, source.ctime_ns, source.inode,
        source.real_path,
    )  # fmt: skip


def _fault(error: OSError) -> JournalError:
    return file_fault("The files of the split", error)
