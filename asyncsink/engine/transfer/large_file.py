"""A large file: read in parts, each part checksummed once and written to every destination at the same time.

Tasks take part numbers from one list; each waits for the byte budget before it reads, so that a huge file shares memory
and connections with everything else in the run. Where S3 has lane threads, one call to such a thread reads and sends a
part (`ThreadedPartUpload`), or a whole file of medium size (`ThreadedFileUpload`). An upload ends complete, aborted, or
left to a later run that finds it in the journal: never in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

import anyio
import anyio.to_thread

from asyncsink.destinations.base import Destination, PartWriter, Stored
from asyncsink.engine.limits.controller import SenderConcurrency
from asyncsink.engine.limits.memory import SMALL_BYTES, BufferPool
from asyncsink.engine.recording.events import UnderWay
from asyncsink.engine.recording.recorder import Completion
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import DestinationState, each, open_as_found, read_part
from asyncsink.engine.transfer.outcomes import Ending
from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    CredentialsError,
    JournalError,
    PartsRefused,
    RetryableError,
    SourceError,
)
from asyncsink.integrity.checksums import ByteBody, of_parts
from asyncsink.model import Checksum, Resumable, Transfer
from asyncsink.s3.multipart.parts import Part, PartPlan
from asyncsink.s3.operations import PartSource
from asyncsink.sources.content import OpenContent, in_memory
from asyncsink.sources.reader import OpenSource

# -- A part in one call to a lane thread: read, checksummed, copied and sent -------------------------------------------

PartCopies = list[tuple[DestinationState, PartWriter]]


class ThreadedPartUpload:
    """The parts of one file in lane threads: `state` sends, and the other destinations are written in the same thread.

    Attributes:
        threads: most parts that are sent at once, however many `tokens` there are.
        tokens: one is held for each part that is being sent.
    """

    def __init__(
        self,
        state: DestinationState,
        writer: PartWriter,
        copies: PartCopies,
        source: PartSource,
        slots: SenderConcurrency,
    ) -> None:
        self.state = state
        self.threads = writer.threads
        self.tokens = slots.open(writer.threads)
        self._writer = writer
        self._copies = copies
        self._source = source
        self._slots = slots

    async def send(self, part: Part) -> Checksum | None:
        """Send one part while holding one of `tokens`; returns its checksum. An error goes into its state.

        Where `state` has failed, the other destinations may or may not have the part: it has to be written to them
        again.

        Raises:
            SourceError: it cannot be read.
        """
        copying = _Copying(part, [(state, writer) for state, writer in self._copies if state.alive])
        try:
            checksum = await self._writer.send_part(part, self._source, copying.write if copying.wanted else None)
        except (SourceError, JournalError):
            raise
        except AsyncSinkError as error:
            self.state.error = error
            return None
        finally:
            copying.settle()
        self._slots.sent(part.length)
        return checksum


class _Copying:
    """The local copies of one part, written in the sender's thread; errors are kept for the event loop."""

    def __init__(self, part: Part, copies: PartCopies) -> None:
        self._part = part
        self._copies = copies
        self._failed: list[tuple[DestinationState, AsyncSinkError]] = []

    @property
    def wanted(self) -> bool:
        """Whether there is a copy to write."""
        return bool(self._copies)

    def write(self, body: memoryview) -> None:
        """Write to every copy; the failure of one does not stop the others."""
        for copy in tuple(self._copies):
            state, writer = copy
            try:
                writer.write_part_now(self._part.part_number, self._part.offset, body)
            except AsyncSinkError as error:
                self._failed.append((state, error))
                self._copies.remove(copy)

    def settle(self) -> None:
        """Give each failed copy's error to its destination, on the event loop, when the thread has ended."""
        for state, error in self._failed:
            state.error = state.error or error


def threaded_upload_of(
    states: Sequence[DestinationState], writers: Mapping[int, PartWriter], source: PartSource, slots: SenderConcurrency
) -> ThreadedPartUpload | None:
    """The upload by lane threads, where one destination has them and all others can be written in those threads.

    Args:
        states: of the transfer's destinations.
        writers: of the destinations that were started, by the id of the state.
        source: the open file.
        slots: the run's limit of bodies in lane threads.
    """
    sender: tuple[DestinationState, PartWriter] | None = None
    copies: PartCopies = []
    for state in states:
        writer = writers.get(id(state)) if state.alive else None
        if writer is None:
            continue
        if writer.threads and sender is None:
            sender = state, writer
        elif writer.blocking:
            copies.append((state, writer))
        else:
            return None
    return ThreadedPartUpload(*sender, copies, source, slots) if sender is not None else None


