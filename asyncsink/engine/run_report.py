"""The report of a run that has ended, the URLs that it lists (`out_file`), and the figures of one that goes on."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from asyncsink.engine.open_run import Run
from asyncsink.engine.planning.discovery import Discovery
from asyncsink.engine.planning.walk import tops_of
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.outcomes import REPEATED
from asyncsink.options.schema import Limits, LocalTarget, S3Target, Settings, Target
from asyncsink.paths import as_native, on_disk
from asyncsink.report.closing import Closing
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.report import Report, SinkStats
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.sources.base import SourceEntry
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.listed import ListedSource

if TYPE_CHECKING:
    from asyncsink.report.plan import PlanBasis

NOT_CLOSED = Closing()


def report_of(run: Run, discovery: Discovery | None, closing: Closing = NOT_CLOSED) -> Report:
    """The report of a run that has ended. `discovery` is None where there was no walk."""
    return report_on(
        run.resources,
        run.log,
        run.target,
        discovery,
        lane=run.destination.lane,
        interrupted=run.interrupted,
        closing=closing,
    )


def stats_of(run: Run) -> SinkStats:
    """The figures of a sink's run. In any thread: a gauge of metrics is read in a thread of its own."""
    resources, progress, counts = run.resources, run.resources.progress, run.log.counts
    accepted, pacer = resources.accepted, run.stack.pacer if run.stack is not None else None
    in_flight = progress.objects_in_hand
    return SinkStats(
        queued=max(0, len(accepted) - in_flight) if accepted is not None else 0,
        in_flight=in_flight,
        published=counts.objects_uploaded,
        skipped=counts.objects_skipped,
        failed=counts.objects_failed,
        bytes_sent=progress.bytes_moved,
        requests=progress.traffic.requests,
        retries=progress.traffic.retries,
        requests_in_flight=pacer.in_flight if pacer is not None else 0,
        concurrency_limit=pacer.limit if pacer is not None else 0,
        memory_bytes=resources.budget.held_bytes,
        oldest_seconds=accepted.oldest_seconds() if accepted is not None else 0.0,
    )


def report_on(
    resources: Resources,
    log: OutcomeLog,
    target: Target,
    discovery: Discovery | None,
    *,
    lane: str,
    interrupted: bool,
    closing: Closing = NOT_CLOSED,
) -> Report:
    """As `report_of`, of a run that was carried out elsewhere: arguments as the attributes of Run."""
    return Report(
        log,
        target.url,
        replace(resources.ended(lane, interrupted=interrupted), closing=closing),
        out_file=_out_file(resources.settings, log, target, discovery),
        basis=_basis_of(resources, target, discovery) if resources.dry_run else None,
        unfinished=resources.accepted.unfinished() if resources.accepted is not None else (),
        objects_found=resources.progress.objects_total,
    )


def _basis_of(resources: Resources, target: Target, discovery: Discovery | None) -> PlanBasis:
    from asyncsink.report.plan import PlanBasis  # loaded by plans only

    to_s3, traffic = isinstance(target, S3Target), resources.progress.traffic
    looks = Counter(traffic.successes)
    # What fails in a plan without ending it are looks at objects that are not there; S3 counts them as requests too.
    if (missing := traffic.requests - traffic.retries - looks.total()) > 0:
        looks["HeadObject"] += missing
    return PlanBasis(
        destination=target.url,
        folder=_shared_folder(tops_of(discovery.source)) if discovery is not None else "",
        parts=partial(_parts_of, resources.limits) if to_s3 else None,
        looks=looks if to_s3 else {},
    )


def _shared_folder(tops: list[str]) -> str:
    """The only top-level source, or the directory that holds all of them; "" where there is none but the root."""
    if len(tops) == 1:
        return tops[0]
    return os.path.commonpath([os.path.dirname(top) for top in tops]).rstrip("/") if tops else ""


def _parts_of(limits: Limits, size_bytes: int) -> int:
    """The parts of a file, as `Publisher` sends it; 0 where it goes whole."""
    return plan_parts(size_bytes, limits.part_size_bytes).count if size_bytes >= limits.multipart_threshold_bytes else 0


def _out_file(settings: Settings, log: OutcomeLog, target: Target, discovery: Discovery | None) -> list[str]:
    """Rule 34: for every top-level source its URL, then its local copy; what failed is left out.

    With compat="nipype" a source whose key a later one took is listed too (rule 16): its URL exists.
    """
    if discovery is None:
        return []
    entries = discovery.source.entries
    if entries is None and isinstance(discovery.source, (DirectorySource, ListedSource)):
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
