"""The objects of one grab, found, and put on its queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread

from asyncsink.download.options import GrabSettings
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
    list_below,
)
from asyncsink.download.receiver import download_failure
from asyncsink.engine.recording.recorder import Recorder
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.small_files import WORKERS_USUAL
from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    InvalidKey,
    KeyCollision,
    ObjectMissing,
    ServerFault,
    SourceMissing,
)
from asyncsink.model import Skip
from asyncsink.paths import as_native
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.promised_objects import PromisedObjects, unlisted
from asyncsink.routing.keys import show
from asyncsink.s3.listing import object_pages
from asyncsink.s3.operations import ListedObject, ListObjects, ObjectPage
from asyncsink.s3.retry import RetryingTransport

BATCH_OBJECTS_MAX = 64
"""Most small objects that one worker receives together, and one call to a thread writes."""
PAGES_AHEAD = 64
"""Most pages of a listing that wait while objects are grabbed: some 20 MB, and up to 64,000 objects whose totals are
known from the start."""
SubmitItems = Callable[[list[DownloadItem]], Awaitable[None]]
_MARKER = "is a folder marker, not a file"


class GrabFeed:
    """What feeds the pipeline of a grab: `find`, then `feed`.

    Args:
        settings, resources, recorder: of the grab.
        transport: lists.
    """

    def __init__(
        self, settings: GrabSettings, resources: Resources, recorder: Recorder, transport: RetryingTransport
    ) -> None:
        self._settings = settings
        self._resources = resources
        self._progress = resources.progress
        self._recorder = recorder
        self._transport = transport
        self._promises: PromisedObjects | None = None
        self._secret = settings.settings.objects.sse_customer_key
        self._placeholders = Placeholders()
        self._listable = True
        self._matches: Matches | None = None
        self._single: ListedObject | None = None

    async def find(self) -> None:
        """Prove bucket and credentials with one request; find the templates' matches, or the one object that is named.

        Raises:
            ConfigError: the manifest cannot be read, or is of another source; nothing was sent.
            SourceMissing, TransferError: as `run_grab`.
        """
        if self._settings.manifest:
            target = self._settings.target
            read = partial(PromisedObjects.of, self._settings.manifest, target.bucket, target.prefix)
            self._promises = await anyio.to_thread.run_sync(read)
        transport, secret = self._transport, self._secret
        with transport.fewer_attempts():
            try:
                first = await transport.send(ListObjects(prefix=self._settings.prefixes[0], max_keys=1))
            except AccessDenied as denied:
                self._listable = False
                self._matches, self._single = await find_unlisted(transport, self._settings, secret, denied)
            else:
                self._single = await find_single(transport, self._settings, secret)
        if self._settings.fields:
            if self._listable:
                self._matches = await find_matches(transport, self._settings, self._refuse, secret)
            else:
                self._resources.events.notice(
                    f"{self._settings.target.url} may not be listed with these credentials: of what the templates "
                    "match, the objects that they name by their whole keys are grabbed."
                )
            assert self._matches is not None
            self._single = None
            self._progress.objects_total, self._progress.bytes_total = self._matches.totals()
        elif (
            self._listable
            and self._single is None
            and self._settings.raise_on_empty
            and not await self._holds_objects(first)
        ):
            raise SourceMissing(
                f"{self._settings.target.url} holds no objects; correct the source, or give raise_on_empty=False."
            )

    async def _holds_objects(self, first: ObjectPage) -> bool:
        """Whether an object other than folder markers is below the source; further pages are listed only until one is
        found."""
        if first.vague or not all(map(self._is_nothing, first.objects)):
            return True
        # From the beginning: after a listing of one key that is a marker, SeaweedFS reports that there are no others.
        if first.objects or first.unnamed or first.next_token or first.next_after:
            async with aclosing(object_pages(self._transport, self._settings.base)) as pages:
                async for page in pages:
                    if page.vague or not all(map(self._is_nothing, page.objects)):
                        return True
        return False

    def _is_nothing(self, listed: ListedObject) -> bool:
        return is_marker(listed) or not listed.key.startswith(self._settings.base)

    async def feed(self, submit: SubmitItems) -> None:
        """Queue all objects; those that the manifest lists, and the server does not, fail."""
        try:
            await self._feed_found(submit)
            await self._deliver_empty(submit)
            if self._promises is not None and self._listable:
                await self._refuse_missing(self._promises)
        finally:
            if self._promises is not None:
                self._promises.close()

    async def _refuse_missing(self, promises: PromisedObjects) -> None:
        patterns = [pattern for each in self._settings.fields for pattern in each.patterns]
        keys = await anyio.to_thread.run_sync(promises.left, "")
        while keys:
            for key in keys:
                if not patterns or any(pattern.matches(key) for pattern in patterns):
                    if self._progress.objects_total is not None:
                        self._progress.objects_total += 1
                    told = f"{self._url(key)} is not there, and the manifest lists it; export it again."
                    self._refuse(key, ObjectMissing(told, operation=ListObjects.name))
                    await self._recorder.room()
            keys = await anyio.to_thread.run_sync(promises.left, keys[-1])

    async def _feed_found(self, submit: SubmitItems) -> None:
        single, matches = self._single, self._matches
        if single is not None:
            self._progress.objects_total, self._progress.bytes_total = 1, single.size_bytes
            await self._deliver(submit, single.key, [single])
        if matches is not None:
            objects, after = await anyio.to_thread.run_sync(matches.page, 0)
            while objects:
                await self._deliver(submit, self._settings.base, objects)
                objects, after = await anyio.to_thread.run_sync(matches.page, after)
        elif self._listable:
            await self._feed_listed(submit)

    async def _feed_listed(self, submit: SubmitItems) -> None:
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
                await list_below(self._transport, self._settings.prefixes, keep, refuse, self._secret)
                progress.objects_total, progress.bytes_total = objects, size_bytes

        with receive:
            async with anyio.create_task_group() as group:
                group.start_soon(list_all)
                async for prefix, page in receive:
                    await self._deliver(submit, prefix, page)

    async def _deliver(self, submit: SubmitItems, prefix: str, page: Sequence[ListedObject]) -> None:
        """Queue a page of objects below `prefix`; waits while the queue is full (the backpressure)."""
        small: list[DownloadItem] = []
        found = [wanted for listed in page if (wanted := await self._wanted(prefix, listed)) is not None]
        for wanted in found if self._promises is None else await self._listed_in(self._promises, page, found):
            if self._placeholders.add(wanted):
                continue
            if wanted.listed.size_bytes > self._resources.limits.part_size_bytes:
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

    async def _listed_in(
        self, promises: PromisedObjects, page: Sequence[ListedObject], found: Sequence[DownloadItem]
    ) -> list[DownloadItem]:
        """Those of a page's items that the manifest lists; the others are skipped."""
        keys = [listed.key for listed in page]
        receipts = dict(zip(keys, await anyio.to_thread.run_sync(promises.take, keys), strict=True))
        items: list[DownloadItem] = []
        for wanted in found:
            key = wanted.listed.key
            if (receipt := receipts[key]) is not None:
                items.append(replace(wanted, receipt=receipt))
                continue
            self._recorder.add([unlisted(self._url(key), key)])
            await self._recorder.room()
        return items

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
        if self._single is None:
            return
        single = self._settings.target.prefix
        if key != single and relative == single.rpartition("/")[2]:
            raise KeyCollision(
                f"The key {show(key)} would be written to the path of {show(single)}, which the source names itself; "
                "grab it into another directory, with a template that finds only this key."
            )

    def outputs(self, log: OutcomeLog) -> dict[str, object]:
        """The outputs of the templates, with the paths of what was received."""
        if self._matches is None:
            return {}
        failed = {failure.key for failure in log.failures}
        directory, base = self._settings.directory, self._settings.base
        return self._matches.outputs(
            self._settings,
            lambda key: None if key in failed else as_native(f"{directory}/{key.removeprefix(base)}"),
        )


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