# -- A file in parts ---------------------------------------------------------------------------------------------------

_MAY_PASS = (RetryableError, AccessDenied, CredentialsError)
"""Errors after which the stored parts of an upload are still valid."""
REPAIRS_MAX = 2
"""How often parts that a destination has lost are sent again before its error is final."""


class LargeFileUpload:
    """One file in parts to the destinations in `states`; used once."""

    def __init__(
        self,
        resources: Resources,
        transfer: Transfer,
        source: OpenSource | OpenContent,
        states: Sequence[DestinationState],
        plan: PartPlan,
        *,
        completion: Completion | None = None,
    ) -> None:
        self._completion = completion
        self._transfer = transfer
        self._source = source
        self._states = states
        self._plan = plan
        self._algorithm = resources.policies.algorithm
        self._budget = resources.budget
        buffers = resources.buffers
        own = plan.part_size_bytes != buffers.size_bytes
        self._buffers = BufferPool(plan.part_size_bytes, idle_max=buffers.idle_max) if own else buffers
        self._shared_buffers = buffers
        self._threads = resources.threads
        self._runners_max = resources.limits.parts_held
        self._slots = resources.senders
        self._progress = progress = resources.progress
        self._under_way = UnderWay(progress, transfer.source.relative or transfer.key, plan.size_bytes)
        self._writers: dict[int, PartWriter] = {}
        self._kept: dict[int, Mapping[int, Checksum | None]] = {}
        self._unproven: set[int] = set()
        self._checksums: list[Checksum | None] = [None] * plan.count
        self._missing: deque[int] = deque(range(1, plan.count + 1))
        self._source_error: AsyncSinkError | None = None

    async def run(self) -> Checksum | None:
        """Send every part, then complete; returns the whole object's checksum where it can be combined.

        Each destination's result or error goes into its state.

        Raises:
            SourceError: the file could not be read, or changed; every upload was aborted.

        Any other end (cancellation, a journal that fails, an error that may pass) leaves the uploads to a later run
        where that can continue them.
        """
        stopped = True
        try:
            await each(self._states, self._start)
            self._leave_out()
            await self._send_parts()
            if self._source_error is None:
                await self._check_unchanged()
            if self._source_error is not None:
                stopped = False
                raise self._source_error
            checksum = of_parts(self._algorithm, self._checksums, [part.length for part in self._plan])
            await each([state for state in self._states if state.alive], partial(self._complete, checksum=checksum))
            stopped = False
            return checksum
        finally:
            self._under_way.take_back()
            await self._end_unfinished(stopped)

    async def _start(self, state: DestinationState) -> None:
        async def start() -> None:
            writer = await state.destination.start(state.outgoing(self._transfer), self._plan, self._algorithm)
            self._writers[id(state)] = writer
            self._progress.resumable.pop(self._transfer.key, None)

        await state.attempt(start)

    def _leave_out(self) -> None:
        """Remove the parts that every destination has from an earlier run: they are neither read nor sent."""
        for state in self._states:
            writer = self._writers.get(id(state))
            self._kept[id(state)] = writer.stored if writer is not None else {}
            self._unproven |= writer.unproven if writer is not None else set()
        kept = [self._kept[id(state)] for state in self._states if state.alive]
        everywhere = set(kept[0]).intersection(*kept) if kept else set[int]()
        for number in everywhere:
            self._checksums[number - 1] = kept[0][number]
            self._under_way.there(self._plan.part(number).length)
        self._missing = deque(number for number in self._missing if number not in everywhere)

    async def _send_parts(self) -> None:
        upload = threaded_upload_of(self._states, self._writers, self._source, self._slots)
        runners = min(len(self._missing), self._runners_max, upload.threads if upload else self._runners_max)
        async with anyio.create_task_group() as group:
            for _ in range(runners):
                group.start_soon(self._run_parts, upload, group.cancel_scope)

    async def _run_parts(self, upload: ThreadedPartUpload | None, scope: anyio.CancelScope) -> None:
        """Send parts until none or no destination is left, or the file cannot be read."""
        while self._missing and any(state.alive for state in self._states):
            if upload is not None and not upload.state.alive:
                upload = None
            # The token comes before the memory, so that no memory is held for a busy thread. The next number is taken
            # when there is room for its bytes, so that parts are sent in order.
            async with upload.tokens if upload else nullcontext(), self._budget.reserve(self._plan.part_size_bytes):
                if not self._missing:
                    return
                part = self._plan.part(self._missing.popleft())
                try:
                    await self._send_part(part, upload)
                except SourceError as error:
                    self._source_error = self._source_error or error
                    scope.cancel()
                    return
                self._count(part)

    def _count(self, part: Part) -> None:
        # The first destination decides the outcome of the transfer: bytes sent for a failed object do not count.
        if self._states[0].alive:
            self._under_way.moved(part.length)
        else:
            self._under_way.take_back()

    async def _send_part(self, part: Part, upload: ThreadedPartUpload | None) -> None:
        """Send one part to every destination: through `upload` where there is one, else read once for all.

        Raises:
            SourceError: it cannot be read.
        """
        lacking = [state for state in self._states if state.alive and part.part_number not in self._kept[id(state)]]
        if upload is not None and upload.state in lacking and part.part_number not in self._unproven:
            # The lane thread has a buffer of its own.
            self._shared_buffers.trim()
            self._checksums[part.part_number - 1] = await upload.send(part)
            if upload.state.alive or not any(state.alive for state in self._states):
                return
        with self._buffers.lend(part.length) as body:
            read = partial(read_part, self._source, part.offset, body, self._algorithm)
            checksum = await anyio.to_thread.run_sync(read, limiter=self._threads)
            self._checksums[part.part_number - 1] = checksum
            write = partial(self._write, part=part, body=body, checksum=checksum)
            await each([state for state in lacking if state.alive], write)

    async def _write(self, state: DestinationState, part: Part, body: ByteBody, checksum: Checksum | None) -> None:
        writer = self._writers[id(state)]

        async def write() -> None:
            await writer.write_part(part.part_number, part.offset, body, checksum)

        await state.attempt(write)

    async def _check_unchanged(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._source.check_unchanged, limiter=self._threads)
        except AsyncSinkError as error:
            self._source_error = error

    async def _complete(self, state: DestinationState, checksum: Checksum | None) -> None:
        async def complete() -> Stored:
            writer = self._writers[id(state)]
            stored = await self._complete_repaired(writer, checksum)
            del self._writers[id(state)]
            self._progress.counts.bytes_resumed += writer.bytes_resumed
            return stored

        await state.attempt(complete)

    async def _complete_repaired(self, writer: PartWriter, checksum: Checksum | None) -> Stored:
        """Complete the object; parts that the destination lacks are read and sent again."""
        for _ in range(REPAIRS_MAX):
            try:
                return await writer.complete(checksum)
            except PartsRefused as refused:
                if not refused.part_numbers:
                    raise
                for number in refused.part_numbers:
                    await self._send_again(writer, self._plan.part(number))
                await anyio.to_thread.run_sync(self._source.check_unchanged, limiter=self._threads)
        return await writer.complete(checksum)

    async def _send_again(self, writer: PartWriter, part: Part) -> None:
        async with self._budget.reserve(self._plan.part_size_bytes):
            with self._buffers.lend(part.length) as body:
                read = partial(read_part, self._source, part.offset, body, self._algorithm)
                checksum = await anyio.to_thread.run_sync(read, limiter=self._threads)
                await writer.write_part(part.part_number, part.offset, body, checksum)

    async def _end_unfinished(self, stopped: bool) -> None:
        """Leave each incomplete upload to a later run, or abort it: also where its caller has withdrawn it, since the
        file may never come again. Aborts are shielded from cancellation, and bounded in time."""
        withdrawn = self._completion is not None and self._completion.withdrawn
        for state in self._states:
            writer = self._writers.get(id(state))
            # Content without a file cannot be sent again by a later run.
            kept = self._transfer.source.is_file and not withdrawn
            if writer is not None and kept and (stopped or self._may_go_on(state, writer)):
                self._leave(state, writer)
        if not self._writers:
            return
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for state in self._states:
                    if id(state) in self._writers:
                        group.start_soon(self._abort, state)

    def _may_go_on(self, state: DestinationState, writer: PartWriter) -> bool:
        return self._source_error is None and isinstance(state.error, _MAY_PASS) and writer.bytes_stored > 0

    def _leave(self, state: DestinationState, writer: PartWriter) -> None:
        transfer, stored = self._transfer, writer.bytes_stored
        if writer.leave(transfer):
            del self._writers[id(state)]
            left = Resumable(transfer.source.path, transfer.key, stored, self._plan.size_bytes)
            self._progress.resumable[transfer.key] = left
            self._progress.counts.bytes_resumed += writer.bytes_resumed

    async def _abort(self, state: DestinationState) -> None:
        try:
            await self._writers[id(state)].abort()
        except JournalError:
            raise
        except AsyncSinkError as error:
            # The error that ended the upload comes first; that of a failed abort counts only where there was none.
            state.error = state.error or error


