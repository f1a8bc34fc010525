"""Outcomes as the run's log and the manifest keep them: their lines, ready to be appended, and what they amount to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import groupby

from asyncsink.model import ConfirmedBy, Outcome, Receipt
from asyncsink.report.counts import Counts
from asyncsink.report.records import decode, encode
from asyncsink.value import dataclass

RUN_LINES_MAX = 256
"""A run of lines is no longer."""


@dataclass(frozen=True, slots=True)
class LineRun:
    """Outcomes of one kind that follow each other.

    Attributes:
        kind: their class.
        count: how many they are, 1 to RUN_LINES_MAX.
        text: their lines in ASCII, each with its newline.
    """

    kind: type[Outcome]
    count: int
    text: bytes


@dataclass(slots=True)
class Encoded:
    """Some outcomes, in order.

    Attributes:
        runs: all their lines.
        counts: what they amount to.
    """

    runs: list[LineRun] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    def __len__(self) -> int:
        """How many outcomes."""
        return sum([run.count for run in self.runs])

    def add(self, other: Encoded) -> None:
        """Append all of another one."""
        self.runs += other.runs
        self.counts.merge(other.counts)

    @property
    def text(self) -> bytes:
        """The lines."""
        return b"".join([run.text for run in self.runs])

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes again, read back from their lines."""
        for run in self.runs:
            yield from map(decode, run.text.splitlines())


def encoded_receipts(lines: Sequence[str], bytes_uploaded: int, confirmed_by: ConfirmedBy) -> Encoded:
    """Receipts without local copies, from their lines (`records.receipt_line`), all confirmed alike. Pure."""
    batch = Encoded()
    batch.counts.objects_uploaded = len(lines)
    batch.counts.bytes_uploaded = bytes_uploaded
    batch.counts.confirmed_by[confirmed_by] = len(lines)
    _add_lines(batch, Receipt, lines)
    return batch


def encoded(outcomes: Sequence[Outcome]) -> Encoded:
    """The lines and counts of some outcomes. Pure."""
    batch = Encoded()
    for outcome in outcomes:
        batch.counts.add(outcome)
    for kind, group in groupby(outcomes, type):
        _add_lines(batch, kind, [encode(outcome) for outcome in group])
    return batch


def _add_lines(batch: Encoded, kind: type[Outcome], lines: Sequence[str]) -> None:
    for start in range(0, len(lines), RUN_LINES_MAX):
        some = lines[start : start + RUN_LINES_MAX]
        batch.runs.append(LineRun(kind, len(some), "\n".join([*some, ""]).encode("ascii")))
