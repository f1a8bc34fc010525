"""What a run tells in the end: counts, the outcomes themselves, and a few lines for a person."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from asyncsink.errors import ExportFailed
from asyncsink.model import Failure, Planned, Receipt, Resumable, Skip
from asyncsink.report import sentences
from asyncsink.report.outcomes import OutcomeLog, OutcomeView, failure_as_dict
from asyncsink.report.sentences import (
    Cause,
    cause_lines,
    causes_of,
    count,
    duration,
    failure_line,
    goes_on,
    inert,
    size,
)


class Report:
    """The result of a run. Read-only; holds the outcomes in a temporary file, not in memory.

    Attributes:
        receipts, skips, failures, planned: the outcomes, as sequences that read them back one by one.
        counts: the numbers of outcomes and bytes; the most used of them are properties here too.
        out_file: Nipype's `out_file`: the URL, then the local copy, of every top-level source (rule 34).
        bytes_uploaded: content that was sent and confirmed; retries do not count.
        elapsed_seconds: from the first look to the last confirmation.
        transport: the lane that was used ("wire", "aioboto3", "local", "memory") and, where that matters, why.
        requests: requests sent, retries included. retries: those that repeated another one.
        notices: what a person should know that is no failure.
        destination: "s3://bucket/prefix", or a directory.
        dry_run: nothing was sent; see `planned`.
        interrupted: the run was stopped before everything was tried.
        stop_reason: why the run stopped by itself before everything was tried, or "".
        objects_unfinished: files that were found and have no outcome, because the run was stopped.
        resumable: large files whose parts stay at the server, and in the journal: the next run goes on with them.
    """

    __slots__ = (
        "_log",
        "counts",
        "destination",
        "dry_run",
        "elapsed_seconds",
        "interrupted",
        "notices",
        "objects_unfinished",
        "out_file",
        "requests",
        "resumable",
        "retries",
        "stop_reason",
        "transport",
    )

    def __init__(
        self,
        log: OutcomeLog,
        *,
        destination: str,
        elapsed_seconds: float,
        transport: str,
        requests: int = 0,
        retries: int = 0,
        out_file: Iterable[str] = (),
        notices: Iterable[str] = (),
        dry_run: bool = False,
        interrupted: bool = False,
        resumable: Iterable[Resumable] = (),
        stop_reason: str = "",
        objects_found: int | None = None,
    ) -> None:
        """Put a report over a log that gets no more outcomes. Arguments: see the class."""
        self._log = log
        self.counts = log.counts
        self.destination = destination
        self.elapsed_seconds = elapsed_seconds
        self.transport = transport
        self.requests = requests
        self.retries = retries
        self.out_file = list(out_file)
        self.notices = tuple(notices)
        self.dry_run = dry_run
        self.interrupted = interrupted
        self.resumable = tuple(resumable)
        self.stop_reason = stop_reason
        self.objects_unfinished = max(0, (objects_found or 0) - log.counts.objects_total) if interrupted else 0

    def __setattr__(self, name: str, value: object) -> None:
        """Set once, by the constructor; a report is a record of what happened."""
        if hasattr(self, name):
            raise AttributeError(f"{name} of a report is read-only")
        super().__setattr__(name, value)

    @property
    def receipts(self) -> OutcomeView[Receipt]:
        """What was published, in the order in which it was confirmed."""
        return self._log.receipts

    @property
    def skips(self) -> OutcomeView[Skip]:
        """What was deliberately not sent."""
        return self._log.skips

    @property
    def failures(self) -> OutcomeView[Failure]:
        """What was not published, and local copies that were not made."""
        return self._log.failures

    @property
    def planned(self) -> OutcomeView[Planned]:
        """What a dry run would have sent."""
        return self._log.planned

    @property
    def bytes_uploaded(self) -> int:
        """Bytes of content that were sent and confirmed."""
        return self.counts.bytes_uploaded

    @property
    def bytes_resumed(self) -> int:
        """Bytes of parts that earlier runs had sent, and that this run did not send again."""
        return self.counts.bytes_resumed

    @property
    def objects_uploaded(self) -> int:
        """Number of receipts."""
        return self.counts.objects_uploaded

    @property
    def objects_skipped(self) -> int:
        """Number of skips."""
        return self.counts.objects_skipped

    @property
    def objects_failed(self) -> int:
        """Number of failures, those of local copies not counted: their objects are published, or counted already."""
        return self.counts.objects_failed

    @property
    def objects_planned(self) -> int:
        """What a dry run would have sent."""
        return self.counts.objects_planned

    @property
    def objects_total(self) -> int:
        """Uploaded + skipped + failed + planned."""
        return self.counts.objects_total

    @property
    def local_copies_failed(self) -> int:
        """Number of failures of the stage "local copy"."""
        return self.counts.local_copies_failed

    def raise_for_failures(self) -> None:
        """Return where everything was published or there already.

        Raises:
            ExportFailed: `failures` is not empty, or the run was `interrupted`; it holds this report.
        """
        said = ["interrupted before everything was tried; run it again to publish the rest"] if self.interrupted else []
        if self.stop_reason:
            rest = f"{count(self.objects_unfinished, 'object')} not sent; " if self.objects_unfinished else ""
            said = [f"stopped: {inert(self.stop_reason).rstrip('.')}; {rest}run it again to publish the rest"]
        if self.failures:
            said.append(
                f"{' and '.join(self._failed(of_all=True))}; the first: "
                f"{failure_line(self.failures[0], with_error=False)} (all of them: .report.failures)"
            )
        if said:
            raise ExportFailed(f"{inert(self.destination)}: {'; '.join(said)}", report=self)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints. Holds every failure in memory, but no receipt."""
        return {
            "destination": self.destination,
            "dry_run": self.dry_run,
            "interrupted": self.interrupted,
            "stop_reason": self.stop_reason,
            "objects_unfinished": self.objects_unfinished,
            **self.counts.as_dict(),
            "elapsed_seconds": self.elapsed_seconds,
            "requests": self.requests,
            "retries": self.retries,
            "transport": self.transport,
            "resumable": [asdict(left) for left in self.resumable],
            "notices": list(self.notices),
            "failures": [failure_as_dict(failure) for failure in self.failures],
        }

    def summary(self) -> str:
        """A few lines for a person who knows nothing of the run; no line break at the end."""
        lines = [self.brief(), *(f"Note: {inert(notice)}" for notice in self.notices)]
        lines += [f"  {line}" for line in cause_lines(self.causes())]
        return "\n".join(lines)

    def brief(self) -> str:
        """The summary without its notes and failures, for those who tell them elsewhere."""
        if self.dry_run:
            return self.headline()
        figures = sentences.figures(
            self.counts,
            sentences.EXPORT,
            elapsed_seconds=self.elapsed_seconds,
            requests=self.requests,
            retries=self.retries,
        )
        going_on = [goes_on(self.resumable)] if self.resumable and not self.interrupted else []
        return "\n".join([self.headline(), *figures, *going_on])

    def causes(self) -> list[Cause]:
        """The failures by what caused them, the commonest cause first. Reads all of them."""
        return causes_of(self.failures)

    def headline(self) -> str:
        """One sentence: what is at the destination now, or what is not."""
        if self.dry_run:
            return sentences.plan(self.counts, self.destination, interrupted=self.interrupted)
        if self.interrupted:
            return sentences.early_end(
                self.counts,
                self.destination,
                sentences.EXPORT,
                reason=sentences.stopped(self.stop_reason),
                total=self.objects_total + self.objects_unfinished if self.objects_unfinished else None,
                going_on=goes_on(self.resumable),
            )
        return sentences.outcome(self.counts, self.destination, sentences.EXPORT, elapsed_seconds=self.elapsed_seconds)

    def _failed(self, *, of_all: bool = False) -> list[str]:
        """What was not published, and what was not copied."""
        failed, copies = self.objects_failed, self.local_copies_failed
        objects = f"{failed:,} of {count(self.objects_total, 'object')}" if of_all else count(failed, "object")
        parts = [f"{objects} not published"] if failed else []
        if copies:
            parts.append(f"{copies:,} local {'copy' if copies == 1 else 'copies'} not written")
        return parts

    def __repr__(self) -> str:
        """The counts, on one line."""
        return (
            f"<Report {inert(self.destination)}: {self.objects_uploaded:,} uploaded, {self.objects_skipped:,} skipped, "
            f"{self.objects_failed:,} failed{f', {self.objects_planned:,} planned' if self.dry_run else ''}, "
            f"{size(self.bytes_uploaded)} in {duration(self.elapsed_seconds)}>"
        )