# -- A whole file in one call to a lane thread: opened, read, checksummed, copied and sent -----------------------------
# For files that are worth a thread and are not worth parts. Nothing of a file that changed while it was read is sent or
# copied; a file that is sent again is read again.

FileCopies = list[tuple[DestinationState, Destination]]


class ThreadedFileUpload:
    """Sends whole files through lane threads, for all transfers of a run."""

    def __init__(self, resources: Resources) -> None:
        """Share the byte budget with the buffers of the ordinary way, which are trimmed for those of the threads."""
        self._algorithm = resources.policies.algorithm
        self._budget = resources.budget
        self._buffers = resources.buffers
        self._slots = resources.senders

    async def send(self, ending: Ending) -> None:
        """Send the file through a lane thread if possible; results and errors go into the states.

        Destinations that are alive afterwards get the file in the ordinary way: all of them where no thread can take
            it,
        and the copy where sending ended before the file was read.

        Raises:
            SourceError: it cannot be read, or changed; nothing of the last reading was sent or copied.
            Outgrown: see `open_as_found`; nothing was read.

        Cancellation propagates when the thread has released the file.
        """
        transfer, primary = ending.transfer, ending.states[0]
        size, sender = transfer.source.size_bytes, primary.destination
        if size <= SMALL_BYTES or not primary.alive or not sender.senders or in_memory(transfer.source) is not None:
            return
        copies = _copies(ending.states)
        if copies is None:
            return
        # The token comes before the memory, so that no memory is held for a busy thread.
        async with self._slots.open(sender.senders), self._budget.reserve(self._buffers.cost(size)):
            # The lane thread has a buffer of its own.
            self._buffers.trim()
            attempts = _Attempts(transfer, copies)
            try:
                primary.stored, ending.checksum = await sender.send(
                    primary.outgoing(transfer), attempts.open, self._algorithm, attempts.copy if copies else None
                )
            except SourceError:
                raise
            except AsyncSinkError as error:
                primary.error = error
                return
            finally:
                attempts.settle()
            self._slots.sent(size)


