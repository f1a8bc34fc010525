"""One source, from survey to report: what `export`, `export_directory` and the command line have in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread

from asyncsink.engine.closing.ending import WholeRun
from asyncsink.engine.open_run import RunBuilder
from asyncsink.engine.planning.producer import feed_discovery
from asyncsink.engine.planning.survey import Survey, take_survey
from asyncsink.engine.planning.walk import (
    check_bucket_given,
    check_shard,
    check_together,
    clear_destinations,
    discovery_of,
    open_end,
    page_of_export,
    with_places_outside,
)
from asyncsink.engine.recording.events import Events, Progress, TakesLines
from asyncsink.engine.resources import open_resources
from asyncsink.event_loops import refuse_trio, surface
from asyncsink.model import Event, Started
from asyncsink.options.schema import LocalTarget, Settings
from asyncsink.os_errors import words_shortages
from asyncsink.report.report import Report
from asyncsink.routing.key_range import KeyRange
from asyncsink.s3.operations import ListObjects
from asyncsink.sources.base import Source


@words_shortages
async def run_source(
    settings: Settings,
    source: Source,
    *,
    dry_run: bool = False,
    observe: Callable[[Event], None] | None = None,
    failures_only: bool = False,
    recorded: TakesLines | None = None,
    progress: Progress | None = None,
    keys: KeyRange | None = None,
) -> Report:
    """Publish everything that `source` has: survey it, prepare the destinations, run the pipeline, report.

    Args:
        dry_run: look and compare, but send nothing; what would be sent is in `report.planned`.
        observe: called with every event but Requested, on the event loop; it must return quickly.
        failures_only: `observe` gets no outcomes but failures; the others are in `progress.counts` and the report.
        recorded: called with the lines of recorded outcomes, on the event loop.
        progress: counts for a display to poll.
        keys: the range of the source's keys, where they are those of a part: what is there is listed for it alone.
    """
    refuse_trio()
    check_bucket_given(settings)
    check_shard(settings)
    check_together(settings)
    page = page_of_export(settings, source)
    heard = page.beside(observe) if page is not None else observe
    events = Events(settings.observe, heard, failures_only=failures_only or observe is None, recorded=recorded)
    survey = Survey()
    try:
        settings = await with_places_outside(settings, source, events.notice, dry_run=dry_run)
        async with (
            open_resources(settings, events=events, progress=progress, dry_run=dry_run) as resources,
            AsyncExitStack() as exits,
        ):
            settings, progress, threads = resources.settings, resources.progress, resources.threads
            discovery = discovery_of(settings, settings.target, source)
            builder = RunBuilder(
                resources, retries=settings.policies.retries if source.replayable and not dry_run else 0
            )
            async with anyio.create_task_group() as beside:
                if source.replayable:
                    # The first answer of a distant server takes as long as finding thousands of files. For a directory,
                    # the prefix to list is known by now; for other sources, a listing of one key opens the connection.
                    listing = ListObjects(prefix=discovery.known_prefix)
                    if keys is not None:
                        listing = ListObjects(prefix=keys.prefix, start_after=keys.start_after)
                    elif not source.injective:
                        listing = replace(listing, max_keys=1)
                    beside.start_soon(builder.begin, exits, listing)
                survey = await take_survey(discovery, settings, limiter=threads, progress=progress)
            if source.replayable:
                progress.objects_total, progress.bytes_total = survey.objects_total, survey.bytes_total
                for notice in survey.notices(settings):
                    events.notice(notice)
            forecast = replace(survey.forecast, keys=keys) if survey.sample_key else open_end(settings.target)
            # Entries on disk are not read once more only to estimate how much of the listing is worth reading.
            found = survey.kept if source.replayable and survey.kept.in_memory else None
            async with builder.open(forecast, found) as run:
                discovery = discovery_of(settings, run.target, source, in_shard=True)
                whole = WholeRun(run, discovery, survey)
                await whole.prepare(exits)
                await run.begin()
                if settings.remove_dest_dir and not dry_run:
                    local = settings.local_copy.directory if settings.local_copy is not None else ""
                    roots = (run.target.url if isinstance(run.target, LocalTarget) else "", local)
                    await anyio.to_thread.run_sync(clear_destinations, discovery, roots, limiter=threads)
                progress.started = True
                await events.emit(Started(progress.objects_total, progress.bytes_total, run.destination.lane))
                as_surveyed = source.replayable and survey.kept.whole and run.target.url == settings.target.url
                feed = partial(
                    feed_discovery,
                    discovery,
                    kept=survey.kept if as_surveyed else None,
                    surveyed=source.replayable,
                    ledger=survey.ledger,
                    batch_size=run.batch_size,
                    resources=resources,
                    journal=run.journal,
                )
                return await whole.publish(feed, page)
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()
        survey.close()
