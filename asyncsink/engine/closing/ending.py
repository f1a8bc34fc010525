"""An export whose destinations are ready, from its first transfer to its report: what is published when all of its
files were tried, and its page."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

from asyncsink.engine.open_run import Run
from asyncsink.engine.pipeline import Feed
from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.queue_entries import Entry
from asyncsink.engine.run_page import RunPage
from asyncsink.engine.run_report import NOT_CLOSED, report_of
from asyncsink.report.report import Report


async def publish_all(run: Run, discovery: Discovery, feed: Feed[Entry], page: RunPage | None) -> Report:
    """Publish what `feed` gives, end the run, unless it was stopped, write its page, and return its report.

    Raises:
        JournalError, DestinationFull: as the pipeline and `Run.end`, and where the index cannot be written to disk.
    """
    halt, together, closing = run.resources.halt, run.resources.settings.together, NOT_CLOSED
    show = partial(report_of, run, None)
    async with page.following(run.resources, run.stack, show, run.journal) if page else nullcontext():
        await run.pipeline.run(feed)
        if not (halt.reason or run.resources.dry_run) and (together.index or together.complete_marker):
            from asyncsink.engine.closing.together import publish_together  # most runs have neither

            closing = await publish_together(run)
        if not halt.reason:
            await run.end()
    return report_of(run, discovery, closing)
