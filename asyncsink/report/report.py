"""What a run tells in the end: counts, the outcomes themselves, and a few lines for a person."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any, ClassVar

from asyncsink.errors import ExportFailed, GrabFailed
from asyncsink.model import Failure, Planned, Receipt, Resumable, Skip, Unfinished
from asyncsink.report import sentences
from asyncsink.report.closing import Closing
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
from asyncsink.value import dataclass

if TYPE_CHECKING:  # loaded by plans and tables only
    import pandas as pd

    from asyncsink.report.plan import PlanBasis, PlanFigures


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnd:
    """How a run ended, of whatever kind it is; see `RunReport` for the fields."""

    elapsed_seconds: float = 0.0
    transport: str = ""
    requests: int = 0
    retries: int = 0
    retry_causes: Mapping[str, int] = field(default_factory=dict)
    notices: Iterable[str] = ()
    interrupted: bool = False
    stop_reason: str = ""
    resumable: Iterable[Resumable] = ()
    closing: Closing = Closing()


class BaseReport(ABC):
    """The result of a command.

    Attributes:
        notices: what a person should know that is no failure.
    """

    __slots__ = ()
    notices: Sequence[str]

    @property
    @abstractmethod
    def ok(self) -> bool:
        """Whether everything that was asked for is done, and holds."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""

    @abstractmethod
    def summary(self) -> str:
        """A few lines for a person; no line break at the end."""

    def causes(self) -> list[Cause]:
        """What failed, by cause, the commonest one first."""
        return []


