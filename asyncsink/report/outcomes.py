"""The outcomes of a run, kept in bounded memory: a temporary file of JSON lines for each kind of outcome.

Nothing is on disk before 1 MiB of lines; after that the files have no name, so they are gone with the process.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from array import array
from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar, cast, overload

from asyncsink.config import MIB
from asyncsink.errors import JournalError
from asyncsink.model import Failure, Outcome, Planned, Receipt, Skip
from asyncsink.report.counts import Counts
from asyncsink.report.records import decode, encode_all

T = TypeVar("T", Receipt, Skip, Failure, Planned)

MEMORY_BYTES = 1 * MIB
BLOCK_LINES = 256
"""Lines are read by so many, and only where a block begins is remembered: 32 KB for a million outcomes."""


class OutcomeLog:
    """Takes outcomes as they come, and gives them back by kind, in order.

    Safe to read from any thread while one other thread appends.

    Attributes:
        counts: what they amount to.
    """

    def __init__(self) -> None:
        """An empty log."""
        self._lock = threading.Lock()
        self._kinds = {kind: _Lines() for kind in (Receipt, Skip, Failure, Planned)}
        for kind in self._kinds.values():
            weakref.finalize(self, kind.file.close)
        self.counts = Counts()

    def append(self, outcome: Outcome) -> None:
        """Keep one outcome. As `extend`."""
        self.extend((outcome,))

    def extend(self, outcomes: Sequence[Outcome], lines: Sequence[str] | None = None) -> None:
        """Keep several outcomes; `lines` are theirs from `records.encode_all`, where the caller has them already.

        Raises:
            JournalError: the temporary directory cannot take them; none of them is kept.
        """
        if lines is None:
            lines = encode_all(outcomes)
        by_kind: dict[type[Outcome], list[str]] = {}
        for outcome, line in zip(outcomes, lines, strict=True):
            by_kind.setdefault(type(outcome), []).append(line)
        with self._lock:
            try:
                for kind, its in by_kind.items():
                    self._kinds[kind].write(its)
            except OSError as error:
                raise JournalError(
                    f"The outcomes of the run cannot be kept in {tempfile.gettempdir()}: {error}; "
                    "free some space there, or set TMPDIR to a directory that has it."
                ) from error
            for kind, its in by_kind.items():
                self._kinds[kind].keep(its)
            for outcome in outcomes:
                self.counts.add(outcome)

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

    def read(self, kind: type[Outcome], block: int) -> list[bytes]:
        """The lines of one kind, BLOCK_LINES of them at most, that begin at a block. Blocking; for OutcomeView."""
        with self._lock:
            return self._kinds[kind].read(block)


class _Lines:
    """The lines of one kind of outcome, in their order. For one thread at a time."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - lives as long as the log
        self.count = 0
        self._end = 0
        self._at_end = True
        self._blocks = array("Q")

    def write(self, lines: Sequence[str]) -> None:
        """Write lines behind those that are kept. They can be written over until `keep` is called with them."""
        if not self._at_end:
            self.file.seek(self._end)
        self._at_end = False  # true again only when they are kept
        self.file.write("\n".join(lines).encode("ascii") + b"\n")
        self.file.flush()

    def keep(self, lines: Sequence[str]) -> None:
        """Count what was written last."""
        for line in lines:
            if self.count % BLOCK_LINES == 0:
                self._blocks.append(self._end)
            self.count += 1
            self._end += len(line) + 1
        self._at_end = True

    def read(self, block: int) -> list[bytes]:
        """The lines of a block that are kept by now."""
        self._at_end = False
        self.file.seek(self._blocks[block])
        return [self.file.readline() for _ in range(min(BLOCK_LINES, self.count - block * BLOCK_LINES))]


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
        block, line = divmod(self._numbers[index], BLOCK_LINES)
        return cast("T", decode(self._log.read(self._kind, block)[line]))

    def __iter__(self) -> Iterator[T]:
        """Read them in order, a block at a time."""
        lines: list[bytes] = []
        loaded = -1
        for number in self._numbers:
            block, line = divmod(number, BLOCK_LINES)
            if block != loaded:
                lines, loaded = self._log.read(self._kind, block), block
            yield cast("T", decode(lines[line]))

    def __eq__(self, other: object) -> bool:
        """Whether `other`, a view, list or tuple, has equal outcomes in the same order."""
        if not isinstance(other, (OutcomeView, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The number of outcomes."""
        return f"<{len(self)} outcomes>"
