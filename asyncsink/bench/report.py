"""What a benchmark found: as a table, as JSON, and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import field
from typing import Any

from asyncsink.bench.order import Order
from asyncsink.bench.step import OfVerb, StepResult
from asyncsink.report.sentences import count, inert, size
from asyncsink.value import dataclass


@dataclass(slots=True)
class BenchReport:
    """A benchmark.

    Attributes:
        order: what was to be measured.
        prefix: where its objects are, "s3://…".
        steps: what came of them.
        objects_written, bytes_written: in all.
        objects_left: that are still there.
        notices: sentences for people.
    """

    order: Order
    prefix: str = ""
    steps: list[StepResult] = field(default_factory=list)
    objects_written: int = 0
    bytes_written: int = 0
    objects_left: int = 0
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether every step was carried out, without an error, and nothing is left that was to be deleted."""
        whole = len(self.steps) == len(self.order.ramp) and not any(step.errors for step in self.steps)
        return whole and not (self.order.cleanup and self.objects_left)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; times in seconds."""
        order = self.order
        return {
            "destination": self.prefix,
            "mix": dict(order.mix),
            "sizes": order.bodies.sizes,
            "seed": order.bodies.seed,
            "seconds": order.seconds,
            "rate": order.rate,
            "ok": self.ok,
            "steps": [step.as_dict() for step in self.steps],
            "objects_written": self.objects_written,
            "bytes_written": self.bytes_written,
            "objects_left": self.objects_left,
            "notices": self.notices,
        }

    def summary(self) -> str:
        """Lines for people, after the table."""
        left = self.objects_left
        if left and self.order.cleanup:
            told = f"{count(left, 'object')} could not be deleted below {inert(self.prefix)}"
        elif left:
            told = f"{count(left, 'object')} ({size(self.bytes_written)}) are below {inert(self.prefix)}; "
            told += "--cleanup deletes them at the end"
        else:
            told = f"{count(self.objects_written, 'object')} written, and deleted"
        loop = "open loop, times from when an operation was due" if self.order.rate else "closed loop"
        return f"Times in milliseconds, retries included ({loop}). {told}."


HEADINGS = ("at once", "operation", "per second", "MiB/s", "p50", "p90", "p99", "p99.9", "most", "errors", "slow down")
_WIDTHS = (7, 9, 10, 8, 9, 9, 9, 9, 9, 6, 9)
"""Wide enough for whatever comes, so that each step can be printed when it has ended."""


def table_rows(step: StepResult) -> Iterator[tuple[str, ...]]:
    """One row for each kind of operation, by `HEADINGS`. Pure."""
    for number, (kind, each) in enumerate(step.kinds.items()):
        yield (
            f"{step.workers:,}" if not number else "",
            kind,
            f"{len(each.seconds) / step.elapsed_seconds:,.0f}" if step.elapsed_seconds else "0",
            f"{each.bytes / (1 << 20) / step.elapsed_seconds:,.1f}" if step.elapsed_seconds else "0",
            *_times(each),
            f"{each.errors.total():,}",
            f"{step.slow_downs:,}" if not number else "",
        )


def _times(each: OfVerb) -> Iterator[str]:
    for percent in (50.0, 90.0, 99.0, 99.9, 100.0):
        found = each.seconds.percentile(percent)
        yield "-" if found is None else f"{found * 1e3:,.2f}"


def as_lines(rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Columns beside each other; words to the left, numbers to the right. Pure."""
    return [
        "  ".join(
            cell.ljust(width) if column == 1 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, _WIDTHS, strict=True))
        ).rstrip()
        for row in rows
    ]