class RunReport(BaseReport):
    """The result of an export or a grab. Read-only; holds the outcomes in a temporary file, not in memory.

    Attributes:
        counts: the numbers of outcomes and bytes.
        elapsed_seconds: from the first look to the last confirmation.
        transport: the lane that was used ("wire", "aioboto3", "local", "memory").
        requests: requests sent, retries included. retries: those that repeated another one; retry_causes: their numbers
            by the class of the error before.
        interrupted: the run was stopped before everything was tried.
        stop_reason: why it stopped by itself, or "".
        resumable: large files whose parts stay at the server and in the journal, or whose ranges stay here: the next
            run goes on with them.
    """

    __slots__ = (
        "_log", "counts", "elapsed_seconds", "interrupted", "notices", "requests", "resumable", "retries",
        "retry_causes", "stop_reason", "transport",
    )  # fmt: skip
    _words: ClassVar[sentences.Words]
    _noun: ClassVar[str]

    def __init__(self, log: OutcomeLog, end: RunEnd) -> None:
        """Put a report over a log that gets no more outcomes."""
        self._log = log
        self.counts = log.counts
        self.elapsed_seconds = end.elapsed_seconds
        self.transport = end.transport
        self.requests = end.requests
        self.retries = end.retries
        self.retry_causes = dict(end.retry_causes)
        self.notices = tuple(end.notices)
        self.interrupted = end.interrupted
        self.stop_reason = end.stop_reason
        self.resumable = tuple(end.resumable)

    def __setattr__(self, name: str, value: object) -> None:
        """Set once, by the constructor; a report is a record of what happened."""
        if hasattr(self, name):
            raise AttributeError(f"{name} of a report is read-only")
        super().__setattr__(name, value)

    @property
    @abstractmethod
    def _from(self) -> str:
        """What an error names."""

    @property
    @abstractmethod
    def _into(self) -> str:
        """Where the objects are."""

    @property
    def log(self) -> OutcomeLog:
        """Every outcome."""
        return self._log

    @property
    def words(self) -> sentences.Words:
        """The words of this kind of run."""
        return self._words

    @property
    def target(self) -> str:
        """Where the objects or files are."""
        return self._into

    @property
    def receipts(self) -> OutcomeView[Receipt]:
        """What was transferred, in the order in which it was confirmed."""
        return self._log.receipts

    @property
    def skips(self) -> OutcomeView[Skip]:
        """What was deliberately not transferred."""
        return self._log.skips

    @property
    def failures(self) -> OutcomeView[Failure]:
        """What failed."""
        return self._log.failures

    @property
    def bytes_resumed(self) -> int:
        """Bytes of parts or ranges that earlier runs had transferred, and that this run did not transfer again."""
        return self.counts.bytes_resumed

    @property
    def ok(self) -> bool:
        """Whether everything was transferred, or there already."""
        return not self.failures and not self.interrupted

    def raise_for_failures(self) -> None:
        """Return where everything was transferred or there already.

        Raises:
            ExportFailed, GrabFailed: `failures` is not empty, or the run was `interrupted`; it holds this report.
        """
        rest = f"run it again to {self._words.do} the rest"
        said = [f"interrupted before everything was tried; {rest}"] if self.interrupted else []
        if self.stop_reason:
            said = [f"stopped: {inert(self.stop_reason).rstrip('.')}; {self._unfinished()}{rest}"]
        if self.failures:
            first = failure_line(self.failures[0])
            said.append(f"{' and '.join(self._failed())}; the first: {first} (all of them: .report.failures)")
        if said:
            raise self._failed_with(f"{inert(self._from)}: {'; '.join(said)}")

    @abstractmethod
    def _failed_with(self, message: str) -> ExportFailed | GrabFailed:
        """The error of a run that did not transfer everything."""

    def _unfinished(self) -> str:
        return ""

    def _failed(self) -> list[str]:
        """What was not transferred."""
        total = count(self.counts.objects_total, "object")
        done = self._words.done.partition(" ")[0]
        return [f"{self.counts.objects_failed:,} of {total} not {done}"] if self.counts.objects_failed else []

    def as_dict(self) -> dict[str, Any]:
        """What reports of all runs have. Holds every failure in memory, but no receipt."""
        return {
            "interrupted": self.interrupted,
            "stop_reason": self.stop_reason,
            "elapsed_seconds": self.elapsed_seconds,
            "requests": self.requests,
            "retries": self.retries,
            "transport": self.transport,
            "resumable": [asdict(each) for each in self.resumable],
            "notices": list(self.notices),
            "failures": [failure_as_dict(failure) for failure in self.failures],
        }

    def to_pandas(self) -> pd.DataFrame:
        """A pandas DataFrame with a row for each outcome; `record` is receipt, skip, failure or planned.

        All rows are in memory.

        Raises:
            ConfigError: pandas is not installed.
        """
        from asyncsink.report.page.frames import frame_of

        return frame_of(self.log)

    def _repr_html_(self) -> str:
        """The first block of the page (option `report`), for a notebook."""
        from asyncsink.report.page.content import outcome_of_run  # loads jinja2
        from asyncsink.report.page.rendering import outcome_html

        return outcome_html(outcome_of_run(self), self.target)

    def summary(self) -> str:
        """A few lines for a person who knows nothing of the run; no line break at the end."""
        lines = [self.brief(), *(f"Note: {inert(notice)}" for notice in self.notices)]
        lines += [f"  {line}" for line in cause_lines(self.causes(), noun=self._noun)]
        return "\n".join(lines)

    def brief(self) -> str:
        """The summary without its notes and failures, for those who tell them elsewhere."""
        figures = sentences.figures(
            self.counts,
            self._words,
            elapsed_seconds=self.elapsed_seconds,
            requests=self.requests,
            retries=self.retries,
            retry_causes=self.retry_causes,
        )
        going_on = [goes_on(self.resumable)] if self.resumable and not self.interrupted else []
        return "\n".join([self.headline(), *figures, *going_on])

    def causes(self) -> list[Cause]:
        """The failures by what caused them, the commonest cause first. Reads all of them."""
        return causes_of(self.failures)

    def headline(self) -> str:
        """One sentence: what is where it belongs now, or what is not."""
        if self.interrupted:
            return sentences.early_end(
                self.counts,
                self._into,
                self._words,
                reason=sentences.stopped(self.stop_reason),
                total=self._total(),
                going_on=goes_on(self.resumable),
            )
        return sentences.outcome(self.counts, self._into, self._words, elapsed_seconds=self.elapsed_seconds)

    def _total(self) -> int | None:
        """How many objects an interrupted run had found, or None."""
        return None

    def _shown(self, done: str, planned: str = "") -> str:
        counts, took = self.counts, duration(self.elapsed_seconds)
        ended = f"{counts.objects_uploaded:,} {done}, {counts.objects_skipped:,} skipped"
        failed = f"{counts.objects_failed:,} failed{planned}, {size(counts.bytes_uploaded)} in {took}"
        return f"<{type(self).__name__} {inert(self._from)}: {ended}, {failed}>"


