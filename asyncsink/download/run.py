"""One grab: find objects, queue them, receive them by a pool of workers, record, report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from asyncsink.download.options import GrabSettings
from asyncsink.download.placement import FileWriter, FileWriterBatcher, StagingDirectory
from asyncsink.download.plan import (
    DownloadItem,
    Matches,
    Placeholders,
    check_asked_for,
    check_relative,
    find_matches,
    find_single,
    find_unlisted,
    is_marker,
)
from asyncsink.download.receiver import DownloadContext, download_failure
from asyncsink.download.report import GrabReport
from asyncsink.engine.open_run import surface
from asyncsink.engine.pipeline import Feed, Pipeline
from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.recording.recorder import Recorder
from asyncsink.engine.resources import Resources, open_resources, with_callers_bucket
from asyncsink.engine.transfer.small_files import WORKERS_USUAL
from asyncsink.errors import AccessDenied, AsyncSinkError, InvalidKey, KeyCollision, ServerFault, SourceMissing
from asyncsink.model import Event, Failure, Outcome, Skip, Started
from asyncsink.os_errors import words_shortages
from asyncsink.paths import as_native
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.routing.keys import show
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import ListedObject, ListObjects, ObjectPage
from asyncsink.s3.retry import PREPARE_ATTEMPTS_MAX
from asyncsink.s3.stack import S3Stack
from asyncsink.s3.transport import Transport
from asyncsink.sources.s3_listing import list_below

BATCH_OBJECTS_MAX = 64
"""Most small objects that one worker receives together, and one call to a thread writes."""
PAGES_AHEAD = 64
"""Most pages of a listing that wait while objects are grabbed: some 20 MB, and up to 64,000 objects whose totals are
known from the start."""
SubmitItems = Callable[[list[DownloadItem]], Awaitable[None]]
_MARKER = "is a folder marker, not a file"


@words_shortages
async def run_grab(
    settings: GrabSettings, *, observe: Callable[[Event], None] | None = None, progress: Progress | None = None
) -> GrabReport:
    """Grab the objects of `settings` into their directory.

    Raises:
        ConfigError, SourceMissing, TransferError: the grab could not start, or its objects not be listed to the end.

    Cancelled, it waits for the threads at work and records the outcomes; a later run continues large objects.
    """
    events = Events(observe)
    try:
        own, _ = await with_callers_bucket(settings.settings)
        settings = replace(settings, settings=own)
        async with open_resources(settings.settings, events=events, progress=progress) as resources:
            return await GrabRun(settings, resources).run()
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


class GrabRun:
    """One grab with its parts; `run` it once."""

    def __init__(self, settings: GrabSettings, resources: Resources) -> None:
        self._settings = settings
        self._resources = resources
        self._events = resources.events
        self._progress = resources.progress
        self._log = OutcomeLog(self._progress.counts)
        self._recorder = Recorder(self._log, None, self._events)
        self._staging = StagingDirectory(settings.directory)
        self._secret = settings.settings.objects.sse_customer_key
        self._single = False
        self._placeholders = Placeholders()
        self._listable = True

    async def run(self) -> GrabReport:
        """See `run_grab`."""
        async with self._resources.open_bucket(self._settings.target) as stack:
            matches, single = await self._find(stack)
            try:
                await anyio.to_thread.run_sync(self._staging.open)
                await self._fetch_all(stack, matches, single)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.to_thread.run_sync(self._staging.close)
            return self._report(stack, matches)

    async def _find(self, stack: S3Stack) -> tuple[Matches | None, ListedObject | None]:
        """Prove bucket and credentials with one request; returns the templates' matches, or the one object that is
        named."""
        prefixes, transport = self._settings.prefixes, stack.transport
        secret = self._secret
        with transport.fewer_attempts(PREPARE_ATTEMPTS_MAX):
            try:
                first = await transport.send(ListObjects(prefix=prefixes[0], max_keys=1))
            except AccessDenied as denied:
                self._listable = False
                matches, single = await find_unlisted(transport, self._settings, secret, denied)
            else:
                single = await find_single(transport, self._settings, secret)
        if self._settings.fields:
            if self._listable:
                matches = await find_matches(transport, self._settings, self._refuse, secret)
            else:
                self._events.notice(
                    f"{self._settings.target.url} may not be listed with these credentials: of what the templates "
                    "match, the objects that they name by their whole keys are grabbed."
                )
            assert matches is not None
            self._progress.objects_total, self._progress.bytes_total = matches.totals()
            return matches, None
        if not self._listable:
            return None, single
        if single is None and self._settings.raise_on_empty and not await self._holds_objects(transport, first):
            raise SourceMissing(
                f"{self._settings.target.url} holds no objects; correct the source, or give raise_on_empty=False."
            )
        return None, single

    async def _holds_objects(self, transport: Transport, first: ObjectPage) -> bool:
        """Whether an object other than folder markers is below the source; further pages are listed only until one is
        found."""
        if first.vague or not all(map(self._is_nothing, first.objects)):
            return True
        # From the beginning: after a listing of one key that is a marker, SeaweedFS reports that there are no others.
        if first.objects or first.unnamed or first.next_token or first.next_after:
            async with aclosing(object_pages(transport, self._settings.base)) as pages:
                async for page in pages:
                    if page.vague or not all(map(self._is_nothing, page.objects)):
                        return True
        return False

    def _is_nothing(self, listed: ListedObject) -> bool:
        return is_marker(listed) or not listed.key.startswith(self._settings.base)

    async def _fetch_all(self, stack: S3Stack, matches: Matches | None, single: ListedObject | None) -> None:
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
            await pipeline.run(partial(self._feed_all, stack.transport, matches, single))
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
            threads_receive=stack.senders > 0,
        )

    async def _feed_all(
        self, transport: Transport, matches: Matches | None, single: ListedObject | None, submit: SubmitItems
    ) -> None:
        await self._feed(transport, matches, single, submit)
        await self._deliver_empty(submit)

    async def _feed(
        self, transport: Transport, matches: Matches | None, single: ListedObject | None, submit: SubmitItems
    ) -> None:
        if single is not None:
            self._single = True
            self._progress.objects_total, self._progress.bytes_total = 1, single.size_bytes
            await self._deliver(submit, single.key, [single])
        if matches is not None:
            objects, after = await anyio.to_thread.run_sync(matches.page, 0)
            while objects:
                await self._deliver(submit, self._settings.base, objects)
                objects, after = await anyio.to_thread.run_sync(matches.page, after)
        elif self._listable:
            await self._feed_listed(transport, submit)

    async def _feed_listed(self, transport: Transport, submit: SubmitItems) -> None:
        """Queue the objects below the source; the listing runs ahead, so that the totals are known early."""
        progress = self._progress
        objects, size_bytes = progress.objects_total or 0, progress.bytes_total or 0
        progress.objects_total = progress.bytes_total = None
        send, receive = anyio.create_memory_object_stream[tuple[str, Sequence[ListedObject]]](PAGES_AHEAD)

        async def keep(prefix: str, page: Sequence[ListedObject]) -> None:
            nonlocal objects, size_bytes
            objects += len(page)
            size_bytes += sum(listed.size_bytes for listed in page)
            await send.send((prefix, page))

        def refuse(key: str, error: AsyncSinkError) -> None:
            nonlocal objects
            objects += 1
            self._refuse(key, error)

        async def list_all() -> None:
            with send:
                await list_below(transport, self._settings.prefixes, keep, refuse, self._secret)
                progress.objects_total, progress.bytes_total = objects, size_bytes

        with receive:
            async with anyio.create_task_group() as group:
                group.start_soon(list_all)
                async for prefix, page in receive:
                    await self._deliver(submit, prefix, page)

    async def _deliver(self, submit: SubmitItems, prefix: str, page: Sequence[ListedObject]) -> None:
        """Queue a page of objects below `prefix`; waits while the queue is full (the backpressure)."""
        small: list[DownloadItem] = []
        for listed in page:
            wanted = await self._wanted(prefix, listed)
            if wanted is None or self._placeholders.add(wanted):
                continue
            if listed.size_bytes > self._resources.limits.part_size_bytes:
                await submit([wanted])
            else:
                small.append(wanted)
        await self._submit_small(submit, small)

    async def _submit_small(self, submit: SubmitItems, small: Sequence[DownloadItem]) -> None:
        limits = self._resources.limits
        for batch in _batches(small, limits.part_size_bytes, min(limits.workers, WORKERS_USUAL)):
            await submit(batch)

    async def _deliver_empty(self, submit: SubmitItems) -> None:
        """Queue the empty objects once everything is listed, without those that only stand for a folder."""
        files, folders = self._placeholders.sort_out()
        for wanted in folders:
            self._skip_marker(wanted.listed.key)
            await self._recorder.room()
        await self._submit_small(submit, files)

    def _skip_marker(self, key: str) -> None:
        self._recorder.add([Skip(self._url(key), key, "", 0, _MARKER, already_there=False)])

    def _url(self, key: str) -> str:
        return f"s3://{self._settings.target.bucket}/{key}"

    async def _wanted(self, prefix: str, listed: ListedObject) -> DownloadItem | None:
        key, base = listed.key, self._settings.base
        relative = key.removeprefix(base)
        if not key.startswith(base):
            relative = key.rpartition("/")[2]  # the one object that the source names
        try:
            check_asked_for(key, prefix)
            if not is_marker(listed):
                check_relative(relative, key)
                self._check_alone(relative, key)
                return DownloadItem(listed, relative)
        except (InvalidKey, KeyCollision, ServerFault) as error:
            self._progress.bytes_failed += listed.size_bytes
            self._refuse(key, error)
        else:
            self._skip_marker(key)
        await self._recorder.room()
        return None

    def _refuse(self, key: str, error: AsyncSinkError) -> None:
        self._recorder.add([download_failure(self._settings.target.bucket, key, "", error)])

    def _check_alone(self, relative: str, key: str) -> None:
        """Keep the path of the object that the source itself names ("a/x"): the key "a/x/x" would have the same one.

        Raises:
            KeyCollision: the key is that other one; it must not replace the object that was requested by name.
        """
        if not self._single:
            return
        single = self._settings.target.prefix
        if key != single and relative == single.rpartition("/")[2]:
            raise KeyCollision(
                f"The key {show(key)} would be written to the path of {show(single)}, which the source names itself; "
                "grab it into another directory, with a template that finds only this key."
            )

    def _report(self, stack: S3Stack, matches: Matches | None) -> GrabReport:
        log = self._log

        def outputs() -> dict[str, object]:
            if matches is None:
                return {}
            failed = {failure.key for failure in log.failures}
            directory, base = self._settings.directory, self._settings.base
            return matches.outputs(
                self._settings,
                lambda key: None if key in failed else as_native(f"{directory}/{key.removeprefix(base)}"),
            )

        end = self._resources.ended(stack.lane, interrupted=bool(self._resources.halt.reason))
        return GrabReport(self._settings.target.url, self._settings.directory, log, end, find_outputs=outputs)


def _batches(small: Sequence[DownloadItem], bytes_max: int, workers: int) -> Iterator[list[DownloadItem]]:
    """Small objects in batches: enough batches for all workers, and none with more bytes than one range."""
    objects_max = min(BATCH_OBJECTS_MAX, max(1, len(small) // workers))
    batch: list[DownloadItem] = []
    total = 0
    for wanted in small:
        size_bytes = wanted.listed.size_bytes
        if batch and (len(batch) == objects_max or total + size_bytes > bytes_max):
            yield batch
            batch, total = [], 0
        batch.append(wanted)
        total += size_bytes
    if batch:
        yield batch
