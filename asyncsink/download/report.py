"""The report of a grab."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from asyncsink.errors import GrabFailed
from asyncsink.report import sentences
from asyncsink.report.outcomes import Counts, OutcomeLog
from asyncsink.report.report import RunEnd, RunReport


class GrabReport(RunReport):
    """The result of a grab. Read-only; holds its outcomes in a temporary file, not in memory.

    Attributes, besides those of a `RunReport`:
        source: "s3://bucket/prefix".
        directory: absolute path of the target.
        receipts: received objects: `source` is the object's URL, `url` the file's path.
        skips: objects whose file is there already, and folder markers.
    """

    __slots__ = ("directory", "find_outputs", "source")
    _words = sentences.GRAB
    _noun = "object"

    def __init__(
        self,
        source: str,
        directory: str,
        log: OutcomeLog,
        end: RunEnd,
        *,
        find_outputs: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        """`find_outputs` makes `outputs` on demand; for the other arguments, see the class."""
        super().__init__(log, end)
        self.source = source
        self.directory = directory
        self.find_outputs = find_outputs

    @property
    def _from(self) -> str:
        return self.source

    @property
    def _into(self) -> str:
        return self.directory

    def _failed_with(self, message: str) -> GrabFailed:
        return GrabFailed(message, report=self)

    @property
    def outputs(self) -> Mapping[str, Any]:
        """{field: path | [paths] | nested list | None} in S3DataGrabber's shapes; None stands for an object that was
        not found or not grabbed. {} without templates: `receipts` and `skips` name the files then.

        Made anew at each access, with every path in memory.
        """
        return self.find_outputs()

    @property
    def objects_fetched(self) -> int:
        """Number of receipts."""
        return self.counts.objects_uploaded

    @property
    def bytes_fetched(self) -> int:
        """Bytes of content that were received and proven."""
        return self.counts.bytes_uploaded

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""
        return {
            "source": self.source,
            "directory": self.directory,
            **counts_as_dict(self.counts),
            "outputs": dict(self.outputs),
            **super().as_dict(),
        }

    def __repr__(self) -> str:
        """The counts, on one line."""
        return self._shown("fetched")


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
