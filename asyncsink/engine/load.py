"""What one of a run's processes has before it: work goes to whoever has least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from asyncsink.engine.pipeline import Batch, Work
from asyncsink.model import Transfer

FILES_MAX = 2_000
"""Transfers that a process is given before it has told what became of them."""
BYTES_MAX = 1 << 30
"""It is given nothing more while it has so many bytes before it: large files then go to whoever is free."""
FILE_COST_BYTES = 256 * 1024
"""What a file weighs besides its content where work is shared out."""


class Load:
    """Counts what is given and what has ended.

    Attributes:
        files: transfers under way.
        weight_bytes: their sizes, and FILE_COST_BYTES for each.
    """

    def __init__(self) -> None:
        self.files = 0
        self.weight_bytes = 0
        self._alone: Counter[tuple[str, str]] = Counter()

    @property
    def has_room(self) -> bool:
        """Whether more may be given."""
        return self.weight_bytes < BYTES_MAX and self.files < FILES_MAX

    def holds(self, transfer: Transfer) -> bool:
        """Whether the same file under the same key is under way, and in no batch."""
        return _named(transfer) in self._alone

    def add(self, work: Work | Batch, transfers: Sequence[Transfer]) -> None:
        """`work`, which consists of `transfers`, is given."""
        self.files += len(transfers)
        self.weight_bytes += _weight(transfers)
        if isinstance(work, Work):
            self._alone.update(map(_named, transfers))

    def remove(self, transfers: Sequence[Transfer]) -> None:
        """They have ended."""
        self.files -= len(transfers)
        self.weight_bytes -= _weight(transfers)
        if self._alone:
            for named in map(_named, transfers):
                if self._alone[named] > 1:
                    self._alone[named] -= 1
                else:
                    del self._alone[named]  # a Counter allows this of what it does not have


def _named(transfer: Transfer) -> tuple[str, str]:
    return transfer.key, transfer.source.path


def _weight(transfers: Sequence[Transfer]) -> int:
    return sum([transfer.source.size_bytes for transfer in transfers]) + FILE_COST_BYTES * len(transfers)
