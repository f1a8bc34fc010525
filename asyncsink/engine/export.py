"""One source, from survey to report: what `export`, `export_directory` and the command line have in common."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.destinations.base import RunForecast
from asyncsink.destinations.opening import remove_directory
from asyncsink.engine.open_run import Run, RunBuilder, check_bucket_given
from asyncsink.engine.planning.key_ledger import KeyLedger
from asyncsink.engine.planning.producer import feed_discovery
from asyncsink.engine.planning.survey import Discovery, Survey, check_shard, shard_key, take_survey
from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.resources import Resources, open_resources
from asyncsink.engine.transfer.outcomes import REPEATED
from asyncsink.errors import ConfigError, JournalError
from asyncsink.event_loops import refuse_trio, surface
from asyncsink.journal.sqlite import default_place, without_journal
from asyncsink.model import Event, SourceProblem, Started, Transfer
from asyncsink.options.schema import LocalTarget, S3Target, Settings
from asyncsink.options.settings import JournalChoice, Shard
from asyncsink.os_errors import words_shortages
from asyncsink.paths import as_native, as_text, is_below, on_disk, real_path
from asyncsink.report.manifest_file import PARTIAL
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.report import Report
from asyncsink.routing.key_range import KeyRange
from asyncsink.routing.router import Router
from asyncsink.s3.operations import ListObjects
from asyncsink.sources.base import Source, SourceEntry
from asyncsink.sources.directory import DirectorySource

# -- What a run may remove or write: remove_dest_dir, and places outside of the source ---------------------------------
# remove_dest_dir (DataSink's option) removes the local directories that directory sources are about to fill. On S3 it
# does nothing (rule 31).


def clear_destinations(discovery: Discovery, roots: tuple[str, str]) -> None:
    """Remove the local directories that directory sources will replace. Blocks; called before anything is sent.

    Args:
        discovery: whose top-level directories are replaced.
        roots: the local destination and the local copy, "" where there is none. A root itself is never removed.

    Raises:
        ConfigError: a source lies inside what would be removed; nothing is removed then.
        AccessDenied: a directory cannot be removed.
    """
    targets = list(dict.fromkeys(_targets(discovery, roots)))
    for entry in discovery.source.entries or ():
        for _, target in targets:
            if is_inside(entry.path, target):
                raise ConfigError(
                    f"remove_dest_dir would remove {target}, which holds the source {entry.path}; publish to another "
                    "directory."
                )
    for root, target in targets:
        remove_directory(root, target)


def is_inside(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies below it, symbolic links resolved. Blocks."""
    return is_below(real_path(path), real_path(directory))


def check_not_nested(sources: Iterable[str], places: Iterable[str]) -> None:
    """Refuse to publish a directory into itself: every run would find what the run before it wrote. Blocks.

    Raises:
        ConfigError: a local destination or local copy lies inside a source directory.
    """
    for source in sources:
        for place in places:
            if os.path.isdir(on_disk(source)) and is_inside(place, source):
                raise ConfigError(
                    f"{place} lies inside the source {source}, so that every run would publish its own output again; "
                    "choose a directory outside."
                )


def check_journal_outside(sources: Iterable[str], journal: JournalChoice) -> JournalError | None:
    """Refuse a named journal that would be published itself; returns the error for a default one, or None. Blocks.

    Reading a journal's file would release this process's lock on it, so that a second run could open it (POSIX, fcntl:
    "All locks associated with a file … shall be removed when a file descriptor for that file is closed").

    Raises:
        ConfigError: the journal that was named lies inside a source, or is one.
    """
    if not journal.enabled:
        return None
    place = as_text(journal.path or default_place(journal)[0])
    if not place:
        return None  # there will be none
    for source in sources:
        if os.path.lexists(on_disk(source)) and _would_be_found(place, source):
            said = f"The journal {place} lies inside the source {source}, so that it would be published itself"
            if journal.required and journal.path:
                raise ConfigError(f"{said}; name a file outside, or use journal=False.")
            return JournalError(f"{said}; name one outside with journal=.")
    return None


def check_manifest_outside(sources: Iterable[str], manifest: str) -> None:
    """Refuse a manifest that would be published itself. Blocks.

    Raises:
        ConfigError: it lies inside a source, or is one.
    """
    place = as_text(os.path.abspath(manifest))
    for source in sources if manifest else ():
        if os.path.lexists(on_disk(source)) and _would_be_found(place, source):
            raise ConfigError(
                f"The manifest {manifest} lies inside the source {source}, so that it would be published itself; name "
                "a file outside."
            )


