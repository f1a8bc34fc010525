"""The sentence the project is built around, readable as such.

A producer walks workflow outputs and puts routed transfers on a bounded queue; a pool of workers publishes them; each
transfer ends as a receipt, a skip or a failure, recorded before it is reported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.config import Limits, Policies
from asyncsink.engine.descriptors import Share
from asyncsink.engine.outcomes import problem_outcome
from asyncsink.engine.progress import Progress
from asyncsink.engine.publishing import Publisher
from asyncsink.engine.recorder import Recorder, Recording, Ticket
from asyncsink.engine.small_files import SmallFiles
from asyncsink.engine.tuner import Tuner
from asyncsink.model import Failure, Outcome, Skip, SourceProblem, Transfer

Found = Transfer | SourceProblem | Skip


@dataclass(slots=True)
class Work:
    """One entry of the queue: a transfer (or what could not become one), and who waits for it.

    A caller who is cancelled cannot tell whether the queue had it already: `dropped` asks that nobody takes it, and
    `taken` says that this comes too late.
    """

    found: Found
    ticket: Ticket | None = None
    taken: bool = False
    dropped: bool = False


@dataclass(slots=True)
class Batch:
    """One entry of the queue: small files that one worker reads together and sends one after another."""

    transfers: list[Transfer]


@dataclass(slots=True)
class Skipped:
    """One entry of the queue: what needs no work at all."""

    skips: list[Skip]


Entry = Work | Batch | Skipped
Submit = Callable[[Entry], Awaitable[None]]


class Pipeline:
    """Queue, workers, recorder and tuner of one run. Cancelled, it waits `record_seconds` for the recorder, and for who
    else hands over outcomes to it.

    Attributes:
        recorder: writes down what ended here, and what is passed on to it.
        tuner: of the requests in flight, or None.
        recording: the recorder at work.
        progress: counts what ended here, and whatever others add.
        see_off: ends others who hand over outcomes; awaited where the run is stopped, before the last are recorded.
        entry_done: called with every entry of the queue that needs nothing more.
    """

    def __init__(
        self,
        publisher: Publisher,
        small_files: SmallFiles,
        recorder: Recorder,
        tuner: Tuner | None,
        share: Share,
        *,
        policies: Policies,
        limits: Limits,
        progress: Progress,
        hurry: Callable[[], None],
        record_seconds: float,
    ) -> None:
        self._publisher = publisher
        self._small_files = small_files
        self.recorder = recorder
        self.tuner = tuner
        self._share = share
        self._policies = policies
        self._hurry = hurry
        self.recording = Recording(recorder, record_seconds)
        self._workers = limits.concurrency_max
        self._send: MemoryObjectSendStream[Entry]
        self._receive: MemoryObjectReceiveStream[Entry]
        self._send, self._receive = anyio.create_memory_object_stream[Entry](limits.queue_transfers)
        self.progress = progress
        self.see_off: Callable[[], Awaitable[None]] | None = None
        self.entry_done: Callable[[Entry], None] | None = None

    def __repr__(self) -> str:
        waiting = self._send.statistics().current_buffer_used
        return f"<Pipeline {waiting} entries queued, {self.progress.objects_done} done>"

    async def submit(self, work: Entry) -> None:
        """Put one transfer on the queue; waits while it is full. That is the backpressure."""
        await self._send.send(work)

    def close(self) -> None:
        """Release the queues, whether `run` ever ran or not."""
        self._send.close()
        self._receive.close()

    async def run(self, feed: Callable[[Submit], Awaitable[None]]) -> None:
        """Publish everything that `feed` submits.

        Returns when all of it is recorded. Cancelled, it ends what is under way, records what is done, and leaves.
        """
        async with anyio.create_task_group() as recording:
            recording.start_soon(self.recording.run)
            try:
                await self._publish_all(feed)
                await self.recording.finish()
            except BaseException:
                # Nobody is waited for any more who only listens.
                self._hurry()
                self.recording.stop()
                if self.see_off is not None:
                    await self.see_off()
                raise
            finally:
                # The recorder outlives the workers, cancelled or not: what they finished last is written down too.
                self.recorder.finish()

    async def _publish_all(self, feed: Callable[[Submit], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as tuning:
            if self.tuner is not None:
                tuning.start_soon(self.tuner.run)
            async with anyio.create_task_group() as workers:
                for _ in range(self._workers):
                    workers.start_soon(self._work)
                await feed(self.submit)
                self._send.close()
            tuning.cancel_scope.cancel()

    async def _work(self) -> None:
        async for work in self._receive:
            await self._share.turn()
            try:
                if isinstance(work, Batch):
                    self.progress.objects_in_hand += len(work.transfers)
                    await self._small_files.publish(work.transfers, self._ended)
                elif isinstance(work, Skipped):
                    self.progress.objects_in_hand += len(work.skips)
                    for skip in work.skips:
                        self._skipped(skip)
                elif not work.dropped:
                    work.taken = True
                    self.progress.objects_in_hand += 1
                    await self._work_on(work.found, work.ticket)
            finally:
                self._share.over()
            if self.entry_done is not None:
                self.entry_done(work)
            await self.recorder.room()

    async def _work_on(self, found: Found, ticket: Ticket | None) -> None:
        if isinstance(found, Skip):
            self._skipped(found, ticket)
        elif isinstance(found, SourceProblem):
            self._ended([problem_outcome(found, self._policies)], None, ticket)
        else:
            self._ended(*await self._publisher.publish(found), ticket)

    def _skipped(self, skip: Skip, ticket: Ticket | None = None) -> None:
        self._ended((skip,), None, ticket)

    def _ended(self, outcomes: Sequence[Outcome], transfer: Transfer | None, ticket: Ticket | None = None) -> None:
        self.progress.objects_in_hand -= 1
        if transfer is not None and isinstance(outcomes[0], Failure):
            self.progress.bytes_failed += transfer.source.size_bytes
        self.recorder.add(outcomes, transfer, ticket)
