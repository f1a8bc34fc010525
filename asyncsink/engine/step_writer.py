"""The steps of the uploads of one process, on their way into its parent's journal."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.engine.journalling import RunJournal
from asyncsink.engine.parent_log import AWAITED
from asyncsink.model import UploadCreating, UploadStep

STEPS_WAITING_MAX = 10_000
"""So many steps of one process may wait to be written; then nothing more is heard of it until some are."""


class StepWriter:
    """Writes in order what `add` is given, beside everything else that is heard of the process.

    Args:
        journal: of the run.
        note: tells the process how many of its steps are written.
        give_up: told of what the journal raises; the run then ends, and so does the process.
    """

    def __init__(
        self, journal: RunJournal, note: Callable[[int], Awaitable[None]], give_up: Callable[[Exception], None]
    ) -> None:
        self._journal = journal
        self._note = note
        self._give_up = give_up
        self._written = 0
        self._gone = False
        self._scope = anyio.CancelScope(shield=True)
        self._send: MemoryObjectSendStream[UploadStep]
        self._receive: MemoryObjectReceiveStream[UploadStep]
        self._send, self._receive = anyio.create_memory_object_stream[UploadStep](STEPS_WAITING_MAX)

    async def add(self, steps: Sequence[UploadStep]) -> None:
        """Take over steps that the process told; waits while very many are to be written."""
        for step in steps:
            await self._send.send(step)

    def stop(self, seconds: float) -> None:
        """The run is being stopped: nothing is written after so long; closing the journal tells what is missing."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + seconds)

    def gone(self) -> None:
        """The process has ended: `run` ends when all it told is written."""
        self._gone = True
        self._send.close()

    async def run(self) -> None:
        """Write until `gone`. Shielded from cancellation: what a process told before it was stopped is written too."""
        with self._scope, self._receive:
            async for step in self._receive:
                if self._gone and isinstance(step, UploadCreating):
                    continue  # it waits for the answer: nothing was created
                try:
                    await self._journal.step(step)
                except Exception as error:  # noqa: BLE001 - raised where the run waits
                    self._give_up(error)
                    continue
                self._written += 1
                if isinstance(step, AWAITED) and not self._gone:
                    await self._note(self._written)
