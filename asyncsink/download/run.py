"""One grab: find, queue, fetch by a pool of workers, record, report."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

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
from asyncsink.download.receiver import DownloadContext, failure_of
from asyncsink.download.report import GrabReport
from asyncsink.engine.limits.controller import ConcurrencyController
from asyncsink.engine.open_run import surface
from asyncsink.engine.pipeline import LATER_MAX
from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.recording.recorder import Recorder, Recording
from asyncsink.engine.resources import Resources, open_resources, with_callers_bucket
from asyncsink.engine.transfer.outcomes import may_pass
from asyncsink.engine.transfer.small_files import WORKERS_USUAL
from asyncsink.errors import AccessDenied, AsyncSinkError, InvalidKey, KeyCollision, ServerFault, SourceMissing
from asyncsink.model import Event, Outcome, Skip, Started
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
"""Small objects that one worker receives, and that land in one call."""
PAGES_AHEAD = 64
"""So many pages of a listing wait while objects are grabbed: some 20 MB, and totals that are known from the start where
there are no more than 64,000 objects."""
log = logging.getLogger("asyncsink.grabbing")
_MARKER = "is a folder marker, not a file"


@words_shortages
async def run_grab(
    settings: GrabSettings, *, observe: Callable[[Event], None] | None = None, progress: Progress | None = None
) -> GrabReport:
    """Grab everything.

    Raises:
        ConfigError, SourceMissing, TransferError: the grab could not start, or could not be listed to its end.

    Cancelled, it waits for the threads at work and records what is done; a later run continues large objects.
    """
    events = Events(observe)
    try:
        target = await with_callers_bucket(settings.target, settings.settings.caller_bucket)
        settings = replace(settings, settings=replace(settings.settings, target=target))
        async with open_resources(settings.settings, events=events, progress=progress) as resources:
            return await GrabRun(settings, resources).run()
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()


class GrabRun:
    """The parts of one grab, put together; `run` it once."""

    def __init__(self, settings: GrabSettings, resources: Resources) -> None:
        self._settings = settings
        self._resources = resources
        self._limits = resources.limits
        self._events = resources.events
        self._progress = resources.progress
        self._log = OutcomeLog(self._progress.counts)
        self._recorder = Recorder(self._log, None, self._events)
        self._recording = Recording(self._recorder, settings.settings.retry.abort_seconds)
        self._staging = StagingDirectory(settings.directory)
        self._halt = resources.halt
        self._rounds = settings.settings.policies.retries
        self._later: list[tuple[Outcome, DownloadItem]] = []
        # By key: what a further round has not ended yet, with how the round before ended it.
        self._again: dict[str, tuple[Outcome, DownloadItem]] = {}
        self._single = False
        self._placeholders = Placeholders()
        self._listable = True
        self._send: MemoryObjectSendStream[list[DownloadItem]]
        self._receive: MemoryObjectReceiveStream[list[DownloadItem]]
        self._send, self._receive = anyio.create_memory_object_stream[list[DownloadItem]](self._limits.workers)

    async def run(self) -> GrabReport:
        """See `run_grab`."""
        try:
            async with self._resources.open_bucket(self._settings.target) as stack:
                matches, single = await self._find(stack)
                try:
                    await anyio.to_thread.run_sync(self._staging.open)
                    await self._fetch_all(stack, matches, single)
                finally:
                    with anyio.CancelScope(shield=True):
                        await anyio.to_thread.run_sync(self._staging.close)
                return self._report(stack, matches)
        finally:
            self._send.close()
            self._receive.close()

    async def _find(self, stack: S3Stack) -> tuple[Matches | None, ListedObject | None]:
        """One request that proves bucket and credentials; then what the templates match, or the one object named."""
        prefixes, transport = self._settings.prefixes, stack.transport
        secret = self._settings.settings.objects.sse_customer_key
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
        """Whether anything but folder markers is below the source; asks on only while there is nothing else."""
        if first.vague or not all(map(self._is_nothing, first.objects)):
            return True
        # From the beginning: SeaweedFS, asked for one key, says after a marker that there are no others.
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
        controller = ConcurrencyController(stack.pacer, self._limits, self._events.emit)
        async with anyio.create_task_group() as recording:
            recording.start_soon(self._recording.run)
            try:
                with self._halt.bounds():
                    async with anyio.create_task_group() as tuning:
                        tuning.start_soon(controller.run)
                        fetch = partial(self._fetch_round, stack, file_writer)
                        await fetch(partial(self._feed_all, matches, single))
                        while self._later and self._rounds:
                            self._rounds -= 1
                            await self._fetch_later(fetch)
                        tuning.cancel_scope.cancel()
                self._record_later()
                await self._recording.finish()
            except BaseException:
                self._events.closing(0.0)
                self._recording.stop()
                raise
            finally:
                # What the workers finished last is written down too, and what would have been tried once more.
                self._record_later()
                self._recorder.finish()

    def _record_later(self) -> None:
        later, self._later, self._again = [*self._again.values(), *self._later], [], {}
        if later:
            self._recorder.add([outcome for outcome, _ in later])

    async def _fetch_round(
        self, stack: S3Stack, file_writer: FileWriter, feed: Callable[[DownloadContext], Awaitable[None]]
    ) -> None:
        async with anyio.create_task_group() as workers:
            batcher = FileWriterBatcher(file_writer, self._resources.threads, workers)
            context = self._context(stack, file_writer, batcher)
            for _ in range(self._limits.workers):
                workers.start_soon(self._work, context)
            await feed(context)
            self._send.close()

    async def _fetch_later(
        self, fetch: Callable[[Callable[[DownloadContext], Awaitable[None]]], Awaitable[None]]
    ) -> None:
        """One more round, over what failed in the last for a cause that may pass."""
        later, self._later = self._later, []
        log.info("%d objects that failed are tried once more", len(later))
        self._receive.close()
        self._send, self._receive = anyio.create_memory_object_stream[list[DownloadItem]](self._limits.workers)

        self._again = {wanted.listed.key: (outcome, wanted) for outcome, wanted in later}

        async def feed(_: DownloadContext) -> None:
            for _outcome, wanted in later:
                await self._send.send([wanted])

        await fetch(feed)

    def _context(self, stack: S3Stack, file_writer: FileWriter, batcher: FileWriterBatcher) -> DownloadContext:
        return DownloadContext(
            resources=self._resources,
            transport=stack.transport,
            bucket=self._settings.target.bucket,
            secret=self._settings.settings.objects.sse_customer_key,
            staging=self._staging,
            file_writer=file_writer,
            batcher=batcher,
            threads_receive=stack.senders > 0,
        )

    async def _work(self, context: DownloadContext) -> None:
        share = self._resources.share
        async for batch in self._receive:
            await share.turn()
            try:
                self._progress.objects_in_hand += len(batch)
                outcomes = await context.grab(batch)
                for outcome in outcomes if self._again else ():
                    self._again.pop(outcome.key, None)
                self._progress.objects_in_hand -= len(batch)
            finally:
                share.over()
            self._recorder.add(self._without_later(batch, outcomes))
            await self._recorder.room()

    def _without_later(self, batch: Sequence[DownloadItem], outcomes: Sequence[Outcome]) -> Sequence[Outcome]:
        """The outcomes that are final; the others' objects are tried once more in the end."""
        if not self._rounds or not any(map(may_pass, outcomes)):
            return outcomes
        wanted, final = {each.listed.key: each for each in batch}, list[Outcome]()
        for outcome in outcomes:
            if may_pass(outcome) and len(self._later) < LATER_MAX:
                self._later.append((outcome, wanted[outcome.key]))
            else:
                final.append(outcome)
        return final

    async def _feed_all(self, matches: Matches | None, single: ListedObject | None, context: DownloadContext) -> None:
        await self._feed(matches, single, context)
        await self._deliver_empty(context)

    async def _feed(self, matches: Matches | None, single: ListedObject | None, context: DownloadContext) -> None:
        if single is not None:
            self._single = True
            self._progress.objects_total, self._progress.bytes_total = 1, single.size_bytes
            await self._deliver(context, single.key, [single])
        if matches is not None:
            objects, after = await anyio.to_thread.run_sync(matches.page, 0)
            while objects:
                await self._deliver(context, self._settings.base, objects)
                objects, after = await anyio.to_thread.run_sync(matches.page, after)
        elif self._listable:
            await self._feed_listed(context)

    async def _feed_listed(self, context: DownloadContext) -> None:
        """Queue what is below the source; the listing goes ahead of it, so that the totals are known early."""
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
                await list_below(context.transport, self._settings.prefixes, keep, refuse, context.secret)
                progress.objects_total, progress.bytes_total = objects, size_bytes

        with receive:
            async with anyio.create_task_group() as group:
                group.start_soon(list_all)
                async for prefix, page in receive:
                    await self._deliver(context, prefix, page)

    async def _deliver(self, context: DownloadContext, prefix: str, page: Sequence[ListedObject]) -> None:
        """Queue a page of what was found below `prefix`; waits while the queue is full. That is the backpressure."""
        small: list[DownloadItem] = []
        for listed in page:
            wanted = await self._wanted(context, prefix, listed)
            if wanted is None or self._placeholders.add(wanted):
                continue
            if listed.size_bytes > context.range_bytes:
                await self._send.send([wanted])
            else:
                small.append(wanted)
        await self._send_small(context, small)

    async def _send_small(self, context: DownloadContext, small: Sequence[DownloadItem]) -> None:
        for batch in _batches(small, context.range_bytes, min(self._limits.workers, WORKERS_USUAL)):
            await self._send.send(batch)

    async def _deliver_empty(self, context: DownloadContext) -> None:
        """Queue the empty objects, when everything was listed; those that only stand for a folder are left out."""
        files, folders = self._placeholders.sort_out()
        for wanted in folders:
            key = wanted.listed.key
            self._recorder.add([Skip(context.url(key), key, "", 0, _MARKER, already_there=False)])
            await self._recorder.room()
        await self._send_small(context, files)

    async def _wanted(self, context: DownloadContext, prefix: str, listed: ListedObject) -> DownloadItem | None:
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
            self._recorder.add([Skip(context.url(key), key, "", 0, _MARKER, already_there=False)])
        await self._recorder.room()
        return None

    def _refuse(self, key: str, error: AsyncSinkError) -> None:
        self._recorder.add([failure_of(f"s3://{self._settings.target.bucket}/{key}", key, "", error)])

    def _check_alone(self, relative: str, key: str) -> None:
        """Only the object that the source itself names ("a/x") can get another's path: that of the key "a/x/x".

        Raises:
            KeyCollision: this is the other one; it must not replace the object that was asked for by name.
        """
        single = self._settings.target.prefix
        if self._single and key != single and relative == single.rpartition("/")[2]:
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

        return GrabReport(
            source=self._settings.target.url,
            directory=self._settings.directory,
            log=log,
            find_outputs=outputs,
            elapsed_seconds=self._resources.elapsed_seconds,
            transport=stack.lane,
            requests=stack.requests,
            retries=stack.retries,
            notices=tuple(self._events.notices),
            interrupted=bool(self._halt.reason),
            stop_reason=self._halt.reason,
            resumable=tuple(self._progress.resumable.values()),
        )


def _batches(small: Sequence[DownloadItem], bytes_max: int, workers: int) -> Iterator[list[DownloadItem]]:
    """Small objects in batches: enough of them for all workers, and none with more bytes than one range."""
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