def _would_be_found(place: str, source: str) -> bool:
    """Whether a walk of `source` comes to a file that this run writes, or to a link that leads to it."""
    return is_inside(place, source) or is_inside(os.path.dirname(place), source)


def _targets(discovery: Discovery, roots: tuple[str, str]) -> Iterator[tuple[str, str]]:
    for entry in discovery.source.entries or ():
        if not os.path.isdir(on_disk(entry.path)):
            continue
        for target, root in zip(discovery.router.out_file(entry.attribute, entry.path), roots, strict=True):
            path = on_disk(target)
            replaceable = root and target and os.path.isdir(path) and not os.path.islink(path)
            if replaceable and not is_inside(root, target):
                yield root, target


# -- The parts of a run besides its rooms: the walk, its places, and the report ----------------------------------------


def discovery_of(settings: Settings, target: S3Target | LocalTarget, source: Source) -> Discovery:
    """The files of `source`, routed to `target`."""
    local = settings.local_copy.directory if settings.local_copy is not None else ""
    router = Router(settings.routing, base=target.url, local_base=local)
    prefix = settings.target.prefix if isinstance(settings.target, S3Target) else ""
    # A local directory that stands in for the bucket has the bucket's keys.
    leave_out = settings.policies.on_unreadable == "skip"
    return Discovery(source, router, prefix, records=_records_of(settings), leaves_out_unreadable=leave_out)


def _records_of(settings: Settings) -> tuple[str, ...]:
    """The files that hold the records of this run, as far as they are named."""
    manifest, journal = settings.manifest, settings.journal.path if settings.journal.enabled else ""
    partial = os.path.abspath(manifest) + PARTIAL if manifest else ""
    return tuple(as_text(os.path.abspath(path)) for path in (manifest, partial, journal) if path)


class ShardWalk(Discovery):
    """The entries of a walk that are in one shard."""

    def __init__(self, whole: Discovery, shard: Shard) -> None:
        super().__init__(
            whole.source,
            whole.router,
            whole.prefix,
            records=whole.records,
            leaves_out_unreadable=whole.leaves_out_unreadable,
        )
        self._shard = shard

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        return (found for found in super().__iter__() if self._shard.holds(shard_key(found)))


def shard_of_walk(whole: Discovery, shard: Shard) -> Discovery:
    """The walk, or, with several shards, the entries in this one."""
    return whole if shard.count == 1 else ShardWalk(whole, shard)


def tops_of(source: Source) -> list[str]:
    """The directories and files that a run starts from."""
    if isinstance(source, DirectorySource):
        return [source.directory]
    return [entry.path for entry in source.entries or ()]


def local_places(settings: Settings) -> list[str]:
    """The directories that a run writes to."""
    target, copy = settings.target, settings.local_copy
    return [place.directory for place in (target, copy) if isinstance(place, LocalTarget)]


async def with_places_outside(
    settings: Settings, source: Source, notice: Callable[[str], None], *, dry_run: bool
) -> Settings:
    """The settings, where nothing that a run writes lies inside what it reads. A default journal that does is left out,
    with a notice.

    Raises:
        ConfigError: a local destination, local copy, manifest or named journal lies inside a source.
        JournalError: so does a default journal, and overwrite="journal" needs one.
    """
    sources = tops_of(source)
    await anyio.to_thread.run_sync(check_not_nested, sources, local_places(settings))
    await anyio.to_thread.run_sync(check_manifest_outside, sources, settings.manifest)
    inside = await anyio.to_thread.run_sync(check_journal_outside, sources, settings.journal)
    if inside is None:
        return settings
    if settings.journal.required:
        raise inside
    notice(without_journal(inside, dry_run=dry_run))
    return replace(settings, journal=JournalChoice(enabled=False))


def open_end(target: S3Target | LocalTarget, *, lasting: bool = False) -> RunForecast:
    """The forecast of a run without a survey."""
    prefix = f"{target.prefix}/" if isinstance(target, S3Target) and target.prefix else ""
    return RunForecast(objects_total=None, common_prefix=prefix, sample_key=f"{prefix}asyncsink", lasting=lasting)


def report_of(run: Run, discovery: Discovery | None) -> Report:
    """The report of a run that has ended. `discovery` is None where there was no walk."""
    return report_on(
        run.resources, run.log, run.target, discovery, lane=run.destination.lane, interrupted=run.interrupted
    )


def report_on(
    resources: Resources,
    log: OutcomeLog,
    target: S3Target | LocalTarget,
    discovery: Discovery | None,
    *,
    lane: str,
    interrupted: bool,
) -> Report:
    """As `report_of`, of a run that was carried out elsewhere: arguments as the attributes of Run."""
    return Report(
        log,
        target.url,
        resources.ended(lane, interrupted=interrupted),
        out_file=_out_file(resources.settings, log, target, discovery),
        dry_run=resources.dry_run,
        objects_found=resources.progress.objects_total,
    )


