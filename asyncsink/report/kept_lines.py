"""The lines of one kind of outcome, in temporary files: all of them, or the newest ones."""

from __future__ import annotations

import tempfile
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

from asyncsink.options.settings import MIB

MEMORY_BYTES = 1 * MIB
BLOCK_LINES = 256
"""Most lines that are read at once. Only the beginning of each block is stored; two consecutive blocks have more lines
than this together, so that the index takes 128 KB at most for a million outcomes."""


class WrittenLines(Protocol):
    """Lines that follow each other."""

    @property
    def count(self) -> int:
        """Their number."""
        ...

    @property
    def text(self) -> bytes:
        """The lines, each with its end."""
        ...


class KeptLines:
    """Lines, in order, each with a number from 0 on. For one thread at a time.

    Args:
        records_max: so many of the newest are kept, and twice as many at most, beside those of one `write`; None: all.

    Attributes:
        first: the number of the first that is kept.
    """

    def __init__(self, records_max: int | None = None) -> None:
        self.first = 0
        self._records_max = records_max
        # A file is given up as a whole, when the next one is full.
        self._older: _Segment | None = None
        self._newer = _Segment()
        self._start = 0

    @property
    def count(self) -> int:
        """The number of lines so far, kept or not."""
        return self._start + self._newer.count

    def write(self, runs: Sequence[WrittenLines]) -> None:
        """Write lines after the kept ones; the next call overwrites them unless `keep` was called."""
        self._newer.write(runs)

    def keep(self, runs: Sequence[WrittenLines]) -> None:
        """Keep the lines of the last `write`."""
        self._newer.keep(runs)
        if self._records_max is None or self._newer.count < self._records_max:
            return
        if self._older is not None:
            self._older.file.close()
        self.first = self._start
        self._start = self.count
        self._older, self._newer = self._newer, _Segment()

    def read(self, number: int) -> tuple[int, list[bytes]]:
        """The number of the first line of the block with this line, which is kept, and the block's lines."""
        if self._older is not None and number < self._start:
            first, lines = self._older.read(number - self.first)
            return self.first + first, lines
        first, lines = self._newer.read(number - self._start)
        return self._start + first, lines

    def close(self) -> None:
        """Release the files."""
        for segment in (self._older, self._newer):
            if segment is not None:
                segment.file.close()


class _Segment:
    """The lines of one kind of outcome, in order, in blocks. For one thread at a time."""

    def __init__(self) -> None:
        self.file = tempfile.SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115 - lives as long as the log
        self.count = 0
        self._end = 0
        self._at_end = True
        # For each block: the number of its first line, and its position.
        self._numbers = array("Q")
        self._places = array("Q")

    def write(self, runs: Sequence[WrittenLines]) -> None:
        """Write lines after the kept ones; the next call overwrites them unless `keep` was called."""
        if not self._at_end:
            self.file.seek(self._end)
        self._at_end = False  # true again once they are kept
        self.file.write(b"".join([run.text for run in runs]))
        self.file.flush()

    def keep(self, runs: Sequence[WrittenLines]) -> None:
        """Keep the lines of the last `write`."""
        for run in runs:
            if not self._numbers or self.count + run.count - self._numbers[-1] > BLOCK_LINES:
                self._numbers.append(self.count)
                self._places.append(self._end)
            self.count += run.count
            self._end += len(run.text)
        self._at_end = True

    def read(self, number: int) -> tuple[int, list[bytes]]:
        """The number of the first line of the block with this line, and the block's lines."""
        block = bisect_right(self._numbers, number) - 1
        first = self._numbers[block]
        after = self._numbers[block + 1] if block + 1 < len(self._numbers) else self.count
        self._at_end = False
        self.file.seek(self._places[block])
        return first, [self.file.readline() for _ in range(after - first)]
