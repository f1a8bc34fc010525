"""One run's parts, put together: destinations, recorder, tuner, publisher, pipeline; and the report at its end."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import CapacityLimiter

from asyncsink.destinations.base import Destination, RunForecast
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.s3 import S3Destination
from asyncsink.engine.limits.controller import ConcurrencyController
from asyncsink.engine.limits.descriptors import ACCOUNT, Share
from asyncsink.engine.limits.memory import ByteBudget, ReaderPool
from asyncsink.engine.pipeline import Pipeline
from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.recording.recorder import Halt, KeyTurns, Recorder
from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.engine.transfer.small_files import SmallFiles
from asyncsink.errors import AsyncSinkError, ConfigError, CredentialsError, JournalError, PermanentError, RetryableError
from asyncsink.journal.sqlite import open_journal
from asyncsink.model import SourceProblem, Transfer
from asyncsink.options.schema import LocalTarget, S3Target, Settings
from asyncsink.paths import as_text
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.sentences import count
from asyncsink.s3.availability import Watch
from asyncsink.s3.credentials.file import bucket_settings
from asyncsink.s3.operations import ListObjects
from asyncsink.s3.retry import PREPARE_ATTEMPTS_MAX
from asyncsink.s3.stack import S3Stack, open_stack
from asyncsink.s3.transport import Traffic
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.report.manifest import ManifestWriter


@dataclass(slots=True)
class Run:
    """A run whose destinations are ready.

    Attributes:
        destination, copy: where files go; `copy` is None without local_copy.
        target: the target in use: the settings' own, or the local directory that stands in for an unreachable bucket.
        log: every outcome.
        journal: what is remembered from run to run, or None.
        recorded: the journal where this run writes to it; None in a dry run.
        batch_size: as `SmallFiles.batch_size`.
        turns: of its keys; who feeds it takes them, where a key can come twice.
        traffic: requests of the run.
    """

    settings: Settings
    destination: Destination
    copy: Destination | None
    target: S3Target | LocalTarget
    stack: S3Stack | None
    log: OutcomeLog
    events: Events
    pipeline: Pipeline
    threads: CapacityLimiter
    readers: ReaderPool
    started: float
    clock: Callable[[], float]
    traffic: Traffic
    manifest: ManifestWriter | None
    key_turns: KeyTurns
    batch_size: Callable[[int | None], int]
    journal: RunJournal | None = None
    recorded: RunJournal | None = None
    interrupted: bool = True

    async def begin(self) -> None:
        """The last step before transfers run, and before anything that is there is changed: open the manifest.

        Raises:
            ConfigError: another run is writing it, or as the errors below.
            DestinationFull, JournalError: it cannot be written.
        """
        if self.manifest is not None:
            await self.manifest.open()

    async def end(self) -> None:
        """The last step of a run that tried everything: give the manifest its name.

        Raises:
            DestinationFull, JournalError: it cannot be written, or was removed while the run went on; or the journal
                was, where the run was to have one.
        """
        self.interrupted = False
        if self.manifest is not None:
            await self.manifest.close(interrupted=False)
        if self.recorded is not None and (lost := await anyio.to_thread.run_sync(self.recorded.lost)):
            if self.settings.journal.required:
                raise JournalError(lost)
            self.events.notice(lost)

    @property
    def elapsed_seconds(self) -> float:
        """Since the run began, its survey included."""
        return self.clock() - self.started


@dataclass(slots=True)
class _Opened:
    """A destination that is ready, and what belongs to it; fields as in Run."""

    destination: Destination
    target: S3Target | LocalTarget
    stack: S3Stack | None = None
    journal: RunJournal | None = None


@dataclass(slots=True)
class _Begun:
    """What was opened before the forecast was known, or the error that prevented it."""

    share: Share | None = None
    stack: S3Stack | None = None
    error: AsyncSinkError | None = None


@dataclass(slots=True)
class RunBuilder:
    """What is needed to open a run, besides its forecast.

    Attributes:
        threads: reader threads, shared with the survey.
        started: when the run began, by `clock`.
        found: everything that the survey found, once more; None where nothing was surveyed, or it is on disk.
        retries: further rounds over what failed for a cause that may pass.
        halt: stops the run where its server is gone for good or refuses everything; None where it has no end of its
            own, and each file fails for itself.
    """

    settings: Settings
    progress: Progress = field(default_factory=Progress)
    events: Events = field(default_factory=Events)
    dry_run: bool = False
    clock: Callable[[], float] = time.monotonic
    threads: CapacityLimiter | None = None
    started: float = field(default_factory=time.monotonic)
    found: Iterable[Transfer | SourceProblem] | None = None
    retries: int = 0
    halt: Halt | None = None
    _begun: _Begun = field(default_factory=_Begun)

    async def begin(self, exits: AsyncExitStack, listing: ListObjects) -> None:
        """Open what needs no forecast, while the survey still runs: credentials, a connection, and the first page of
        `listing`. `open` goes on with it, and raises what went wrong; `exits` are left after the run.
        """
        settings, begun = self.settings, self._begun
        if isinstance(settings.target, LocalTarget) or settings.caller_bucket is not None:
            return
        try:
            begun.share = await self._share(exits)
            self.settings = replace(settings, limits=begun.share.limits)
            begun.stack = await exits.enter_async_context(self._stack(settings.target))
        except AsyncSinkError as error:
            begun.error = error
        else:
            await begun.stack.place.send_ahead(listing)

    @asynccontextmanager
    async def open(self, forecast: RunForecast) -> AsyncIterator[Run]:
        """Open the destinations, check that they can be used, and assemble the run. No object is sent.

        Raises:
            ConfigError, TransferError, JournalError: the run cannot start.
        """
        async with AsyncExitStack() as exits:
            share = self._begun.share or await self._share(exits)
            settings = self.settings = replace(self.settings, limits=share.limits)
            threads = self.threads or CapacityLimiter(settings.limits.reader_threads)
            threads.total_tokens = settings.limits.reader_threads
            log = OutcomeLog(self.progress.counts)
            opened = await self._open_destination(exits, forecast, threads)
            destination, target, s3, journal = opened.destination, opened.target, opened.stack, opened.journal
            if s3 is not None:
                share.govern(s3.bound, s3.in_flight)
            copy = await self._open_copy(exits, threads)
            if journal is not None:
                journal.copy = copy
            recorded = None if self.dry_run else journal
            manifest = None if self.dry_run else self._manifest(target, s3)
            key_turns = KeyTurns()
            recorder = Recorder(log, manifest, self.events, recorded, key_turns)
            readers = ReaderPool(settings.limits.reader_threads)
            exits.callback(readers.close)
            budget = ByteBudget(settings.limits.memory_bytes)
            controller = ConcurrencyController(s3.pacer, settings.limits, self.events.emit) if s3 is not None else None
            publisher = Publisher(
                destination,
                copy,
                policies=settings.policies,
                limits=settings.limits,
                budget=budget,
                threads=threads,
                progress=self.progress,
                dry_run=self.dry_run,
                clock=self.clock,
            )
            small_files = SmallFiles(
                publisher,
                destination,
                copy,
                policies=settings.policies,
                budget=budget,
                readers=readers,
                progress=self.progress,
                workers=settings.limits.workers,
                dry_run=self.dry_run,
                clock=self.clock,
            )
            pipeline = Pipeline(
                publisher,
                small_files,
                recorder,
                controller,
                share,
                policies=settings.policies,
                limits=settings.limits,
                progress=self.progress,
                hurry=partial(self.events.closing, 0.0),
                record_seconds=settings.retry.abort_seconds,
                halt=self.halt or Halt(),
                rounds=self.retries,
            )
            exits.callback(pipeline.close)
            run = Run(
                settings=settings,
                destination=destination,
                copy=copy,
                target=target,
                stack=s3,
                log=log,
                events=self.events,
                pipeline=pipeline,
                threads=threads,
                readers=readers,
                started=self.started,
                clock=self.clock,
                traffic=self.progress.traffic,
                manifest=manifest,
                key_turns=key_turns,
                batch_size=small_files.batch_size,
                journal=journal,
                recorded=recorded,
            )
            try:
                yield run
            finally:
                if manifest is not None:
                    await manifest.close(interrupted=True)

    async def _share(self, exits: AsyncExitStack) -> Share:
        """What this run may have open of the files that this process may have."""
        asked = self.settings.limits
        share = await ACCOUNT.open(asked)
        exits.callback(share.close)
        if 2 * share.allowed < asked.concurrency_start:
            self.events.notice(few_files(share.allowed))
        return share

    def _manifest(self, target: S3Target | LocalTarget, s3: S3Stack | None) -> ManifestWriter | None:
        if not self.settings.manifest:
            return None
        from asyncsink.report.manifest import ManifestHeader, ManifestWriter  # most runs write none

        header = ManifestHeader(destination=target.url)
        if isinstance(target, S3Target) and s3 is not None:
            # What was really used, also where the environment or a profile said it: verify has nothing else to go by.
            header = ManifestHeader(
                destination=f"s3://{target.bucket}/{target.prefix}".rstrip("/"),
                endpoint_url=s3.endpoint_url,
                region=s3.region,
                addressing_style=target.addressing_style,
            )
        return ManifestWriter(self.settings.manifest, header, self.events.notice)

    async def _open_destination(
        self, exits: AsyncExitStack, forecast: RunForecast, threads: CapacityLimiter
    ) -> _Opened:
        target = self.settings.target
        if isinstance(target, LocalTarget):
            return _Opened(await self._open_local(exits, target, threads), target)
        try:
            async with AsyncExitStack() as own:
                opened = await self._open_s3(own, target, forecast, threads)
                exits.push_async_exit(own.pop_all())
                return opened
        except (RetryableError, PermanentError, CredentialsError) as error:
            if self.settings.policies.on_unreachable != "local":
                raise
            stand_in = stand_in_directory(target)
            kept = "would be kept" if self.dry_run else "is kept"
            self.events.notice(
                f"The bucket cannot be used ({error}) Every file {kept} in {stand_in.url} instead; nothing is on S3."
            )
            return _Opened(await self._open_local(exits, stand_in, threads), stand_in)

    async def _open_s3(
        self, exits: AsyncExitStack, target: S3Target, forecast: RunForecast, threads: CapacityLimiter
    ) -> _Opened:
        settings = self.settings
        if settings.caller_bucket is not None:
            # Rule 24: an override replaces the bucket, never a part of the key.
            target = replace(target, bucket=(await bucket_settings(settings.caller_bucket)).name)
        if self._begun.error is not None:
            raise self._begun.error
        s3 = self._begun.stack
        if s3 is None:
            s3 = await exits.enter_async_context(self._stack(target))
        journal = await self._open_journal(exits, target, s3)
        if journal is not None and self.found is not None and settings.policies.overwrite == "journal":
            count = partial(journal.count_unknown, self.found, self.progress.objects_total or 0)
            forecast = replace(forecast, unknown_total=await anyio.to_thread.run_sync(count, limiter=threads))
        destination = S3Destination(
            s3.transport,
            target,
            objects=settings.objects,
            retry=settings.retry,
            threads=threads,
            lane=s3.lane,
            notice=self.events.notice,
            look_first=settings.policies.overwrite != "always",
            only_new=settings.policies.overwrite == "never",
            senders=s3.senders,
            log=None if self.dry_run else journal,
            abort_on_interrupt=settings.policies.abort_on_interrupt,
        )
        exits.push_async_callback(destination.aclose)
        with s3.transport.fewer_attempts(PREPARE_ATTEMPTS_MAX):
            await destination.prepare(forecast)
        if journal is not None:
            journal.contradicts = destination.contradicts
        return _Opened(destination, target, s3, journal)

    def _stack(self, target: S3Target) -> AbstractAsyncContextManager[S3Stack]:
        settings = self.settings
        return open_stack(
            target,
            settings.retry,
            settings.limits,
            caller_bucket=settings.caller_bucket,
            lane=settings.transport,
            checksum=settings.policies.checksum,
            customer_key=settings.objects.sse_customer_key is not None,
            notice=self.events.notice,
            traffic=self.progress.traffic,
            watch=Watch(
                give_up_after_seconds=settings.policies.give_up_after_seconds,
                tell=self.events.tell,
                stop=self.halt.stop if self.halt is not None else None,
            ),
        )

    async def _open_journal(self, exits: AsyncExitStack, target: S3Target, s3: S3Stack) -> RunJournal | None:
        settings = self.settings
        journal = await open_journal(
            settings.journal,
            target,
            endpoint_url=s3.endpoint_url,
            objects=settings.objects,
            algorithm=settings.policies.algorithm,
            shard=settings.shard,
            dry_run=self.dry_run,
            notice=self.events.notice,
        )
        if journal is None:
            return None

        kept = RunJournal(
            journal,
            overwrite=settings.policies.overwrite,
            bucket=target.bucket,
            dry_run=self.dry_run,
            notice=None if settings.journal.required else self.events.notice,
        )

        async def close(_: object, error: BaseException | None, __: object) -> None:
            # A run that ends in order waits for its journal; one that is stopped, only so long.
            await kept.aclose(None if error is None else settings.retry.abort_seconds)

        exits.push_async_exit(close)
        return kept

    async def _open_local(
        self, exits: AsyncExitStack, target: LocalTarget, threads: CapacityLimiter, *, use_local_key: bool = False
    ) -> LocalDestination:
        # A directory that stands in for a bucket has what the bucket would have, and no companions.
        related = self.settings.policies.related_files and not target.stands_in
        destination = LocalDestination(target, limiter=threads, use_local_key=use_local_key, related_files=related)
        exits.push_async_callback(destination.aclose)
        if not self.dry_run:
            await destination.prepare(RunForecast(objects_total=None, common_prefix="", sample_key=""))
        return destination

    async def _open_copy(self, exits: AsyncExitStack, threads: CapacityLimiter) -> LocalDestination | None:
        target = self.settings.local_copy
        return None if target is None else await self._open_local(exits, target, threads, use_local_key=True)


def few_files(transfers: int) -> str:
    """The notice of a run that has few open files."""
    return (
        f"This process may have few open files: {count(transfers, 'transfer')} at a time at most, instead of as many "
        "as bring speed; raise `ulimit -n`."
    )


def stand_in_directory(target: S3Target) -> LocalTarget:
    """~/s3_datasink_<bucket>, which keeps what an unreachable bucket would have been given (rule 46).

    Under the same keys: Nipype leaves the prefix out, so that two studies of one bucket would share a folder.
    """
    name = target.bucket.replace("/", "_").replace(":", "_")
    directory = f"{as_text(os.path.expanduser('~'))}/s3_datasink_{name}"
    return LocalTarget(directory=directory, url=f"{directory}/{target.prefix}".rstrip("/"), stands_in=True)


def surface(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that a caller should see instead of a task group's.

    One of ours that stopped the run, else a bug as it is, else the group itself (nothing but cancellation).
    """
    leaves = list(_leaves(group))
    for kind in (AsyncSinkError, Exception):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if leaves else group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Sequence[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found


def check_bucket_given(settings: Settings) -> None:
    """Refuse a `bucket` beside a local destination: it would be ignored."""
    if settings.caller_bucket is not None and isinstance(settings.target, LocalTarget):
        raise ConfigError(
            f"bucket is given, but the destination {settings.target.url} is a local directory; expected s3://bucket/prefix."
        )
