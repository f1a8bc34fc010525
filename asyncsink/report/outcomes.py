"""The outcomes of a run, kept in bounded memory: a temporary file of JSON lines for each kind of outcome.

Nothing is on disk before 1 MiB of lines; after that the files have no name, so they are gone with the process.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, cast, overload

from asyncsink.config import MIB
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.counts import Counts
from asyncsink.report.encoded import RUN_LINES_MAX, Encoded, LineRun, encoded
from asyncsink.report.records import decode
from asyncsink.temporary import file_fault

T = TypeVar("T", Receipt, Skip, Failure, Planned)

MEMORY_BYTES = 1 * MIB
BLOCK_LINES = RUN_LINES_MAX
"""Lines are read by so many at most, and only where a block begins is remembered: two blocks that follow each other
have more lines together, so that this takes 128 KB at most for a million outcomes."""


class OutcomeLog:
    """Takes outcomes as they come, and gives them back by kind, in order.

    Safe to read from any thread while one other thread appends.

    Attributes:
        counts: what they amount to.
    """

    def __init__(self, counts: Counts | None = None) -> None:
        """An empty log, which counts in `counts` where somebody else looks at them too."""
        self._lock = threading.Lock()
        self._kinds = {kind: _Lines() for kind in (Receipt, Skip, Failure, Planned)}
        for kind in self._kinds.values():
            weakref.finalize(self, kind.file.close)
        self.counts = Counts() if counts is None else counts

    def append(self, outcome: Outcome) -> None:
        """Keep one outcome. As `extend`."""
        self.extend((outcome,))

    def extend(self, outcomes: Sequence[Outcome] | Encoded) -> None:
        """Keep several outcomes, which may be encoded already.

        Raises:
            JournalError: the temporary directory cannot take them; none of them is kept.
        """
        batch = outcomes if isinstance(outcomes, Encoded) else encoded(outcomes)
        by_kind: dict[type[Outcome], list[LineRun]] = {}
        for run in batch.runs:
            by_kind.setdefault(run.kind, []).append(run)
        with self._lock:
            try:
                for kind, its in by_kind.items():
                    self._kinds[kind].write(its)
            except OSError as error:
                raise file_fault("The outcomes of the run", error) from error
            for kind, its in by_kind.items():
                self._kinds[kind].keep(its)
            self.counts.merge(batch.counts)

    @property
    def receipts(self) -> OutcomeView[Receipt]:
        """What was published."""
        return OutcomeView(self, Receipt)

    @property
    def skips(self) -> OutcomeView[Skip]:
        """What was deliberately not sent."""
        return OutcomeView(self, Skip)

    @property
    def failures(self) -> OutcomeView[Failure]:
        """What was not published, and local copies that were not made."""
        return OutcomeView(self, Failure)

    @property
    def planned(self) -> OutcomeView[Planned]:
        """What a dry run would have sent."""
        return OutcomeView(self, Planned)

    def __len__(self) -> int:
        """All outcomes, of every kind."""
        return sum(kind.count for kind in self._kinds.values())

    def count(self, kind: type[Outcome]) -> int:
        """Outcomes of one kind by now."""
        return self._kinds[kind].count

    def read(self, kind: type[Outcome], number: int) -> tuple[int, list[bytes]]:
        """Line `number` of one kind among its neighbours, BLOCK_LINES at most, and the number of the first of these.
        Blocking; for OutcomeView."""
        with self._lock:
            return self._kinds[kind].read(number)


class _Lines:
    """The lines of one kind of outcome, in their order, in blocks. For one thread at a time."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - lives as long as the log
        self.count = 0
        self._end = 0
        self._at_end = True
        # Of each block: the number of its first line, and where that begins.
        self._numbers = array("Q")
        self._places = array("Q")

    def write(self, runs: Sequence[LineRun]) -> None:
        """Write lines behind those that are kept. They can be written over until `keep` is called with them."""
        if not self._at_end:
            self.file.seek(self._end)
        self._at_end = False  # true again only when they are kept
        self.file.write(b"".join([run.text for run in runs]))
        self.file.flush()

    def keep(self, runs: Sequence[LineRun]) -> None:
        """Count what was written last."""
        for run in runs:
            if not self._numbers or self.count + run.count - self._numbers[-1] > BLOCK_LINES:
                self._numbers.append(self.count)
                self._places.append(self._end)
            self.count += run.count
            self._end += len(run.text)
        self._at_end = True

    def read(self, number: int) -> tuple[int, list[bytes]]:
        """The lines of the block that has this line, and the number of the first of them."""
        block = bisect_right(self._numbers, number) - 1
        first = self._numbers[block]
        after = self._numbers[block + 1] if block + 1 < len(self._numbers) else self.count
        self._at_end = False
        self.file.seek(self._places[block])
        return first, [self.file.readline() for _ in range(after - first)]


class OutcomeView(Sequence[T], Generic[T]):
    """The outcomes of one kind, read back as they are asked for: a sequence that holds none of them.

    A slice is such a view too. It equals a list or tuple of the same outcomes.
    """

    __slots__ = ("_kind", "_log", "_slice")

    def __init__(self, log: OutcomeLog, kind: type[T], numbers: range | None = None) -> None:
        """Look at the outcomes of a kind with these numbers; None means all, those to come included."""
        self._log = log
        self._kind: type[Outcome] = kind
        self._slice = numbers

    @property
    def _numbers(self) -> range:
        return range(self._log.count(self._kind)) if self._slice is None else self._slice

    def __len__(self) -> int:
        """How many there are by now."""
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> OutcomeView[T]: ...
    def __getitem__(self, index: int | slice) -> T | OutcomeView[T]:
        """One outcome, or a view of several. IndexError as for a list."""
        if isinstance(index, slice):
            return OutcomeView(self._log, cast("type[T]", self._kind), self._numbers[index])
        number = self._numbers[index]
        first, lines = self._log.read(self._kind, number)
        return cast("T", decode(lines[number - first]))

    def __iter__(self) -> Iterator[T]:
        """Read them in order, a block at a time."""
        first, lines = 0, list[bytes]()
        for number in self._numbers:
            if not first <= number < first + len(lines):
                first, lines = self._log.read(self._kind, number)
            yield cast("T", decode(lines[number - first]))

    def __eq__(self, other: object) -> bool:
        """Whether `other`, a view, list or tuple, has equal outcomes in the same order."""
        if not isinstance(other, (OutcomeView, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The number of outcomes."""
        return f"<{len(self)} outcomes>"
