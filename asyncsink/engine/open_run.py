"""The composition root: one run's destinations, recorder, publisher and pipeline are made here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

from asyncsink.destinations.base import Destination, RunForecast, UploadLog
from asyncsink.destinations.existing_objects import ExistingObjects
from asyncsink.destinations.opening import local_destination, s3_destination, stand_in_directory
from asyncsink.engine.pipeline import UploadPipeline
from asyncsink.engine.recording.recorder import Recorder
from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.engine.resources import Resources, with_callers_bucket
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.engine.transfer.small_files import SmallFiles
from asyncsink.errors import AsyncSinkError, CredentialsError, JournalError, PermanentError, RetryableError
from asyncsink.journal.sqlite import open_journal
from asyncsink.model import SourceProblem, Transfer
from asyncsink.options.schema import LocalTarget, OwnTarget, S3Target, Target
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.s3.operations import ListObjects
from asyncsink.s3.stack import S3Stack
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.report.manifest import ManifestWriter


@dataclass(slots=True)
class Run:
    """A run whose destinations are ready.

    Attributes:
        resources: shared by its parts.
        destination: where files go. copy: the local copy beside it, or None.
        target: the target in use: the settings' own, or the local directory that stands in for an unreachable bucket.
        log: every outcome.
        journal: the journal of the run, or None.
        batch_size: as `SmallFiles.batch_size`.
        stack: the layers of S3, or None.
        interrupted: whether some transfers were not tried.
    """

    resources: Resources
    destination: Destination
    copy: Destination | None
    target: Target
    log: OutcomeLog
    pipeline: UploadPipeline
    manifest: ManifestWriter | None
    batch_size: Callable[[int | None], int]
    journal: RunJournal | None = None
    stack: S3Stack | None = None
    interrupted: bool = True

    async def begin(self) -> None:
        """Open the manifest, and end what a killed process has left open: the last steps before transfers run.

        Raises:
            ConfigError: another run is writing the manifest, or its path cannot be used.
            DestinationFull, JournalError: it cannot be written.
        """
        if self.manifest is not None:
            await self.manifest.open()
        if self.journal is not None:
            seconds, notice = self.resources.settings.retry.abort_seconds, self.resources.events.notice
            await self.journal.end_left_open(self.destination.discard, seconds=seconds, notice=notice)

    async def end(self) -> None:
        """Give the manifest its name: the last step of a run that tried everything.

        Raises:
            DestinationFull, JournalError: the manifest cannot be written, or was removed during the run; or a journal
                that the run requires was.
        """
        self.interrupted = False
        if self.manifest is not None:
            await self.manifest.close(interrupted=False)
        if self.journal is None or self.resources.dry_run:
            return
        if lost := await anyio.to_thread.run_sync(self.journal.lost):
            if self.resources.settings.journal.required:
                raise JournalError(lost)
            self.resources.events.notice(lost)


@dataclass(slots=True)
class _Opened:
    """A prepared destination with its target and journal; fields as in Run."""

    destination: Destination
    target: Target
    stack: S3Stack | None = None
    journal: RunJournal | None = None


class RunBuilder:
    """Opens a run.

    Args:
        resources: of the run.
        retries: further rounds over what failed for a cause that may pass.
        lasting: connections that stay open after the run, to the target of the settings; their owner adapts the
            concurrency. None opens some for this run alone.
        uploads: records the steps of multipart uploads, where the run has no journal that does.
    """

    def __init__(
        self,
        resources: Resources,
        *,
        retries: int = 0,
        lasting: S3Stack | None = None,
        uploads: UploadLog | None = None,
    ) -> None:
        self._resources = resources
        self._settings = resources.settings
        self._notice = resources.events.notice
        self._dry_run = resources.dry_run
        self._retries = retries
        self._lasting = lasting
        self._uploads = uploads
        self._begun: S3Stack | AsyncSinkError | None = None

    async def begin(self, exits: AsyncExitStack, listing: ListObjects) -> None:
        """Open what needs no forecast, during the survey: credentials, a connection, and the first page of `listing`.
        `open` goes on with it, and raises its errors; `exits` must be left after the run.
        """
        target = self._settings.target
        if not isinstance(target, S3Target) or self._settings.caller_bucket is not None:
            return
        try:
            self._begun = stack = await exits.enter_async_context(self._resources.open_bucket(target))
        except AsyncSinkError as error:
            self._begun = error
        else:
            await stack.send_ahead(listing)

    @asynccontextmanager
    async def open(
        self, forecast: RunForecast, found: Iterable[Transfer | SourceProblem] | None = None
    ) -> AsyncIterator[Run]:
        """Open the destinations, check that they can be used, and assemble the run. No object is sent.

        Args:
            forecast: for the destinations.
            found: the entries of the survey; None where there was no survey, or they are on disk.

        Raises:
            ConfigError, TransferError, JournalError: the run cannot start.
        """
        async with AsyncExitStack() as exits:
            resources = self._resources
            copied = self._settings.local_copy
            copy = None if copied is None else self._local(copied, use_local_key=True)
            opened = await self._open_destination(exits, forecast, found, copy)
            journal = opened.journal
            if copy is not None:
                await self._prepare_local(exits, copy)
            log = OutcomeLog(resources.progress.counts, records_max=self._settings.records_max)
            manifest = None if self._dry_run else self._manifest(opened.target, opened.stack)
            recorded = None if self._dry_run else journal
            recorder = Recorder(
                log, manifest, resources.events, recorded, resources.key_turns, accepted=resources.accepted
            )
            publisher = Publisher(resources, opened.destination, copy)
            small_files = SmallFiles(resources, publisher, opened.destination, copy)
            tuned = None if self._lasting is not None else opened.stack
            pipeline = UploadPipeline(resources, publisher, small_files, recorder, tuned, rounds=self._retries)
            exits.callback(pipeline.close)
            run = Run(
                resources,
                opened.destination,
                copy,
                opened.target,
                log,
                pipeline,
                manifest,
                small_files.batch_size,
                journal,
                opened.stack,
            )
            try:
                yield run
            finally:
                if manifest is not None:
                    await manifest.close(interrupted=True)

    def _manifest(self, target: Target, s3: S3Stack | None) -> ManifestWriter | None:
        if not self._settings.manifest:
            return None
        from asyncsink.report.manifest import ManifestHeader, ManifestWriter  # most runs need no manifest

        header = ManifestHeader(destination=target.url)
        if isinstance(target, S3Target) and s3 is not None:
            # The values in use, also those of the environment or a profile: verify has no other source for them.
            header = ManifestHeader(
                destination=f"s3://{target.bucket}/{target.prefix}".rstrip("/"),
                endpoint_url=s3.endpoint_url,
                region=s3.region,
                addressing_style=target.addressing_style,
            )
        return ManifestWriter(self._settings.manifest, header, self._notice, self._settings.attempt)

    async def _open_destination(
        self,
        exits: AsyncExitStack,
        forecast: RunForecast,
        found: Iterable[Transfer | SourceProblem] | None,
        copy: Destination | None,
    ) -> _Opened:
        target = self._settings.target
        if isinstance(target, LocalTarget):
            return _Opened(await self._prepare_local(exits, self._local(target)), target)
        if isinstance(target, OwnTarget):
            destination: Destination = target.destination
            exits.push_async_callback(destination.aclose)
            await destination.prepare(forecast)
            return _Opened(destination, target)
        try:
            async with AsyncExitStack() as own:
                opened = await self._open_s3(own, forecast, found, copy)
                exits.push_async_exit(own.pop_all())
                return opened
        except (RetryableError, PermanentError, CredentialsError) as error:
            if self._settings.policies.on_unreachable != "local":
                raise
            stand_in = stand_in_directory(target)
            kept = "would be kept" if self._dry_run else "is kept"
            self._notice(
                f"The bucket cannot be used ({error}) Every file {kept} in {stand_in.url} instead; nothing is on S3."
            )
            return _Opened(await self._prepare_local(exits, self._local(stand_in)), stand_in)

    async def _open_s3(
        self,
        exits: AsyncExitStack,
        forecast: RunForecast,
        found: Iterable[Transfer | SourceProblem] | None,
        copy: Destination | None,
    ) -> _Opened:
        resources = self._resources
        settings, target = await with_callers_bucket(self._settings)
        if isinstance(self._begun, AsyncSinkError):
            raise self._begun
        stack = self._lasting or self._begun
        if stack is None:
            stack = await exits.enter_async_context(resources.open_bucket(target))
        existing = ExistingObjects(stack, settings, threads=resources.threads, notice=self._notice)
        journal = await self._open_journal(exits, target, stack, copy, existing)
        if journal is not None and found is not None and settings.policies.overwrite == "journal":
            count = partial(journal.count_unknown, found, resources.progress.objects_total or 0)
            unknown_total = await anyio.to_thread.run_sync(count, limiter=resources.threads)
            forecast = replace(forecast, unknown_total=unknown_total)
        log = self._uploads or (None if self._dry_run else journal)
        destination = s3_destination(stack, settings, existing, notice=self._notice, log=log)
        if self._lasting is not None:
            # Other runs have requests under way, whose attempts stay as they are.
            exits.callback(existing.close)
            await destination.prepare(forecast)
            return _Opened(destination, target, stack, journal)
        exits.push_async_callback(destination.aclose)
        with stack.transport.fewer_attempts():
            await destination.prepare(forecast)
        return _Opened(destination, target, stack, journal)

    async def _open_journal(
        self,
        exits: AsyncExitStack,
        target: S3Target,
        stack: S3Stack,
        copy: Destination | None,
        existing: ExistingObjects,
    ) -> RunJournal | None:
        settings = self._settings
        journal = await open_journal(
            settings.journal,
            target,
            endpoint_url=stack.endpoint_url,
            objects=settings.objects,
            algorithm=settings.policies.algorithm,
            shard=settings.shard,
            dry_run=self._dry_run,
            lasting=self._resources.lasting,
            notice=self._notice,
        )
        if journal is None:
            return None

        kept = RunJournal(
            journal,
            overwrite=settings.policies.overwrite,
            bucket=target.bucket,
            dry_run=self._dry_run,
            notice=None if settings.journal.required else self._notice,
            copy=copy,
            contradicts=existing.contradicts,
        )

        async def close(_: object, error: BaseException | None, __: object) -> None:
            # A run that ends in order waits for its journal without a limit; a stopped one, for `abort_seconds`.
            await kept.aclose(None if error is None else settings.retry.abort_seconds)

        exits.push_async_exit(close)
        return kept

    def _local(self, target: LocalTarget, *, use_local_key: bool = False) -> Destination:
        return local_destination(target, self._settings, self._resources.threads, use_local_key=use_local_key)

    async def _prepare_local(self, exits: AsyncExitStack, destination: Destination) -> Destination:
        exits.push_async_callback(destination.aclose)
        if not self._dry_run:
            await destination.prepare(RunForecast(objects_total=None, common_prefix="", sample_key=""))
        return destination