def _copies(states: Sequence[DestinationState]) -> FileCopies | None:
    """The destinations besides the first, which the thread writes; None where it cannot, or cannot yet."""
    copies: FileCopies = []
    for state in states[1:]:
        if state.comparing is not None:
            return None
        if state.alive:
            if not state.destination.blocking:
                return None
            copies.append((state, state.destination))
    return copies


class _Attempts:
    """The attempts of one file, one after another, in the sender's thread; results are kept for the event loop."""

    def __init__(self, transfer: Transfer, copies: FileCopies) -> None:
        self._transfer = transfer
        self._copies = copies
        self._ended: list[tuple[DestinationState, Stored | AsyncSinkError]] = []
        self._opened = False

    @contextmanager
    def open(self) -> Iterator[OpenSource | OpenContent]:
        """The file, for one attempt; leaving the block proves that it stayed the same meanwhile."""
        # In a second attempt the server and the copy may have the file already: a file that has replaced it is not sent
        # under its name. Its ctime is not compared again: making a hard link as the copy has changed it.
        found = self._transfer.source
        opened = OpenSource(replace(found, ctime_ns=0)) if self._opened else open_as_found(found)
        self._opened = True
        with opened as source:
            yield source
            source.check_unchanged()

    def copy(self, body: memoryview) -> None:
        """Make every copy, in each attempt from the bytes that it sends; the failure of one does not stop the
        others."""
        self._ended = [(state, end) for state, end in self._ended if isinstance(end, AsyncSinkError)]
        for copy in tuple(self._copies):
            state, destination = copy
            try:
                self._ended.append((state, destination.put_now(self._transfer, body)))
            except AsyncSinkError as error:
                self._ended.append((state, error))
                self._copies.remove(copy)

    def settle(self) -> None:
        """Give each copy's result or error to its destination, on the event loop, when the thread has ended."""
        for state, end in self._ended:
            if isinstance(end, AsyncSinkError):
                state.error = end
            else:
                state.stored = end
