"""One grab: find objects, queue them, receive them by a pool of workers, record, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from asyncsink.download.feed import GrabFeed
from asyncsink.download.options import GrabSettings, page_of_grab
from asyncsink.download.placement import FileWriter, FileWriterBatcher, StagingDirectory
from asyncsink.download.plan import DownloadItem
from asyncsink.download.receiver import DownloadContext
from asyncsink.download.report import GrabReport
from asyncsink.engine.pipeline import Feed, Pipeline
from asyncsink.engine.recording.events import Events, Progress, TakesLines
from asyncsink.engine.recording.recorder import Recorder
from asyncsink.engine.resources import Resources, open_resources, with_callers_bucket
from asyncsink.event_loops import surface
from asyncsink.model import Event, Failure, Outcome, Started
from asyncsink.os_errors import words_shortages
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.s3.stack import S3Stack


@words_shortages
async def run_grab(
    settings: GrabSettings,
    *,
    observe: Callable[[Event], None] | None = None,
    recorded: TakesLines | None = None,
    progress: Progress | None = None,
) -> GrabReport:
    """Grab the objects of `settings` into their directory; arguments as in `engine.export.run_source`.

    Raises:
        ConfigError, SourceMissing, TransferError: the grab could not start, or its objects not be listed to the end.

    Cancelled, it waits for the threads at work and records the outcomes; a later run continues large objects.
    """
    page = page_of_grab(settings)
    follow = page.following if page is not None else lambda *_: nullcontext()
    heard = observe if page is None else page.beside(observe)
    events = Events(settings.settings.observe, heard, failures_only=recorded is not None, recorded=recorded)
    try:
        if page is not None:
            await page.check()
        own, _ = await with_callers_bucket(settings.settings)
        settings = replace(settings, settings=own)
        async with open_resources(settings.settings, events=events, progress=progress) as resources:
            return await GrabRun(settings, resources, follow).run()
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()


class DownloadPipeline(Pipeline[list[DownloadItem], DownloadItem]):
    """The pipeline of a grab: its workers receive batches of small objects, or a large one.

    Args:
        resources, recorder, stack: of the grab.
        rounds: as in `Pipeline`.
        context: makes the context of one round's workers, with that round's tasks.
    """

    def __init__(
        self,
        resources: Resources,
        recorder: Recorder,
        stack: S3Stack,
        *,
        rounds: int,
        context: Callable[[TaskGroup], DownloadContext],
    ) -> None:
        super().__init__(resources, recorder, stack, queue_max=resources.limits.workers, rounds=rounds)
        self._new_context = context
        self._context: DownloadContext

    async def run_round(self, feed: Feed[list[DownloadItem]]) -> None:
        """As `Pipeline.run_round`; received objects are written by tasks that end after the workers."""
        async with anyio.create_task_group() as writing:
            self._context = self._new_context(writing)
            await super().run_round(feed)

    async def carry_out(self, entry: list[DownloadItem]) -> None:
        """Receive a batch."""
        self.progress.objects_in_hand += len(entry)
        outcomes: Sequence[Outcome] = await self._context.grab(entry)
        self.progress.objects_in_hand -= len(entry)
        if self.repeating or any(isinstance(outcome, Failure) for outcome in outcomes):
            items = {item.listed.key: item for item in entry}
            outcomes = [each for each in outcomes if not self.put_off([each], items[each.key])]
            for each in outcomes:
                if isinstance(each, Failure):
                    self.progress.bytes_failed += items[each.key].listed.size_bytes
        self.recorder.add(outcomes)

    def identity(self, item: DownloadItem) -> str:
        """Its key."""
        return item.listed.key

    def once_more(self, item: DownloadItem) -> list[DownloadItem]:
        """A batch of its own."""
        return [item]

    def final(self, outcomes: Sequence[Outcome], item: DownloadItem) -> None:
        """Record the final outcomes of an object."""
        self.progress.bytes_failed += item.listed.size_bytes
        self.recorder.add(outcomes)


Follow = Callable[[Resources, S3Stack, Callable[[], GrabReport]], AbstractAsyncContextManager[None]]
"""`RunPage.following`, or a block like any other."""


class GrabRun:
    """One grab with its parts; `run` it once."""

    def __init__(self, settings: GrabSettings, resources: Resources, follow: Follow) -> None:
        self._follow = follow
        self._settings = settings
        self._resources = resources
        self._events = resources.events
        self._progress = resources.progress
        self._log = OutcomeLog(self._progress.counts)
        self._recorder = Recorder(self._log, None, self._events)
        self._staging = StagingDirectory(settings.directory)
        self._secret = settings.settings.objects.sse_customer_key
        self._ended = False

    async def run(self) -> GrabReport:
        """See `run_grab`."""
        async with self._resources.open_bucket(self._settings.target) as stack:
            feed = GrabFeed(self._settings, self._resources, self._recorder, stack.transport)
            await feed.find()
            try:
                await anyio.to_thread.run_sync(self._staging.open)
                async with self._follow(self._resources, stack, partial(self._report, stack, feed)):
                    await self._fetch_all(stack, feed)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._staging.close)
            return self._report(stack, feed)

    async def _fetch_all(self, stack: S3Stack, feed: GrabFeed) -> None:
        file_writer = await anyio.to_thread.run_sync(FileWriter, self._staging)
        self._progress.started = True
        await self._events.emit(Started(self._progress.objects_total, self._progress.bytes_total, stack.lane))
        pipeline = DownloadPipeline(
            self._resources,
            self._recorder,
            stack,
            rounds=self._settings.settings.policies.retries,
            context=partial(self._context, stack, file_writer),
        )
        try:
            await pipeline.run(feed.feed)
            self._ended = True
        finally:
            pipeline.close()

    def _context(self, stack: S3Stack, file_writer: FileWriter, writing: TaskGroup) -> DownloadContext:
        return DownloadContext(
            resources=self._resources,
            transport=stack.transport,
            bucket=self._settings.target.bucket,
            secret=self._secret,
            staging=self._staging,
            file_writer=file_writer,
            batcher=FileWriterBatcher(file_writer, self._resources.threads, writing),
            threads_receive=stack.batches,
        )

    def _report(self, stack: S3Stack, feed: GrabFeed) -> GrabReport:
        end = self._resources.ended(stack.lane, interrupted=not self._ended or bool(self._resources.halt.reason))
        settings, log = self._settings, self._log
        return GrabReport(settings.target.url, settings.directory, log, end, find_outputs=lambda: feed.outputs(log))
