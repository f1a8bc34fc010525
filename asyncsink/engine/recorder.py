"""Stage 6 begins here: outcomes are recorded, in batches, before anybody hears of them.

One task writes the manifest and the run's log; only then are waiting callers and subscribers told (wall 6).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.model import Event, Finished, Outcome
from asyncsink.report.manifest import ManifestWriter
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.records import encode_all

BATCH = 256
QUEUE_RECORDS = 1000


@dataclass(slots=True, eq=False)
class Ticket:
    """What a caller who waits for one transfer holds."""

    done: anyio.Event = field(default_factory=anyio.Event)
    outcomes: list[Outcome] = field(default_factory=list)


Record = tuple[Sequence[Outcome], Ticket | None]


class Recorder:
    """Writes outcomes down, then reports them."""

    def __init__(
        self, log: OutcomeLog, manifest: ManifestWriter | None, emit: Callable[[Event], Awaitable[None]]
    ) -> None:
        self._log = log
        self._manifest = manifest
        self._emit = emit
        self._send: MemoryObjectSendStream[Record]
        self._receive: MemoryObjectReceiveStream[Record]
        self._send, self._receive = anyio.create_memory_object_stream[Record](QUEUE_RECORDS)

    async def record(self, outcomes: Sequence[Outcome], ticket: Ticket | None = None) -> None:
        """Hand over what became of one transfer. Waits only while the recorder is behind by a whole queue."""
        try:
            self._send.send_nowait((outcomes, ticket))
        except anyio.WouldBlock:
            # Also when cancelled: what ended has to be recorded, and the recorder still runs.
            with anyio.CancelScope(shield=True):
                await self._send.send((outcomes, ticket))

    def finish(self) -> None:
        """No more outcomes will come; `run` ends when all are written."""
        self._send.close()

    def close(self) -> None:
        """Release the queue, whether `run` ever ran or not."""
        self._send.close()
        self._receive.close()

    async def run(self) -> None:
        """Record until `finish`. The pipeline shields it, so that nothing which ended is left unrecorded."""
        try:
            async for first in self._receive:
                await self._write(self._batch(first))
        except BaseException:
            # Whoever hands over an outcome now is told, and does not wait for ever.
            self._receive.close()
            raise

    def _batch(self, first: Record) -> list[Record]:
        batch = [first]
        while len(batch) < BATCH:
            try:
                batch.append(self._receive.receive_nowait())
            except (anyio.WouldBlock, anyio.EndOfStream):
                break
        return batch

    async def _write(self, batch: list[Record]) -> None:
        outcomes = [outcome for group, _ in batch for outcome in group]
        lines = encode_all(outcomes)
        if self._manifest is not None:
            await self._manifest.write(outcomes, lines)
        self._log.extend(outcomes, lines)
        for group, ticket in batch:
            if ticket is not None:
                ticket.outcomes.extend(group)
                ticket.done.set()
        for outcome in outcomes:
            await self._emit(Finished(outcome))
