"""The end of an export, when all of its files were tried."""

from __future__ import annotations

from asyncsink.engine.open_run import Run
from asyncsink.engine.planning.survey import Discovery
from asyncsink.engine.run_report import NOT_CLOSED, report_of
from asyncsink.report.report import Report


async def end_run(run: Run, discovery: Discovery) -> Report:
    """End a run whose files were all tried, unless it was stopped; returns its report.

    Raises:
        JournalError, DestinationFull: as `Run.end`, and where the index cannot be written to disk.
    """
    halt, together, closing = run.resources.halt, run.resources.settings.together, NOT_CLOSED
    if not (halt.reason or run.resources.dry_run) and (together.index or together.complete_marker):
        from asyncsink.engine.closing.together import publish_together  # most runs have neither

        closing = await publish_together(run)
    if not halt.reason:
        await run.end()
    return report_of(run, discovery, closing)
