"""Abandoned multipart uploads: found by their age, shown, and aborted.

The prefix of the destination counts as a folder: "s3://bucket/a" is "a/…", where an export to the same destination
writes, never "ab/…". Without a prefix, the whole bucket is searched.

Source: S3 API Reference, ListMultipartUploads and AbortMultipartUpload.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from dataclasses import field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Unpack

import anyio
import anyio.lowlevel

from asyncsink.errors import ConfigError
from asyncsink.event_loops import surface
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import S3Target
from asyncsink.options.typed import ConnectionOptions, StrPath
from asyncsink.options.values import parse_duration
from asyncsink.os_errors import words_shortages
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import count, inert
from asyncsink.s3.listing import upload_pages
from asyncsink.s3.multipart.resume import Ended, abort_upload
from asyncsink.s3.operations import ListedUpload, UploadPage
from asyncsink.s3.stack import open_stack
from asyncsink.s3.transport import Transport
from asyncsink.value import dataclass

ABORTS_AT_ONCE = 16
AbortOutcome = Literal["open", "undated"] | Ended
CLOCKS_APART_SECONDS_MAX = 15 * 60
"""S3 refuses requests that are signed this far from its own clock (S3 API, RequestTimeTooSkewed): clocks that differ by
more are not both right."""
_UNSAYABLE = "\ufffd"
"""Servers write it into a listing for characters that XML 1.0 does not have: the upload's real key is another."""
_OTHERWISE = (
    "its key holds characters that the server cannot list, so that it is not found under this one; abort it by the key "
    "it was begun with, or with a lifecycle rule for incomplete uploads"
)
_UNDATED = "the server does not say when it was begun, so that it was left alone; abort it by its key and upload id"
_FUTURE = "it would have begun in the future, so that it was left alone; abort it by its key and upload id"
UPLOADS_KEPT = 10_000
"""Most uploads that the report names; all are counted, and `observe` gets all."""


@dataclass(frozen=True, slots=True)
class AbandonedUpload:
    """An upload that is old enough, or whose age is not known.

    Attributes:
        key, upload_id: S3's.
        initiated: when it began, by the server's clock; None where the listing has no time.
        age_seconds: by the clock, the server's or this machine's, that makes it younger.
        outcome: "open" in a dry run; "aborted"; "gone" where it had ended by itself; "failed" where it may still be
            open; "undated" where its age is not known, so that it was left alone.
        problem: why it failed or was left alone, or "".
    """

    key: str
    upload_id: str
    initiated: datetime | None
    age_seconds: float
    outcome: AbortOutcome
    problem: str = ""


@dataclass(slots=True)
class AbortReport(BaseReport):
    """The result of `abort_uploads`.

    Attributes:
        destination: the bucket and prefix that were searched.
        older_than_seconds: the age from which uploads were aborted.
        dry_run: whether nothing was aborted.
        total: open uploads that were found, of any age.
        old, aborted, gone, failed: how many were old enough, and how many had each outcome.
        undated: how many have no known age; they were left alone.
        uploads: the old and the undated ones, the first ten thousand of them.
        notices: sentences for people about what is no failure.
    """

    destination: str
    older_than_seconds: float
    dry_run: bool = False
    total: int = 0
    old: int = 0
    aborted: int = 0
    gone: int = 0
    failed: int = 0
    undated: int = 0
    uploads: list[AbandonedUpload] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no upload that was to be aborted may still be open."""
        return not self.failed and not self.undated

    def add(self, upload: AbandonedUpload) -> None:
        """Count an upload that is old or undated."""
        self.old += upload.outcome != "undated"
        self.undated += upload.outcome == "undated"
        self.aborted += upload.outcome == "aborted"
        self.gone += upload.outcome == "gone"
        self.failed += upload.outcome == "failed"
        if len(self.uploads) < UPLOADS_KEPT:
            self.uploads.append(upload)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-ready values: what `--json` prints."""
        return {
            "destination": self.destination,
            "ok": self.ok,
            "older_than_seconds": self.older_than_seconds,
            "dry_run": self.dry_run,
            "uploads_total": self.total,
            "uploads_old": self.old,
            "uploads_aborted": self.aborted,
            "uploads_gone": self.gone,
            "uploads_failed": self.failed,
            "uploads_undated": self.undated,
            "notices": list(self.notices),
            "uploads": [
                {
                    "key": upload.key,
                    "upload_id": upload.upload_id,
                    "initiated": upload.initiated.isoformat() if upload.initiated else None,
                    "age_seconds": upload.age_seconds,
                    "outcome": upload.outcome,
                    "message": upload.problem,
                }
                for upload in self.uploads
            ],
        }

    def summary(self) -> str:
        """One line for people."""
        where, young = inert(self.destination), self.total - self.old - self.undated
        if not self.total:
            return f"No upload is open below {where}: there is nothing to abort."
        if self.dry_run:
            done = f"{self.old:,} of {count(self.total, 'open upload')} below {where} would be aborted; none was"
        elif self.failed:
            total = count(self.total, "upload")
            done = f"{self.failed:,} of {total} below {where} may still be open; {self.aborted:,} aborted"
        elif self.old:
            done = f"Aborted {self.aborted:,} of {count(self.total, 'open upload')} below {where}"
        else:
            done = f"Nothing was aborted below {where}: no upload there is old enough"
        parts = [done]
        if self.gone:
            parts.append(f"{self.gone:,} had ended before")
        if self.undated:
            parts.append(
                f"{self.undated:,} left alone, since {'its' if self.undated == 1 else 'their'} age is not known"
            )
        if young and self.old:
            parts.append(f"{young:,} not old enough")
        return f"{', '.join(parts)}."