class Report(RunReport):
    """The result of an export. Read-only; holds the outcomes in a temporary file, not in memory.

    Attributes, besides those of a `RunReport`:
        receipts, skips, failures, planned: the outcomes, as sequences that read them back one by one; the failures of
            local copies among them.
        out_file: Nipype's `out_file`: the URL, then the local copy, of every top-level source (rule 34).
        bytes_uploaded: content that was sent and confirmed; retries do not count.
        destination: "s3://bucket/prefix", or a directory.
        closing: the index and the completion marker, where the run has them.
        basis: of a plan: what its figures are computed with; None of an export.
        outcomes_dropped: outcomes that are in the counts, and not in the lists any more: those of a sink with
            `records_max`.
        unfinished: what a sink had accepted, and had not sent when it was stopped: keys, sources, attributes, and
            whether it was queued or in flight.
        objects_unfinished: the number of these, or of the files that a walk found and that have no outcome, because the
            run was stopped.
    """

    __slots__ = ("basis", "closing", "destination", "objects_unfinished", "out_file", "unfinished")
    _words = sentences.EXPORT
    _noun = "file"

    def __init__(
        self,
        log: OutcomeLog,
        destination: str,
        end: RunEnd,
        *,
        out_file: Iterable[str] = (),
        basis: PlanBasis | None = None,
        objects_found: int | None = None,
        unfinished: Iterable[Unfinished] = (),
    ) -> None:
        """Put a report over a log that gets no more outcomes. Arguments: see the class."""
        super().__init__(log, end)
        self.destination = destination
        self.closing = end.closing
        self.out_file = list(out_file)
        self.basis = basis
        self.unfinished: Sequence[Unfinished] = tuple(unfinished)
        left = len(self.unfinished) or max(0, (objects_found or 0) - log.counts.objects_total)
        self.objects_unfinished = left if end.interrupted else 0

    @property
    def _from(self) -> str:
        return self.destination

    @property
    def _into(self) -> str:
        return self.destination

    @property
    def dry_run(self) -> bool:
        """Whether this is a plan: nothing was sent; see `planned`."""
        return self.basis is not None

    def figures(self) -> PlanFigures:
        """The figures of a plan: what is new, changed and largest, by folder and kind, and the requests of the export.
        Reads all of `planned`."""
        from asyncsink.report.plan import PlanBasis, PlanFigures

        return PlanFigures(self.basis or PlanBasis(destination=self.destination), self.planned)

    @property
    def planned(self) -> OutcomeView[Planned]:
        """What a dry run would have sent."""
        return self._log.planned

    @property
    def outcomes_dropped(self) -> int:
        """Number of outcomes that are in the counts, and not in the lists any more."""
        return self._log.dropped

    @property
    def bytes_uploaded(self) -> int:
        """Bytes of content that were sent and confirmed."""
        return self.counts.bytes_uploaded

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

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints. Holds every failure in memory, but no receipt."""
        return {
            "destination": self.destination,
            "dry_run": self.dry_run,
            "objects_unfinished": self.objects_unfinished,
            **self.closing.as_dict(),
            **self.counts.as_dict(),
            **super().as_dict(),
            **({"plan": self.figures().as_dict()} if self.dry_run else {}),
        }

    def brief(self) -> str:
        """The summary without its notes and failures, for those who tell them elsewhere."""
        if self.dry_run:
            from asyncsink.report.plan_lines import Paper, plan_rows

            rows = plan_rows(self.figures(), self.counts, Paper())
            return "\n".join([self.headline(), *rows, *self.closing.lines(dry_run=True)])
        lines = [super().brief(), *self.closing.lines()]
        if dropped := self._log.dropped:
            lines.append(f"The lists have the newest outcomes; {dropped:,} older ones are counted alone (records_max).")
        if self.unfinished:
            in_flight = sum(each.state == "in flight" for each in self.unfinished)
            queued = len(self.unfinished) - in_flight
            lines.append(f"Not sent: {queued:,} queued, {in_flight:,} in flight.")
        return "\n".join(lines)

    def headline(self) -> str:
        """One sentence: what is at the destination now, or what is not."""
        if self.dry_run:
            return sentences.plan_outcome(self.counts, self.destination, interrupted=self.interrupted)
        return super().headline()

    def _failed_with(self, message: str) -> ExportFailed:
        return ExportFailed(message, report=self)

    def _total(self) -> int | None:
        return self.objects_total + self.objects_unfinished if self.objects_unfinished else None

    def _unfinished(self) -> str:
        return f"{count(self.objects_unfinished, 'object')} not sent; " if self.objects_unfinished else ""

    def _failed(self) -> list[str]:
        """What was not published, and what was not copied."""
        copies = self.local_copies_failed
        copied = [f"{copies:,} local {'copy' if copies == 1 else 'copies'} not written"] if copies else []
        left = self.closing.extraneous.failed if self.closing.extraneous is not None else 0
        kept = [f"{count(left, 'extraneous object')} not deleted"] if left else []
        return [*super()._failed(), *copied, *kept]

    def __repr__(self) -> str:
        """The counts, on one line."""
        return self._shown("uploaded", f", {self.objects_planned:,} planned" if self.dry_run else "")


# -- The figures of a sink that goes on --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkStats:
    """The figures of a sink at one moment. Totals are since it was opened, and never fall.

    Attributes:
        queued: files and contents that were accepted, and that no worker has begun with.
        in_flight: those that a worker has begun with, and that have no outcome yet.
        published, skipped, failed: outcomes that are recorded, without failures of local copies.
        bytes_sent: of content; what had to be sent again counts again.
        requests, retries: requests to S3, and how many of them repeated another.
        requests_in_flight: requests that are under way.
        concurrency_limit: most requests in flight at present; 0 where there is no S3.
        memory_bytes: content that is held in memory.
        oldest_seconds: since the oldest of what has no recorded outcome was accepted; 0 where there is none.
    """

    queued: int = 0
    in_flight: int = 0
    published: int = 0
    skipped: int = 0
    failed: int = 0
    bytes_sent: int = 0
    requests: int = 0
    retries: int = 0
    requests_in_flight: int = 0
    concurrency_limit: int = 0
    memory_bytes: int = 0
    oldest_seconds: float = 0.0
