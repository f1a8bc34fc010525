"""The outcomes of a run, kept in bounded memory: a temporary file of JSON lines, and eight bytes per outcome.

Nothing is on disk before 1 MiB of lines; after that the file has no name, so it is gone with the process.
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
_READ_LINES = 256


class OutcomeLog:
    """Takes outcomes as they come, and gives them back by kind, in order.

    Safe to read from any thread while one other thread appends.

    Attributes:
        counts: what they amount to.
    """

    def __init__(self) -> None:
        """An empty log."""
        self._file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - lives as long as the log
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        self._end = 0
        self._at_end = True
        self._offsets: dict[type, array[int]] = {kind: array("Q") for kind in (Receipt, Skip, Failure, Planned)}
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
        text = "\n".join(lines).encode("ascii") + b"\n" if lines else b""
        with self._lock:
            try:
                if not self._at_end:
                    self._file.seek(self._end)
                self._at_end = False  # true again only when all of it is written
                self._file.write(text)
                self._file.flush()
            except OSError as error:
                raise JournalError(
                    f"The outcomes of the run cannot be kept in {tempfile.gettempdir()}: {error}; "
                    "free some space there, or set TMPDIR to a directory that has it."
                ) from error
            self._at_end = True
            for outcome, line in zip(outcomes, lines, strict=True):
                self._offsets[type(outcome)].append(self._end)
                self._end += len(line) + 1
                self.counts.add(outcome)

    @property
    def receipts(self) -> OutcomeView[Receipt]:
        """What was published."""
        return OutcomeView(self, self._offsets[Receipt])

    @property
    def skips(self) -> OutcomeView[Skip]:
        """What was deliberately not sent."""
        return OutcomeView(self, self._offsets[Skip])

    @property
    def failures(self) -> OutcomeView[Failure]:
        """What was not published, and local copies that were not made."""
        return OutcomeView(self, self._offsets[Failure])

    @property
    def planned(self) -> OutcomeView[Planned]:
        """What a dry run would have sent."""
        return OutcomeView(self, self._offsets[Planned])

    def __len__(self) -> int:
        """All outcomes, of every kind."""
        return sum(map(len, self._offsets.values()))

    def read(self, offsets: Sequence[int]) -> list[bytes]:
        """The lines that begin at these offsets of the file. Blocking; for OutcomeView."""
        with self._lock:
            self._at_end = False
            lines = []
            for offset in offsets:
                self._file.seek(offset)
                lines.append(self._file.readline())
            return lines


class OutcomeView(Sequence[T], Generic[T]):
    """The outcomes of one kind, read back one by one: a sequence that holds none of them.

    A slice is such a view too. It equals a list or tuple of the same outcomes.
    """

    __slots__ = ("_log", "_offsets")

    def __init__(self, log: OutcomeLog, offsets: array[int]) -> None:
        """Look at the outcomes of `log` at `offsets`, and at those that come to be appended there."""
        self._log = log
        self._offsets = offsets

    def __len__(self) -> int:
        """How many there are by now."""
        return len(self._offsets)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> OutcomeView[T]: ...
    def __getitem__(self, index: int | slice) -> T | OutcomeView[T]:
        """One outcome, or a view of several. IndexError as for a list."""
        if isinstance(index, slice):
            return OutcomeView(self._log, self._offsets[index])
        (line,) = self._log.read((self._offsets[index],))
        return cast("T", decode(line))

    def __iter__(self) -> Iterator[T]:
        """Read them in order, some hundred at a time."""
        for start in range(0, len(self._offsets), _READ_LINES):
            for line in self._log.read(self._offsets[start : start + _READ_LINES]):
                yield cast("T", decode(line))

    def __eq__(self, other: object) -> bool:
        """Whether `other`, a view, list or tuple, has equal outcomes in the same order."""
        if not isinstance(other, (OutcomeView, list, tuple)):
            return NotImplemented
        return len(self) == len(other) and all(mine == its for mine, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The number of outcomes."""
        return f"<{len(self)} outcomes>"