@words_shortages
async def abort_uploads(
    destination: StrPath,
    *,
    older_than: str | float | timedelta,
    dry_run: bool = False,
    observe: Callable[[AbandonedUpload], None] | None = None,
    **options: Unpack[ConnectionOptions],
) -> AbortReport:
    """Abort the multipart uploads below `destination` that began long ago: their parts are invisible, and cost money.

    Uploads that are in progress must be younger than `older_than`. Of the ages by the server's clock and by this
    machine's, the lower one counts, so that one wrong clock makes no upload old. An upload without a time is left
    alone.

    Args:
        destination: "s3://bucket/prefix"; what lies below the prefix as a folder counts.
        older_than: "90s", "24h", "7d", seconds, or a timedelta.
        dry_run: find the uploads, abort none.
        observe: called with each old upload after its outcome is known, on the event loop; it must return quickly.
        options: how to reach the bucket; see `ExportOptions`.

    Raises:
        ConfigError: the destination, the age or an option is wrong; nothing was sent.
        TransferError: the uploads cannot be listed; `observe` has got those that were aborted before.

    An upload that cannot be aborted raises no error: it is "failed" in the report. Cancelled, it ends the aborts that
    are under way (bounded by `RetryPolicy.abort_seconds`) and begins no more.
    """
    seconds = parse_duration(older_than, "older_than")
    settings = parse_options(destination, options)
    target = settings.target
    if not isinstance(target, S3Target):
        raise ConfigError(f"{target.url!r} is a directory and has no multipart uploads; expected s3://bucket/prefix.")
    report = AbortReport(target.url, seconds, dry_run)

    def end(upload: AbandonedUpload) -> None:
        report.add(upload)
        if observe is not None:
            observe(upload)

    async with open_stack(
        target,
        settings.retry,
        settings.limits,
        caller_bucket=settings.caller_bucket,
        notice=report.notices.append,
    ) as stack:
        prefix = f"{target.prefix}/" if target.prefix else ""
        try:
            async with aclosing(upload_pages(stack.transport, prefix)) as pages:
                # A wrong endpoint is reported within seconds; later pages are worth all attempts.
                with stack.transport.fewer_attempts():
                    page: UploadPage | None = await anext(pages, None)
                while page is not None:
                    if page.unnamed:
                        report.notices.append(
                            f"The server's list has {count(page.unnamed, 'upload')} without a key or an id; those are "
                            "left alone."
                        )
                    # Some servers ignore the prefix.
                    page.uploads = tuple(upload for upload in page.uploads if upload.key.startswith(prefix))
                    await _end_page(page, stack.transport, report, end, abort_seconds=settings.retry.abort_seconds)
                    page = await anext(pages, None)
        except BaseExceptionGroup as group:
            raise surface(group) from None
    return report


def age_seconds(initiated: datetime | None, answered: datetime | None, here: datetime) -> float | None:
    """The least age of an upload in seconds, or None where it is unknown. Pure.

    Args:
        initiated: when it began, by the server's clock, or None.
        answered: the server's clock, or None.
        here: this machine's.
    """
    if initiated is None:
        return None
    ages = [(now - initiated).total_seconds() for now in (answered, here) if now is not None]
    # Clocks differ a little, and a Date header has whole seconds: an upload that began just now may seem to be from the
    # future, and its age is 0.
    return max(0.0, min(ages)) if max(ages) >= -CLOCKS_APART_SECONDS_MAX else None


def _compare_clocks(answered: datetime | None, here: datetime, report: AbortReport) -> None:
    if answered is None or any(each.startswith("The server's clock") for each in report.notices):
        return
    if abs((answered - here).total_seconds()) > CLOCKS_APART_SECONDS_MAX:
        report.notices.append(
            f"The server's clock ({answered:%Y-%m-%d %H:%M} UTC) and this machine's ({here:%Y-%m-%d %H:%M} UTC) "
            "disagree: what is not old enough by both is left alone; set the clock that is wrong, and run this again."
        )


async def _end_page(
    page: UploadPage,
    transport: Transport,
    report: AbortReport,
    end: Callable[[AbandonedUpload], None],
    *,
    abort_seconds: float,
) -> None:
    """Abort the old uploads of one page of the listing, several at once."""
    here = datetime.now(UTC)
    _compare_clocks(page.answered, here, report)
    old: list[tuple[ListedUpload, float]] = []
    report.total += len(page.uploads)

    def ended(upload: ListedUpload, age: float, outcome: AbortOutcome, why: str = "") -> None:
        end(AbandonedUpload(upload.key, upload.upload_id, upload.initiated, age, outcome, why))

    for upload in page.uploads:
        age = age_seconds(upload.initiated, page.answered, here)
        if age is None:
            ended(upload, 0.0, "undated", _UNDATED if upload.initiated is None else _FUTURE)
        elif age >= report.older_than_seconds:
            old.append((upload, age))
    waiting = iter(old)

    async def work() -> None:
        for upload, age in waiting:
            if report.dry_run:
                ended(upload, age, "open")
                continue
            outcome, problem = await abort_upload(transport, upload.key, upload.upload_id, seconds=abort_seconds)
            if outcome == "gone" and _UNSAYABLE in upload.key:
                outcome, problem = "failed", _OTHERWISE
            ended(upload, age, outcome, problem)
            # The abort itself is shielded, so a cancellation takes effect here.
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        for _ in range(ABORTS_AT_ONCE):
            group.start_soon(work)
