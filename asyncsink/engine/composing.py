"""What a run is put together from besides its rooms: the walk, the places, and the report at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace

import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.config import JournalChoice, LocalTarget, S3Target, Settings, Shard
from asyncsink.destinations.base import Outlook
from asyncsink.engine.clearing import check_journal_outside, check_manifest_outside, check_not_nested
from asyncsink.engine.discover import Discovery
from asyncsink.engine.outcomes import REPEATED
from asyncsink.engine.run import Run
from asyncsink.engine.shards import holds
from asyncsink.journal.place import without_journal
from asyncsink.model import SourceProblem, Transfer
from asyncsink.paths import as_native, as_text, on_disk
from asyncsink.report.manifest_file import PARTIAL
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.report import Report
from asyncsink.routing.router import Router
from asyncsink.sources.base import Entry, Source
from asyncsink.sources.directory import DirectorySource


def discovery_of(settings: Settings, target: S3Target | LocalTarget, source: Source) -> Discovery:
    """Everything that `source` has, routed to `target`."""
    local = settings.local_copy.directory if settings.local_copy is not None else ""
    router = Router(settings.routing, base=target.url, local_base=local)
    prefix = settings.target.prefix if isinstance(settings.target, S3Target) else ""
    # Also where a local directory stands in for the bucket: its keys are the bucket's.
    leave_out = settings.policies.on_unreadable == "skip"
    return Discovery(source, router, prefix, records=_records_of(settings), leaves_out_unreadable=leave_out)


def _records_of(settings: Settings) -> tuple[str, ...]:
    """The files that this run keeps its records in, as far as they are named."""
    manifest, journal = settings.manifest, settings.journal.path if settings.journal.enabled else ""
    partial = os.path.abspath(manifest) + PARTIAL if manifest else ""
    return tuple(as_text(os.path.abspath(path)) for path in (manifest, partial, journal) if path)


class ShardWalk(Discovery):
    """What a shard has of a walk."""

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
        return (found for found in super().__iter__() if holds(self._shard, found))


def shard_of_walk(whole: Discovery, shard: Shard) -> Discovery:
    """What a shard has of a walk."""
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
    settings: Settings, source: Source, notice: Callable[[str], None], *, dry_run: bool, limiter: CapacityLimiter
) -> Settings:
    """The settings, where nothing that a run writes lies inside what it reads. A default journal that does is left out,
    with a notice.

    Raises:
        ConfigError: a local destination, local copy, manifest or named journal lies inside a source.
        JournalError: so does a default journal, and overwrite="journal" needs one.
    """
    sources = tops_of(source)
    await anyio.to_thread.run_sync(check_not_nested, sources, local_places(settings), limiter=limiter)
    await anyio.to_thread.run_sync(check_manifest_outside, sources, settings.manifest, limiter=limiter)
    inside = await anyio.to_thread.run_sync(check_journal_outside, sources, settings.journal, limiter=limiter)
    if inside is None:
        return settings
    if settings.journal.required:
        raise inside
    notice(without_journal(inside, dry_run=dry_run))
    return replace(settings, journal=JournalChoice(enabled=False))


def open_end(target: S3Target | LocalTarget, *, lasting: bool = False) -> Outlook:
    """The outlook of a run that nobody surveyed."""
    prefix = f"{target.prefix}/" if isinstance(target, S3Target) and target.prefix else ""
    return Outlook(objects_total=None, common_prefix=prefix, sample_key=f"{prefix}asyncsink", lasting=lasting)


def report_of(run: Run, discovery: Discovery | None, dry_run: bool) -> Report:
    """What a run tells in the end. `discovery` is None where there was no walk."""
    return Report(
        run.log,
        out_file=_out_file(run, discovery),
        elapsed_seconds=run.elapsed_seconds,
        transport=run.destination.lane,
        requests=run.traffic.requests,
        retries=run.traffic.retries,
        notices=run.events.notices,
        destination=run.target.url,
        dry_run=dry_run,
        interrupted=run.interrupted,
        stop_reason=run.pipeline.halt.reason,
        objects_found=run.pipeline.progress.objects_total,
        resumable=run.pipeline.progress.resumable.values(),
    )


def _out_file(run: Run, discovery: Discovery | None) -> list[str]:
    """Rule 34: for every top-level source its URL, then its local copy; what failed is left out.

    With compat="nipype" a source whose name a later one took is listed too (rule 16): the name is there.
    """
    if discovery is None:
        return []
    entries = discovery.source.entries
    if entries is None and isinstance(discovery.source, DirectorySource):
        entries = [Entry("", discovery.source.directory)]
    if entries is None:
        return []
    failed = {failure.entry for failure in run.log.failures if failure.stage != "local copy"}
    keys_failed = {failure.key for failure in run.log.failures if failure.stage != "local copy"}
    not_copied = {failure.entry for failure in run.log.failures}
    listed: list[str] = []
    lists_both = run.settings.routing.compat == "nipype"
    left_out = set[int]()
    # Reading a million skips back takes seconds, and one that is there already changes nothing here.
    for skip in run.log.skips if run.log.counts.not_published_total else ():
        if skip.reason == REPEATED:
            # It is where its first occurrence is.
            if skip.key in keys_failed:
                failed.add(skip.entry)
        elif not (skip.already_there or (lists_both and skip.key)):
            left_out.add(skip.entry)
    if run.settings.shard.count > 1:
        # The other shards list what they have published.
        failed |= set(range(len(entries))) - _not_failed(run.log, len(entries))
    for ordinal, entry in enumerate(entries):
        if ordinal in failed or (ordinal in left_out and not os.path.isdir(on_disk(entry.path))):
            continue
        url, local = discovery.router.out_file(entry.attribute, entry.path)
        listed.append(as_native(url) if isinstance(run.target, LocalTarget) else url)
        if local and ordinal not in not_copied:
            listed.append(as_native(local))
    return listed


def _not_failed(log: OutcomeLog, total: int) -> set[int]:
    """The top-level sources that a receipt or skip belongs to; of a single directory, the first one tells."""
    seen = set[int]()
    for outcomes in (log.receipts, log.skips):
        for outcome in outcomes:
            seen.add(outcome.entry)
            if len(seen) == total:
                return seen
    return seen
