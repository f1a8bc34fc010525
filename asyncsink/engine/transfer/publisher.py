"""One transfer, from a routed name to its outcomes: look, read once, put to every destination, verify.

The steps of `Publisher.publish`:
 1. for every destination, the existing object decides: send, skip, or compare;
 2. the file is read once; comparisons are settled from the same bytes;
 3. the destinations that need the bytes get them, at the same time: whole, or in parts (see large_file.py);
 4. the outcomes are made; there is no Receipt before the destination's answer was compared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import anyio.to_thread

from asyncsink.destinations.base import Destination
from asyncsink.engine.recording.events import UnderWay
from asyncsink.engine.recording.recorder import Completion, until_withdrawn
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import (
    DestinationState,
    Outgrown,
    Reading,
    compare_piece,
    digest_body,
    each,
    open_as_found,
    outdated,
    read_whole_file,
    reading_of,
    still_outgrown,
    too_large_for_memory,
)
from asyncsink.engine.transfer.large_file import LargeFileUpload, ThreadedFileUpload
from asyncsink.engine.transfer.outcomes import Ending, word_outcomes
from asyncsink.errors import (
    AsyncSinkError,
    IntegrityError,
    JournalError,
    SourceChanged,
    UploadConflict,
    UploadMissing,
)
from asyncsink.integrity.sameness import CompareWith, Digests, LookCloser, SamenessDigester
from asyncsink.model import Outcome, Transfer
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.sources.content import OpenContent, in_memory
from asyncsink.sources.reader import OpenSource

_LOOKS_MAX = 16
"""Most looks at a file. Several runs may link it at once for their local copies, and each link changes its ctime."""
_ONCE_MORE = (IntegrityError, UploadMissing, UploadConflict)


class Publisher:
    """Publishes one transfer for each call; calls run concurrently, and share the byte budget and the threads."""

    def __init__(self, resources: Resources, destination: Destination, copy: Destination | None) -> None:
        """Publish to `destination`, and to `copy` beside it unless it is None."""
        self._resources = resources
        self._destination = destination
        self._copy = copy
        self._policies = resources.policies
        self._limits = resources.limits
        self._budget = resources.budget
        self._buffers = resources.buffers
        self._threaded_upload = ThreadedFileUpload(resources)
        self._threads = resources.threads
        self._progress = resources.progress
        self._dry_run = resources.dry_run
        self._clock = resources.clock

    async def publish(self, transfer: Transfer, completion: Completion | None = None) -> tuple[list[Outcome], Transfer]:
        """Publish; returns one outcome, and a Failure beside it where only the local copy failed; and the transfer as
        it was read. Where the caller who waits for `completion` withdraws, there is no outcome, its uploads are
        aborted, and its requests have ended.

        Raises:
            JournalError: a step of an upload cannot be written; the run stops.

            Cancelled, it aborts its uploads (shielded from cancellation, bounded in time), or leaves them to the next
            run; see large_file.py.
        """
        ending = Ending(transfer, completion=completion)
        with until_withdrawn(completion):
            return await self._publish(ending)
        return [], transfer

    async def _publish(self, ending: Ending) -> tuple[list[Outcome], Transfer]:
        started = self._clock()
        transfer = ending.transfer
        corrected, looks = False, 1
        while True:
            ending.reset(self._states(ending.transfer))
            try:
                await self._attempt(ending)
            except Outgrown as outgrown:
                if looks == _LOOKS_MAX:
                    ending.source_error = still_outgrown(transfer.source)
                else:
                    looks += 1
                    known = outdated(transfer.known)
                    ending.transfer = replace(transfer, source=outgrown.found, known=known, first=None)
                    continue
            except JournalError:
                raise
            except AsyncSinkError as error:
                ending.source_error = error
            if isinstance(ending.states[0].error, _ONCE_MORE) and not corrected:
                # Damaged bytes are read and sent once more, and an upload that is gone or void is begun again; a second
                # time it is a Failure.
                corrected = True
                ending.transfer = replace(ending.transfer, known=outdated(ending.transfer.known))
                continue
            await self._discard(ending)
            return word_outcomes(ending, self._clock() - started, self._policies), ending.transfer

    async def _discard(self, ending: Ending) -> None:
        """End the upload that an earlier run left open, where this transfer has not ended it by sending."""
        known, primary = ending.transfer.known, ending.states[0]
        if known is None or known.upload is None or self._dry_run or primary.error is not None:
            return
        in_parts = ending.transfer.source.size_bytes >= self._limits.multipart_threshold_bytes
        # A part of a split is published with the content that was split, so that no later attempt has a use for it.
        outdated_part = ending.transfer.source.pinned and isinstance(ending.source_error, SourceChanged)
        if primary.same or not in_parts or outdated_part:
            discard = partial(self._destination.discard, ending.transfer)
            await primary.attempt(discard)

    def _states(self, transfer: Transfer) -> list[DestinationState]:
        states = [DestinationState(self._destination, transfer.known)]
        if self._copy is not None:
            states.append(DestinationState(self._copy))
        return states

    async def _attempt(self, ending: Ending) -> None:
        size = ending.transfer.source.size_bytes
        if (too_large := too_large_for_memory(ending.transfer.source, self._limits.memory_bytes)) is not None:
            raise too_large
        for state in ending.states:
            state.check_size(ending.transfer)
        await self._look(ending.transfer, ending.states)
        if size < self._limits.multipart_threshold_bytes:
            await self._whole(ending)
        else:
            await self._in_parts(ending)

    async def _look(self, transfer: Transfer, states: Sequence[DestinationState], *, closely: bool = False) -> None:
        size = transfer.source.size_bytes
        ours = [plan_parts(size, self._limits.part_size_bytes).part_size_bytes] if size else []

        async def look(state: DestinationState) -> None:
            await state.look(transfer, self._policies, ours, closely=closely)

        await each(states, look)

    async def _whole(self, ending: Ending) -> None:
        transfer, states = ending.transfer, ending.states
        if self._nothing_to_read(states):
            return
        under_way = UnderWay(self._progress, transfer.source.relative or transfer.key, transfer.source.size_bytes)
        try:
            await self._send_whole(ending)
        finally:
            under_way.take_back()

    async def _send_whole(self, ending: Ending) -> None:
        transfer, states = ending.transfer, ending.states
        await self._threaded_upload.send(ending)
        size, content = transfer.source.size_bytes, in_memory(transfer.source)
        needed = any(state.alive or state.comparing is not None for state in states)
        if needed and content is not None:
            await self._put_read(ending, partial(reading_of, content, self._policies.algorithm))
        elif needed:
            async with self._budget.reserve(self._buffers.cost(size)):
                with self._buffers.lend(size) as into:
                    read = partial(read_whole_file, transfer.source, into, self._policies.algorithm)
                    await self._put_read(ending, read)
        if states[0].stored is not None:
            self._progress.bytes_moved += size

    async def _put_read(self, ending: Ending, read: Callable[[Sequence[CompareWith]], Reading]) -> None:
        transfer, states = ending.transfer, ending.states
        comparing = _comparing(states)
        reading = await anyio.to_thread.run_sync(read, _compares(comparing), limiter=self._threads)
        ending.checksum = reading.checksum
        await self._settle(transfer, comparing, reading.digests)
        while comparing := _comparing(states):
            digest = partial(digest_body, reading.body, _compares(comparing))
            digests = await anyio.to_thread.run_sync(digest, limiter=self._threads)
            await self._settle(transfer, comparing, digests)
        sending = [state for state in states if state.alive]
        if self._dry_run or not sending:
            return

        async def put(state: DestinationState) -> None:
            await state.attempt(lambda: state.destination.put(state.outgoing(transfer), reading.body, reading.checksum))

        await each(sending, put)

    async def _in_parts(self, ending: Ending) -> None:
        transfer, states = ending.transfer, ending.states
        if self._nothing_to_read(states):
            return
        opening = partial(open_as_found, transfer.source)
        source = await anyio.to_thread.run_sync(opening, limiter=self._threads)
        try:
            while comparing := _comparing(states):
                digests = await self._digest(source, _compares(comparing))
                ending.checksum = digests[0].checksums.get(self._policies.algorithm or "MD5")
                await self._settle(transfer, comparing, digests)
            sending = [state for state in states if state.alive]
            if self._dry_run or not sending:
                return
            plan = plan_parts(source.size_bytes, self._limits.part_size_bytes)
            parts = LargeFileUpload(self._resources, transfer, source, sending, plan, completion=ending.completion)
            ending.checksum = await parts.run()
        finally:
            source.close()

    def _nothing_to_read(self, states: Sequence[DestinationState]) -> bool:
        return not _comparing(states) and (self._dry_run or not any(state.alive for state in states))

    async def _digest(self, source: OpenSource | OpenContent, compares: Sequence[CompareWith]) -> list[Digests]:
        """Read the file once, piece by piece, for its digests; it must not change meanwhile."""
        digesters = [SamenessDigester(compare) for compare in compares]
        step = self._buffers.size_bytes
        for offset in range(0, source.size_bytes, step):
            async with self._budget.reserve(step):
                with self._buffers.lend(min(step, source.size_bytes - offset)) as into:
                    piece = partial(compare_piece, source, offset, into, digesters)
                    await anyio.to_thread.run_sync(piece, limiter=self._threads)
        await anyio.to_thread.run_sync(source.check_unchanged, limiter=self._threads)
        return [digester.digests() for digester in digesters]

    async def _settle(
        self, transfer: Transfer, comparing: Sequence[DestinationState], digests: Sequence[Digests]
    ) -> None:
        """Settle the comparisons; destinations whose comparison was not final are looked at closely, and decide
        again."""
        closer = []
        for state, found in zip(comparing, digests, strict=True):
            state.settle(found)
            if isinstance(state.decision, LookCloser):
                closer.append(state)
        if closer:
            await self._look(transfer, closer, closely=True)


def _comparing(states: Sequence[DestinationState]) -> list[DestinationState]:
    return [state for state in states if state.comparing is not None]


def _compares(states: Sequence[DestinationState]) -> list[CompareWith]:
    return [state.comparing for state in states if state.comparing is not None]