def _out_file(
    settings: Settings, log: OutcomeLog, target: S3Target | LocalTarget, discovery: Discovery | None
) -> list[str]:
    """Rule 34: for every top-level source its URL, then its local copy; what failed is left out.

    With compat="nipype" a source whose key a later one took is listed too (rule 16): its URL exists.
    """
    if discovery is None:
        return []
    entries = discovery.source.entries
    if entries is None and isinstance(discovery.source, DirectorySource):
        entries = [SourceEntry("", discovery.source.directory)]
    if entries is None:
        return []
    failed = {failure.entry for failure in log.failures if failure.stage != "local copy"}
    keys_failed = {failure.key for failure in log.failures if failure.stage != "local copy"}
    not_copied = {failure.entry for failure in log.failures}
    listed: list[str] = []
    lists_both = settings.routing.compat == "nipype"
    left_out = set[int]()
    # Reading a million skips back takes seconds, and skips of objects that are there already change nothing here.
    for skip in log.skips if log.counts.not_published_total else ():
        if skip.reason == REPEATED:
            # A repeated source has the object of its first occurrence.
            if skip.key in keys_failed:
                failed.add(skip.entry)
        elif not (skip.already_there or (lists_both and skip.key)):
            left_out.add(skip.entry)
    if settings.shard.count > 1:
        # The other shards list what they have published.
        failed |= set(range(len(entries))) - _not_failed(log, len(entries))
    for ordinal, entry in enumerate(entries):
        if ordinal in failed or (ordinal in left_out and not os.path.isdir(on_disk(entry.path))):
            continue
        url, local = discovery.router.out_file(entry.attribute, entry.path)
        listed.append(as_native(url) if isinstance(target, LocalTarget) else url)
        if local and ordinal not in not_copied:
            listed.append(as_native(local))
    return listed


def _not_failed(log: OutcomeLog, total: int) -> set[int]:
    """The top-level sources with a receipt or a skip; reading stops when every source is seen."""
    seen = set[int]()
    for outcomes in (log.receipts, log.skips):
        for outcome in outcomes:
            seen.add(outcome.entry)
            if len(seen) == total:
                return seen
    return seen


# -- The whole run -----------------------------------------------------------------------------------------------------


@words_shortages
async def run_source(
    settings: Settings,
    source: Source,
    *,
    dry_run: bool = False,
    observe: Callable[[Event], None] | None = None,
    failures_only: bool = False,
    progress: Progress | None = None,
    keys: KeyRange | None = None,
) -> Report:
    """Publish everything that `source` has: survey it, prepare the destinations, run the pipeline, report.

    Args:
        dry_run: look and compare, but send nothing; what would be sent is in `report.planned`.
        observe: called with every event, on the event loop; it must return quickly.
        failures_only: `observe` gets no outcomes but failures; the others are in `progress.counts` and the report.
        progress: counts for a display to poll.
        keys: the range of the source's keys, where they are those of a part: what is there is listed for it alone.
    """
    refuse_trio()
    check_bucket_given(settings)
    check_shard(settings)
    events = Events(observe, failures_only=failures_only)
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
                survey = await _survey(discovery, settings, threads=threads, progress=progress)
            if source.replayable:
                progress.objects_total, progress.bytes_total = survey.objects_total, survey.bytes_total
                for notice in survey.notices(settings):
                    events.notice(notice)
            forecast = replace(survey.forecast, keys=keys) if survey.sample_key else open_end(settings.target)
            # Entries on disk are not read once more only to estimate how much of the listing is worth reading.
            found = survey.kept if source.replayable and survey.kept.in_memory else None
            async with builder.open(forecast, found) as run:
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
                    batch_size=run.batch_size,
                    resources=resources,
                    journal=run.journal,
                )
                await run.pipeline.run(feed)
                if not resources.halt.reason:
                    await run.end()
                return report_of(run, discovery)
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()
        survey.close()


async def _survey(discovery: Discovery, settings: Settings, *, threads: CapacityLimiter, progress: Progress) -> Survey:
    """The survey of the whole source.

    A stream is not surveyed; it only gets a ledger where keys could meet.
    """
    if not discovery.source.replayable:
        collides = discovery.may_collide and settings.policies.on_collision == "error"
        return Survey(ledger=KeyLedger() if collides else None)
    return await take_survey(discovery, settings, limiter=threads, progress=progress)
