"""One source, from survey to report: what `export`, `export_directory` and the command line have in common."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.config import LocalTarget, Settings
from asyncsink.engine.clearing import clear_destinations
from asyncsink.engine.composing import (
    discovery_of,
    open_end,
    report_of,
    shard_of_walk,
    with_places_outside,
)
from asyncsink.engine.discover import Discovery
from asyncsink.engine.events import Events
from asyncsink.engine.halt import Halt
from asyncsink.engine.ledger import KeyLedger
from asyncsink.engine.loops import refuse_trio
from asyncsink.engine.producer import feed_discovery
from asyncsink.engine.progress import Progress
from asyncsink.engine.run import Opening, check_bucket_given, surface
from asyncsink.engine.shards import check_shard
from asyncsink.engine.survey import Survey, take_survey
from asyncsink.model import Event, Started
from asyncsink.os_errors import words_shortages
from asyncsink.report.report import Report
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
    progress: Progress | None = None,
) -> Report:
    """Publish everything that `source` has: survey it, prepare the destinations, run the pipeline, report.

    Args:
        dry_run: look and compare, but send nothing; what would be sent is in `report.planned`.
        observe: called with every event, on the event loop; it must return quickly.
        failures_only: of outcomes, it hears of failures only; the others stand in `progress.counts` and the report.
        progress: counts for a display to poll.
    """
    refuse_trio()
    check_bucket_given(settings)
    check_shard(settings)
    started = time.monotonic()
    progress = progress if progress is not None else Progress()
    events = Events(observe, failures_only=failures_only)
    threads = CapacityLimiter(settings.limits.reader_threads)
    settings = await with_places_outside(settings, source, events.notice, dry_run=dry_run, limiter=threads)
    discovery = discovery_of(settings, settings.target, source)
    opening = Opening(
        settings,
        progress,
        events,
        dry_run,
        threads=threads,
        started=started,
        retries=settings.policies.retries if source.replayable and not dry_run else 0,
        halt=Halt(),
    )
    survey = Survey()
    try:
        async with AsyncExitStack() as exits:
            async with anyio.create_task_group() as beside:
                if source.replayable:
                    # A server that is far away takes as long to answer first as thousands of files to be found. Of a
                    # directory, what has to be listed is known by now; of other sources, that there is a server.
                    listing = ListObjects(prefix=discovery.known_prefix)
                    if not source.injective:
                        listing = replace(listing, max_keys=1)
                    beside.start_soon(opening.begin, exits, listing)
                survey = await _survey(discovery, settings, threads=threads, progress=progress)
            if source.replayable:
                progress.objects_total, progress.bytes_total = survey.objects_total, survey.bytes_total
                for notice in survey.notices(settings):
                    events.notice(notice)
                # What is on disk is not read once more to learn how much of the listing is worth reading.
                opening.found = survey.kept if survey.kept.in_memory else None
            outlook = survey.outlook if survey.sample_key else open_end(settings.target)
            async with opening.open(outlook) as run:
                discovery = discovery_of(settings, run.target, source)
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
                    shard_of_walk(discovery, settings.shard),
                    kept=survey.kept if as_surveyed else None,
                    surveyed=source.replayable,
                    ledger=survey.ledger,
                    objects_total=progress.objects_total,
                    batch_size=run.batch_size,
                    hops=run.hops,
                    limiter=threads,
                    turns=run.turns,
                    journal=run.journal,
                )
                await run.pipeline.run(feed)
                if not run.pipeline.halt.reason:
                    await run.end()
                return report_of(run, discovery, dry_run)
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()
        survey.close()


async def _survey(discovery: Discovery, settings: Settings, *, threads: CapacityLimiter, progress: Progress) -> Survey:
    """The survey of the whole source.

    A stream is not surveyed: there, keys that could meet get a ledger, and that is all.
    """
    if not discovery.source.replayable:
        collides = discovery.may_collide and settings.policies.on_collision == "error"
        return Survey(ledger=KeyLedger() if collides else None)
    return await take_survey(discovery, settings, limiter=threads, progress=progress)
