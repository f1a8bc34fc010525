"""A large file: read in parts, each part checksummed once and handed to every leg at the same time.

Runners take part numbers from one list; each waits for the byte budget before it reads, so a huge file shares
memory and connections with everything else in the run. Where S3 has lane threads, a part is one hop to one of them
(see one_hop.py). An upload ends complete, aborted, or left to a later run where a journal has it: never in between.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.destinations.base import ByteBody, PartWriter, ResumedWriter, Stored
from asyncsink.engine.budget import ByteBudget
from asyncsink.engine.buffers import BufferPool
from asyncsink.engine.legs import Leg, each
from asyncsink.engine.one_hop import OneHop, find_hop
from asyncsink.engine.progress import Progress, UnderWay
from asyncsink.engine.reading import read_part
from asyncsink.engine.sender_slots import SenderSlots
from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    CredentialsError,
    JournalError,
    PartsRefused,
    RetryableError,
    SourceError,
)
from asyncsink.integrity.checksums import COMPOSITE_ALGORITHMS, FULL_OBJECT_ALGORITHMS, combine, composite
from asyncsink.model import Checksum, ChecksumAlgorithm, Resumable, Transfer
from asyncsink.s3.part_plan import Part, PartPlan
from asyncsink.sources.reader import OpenSource

_MAY_PASS = (RetryableError, AccessDenied, CredentialsError)
"""Errors of an upload whose parts are as good as before."""
REPAIRS_MAX = 2
"""How often parts that a destination lost are sent again before its word is final."""


class PartsTransfer:
    """One file in parts to the legs in `legs`; used once."""

    def __init__(
        self,
        transfer: Transfer,
        source: OpenSource,
        legs: Sequence[Leg],
        plan: PartPlan,
        *,
        algorithm: ChecksumAlgorithm | None,
        budget: ByteBudget,
        buffers: BufferPool,
        threads: CapacityLimiter,
        runners_max: int,
        slots: SenderSlots,
        progress: Progress,
    ) -> None:
        self._transfer = transfer
        self._source = source
        self._legs = legs
        self._plan = plan
        self._algorithm = algorithm
        self._budget = budget
        own = plan.part_size_bytes != buffers.size_bytes
        self._buffers = BufferPool(plan.part_size_bytes, idle_max=buffers.idle_max) if own else buffers
        self._shared_buffers = buffers
        self._threads = threads
        self._runners_max = runners_max
        self._slots = slots
        self._progress = progress
        self._under_way = UnderWay(progress)
        self._writers: dict[int, PartWriter] = {}
        self._kept: dict[int, Mapping[int, Checksum | None]] = {}
        self._unproven: set[int] = set()
        self._checksums: list[Checksum | None] = [None] * plan.count
        self._missing: deque[int] = deque(range(1, plan.count + 1))
        self._source_error: AsyncSinkError | None = None

    async def run(self) -> Checksum | None:
        """Send every part, then complete; returns the whole object's checksum where it can be combined.

        Each leg's result or error is left in the leg.

        Raises:
            SourceError: the file could not be read, or changed; every upload was aborted.

        Whatever else ends it (cancellation, a journal that fails) leaves its uploads to a later run where that can go
        on with them, and so does an error that may pass.
        """
        stopped = True
        try:
            await each(self._legs, self._start)
            self._leave_out()
            await self._send_parts()
            if self._source_error is None:
                await self._check_unchanged()
            if self._source_error is not None:
                stopped = False
                raise self._source_error
            checksum = self._combined()
            await each([leg for leg in self._legs if leg.alive], partial(self._complete, checksum=checksum))
            stopped = False
            return checksum
        finally:
            self._under_way.take_back()
            await self._end_unfinished(stopped)

    async def _start(self, leg: Leg) -> None:
        async def start() -> None:
            writer = await leg.destination.start(leg.outgoing(self._transfer), self._plan, self._algorithm)
            self._writers[id(leg)] = writer
            if isinstance(writer, ResumedWriter):
                self._progress.resumable.pop(self._transfer.key, None)

        await leg.attempt(start)

    def _leave_out(self) -> None:
        """Neither read nor send the parts that every leg has from an earlier run."""
        for leg in self._legs:
            writer = self._writers.get(id(leg))
            self._kept[id(leg)] = writer.stored if isinstance(writer, ResumedWriter) else {}
            self._unproven |= writer.unproven if isinstance(writer, ResumedWriter) else set()
        kept = [self._kept[id(leg)] for leg in self._legs if leg.alive]
        everywhere = set(kept[0]).intersection(*kept) if kept else set[int]()
        for number in everywhere:
            self._checksums[number - 1] = kept[0][number]
            self._under_way.there(self._plan.part(number).length)
        self._missing = deque(number for number in self._missing if number not in everywhere)

    async def _send_parts(self) -> None:
        hop = find_hop(self._legs, self._writers, self._source, self._slots)
        runners = min(len(self._missing), self._runners_max, hop.threads if hop else self._runners_max)
        async with anyio.create_task_group() as group:
            for _ in range(runners):
                group.start_soon(self._run_parts, hop, group.cancel_scope)

    async def _run_parts(self, hop: OneHop | None, scope: anyio.CancelScope) -> None:
        """Send parts until there are none, no leg is left, or the file cannot be read."""
        while self._missing and any(leg.alive for leg in self._legs):
            if hop is not None and not hop.leg.alive:
                hop = None
            # The token comes before the memory: none is held for a thread that is still busy. The next number is taken
            # when there is room for its bytes, so that parts leave in order.
            async with hop.tokens if hop else nullcontext(), self._budget.reserve(self._plan.part_size_bytes):
                if not self._missing:
                    return
                part = self._plan.part(self._missing.popleft())
                try:
                    await self._send_part(part, hop)
                except SourceError as error:
                    self._source_error = self._source_error or error
                    scope.cancel()
                    return
                self._count(part)

    def _count(self, part: Part) -> None:
        # The first leg decides what becomes of the transfer; what was sent for an object that has failed is nothing.
        if self._legs[0].alive:
            self._under_way.moved(part.length)
        else:
            self._under_way.take_back()

    async def _send_part(self, part: Part, hop: OneHop | None) -> None:
        """Give one part to every leg: in one hop where there is one, else read once for all.

        Raises:
            SourceError: it cannot be read.
        """
        lacking = [leg for leg in self._legs if leg.alive and part.part_number not in self._kept[id(leg)]]
        if hop is not None and hop.leg in lacking and part.part_number not in self._unproven:
            # The thread keeps a buffer of its own.
            self._shared_buffers.trim()
            self._checksums[part.part_number - 1] = await hop.send(part)
            if hop.leg.alive or not any(leg.alive for leg in self._legs):
                return
        with self._buffers.lend(part.length) as body:
            read = partial(read_part, self._source, part.offset, body, self._algorithm)
            checksum = await anyio.to_thread.run_sync(read, limiter=self._threads)
            self._checksums[part.part_number - 1] = checksum
            write = partial(self._write, part=part, body=body, checksum=checksum)
            await each([leg for leg in lacking if leg.alive], write)

    async def _write(self, leg: Leg, part: Part, body: ByteBody, checksum: Checksum | None) -> None:
        writer = self._writers[id(leg)]

        async def write() -> None:
            await writer.write_part(part.part_number, part.offset, body, checksum)

        await leg.attempt(write)

    async def _check_unchanged(self) -> None:
        try:
            await anyio.to_thread.run_sync(self._source.check_unchanged, limiter=self._threads)
        except AsyncSinkError as error:
            self._source_error = error

    async def _complete(self, leg: Leg, checksum: Checksum | None) -> None:
        async def complete() -> Stored:
            writer = self._writers[id(leg)]
            stored = await self._complete_repaired(writer, checksum)
            del self._writers[id(leg)]
            if isinstance(writer, ResumedWriter):
                self._progress.counts.bytes_resumed += writer.bytes_resumed
            return stored

        await leg.attempt(complete)

    async def _complete_repaired(self, writer: PartWriter, checksum: Checksum | None) -> Stored:
        """Complete; parts that the destination turns out to lack are read and sent once more."""
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

    def _combined(self) -> Checksum | None:
        """The whole object's checksum; for SHA-256 S3 knows only the composite one, for MD5 none (the ETag serves)."""
        known = [checksum for checksum in self._checksums if checksum is not None]
        if self._algorithm is None or len(known) < self._plan.count:
            return None
        if self._algorithm in FULL_OBJECT_ALGORITHMS:
            lengths = [part.length for part in self._plan]
            return combine(self._algorithm, zip(known, lengths, strict=True))
        return composite(self._algorithm, known) if self._algorithm in COMPOSITE_ALGORITHMS else None

    async def _end_unfinished(self, stopped: bool) -> None:
        """Leave what was not completed to a later run, or abort it. Writers shield themselves; each is bounded in
        time."""
        for leg in self._legs:
            writer = self._writers.get(id(leg))
            if isinstance(writer, ResumedWriter) and (stopped or self._may_go_on(leg, writer)):
                self._leave(leg, writer)
        if not self._writers:
            return
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as group:
                for leg in self._legs:
                    if id(leg) in self._writers:
                        group.start_soon(self._abort, leg)

    def _may_go_on(self, leg: Leg, writer: ResumedWriter) -> bool:
        return self._source_error is None and isinstance(leg.error, _MAY_PASS) and writer.bytes_stored > 0

    def _leave(self, leg: Leg, writer: ResumedWriter) -> None:
        transfer, stored = self._transfer, writer.bytes_stored
        if writer.leave(transfer):
            del self._writers[id(leg)]
            left = Resumable(transfer.source.path, transfer.key, stored, self._plan.size_bytes)
            self._progress.resumable[transfer.key] = left
            self._progress.counts.bytes_resumed += writer.bytes_resumed

    async def _abort(self, leg: Leg) -> None:
        try:
            await self._writers[id(leg)].abort()
        except JournalError:
            raise
        except AsyncSinkError as error:
            # What ended the leg comes first; that the rest could not be cleaned up is only news where nothing did.
            leg.error = leg.error or error
