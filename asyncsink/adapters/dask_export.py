"""One source, published on a Dask cluster: looked at once, here, and recorded here; the workers send the files.

walk ──► refusals ──► spool, in the order of the keys ──► parts ──► workers, each with one engine
                                                                        │ outcomes, as lines
report, events  ◄──  recorder, manifest  ◄──────────────────────────────┘
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from distributed import Client

from asyncsink.adapters.dask_cluster import connected, is_private
from asyncsink.adapters.dask_dealing import Dealer
from asyncsink.adapters.dask_worker import SampleFile
from asyncsink.engine.planning.producer import last_only
from asyncsink.engine.planning.survey import Survey, take_survey
from asyncsink.engine.planning.walk import check_together, discovery_of, page_of_export, with_places_outside
from asyncsink.engine.recording.events import Events, Progress, TakesLines
from asyncsink.engine.recording.recorder import Passed, Recorder, Recording
from asyncsink.engine.resources import Resources, open_resources
from asyncsink.engine.run_report import report_on
from asyncsink.engine.transfer.outcomes import problem_outcome
from asyncsink.errors import ConfigError
from asyncsink.event_loops import batches, refuse_trio, surface
from asyncsink.model import Event, Found, Receipt, Skip, Started, Transfer
from asyncsink.options.schema import S3Target, Settings
from asyncsink.options.settings import MIB, JournalChoice
from asyncsink.os_errors import words_shortages
from asyncsink.report.manifest import ManifestHeader, ManifestWriter
from asyncsink.report.outcomes import Counts, OutcomeLines, OutcomeLog
from asyncsink.report.report import Report
from asyncsink.sources.base import Source
from asyncsink.splitting.cutting import ByLimits, Cutter
from asyncsink.splitting.part_engine import PartOutcome
from asyncsink.splitting.part_of_run import PartOfRun, parts_of_run
from asyncsink.splitting.spool import Spool

PART_BYTES = 256 * MIB
PART_OBJECTS = 1_000
"""Of a part: a fraction of a second of one worker, which is what a lost worker costs; one page of a listing."""
_BATCH = 1_000
_SAMPLES_MAX = 100


def check_travels(settings: Settings, source: Source) -> None:
    """Refuse what cannot be done by other machines.

    Raises:
        ConfigError: one sentence, about the first of it.
    """
    check_together(settings, ends=False)
    target = settings.target
    if not isinstance(target, S3Target):
        raise ConfigError(
            f"The destination {target.url} is no bucket, and Dask's workers fill no other; expected "
            "s3://bucket/prefix, or use an export without Dask."
        )
    if settings.caller_bucket is not None and not isinstance(settings.caller_bucket, str):
        raise ConfigError(
            "bucket is an object with a client of its own, which cannot travel to workers; give its name."
        )
    if settings.wrap_transport is not None:
        raise ConfigError("transport is a callable, which cannot travel to workers; leave it out, or name a lane.")
    if settings.shared is not None:
        raise ConfigError("limits are those of one process, which cannot travel to workers; give memory_bytes instead.")
    if settings.journal.required:
        raise ConfigError(
            "journal (or overwrite='journal') is given, and a Dask export keeps none: its files are sent by many "
            "machines; leave it out: what is there already is compared by checksum, and not sent again."
        )
    refused = {
        "local_copy": settings.local_copy is not None,
        "remove_dest_dir": settings.remove_dest_dir,
        "shard": settings.shard.count > 1,
        "on_unreachable='local'": settings.policies.on_unreachable == "local",
        "related_files": settings.policies.related_files,
    }
    for name, given in refused.items():
        if given:
            raise ConfigError(f"{name} is given, and means nothing on the workers of a Dask cluster; leave it out.")
    if not source.replayable:
        raise ConfigError(
            "The source is a stream, which cannot be looked at before it is cut; name a directory or file."
        )


@words_shortages
async def run_on_cluster(
    cluster: Any,
    settings: Settings,
    source: Source,
    *,
    observe: Callable[[Event], None] | None = None,
    failures_only: bool = False,
    recorded: TakesLines | None = None,
    progress: Progress | None = None,
    part_bytes: int = PART_BYTES,
    part_objects: int = PART_OBJECTS,
) -> Report:
    """As `engine.export.run_source`, on the workers of a cluster (as `connected` takes it)."""
    refuse_trio()
    check_travels(settings, source)
    settings = replace(settings, journal=JournalChoice(enabled=False))
    page = page_of_export(settings, source)
    if page is not None:
        observe, failures_only = page.beside(observe), failures_only or observe is None
    events = Events(settings.observe, observe, failures_only=failures_only, recorded=recorded)
    survey = Survey()
    try:
        await with_places_outside(settings, source, events.notice, dry_run=False)
        async with (
            open_resources(settings, events=events, progress=progress) as resources,
            connected(cluster) as client,
        ):
            if settings.objects.sse_customer_key is not None and not is_private(client):
                raise ConfigError(
                    "sse is a customer key, which would travel to the workers unencrypted; give the cluster TLS "
                    "(distributed's Security), or use aws:kms."
                )
            discovery = discovery_of(settings, settings.target, source)
            survey = await take_survey(discovery, settings, limiter=resources.threads, progress=resources.progress)
            resources.progress.objects_total = survey.objects_total
            resources.progress.bytes_total = survey.bytes_total
            for notice in survey.notices(settings):
                events.notice(notice)
            cutter = ByLimits(part_bytes, part_objects)
            run = _ClusterRun(resources, client, survey, cutter)
            async with page.following(resources, None, run.report) if page is not None else nullcontext():
                await run.run()
            return run.report()
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()
        survey.close()


class _ClusterRun:
    """An export whose source was looked at."""

    def __init__(self, resources: Resources, client: Client, survey: Survey, cutter: Cutter) -> None:
        self._resources = resources
        self._events = resources.events
        self._threads = CapacityLimiter(1)  # the spool is for one thread at a time
        self._client = client
        self._survey = survey
        self._cutter = cutter
        self._log = OutcomeLog(resources.progress.counts)
        self._recorder: Recorder
        self._lane = ""
        self._interrupted = True

    def report(self) -> Report:
        """What is published."""
        target = self._resources.settings.target
        return report_on(
            self._resources, self._log, target, self._survey.discovery, lane=self._lane, interrupted=self._interrupted
        )

    async def run(self) -> None:
        """Publish everything."""
        settings = self._resources.settings
        samples = await anyio.to_thread.run_sync(_samples_of, self._found(), limiter=self._threads)
        if not samples:  # nothing is to be sent
            await self._publish(None, ("", "", ""))
            return
        # Nobody would go on with an upload that a cancelled worker leaves.
        policies = replace(settings.policies, abort_on_interrupt=True)
        travelling = replace(settings, manifest="", report="", policies=policies, observe=None, progress=False)
        name = f"asyncsink-{secrets.token_hex(6)}"
        dealer = Dealer(self._client, name, travelling, samples, self._events.notice)
        try:
            await self._publish(dealer, await dealer.begin())
        finally:
            await dealer.end()

    def _found(self) -> Iterator[Found]:
        kept, discovery = self._survey.kept, self._survey.discovery
        assert discovery is not None  # the survey is over
        return iter(kept if kept.whole else discovery)

    def _manifest(self, endpoint_url: str, region: str) -> ManifestWriter | None:
        settings = self._resources.settings
        target = settings.target
        assert isinstance(target, S3Target)
        if not settings.manifest:
            return None
        header = ManifestHeader(
            destination=f"s3://{target.bucket}/{target.prefix}".rstrip("/"),
            endpoint_url=endpoint_url,
            region=region,
            addressing_style=target.addressing_style,
        )
        return ManifestWriter(settings.manifest, header, self._events.notice)

    async def _publish(self, dealer: Dealer | None, place: tuple[str, str, str]) -> None:
        resources, halt, progress = self._resources, self._resources.halt, self._resources.progress
        endpoint_url, region, self._lane = place
        manifest = self._manifest(endpoint_url, region)
        self._recorder = recorder = Recorder(self._log, manifest, self._events)
        recording = Recording(recorder, resources.settings.retry.abort_seconds)
        spool = Spool()
        if manifest is not None:
            await manifest.open()
        try:
            progress.started = True
            await self._events.emit(Started(progress.objects_total, progress.bytes_total, self._lane))
            async with anyio.create_task_group() as group:
                group.start_soon(recording.run)
                try:
                    with halt.bounds():
                        await self._fill(spool)
                        if dealer is not None:
                            await dealer.deal(await self._parts(spool), self._record)
                    await recording.finish()
                except BaseException:
                    self._events.closing(0.0)
                    recording.stop()
                    raise
                finally:
                    recorder.finish()
            self._interrupted = bool(halt.reason)
        finally:
            spool.close()
            if manifest is not None:
                await manifest.close(interrupted=self._interrupted)

    async def _fill(self, spool: Spool) -> None:
        """Give the files to the spool, and record what is not published."""
        found = self._found()
        if self._survey.ledger is not None:
            found = last_only(found, self._survey.ledger)
        async for some in batches(found, limiter=self._threads, size=_BATCH):
            add = partial(spool.add, [each for each in some if isinstance(each, Transfer)])
            await anyio.to_thread.run_sync(add, limiter=self._threads)
            others = [each for each in some if not isinstance(each, Transfer)]
            policies = self._resources.policies
            if others:
                self._recorder.add([e if isinstance(e, Skip) else problem_outcome(e, policies) for e in others])
                await self._recorder.room()

    async def _parts(self, spool: Spool) -> Iterator[PartOfRun]:
        alike = await anyio.to_thread.run_sync(spool.alike, self._survey.alike, limiter=self._threads)
        return parts_of_run(spool, self._cutter, alike)

    async def _record(self, outcome: PartOutcome) -> None:
        progress, counts = self._resources.progress, outcome.lines.counts
        progress.traffic.requests += outcome.requests
        progress.traffic.retries += outcome.retries
        progress.bytes_moved += counts.bytes_uploaded
        progress.bytes_failed += outcome.bytes_failed
        progress.counts.bytes_resumed += counts.bytes_resumed
        for notice in outcome.notices:
            self._events.notice(notice)
        receipts, others = OutcomeLines(), OutcomeLines()
        for run in outcome.lines.runs:
            (receipts if run.kind is Receipt else others).runs.append(run)
        if others.runs:
            self._recorder.add(list(others.outcomes()))
        if receipts.runs:
            receipts.counts = Counts(
                objects_uploaded=counts.objects_uploaded,
                bytes_uploaded=counts.bytes_uploaded,
                confirmed_by=counts.confirmed_by,
            )
            self._recorder.pass_on(Passed(receipts, [], partial(_receipts_of, receipts)))
        if outcome.stop_reason:  # before the wait, in which the part's worker may be lost
            self._resources.halt.stop(outcome.stop_reason)
        await self._recorder.room()


def _receipts_of(lines: OutcomeLines) -> list[Receipt]:
    return [outcome for outcome in lines.outcomes() if isinstance(outcome, Receipt)]


def _samples_of(found: Iterator[Found]) -> list[SampleFile]:
    """Path, size and mtime of the first files. Blocking."""
    sources = (each.source for each in found if isinstance(each, Transfer))
    return [(each.path, each.size_bytes, each.mtime_ns) for each in islice(sources, _SAMPLES_MAX)]
