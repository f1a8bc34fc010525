"""What a grab tells in the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from asyncsink.errors import GrabFailed
from asyncsink.model import Failure, Receipt, Resumable, Skip
from asyncsink.report.counts import Counts, failure_as_dict
from asyncsink.report.outcomes import OutcomeLog, OutcomeView
from asyncsink.report.wording import count, duration, failure_line, goes_on, inert, size

FAILURES_SHOWN = 5
_PROOFS = {
    "server-checksum": "the server's checksum",
    "etag": "the ETag's MD5",
    "size": "the size only",
}


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

    def brief(self) -> str:
        """A few lines for a person, without single failures; no line break at the end."""
        counts = self.log.counts
        took = max(self.elapsed_seconds, 1e-9)
        rate = f"{size(self.bytes_fetched / took)}/s, {self.objects_fetched / took:,.1f} objects/s"
        grabbed = f"{count(self.objects_fetched, 'object')} ({size(self.bytes_fetched)})"
        lines = [f"Grabbed {grabbed} from {inert(self.source)} in {duration(self.elapsed_seconds)}: {rate}."]
        if counts.bytes_resumed:
            lines.append(f"Received by earlier runs, and not again: {size(counts.bytes_resumed)}.")
        if self.resumable:
            lines.append(goes_on(self.resumable))
        if counts.already_there:
            lines.append(f"Here already: {count(counts.already_there, 'object')} ({size(counts.bytes_skipped)}).")
        if counts.not_published_total:
            lines.append(f"Left out: {count(counts.not_published_total, 'folder marker')}.")
        if counts.confirmed_by:
            proofs = ", ".join(f"{_PROOFS[by]}: {number:,}" for by, number in counts.confirmed_by.most_common())
            lines.append(f"Confirmed by {proofs}.")
        if self.interrupted:
            lines.append("Interrupted: not everything was tried. Run the same grab again to have the rest.")
        if self.failures:
            lines.append(f"Failed: {count(len(self.failures), 'object')} not grabbed.")
        return "\n".join(lines)

    def summary(self) -> str:
        """As `brief`, with notices and the first failures."""
        lines = [self.brief(), *(f"Note: {inert(notice)}" for notice in self.notices)]
        lines += [f"  {failure_line(failure)}" for failure in islice(self.failures, FAILURES_SHOWN)]
        if len(self.failures) > FAILURES_SHOWN:
            lines.append(f"  … and {len(self.failures) - FAILURES_SHOWN:,} more.")
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
