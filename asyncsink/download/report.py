"""What a grab tells in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from asyncsink.errors import GrabFailed
from asyncsink.model import Failure, Receipt, Resumable, Skip
from asyncsink.report import sentences
from asyncsink.report.outcomes import Counts, OutcomeLog, OutcomeView, failure_as_dict
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


@dataclass(slots=True, repr=False)
class GrabReport:
    """The result of a grab. Holds its outcomes in a temporary file, not in memory.

    Attributes:
        source: "s3://bucket/prefix".
        directory: absolute path of the target.
        find_outputs: makes `outputs`.
        elapsed_seconds: from the first request to the last file.
        transport: the lane that was used.
        requests: requests sent, retries included. retries: those that repeated another one.
        notices: what a person should know that is no failure.
        interrupted: the grab was stopped before everything was tried.
        stop_reason: why it stopped by itself, or "".
        resumable: large files whose ranges stay here: the next run goes on with them.
    """

    source: str
    directory: str
    log: OutcomeLog
    find_outputs: Callable[[], Mapping[str, Any]] = dict
    elapsed_seconds: float = 0.0
    transport: str = ""
    requests: int = 0
    retries: int = 0
    notices: tuple[str, ...] = ()
    interrupted: bool = False
    stop_reason: str = ""
    resumable: tuple[Resumable, ...] = ()

    @property
    def outputs(self) -> Mapping[str, Any]:
        """{field: path | [paths] | nested list | None} in S3DataGrabber's shapes; None stands for what was not found or
        not grabbed. {} where no template was given: `receipts` and `skips` name the files then.

        Made anew each time, with every path in memory.
        """
        return self.find_outputs()

    @property
    def receipts(self) -> OutcomeView[Receipt]:
        """What was received: `source` is the object's URL, `url` the file's path."""
        return self.log.receipts

    @property
    def skips(self) -> OutcomeView[Skip]:
        """What was here already, and folder markers."""
        return self.log.skips

    @property
    def failures(self) -> OutcomeView[Failure]:
        """What was not grabbed."""
        return self.log.failures

    @property
    def objects_fetched(self) -> int:
        """Number of receipts."""
        return self.log.counts.objects_uploaded

    @property
    def bytes_fetched(self) -> int:
        """Bytes of content that were received and proven."""
        return self.log.counts.bytes_uploaded

    @property
    def bytes_resumed(self) -> int:
        """Bytes of ranges that earlier runs had received, and that this run did not receive again."""
        return self.log.counts.bytes_resumed

    def raise_for_failures(self) -> None:
        """Return where everything was grabbed or here already.

        Raises:
            GrabFailed: `failures` is not empty, or the grab was `interrupted`; it holds this report.
        """
        said = ["interrupted before everything was tried; run it again to grab the rest"] if self.interrupted else []
        if self.stop_reason:
            said = [f"stopped: {inert(self.stop_reason).rstrip('.')}; run it again to grab the rest"]
        if self.failures:
            said.append(
                f"{len(self.failures):,} of {count(self.log.counts.objects_total, 'object')} not grabbed; the first: "
                f"{failure_line(self.failures[0], with_error=False)} (all of them: .report.failures)"
            )
        if said:
            raise GrabFailed(f"{inert(self.source)}: {'; '.join(said)}", report=self)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""
        return {
            "source": self.source,
            "directory": self.directory,
            "interrupted": self.interrupted,
            "stop_reason": self.stop_reason,
            **counts_as_dict(self.log.counts),
            "elapsed_seconds": self.elapsed_seconds,
            "requests": self.requests,
            "retries": self.retries,
            "transport": self.transport,
            "outputs": dict(self.outputs),
            "resumable": [asdict(each) for each in self.resumable],
            "notices": list(self.notices),
            "failures": [failure_as_dict(failure) for failure in self.failures],
        }

    def headline(self) -> str:
        """One sentence: what is in the directory now, or what is not."""
        counts = self.log.counts
        if self.interrupted:
            return sentences.early_end(
                counts,
                self.directory,
                sentences.GRAB,
                reason=sentences.stopped(self.stop_reason),
                total=None,
                going_on=goes_on(self.resumable),
            )
        return sentences.outcome(counts, self.directory, sentences.GRAB, elapsed_seconds=self.elapsed_seconds)

    def brief(self) -> str:
        """A few lines for a person, without notes and failures; no line break at the end."""
        figures = sentences.figures(
            self.log.counts,
            sentences.GRAB,
            elapsed_seconds=self.elapsed_seconds,
            requests=self.requests,
            retries=self.retries,
        )
        going_on = [goes_on(self.resumable)] if self.resumable and not self.interrupted else []
        return "\n".join([self.headline(), *figures, *going_on])

    def causes(self) -> list[Cause]:
        """The failures by what caused them, the commonest cause first. Reads all of them."""
        return causes_of(self.failures)

    def summary(self) -> str:
        """As `brief`, with notices, and the failures by cause."""
        lines = [self.brief(), *(f"Note: {inert(notice)}" for notice in self.notices)]
        lines += [f"  {line}" for line in cause_lines(self.causes(), noun="object")]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return (
            f"<GrabReport {inert(self.source)}: {self.objects_fetched:,} fetched, {len(self.skips):,} skipped, "
            f"{len(self.failures):,} failed, {size(self.bytes_fetched)} in {duration(self.elapsed_seconds)}>"
        )


def counts_as_dict(counts: Counts) -> dict[str, Any]:
    """The counts of a grab, under the names that `--json` prints."""
    return {
        "objects_total": counts.objects_total,
        "objects_fetched": counts.objects_uploaded,
        "objects_skipped": counts.objects_skipped,
        "objects_failed": counts.objects_failed,
        "bytes_fetched": counts.bytes_uploaded,
        "bytes_skipped": counts.bytes_skipped,
        "bytes_resumed": counts.bytes_resumed,
        "confirmed_by": dict(counts.confirmed_by),
        "skip_reasons": dict(counts.skip_reasons),
    }
