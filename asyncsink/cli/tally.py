"""Counts from a run's events, for a run that ends without a report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, field
from typing import Any

from asyncsink.engine.recording.events import Progress
from asyncsink.model import (
    Event,
    Failure,
    Finished,
    GaveUp,
    Notice,
    Outcome,
    Paused,
    Receipt,
    Resumed,
    Skip,
    Started,
)
from asyncsink.report.closing import Closing
from asyncsink.report.outcomes import Counts, failure_as_dict
from asyncsink.report.sentences import EXPORT, count, early_end, goes_on, inert, size
from asyncsink.value import dataclass

FAILURES_KEPT = 1000
log = logging.getLogger("asyncsink.cli")


@dataclass(slots=True)
class Tally:
    """Counts of recorded outcomes, named as in `Report.as_dict`. Its `observe` is called on the event loop.

    Attributes:
        progress: has the number of objects, once they are counted, and the counts of outcomes.
        on_notice: prints a notice.
        destination: the destination, once it is checked to hold no secret.
        live: whether a display shows that the server is gone.
        held: a list in which notices wait until the result is printed; None where they are printed as they come.
    """

    dry_run: bool
    progress: Progress
    on_notice: Callable[[str], None]
    destination: str = ""
    transport: str = ""
    failures: list[Failure] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    live: bool = False
    held: list[str] | None = None

    @property
    def failures_only(self) -> bool:
        """Whether `observe` needs no outcome but failures: without --verbose, the others are not logged."""
        return not log.isEnabledFor(logging.DEBUG)

    @property
    def counts(self) -> Counts:
        """The counts of recorded outcomes."""
        return self.progress.counts

    def observe(self, event: Event) -> None:
        """Keep failures, pass notices on, and log the events for --verbose."""
        if isinstance(event, Finished):
            if isinstance(event.outcome, Failure) and len(self.failures) < FAILURES_KEPT:
                self.failures.append(event.outcome)
            log.debug("%s", _Told(event.outcome))
        elif isinstance(event, Started):
            self.transport = event.transport
        elif isinstance(event, (Paused, Resumed, GaveUp)):
            if not (self.live and isinstance(event, Paused)):
                self.on_notice(f"{event}.")
        elif isinstance(event, Notice):
            self.notices.append(event.message)
            if self.held is None:
                self.on_notice(event.message)
            else:
                self.held.append(event.message)

    def as_dict(self, *, elapsed_seconds: float, interrupted: bool) -> dict[str, Any]:
        """The keys of `Report.as_dict`. `requests` and `retries` are null: events do not have their number."""
        total = self.progress.objects_total
        return {
            "destination": self.destination,
            "dry_run": self.dry_run,
            "interrupted": interrupted,
            "stop_reason": "",
            "objects_unfinished": max(0, (total or 0) - self.counts.objects_total) if interrupted else 0,
            **self.counts.as_dict(),
            **Closing().as_dict(),
            "objects_total": self.counts.objects_total if total is None else total,
            "elapsed_seconds": elapsed_seconds,
            "requests": None,
            "retries": None,
            "transport": self.transport,
            "resumable": [asdict(left) for left in self.progress.resumable.values()],
            "notices": self.notices,
            "failures": [failure_as_dict(failure) for failure in self.failures],
        }

    def sentence(self, *, interrupted: bool) -> str:
        """One line: what was published before the early end, what was not, and what the same command will do."""
        counts, reason = self.counts, "Interrupted" if interrupted else "Stopped"
        if self.dry_run:
            looked = counts.objects_planned + counts.objects_skipped
            return f"{reason}: looked at {count(looked, 'file')}; nothing was sent."
        if not self.progress.started:
            return f"{reason}: nothing was sent. Run the same command again."
        elsewhere = self.transport == "local" and self.destination.lower().startswith("s3:")
        place = "the directory that stands in for the bucket" if elsewhere else self.destination
        going_on, total = goes_on(self.progress.resumable.values()), self.progress.objects_total
        return early_end(counts, place, EXPORT, total=total, reason=reason, going_on=going_on)


class _Told:
    """An outcome as a line of the log, worded only when the line is written."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def __str__(self) -> str:
        o = self._outcome
        if isinstance(o, Receipt):
            text = f"published {o.source} -> {o.url} ({size(o.size_bytes)}, confirmed by {o.confirmed_by})"
        elif isinstance(o, Failure):
            text = f"failed {o.source} -> {o.url}: {o.error}: {o.message}"
        elif isinstance(o, Skip):
            text = f"not sent {o.source} -> {o.url}: {o.reason}"
        else:
            text = f"would send {o.source} -> {o.url}: {o.reason}"
        return inert(text)
