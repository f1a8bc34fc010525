"""A stream in parts: each full part is sent to every destination while the next one is filled.

A part is in memory until its destinations have it, so that a request that fails is sent again from there. What was
confirmed is gone: an upload of a stream cannot be resumed, and ends complete or aborted, at the latest by the next run
that has the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from asyncsink.destinations.base import PartWriter, Stored
from asyncsink.engine.content.filling import FillingPart
from asyncsink.engine.recording.events import UnderWay
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import DestinationState, each
from asyncsink.errors import AsyncSinkError, JournalError
from asyncsink.integrity.checksums import checksum_of, of_parts
from asyncsink.model import Checksum, Transfer
from asyncsink.s3.multipart.parts import Part, StreamPlan


class StreamParts:
    """The parts of one stream; `start` first, and in the end `end` in any case.

    Args:
        states: of the destinations that are to get it; results and errors go into them.
        plan: grows with every part.
        group: of the tasks that send.

    Attributes:
        interrupted: whether a part was not sent because the run was stopped.
    """

    def __init__(
        self,
        resources: Resources,
        transfer: Transfer,
        states: Sequence[DestinationState],
        plan: StreamPlan,
        group: TaskGroup,
    ) -> None:
        self._resources = resources
        self._transfer = transfer
        self._states = states
        self._plan = plan
        self._group = group
        self._algorithm = resources.policies.algorithm
        self._under_way = UnderWay(resources.progress, transfer.key, None)
        self._writers: dict[int, PartWriter] = {}
        self._checksums: dict[int, Checksum | None] = {}
        self._scopes: set[anyio.CancelScope] = set()
        self._ending = anyio.Lock()
        self._idle = anyio.Event()
        self._idle.set()
        self.interrupted = False

    def __repr__(self) -> str:
        return f"<StreamParts of {self._transfer.key!r}, {len(self._scopes)} being sent>"

    async def start(self) -> None:
        """Begin the object at every destination."""
        await each(self._states, self._start)

    async def _start(self, state: DestinationState) -> None:
        async def start() -> None:
            self._writers[id(state)] = await state.destination.start(
                state.outgoing(self._transfer), self._plan, self._algorithm
            )

        await state.attempt(start)

    def send(self, part: Part, filled: FillingPart) -> None:
        """Send a part that the plan has; it is released when every destination has it, or has failed."""
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        if self._idle.is_set():
            self._idle = anyio.Event()
        self._group.start_soon(self._send, part, filled, scope)

    async def _send(self, part: Part, filled: FillingPart, scope: anyio.CancelScope) -> None:
        sent = False
        try:
            with scope:
                await self._write_all(part, filled)
                sent = True
        finally:
            self.interrupted = self.interrupted or not sent
            filled.release()
            self._scopes.discard(scope)
            if not self._scopes:
                self._idle.set()

    async def _write_all(self, part: Part, filled: FillingPart) -> None:
        body, checksum = filled.body, None
        if self._algorithm is not None:
            compute = partial(checksum_of, body, self._algorithm)
            checksum = await anyio.to_thread.run_sync(compute, limiter=self._resources.threads)
        self._checksums[part.part_number] = checksum

        async def write(state: DestinationState) -> None:
            writer = self._writers[id(state)]
            await state.attempt(partial(writer.write_part, part.part_number, part.offset, body, checksum))

        await each([state for state in self._states if state.alive], write)
        if self._states[0].alive:
            self._under_way.moved(part.length)

    async def sent(self) -> Checksum | None:
        """Wait until every part is sent; returns the whole object's checksum, as S3 has it."""
        await self._idle.wait()
        numbers = range(1, self._plan.count + 1)
        lengths = [self._plan.part(number).length for number in numbers]
        return of_parts(self._algorithm, [self._checksums.get(number) for number in numbers], lengths)

    async def complete(self, checksum: Checksum | None) -> None:
        """Publish the object at every destination that has all parts."""

        async def complete(state: DestinationState) -> None:
            async def publish() -> Stored:
                stored = await self._writers[id(state)].complete(checksum)
                del self._writers[id(state)]
                return stored

            await state.attempt(publish)

        await each([state for state in self._states if state.alive], complete)

    async def end(self) -> None:
        """Stop sending, and abort what is not complete. Shielded from cancellation, bounded in time; harmless when
        repeated, and when called by several tasks.

        Raises:
            JournalError: the end of an upload cannot be recorded.
        """
        for scope in self._scopes:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            async with self._ending:
                await self._idle.wait()
                self._under_way.take_back()
                async with anyio.create_task_group() as group:
                    for state in self._states:
                        if id(state) in self._writers:
                            group.start_soon(self._abort, state)

    async def _abort(self, state: DestinationState) -> None:
        try:
            await self._writers.pop(id(state)).abort()
        except JournalError:
            raise
        except AsyncSinkError as error:
            # The error that ended the upload comes first; that of a failed abort counts only where there was none.
            state.error = state.error or error
