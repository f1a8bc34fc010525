"""A source compared with a bucket, without a receipt: what an export would find, and what the bucket has besides.

The comparison is that of a dry run: by a checksum that the server has, else by an ETag that is an MD5, of the object or
of its parts, else by size alone. Nothing is sent, and no journal is asked: it has what was published, not what is
there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any

import anyio
import anyio.to_thread

from asyncsink.engine.export import run_source
from asyncsink.engine.planning.walk import discovery_of
from asyncsink.engine.recording.events import Progress
from asyncsink.errors import AccessDenied, ConfigError
from asyncsink.event_loops import surface
from asyncsink.integrity.sameness import NOT_THERE, NOTHING_TO_COMPARE, SIZE_IS_EQUAL
from asyncsink.maintenance.check_report import SIZE_ALONE, CheckReport, Compared, ComparedFiles, Marker
from asyncsink.model import Event, Started
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import S3Target, Settings
from asyncsink.report.report import Report
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import ObjectPage
from asyncsink.s3.stack import open_stack
from asyncsink.sources.base import Source


def check_settings(destination: str, options: Mapping[str, Any], *, size_only: bool) -> Settings:
    """The settings of a check.

    Args:
        destination: "s3://bucket/prefix".
        options: how files get their keys, and how to reach the bucket, as in `ExportOptions`.
        size_only: compare nothing but sizes.

    Raises:
        ConfigError: an option is wrong, or the destination is no bucket.
    """
    how = {"overwrite": "size" if size_only else "checksum", "journal": False}
    settings = parse_options(destination, {**options, **how})
    if not isinstance(settings.target, S3Target):
        raise ConfigError(
            f"{destination!r} is a directory, and a check compares with a bucket; expected s3://bucket/prefix. For two "
            "directories, use diff -r."
        )
    return settings


async def check_source(
    settings: Settings,
    source: Source,
    name: str,
    *,
    one_way: bool = False,
    observe: Callable[[Event], None] | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Compare everything that `source` has with the objects below the destination.

    Args:
        settings: of `check_settings`.
        source: what is compared.
        name: the source as people call it.
        one_way: do not look for objects that only the destination has.
        observe: called with events that are no outcomes, on the event loop.
        progress: for a display to poll: files that are compared count as done.

    Raises:
        ConfigError, SourceError: as in an export.
        TransferError: the bucket cannot be used.

    Cancelled, it stops; nothing is written anywhere.
    """
    target = settings.target
    assert isinstance(target, S3Target)  # see `check_settings`
    prefix = f"{target.prefix}/" if target.prefix else ""
    files = ComparedFiles()
    report = CheckReport(name, target.url, files, one_way=one_way)
    begun = anyio.Event()

    def watch(event: Event) -> None:
        if isinstance(event, Started):
            begun.set()  # the source was looked at, and nothing forbids the run
        if observe is not None:
            observe(event)

    async def list_destination() -> None:
        await begun.wait()
        discovery = discovery_of(settings, target, source)
        below = discovery.known_prefix
        # What the options leave out of a directory is no difference there either, where its names are those of keys.
        selection = getattr(source, "selection", None) if discovery.router.plain else None
        stack = open_stack(target, settings.retry, settings.limits, caller_bucket=settings.caller_bucket)
        try:
            async with stack as opened, aclosing(object_pages(opened.transport, below)) as pages:
                async for page in pages:
                    found = _listed(page, below)
                    if selection is not None:
                        found = [each for each in found if not selection.leaves_out(each[0].removeprefix(below))]
                    named = [(key.removeprefix(prefix), size_bytes) for key, size_bytes in found]
                    await anyio.to_thread.run_sync(files.add_listed, named)
        except AccessDenied:
            report.incomplete = (
                f"{target.url} may not be listed with these credentials, so that what only it has is not known "
                "(one_way=True does not look for it)."
            )

    try:
        async with anyio.create_task_group() as tasks:
            if not one_way:
                tasks.start_soon(list_destination)
            run = await run_source(settings, source, dry_run=True, observe=watch, failures_only=True, progress=progress)
            if run.interrupted:
                tasks.cancel_scope.cancel()
                report.incomplete = f"Stopped: {run.stop_reason.rstrip('.')}. Not everything was compared."
        await anyio.to_thread.run_sync(files.add, _compared(run, prefix))
    except BaseExceptionGroup as group:
        files.close()
        raise surface(group) from None
    except BaseException:
        files.close()
        raise
    report.elapsed_seconds, report.notices = run.elapsed_seconds, list(run.notices)
    report.left_out = run.counts.not_published_total
    return report


def _listed(page: ObjectPage, below: str) -> list[tuple[str, int]]:
    """Keys and sizes of a page, without what only stands for a folder, and what was not asked for: some servers ignore
    the prefix."""
    found = [(each.key, each.size_bytes) for each in page.objects]
    found += [(key, 0) for key in page.vague]
    return [
        (key, size_bytes)
        for key, size_bytes in found
        if key.startswith(below) and (size_bytes or not key.endswith(("/", "_$folder$")))
    ]


def _compared(run: Report, prefix: str) -> Iterator[Compared]:
    """What a dry run has found of each file. Blocking."""
    for skip in run.skips:
        if skip.already_there:
            reason = SIZE_ALONE if skip.reason == SIZE_IS_EQUAL else ""
            yield Compared("=", skip.key.removeprefix(prefix), skip.source, reason, skip.size_bytes)
    for planned in run.planned:
        marker: Marker = "*"
        reason = planned.reason
        if reason == NOT_THERE:
            marker, reason = "+", ""
        elif reason == NOTHING_TO_COMPARE:  # of the same size, and the server has neither checksum nor MD5
            marker, reason = "=", SIZE_ALONE
        yield Compared(marker, planned.key.removeprefix(prefix), planned.source, reason, planned.size_bytes)
    for failure in run.failures:
        yield Compared("!", failure.key.removeprefix(prefix) or failure.source, failure.source, failure.message, 0)
