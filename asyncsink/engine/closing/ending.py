"""An export whose destinations are ready, from its first transfer to its report: what is deleted and published when all
of its files were tried, and its page."""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from asyncsink.engine.open_run import Run
from asyncsink.engine.pipeline import Feed
from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.planning.survey import Survey
from asyncsink.engine.queue_entries import Entry
from asyncsink.engine.run_page import RunPage
from asyncsink.engine.run_report import NOT_CLOSED, report_of
from asyncsink.errors import ConfigError
from asyncsink.options.schema import S3Target
from asyncsink.report.report import Report

if TYPE_CHECKING:  # most runs delete nothing
    from asyncsink.engine.closing.extraneous import ExtraneousObjects


class WholeRun:
    """One run: `prepare` before anything is sent, then `publish`."""

    def __init__(self, run: Run, discovery: Discovery, survey: Survey) -> None:
        self._run = run
        self._discovery = discovery
        self._survey = survey
        self._together = run.resources.settings.together
        self._extraneous: ExtraneousObjects | None = None

    def __repr__(self) -> str:
        return f"<WholeRun {self._together}>"

    async def prepare(self, exits: AsyncExitStack) -> None:
        """Find the extraneous objects, where they are to be deleted; `exits` must be left after the run.

        Raises:
            ConfigError: there are too many, or they cannot be known.
            TransferError: the destination cannot be listed.
        """
        run, target = self._run, self._run.target
        if not self._together.delete_extraneous:
            return
        if not self._discovery.source.replayable:
            raise ConfigError(
                "delete_extraneous needs a source that can be looked at before anything is sent, and a stream cannot; "
                "write its lines to a file first."
            )
        if not isinstance(target, S3Target):
            run.resources.events.notice("Nothing is deleted: nothing is on S3.")
            return
        from asyncsink.engine.closing.extraneous import ExtraneousObjects

        self._extraneous = ExtraneousObjects(run, target)
        exits.callback(self._extraneous.close)
        await self._extraneous.find(self._discovery, self._survey.kept if self._survey.kept.whole else self._discovery)

    async def publish(self, feed: Feed[Entry], page: RunPage | None) -> Report:
        """Publish what `feed` gives, end the run, unless it was stopped, write its page, and return its report.

        Raises:
            JournalError, DestinationFull: as the pipeline and `Run.end`, and where the index cannot be written to disk.
        """
        run, halt, together, closing = self._run, self._run.resources.halt, self._together, NOT_CLOSED
        show = partial(report_of, run, None)
        async with page.following(run.resources, run.stack, show, run.journal) if page else nullcontext():
            await run.pipeline.run(feed)
            wanted = together.index or together.complete_marker or self._extraneous is not None
            if wanted and not (halt.reason or run.resources.dry_run):
                from asyncsink.engine.closing.together import publish_together  # most runs have nothing of it

                closing = await publish_together(run, self._extraneous)
            if self._extraneous is not None:
                closing = replace(closing, extraneous=self._extraneous.found)
            if not halt.reason:
                await run.end()
        return report_of(run, self._discovery, closing)
