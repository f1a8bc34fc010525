"""What a run said of itself while it went on: the report of a run that did not live to write one."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from asyncsink.model import Event, Failure, Finished, LimitChanged, Notice, Outcome, Planned, Receipt, Skip, Started
from asyncsink.report.wording import count, inert, size

FAILURES_KEPT = 1000
log = logging.getLogger("asyncsink.cli")


@dataclass(slots=True)
class Tally:
    """Counts of recorded outcomes, named as in `Report.as_dict`. Its `observe` is called on the event loop."""

    destination: str
    dry_run: bool
    transport: str = ""
    objects_uploaded: int = 0
    objects_skipped: int = 0
    objects_failed: int = 0
    objects_planned: int = 0
    local_copies_failed: int = 0
    bytes_uploaded: int = 0
    failures: list[Failure] = field(default_factory=list)

    def observe(self, event: Event) -> None:
        """Count, and log what --verbose shows."""
        if isinstance(event, Finished):
            self._count(event.outcome)
            log.debug("%s", _Told(event.outcome))
        elif isinstance(event, Started):
            self.transport = event.transport
            log.info("sending by %s", event.transport)
        elif isinstance(event, LimitChanged):
            log.info("concurrency %d -> %d: %s", event.before, event.after, event.reason)
        elif isinstance(event, Notice):
            log.warning("%s", inert(event.message))

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Receipt):
            self.objects_uploaded += 1
            self.bytes_uploaded += outcome.size_bytes
        elif isinstance(outcome, Skip):
            self.objects_skipped += 1
        elif isinstance(outcome, Planned):
            self.objects_planned += 1
        else:
            self.local_copies_failed += outcome.stage == "local copy"
            self.objects_failed += outcome.stage != "local copy"
            if len(self.failures) < FAILURES_KEPT:
                self.failures.append(outcome)

    def as_dict(self, *, elapsed_seconds: float) -> dict[str, Any]:
        """The keys of `Report.as_dict`. `requests` and `retries` are null: nobody told their number."""
        done = self.objects_uploaded + self.objects_skipped + self.objects_failed + self.objects_planned
        return {
            "destination": self.destination,
            "dry_run": self.dry_run,
            "objects_total": done,
            "objects_uploaded": self.objects_uploaded,
            "objects_skipped": self.objects_skipped,
            "objects_failed": self.objects_failed,
            "objects_planned": self.objects_planned,
            "local_copies_failed": self.local_copies_failed,
            "bytes_uploaded": self.bytes_uploaded,
            "elapsed_seconds": elapsed_seconds,
            "requests": None,
            "retries": None,
            "transport": self.transport,
            "failures": [
                {"source": o.source, "key": o.key, "error": o.error, "message": o.message, "stage": o.stage}
                for o in self.failures
            ],
        }

    def sentence(self) -> str:
        """One line: what is published in spite of the early end."""
        if self.dry_run:
            return f"Looked at {count(self.objects_planned + self.objects_skipped, 'object')}; nothing was sent."
        failed = f", {self.objects_failed:,} failed" if self.objects_failed else ""
        return (
            f"Published {count(self.objects_uploaded, 'object')} ({size(self.bytes_uploaded)}) to "
            f"{inert(self.destination)}, {self.objects_skipped:,} not sent{failed}. Run the same command again to "
            "publish the rest."
        )


class _Told:
    """An outcome as a line of the log, worded only where somebody reads it."""

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
