"""The sentence the project is built around, readable as such.

A producer walks workflow outputs and puts routed transfers on a bounded queue; a pool of workers publishes them; each
transfer ends as a receipt, a skip or a failure, recorded before it is reported.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.engine.limits.controller import ConcurrencyController
from asyncsink.engine.queue_entries import Batch, Entry, Skipped, Work
from asyncsink.engine.recording.recorder import Completion, Passed, Recorder, Recording
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import outdated
from asyncsink.engine.transfer.outcomes import may_pass, problem_outcome
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.engine.transfer.small_files import Callers, SmallFiles
from asyncsink.model import Failure, Found, Outcome, Skip, SourceProblem, Transfer
from asyncsink.s3.stack import S3Stack

NOBODY: Mapping[str, Completion] = {}
LATER_MAX = 10_000
"""Most failed files that wait for a further round; further failures are final."""
log = logging.getLogger("asyncsink.engine")
E = TypeVar("E")
"""An entry of the queue."""
T = TypeVar("T")
"""A transfer or an object, which has an outcome."""
Feed = Callable[[Callable[[E], Awaitable[None]]], Awaitable[None]]


class Pipeline(ABC, Generic[E, T]):
    """Queue, workers, recorder and concurrency of one run, in either direction. Cancelled, it waits a bounded time for
    the recorder.

    Attributes:
        progress: counts what is under way.
        halt: stops the run from inside.
        recorder: gets every outcome.
    """

    def __init__(
        self, resources: Resources, recorder: Recorder, stack: S3Stack | None, *, queue_max: int, rounds: int
    ) -> None:
        """Make the queue.

        Args:
            resources: of the run.
            recorder: of the run.
            stack: whose concurrency is adapted to the network.
            queue_max: most entries that wait.
            rounds: further rounds, at the end, over what failed for a cause that may pass.
        """
        limits, events = resources.limits, resources.events
        self.progress = resources.progress
        self.halt = resources.halt
        self.recorder = recorder
        traffic = resources.progress.traffic
        self._controller = (
            None if stack is None else ConcurrencyController(stack.pacer, limits, events.emit, traffic=traffic)
        )
        self._share = resources.share
        self._events = events
        self._recording = Recording(recorder, resources.settings.retry.abort_seconds)
        self._workers = limits.workers
        self._started = 0
        self._group: TaskGroup
        self._send: MemoryObjectSendStream[E]
        self._receive: MemoryObjectReceiveStream[E]
        self._queue_max = queue_max
        self._send, self._receive = anyio.create_memory_object_stream[E](queue_max)
        self._rounds = rounds
        self._later: list[tuple[Sequence[Outcome], T]] = []
        # Items of a further round that have not ended in it, with their outcomes of the round before.
        self._again: dict[Hashable, tuple[Sequence[Outcome], T]] = {}

    def __repr__(self) -> str:
        waiting = self._send.statistics().current_buffer_used
        return f"<Pipeline {waiting} entries queued, {self.progress.objects_done} done>"

    @abstractmethod
    async def carry_out(self, entry: E) -> None:
        """Carry out an entry, and give the outcomes to `recorder`, except those that are `put_off`."""

    @abstractmethod
    def identity(self, item: T) -> Hashable:
        """The identity of an item, which no other item of the run has."""

    @abstractmethod
    def once_more(self, item: T) -> E:
        """The entry for an item in a further round."""

    @abstractmethod
    def final(self, outcomes: Sequence[Outcome], item: T) -> None:
        """Record the final outcomes of an item."""

    async def submit(self, entry: E) -> None:
        """Put one entry on the queue; waits while it is full (the backpressure).

        A worker is started for it, and ends when nothing waits any more: an idle sink has none.
        """
        try:
            self._send.send_nowait(entry)
        except anyio.WouldBlock:
            await self._send.send(entry)
        # Afterwards, since a worker that finds nothing ends.
        if self._started < self._workers:
            self._started += 1
            self._group.start_soon(self._work)

    def close(self) -> None:
        """Release the queues, whether `run` ever ran or not."""
        self._send.close()
        self._receive.close()

    async def run(self, feed: Feed[E]) -> None:
        """Carry out everything that `feed` submits.

        Returns when all of it is recorded. Cancelled, it ends what is under way, records the outcomes, and raises.
        """
        async with anyio.create_task_group() as recording:
            recording.start_soon(self._recording.run)
            try:
                with self.halt.bounds():
                    await self._run_rounds(feed)
                if self.halt.reason:
                    self._stop()
                await self._recording.finish()
            except BaseException:
                self._stop()
                raise
            finally:
                # The recorder outlives the workers, cancelled or not, so that their last outcomes are written too.
                self.recorder.finish()

    def _stop(self) -> None:
        self._events.closing(0.0)  # a cancelled run waits for no subscriber
        self._recording.stop()

    async def _run_rounds(self, feed: Feed[E]) -> None:
        async with anyio.create_task_group() as tuning:
            if self._controller is not None:
                tuning.start_soon(self._controller.run)
            try:
                await self.run_round(feed)
                while self._later and self._rounds:
                    self._rounds -= 1
                    await self._run_later()
            finally:
                # A stopped run has tried them too: their last outcomes are final.
                for outcomes, item in [*self._again.values(), *self._later]:
                    self.final(outcomes, item)
            tuning.cancel_scope.cancel()

    async def run_round(self, feed: Feed[E]) -> None:
        """Carry out what `feed` submits, by as many workers as the limits allow."""
        self._started = 0
        async with anyio.create_task_group() as self._group:
            await feed(self.submit)
            self._send.close()

    async def _run_later(self) -> None:
        """Run one more round, over what failed in the last one."""
        later, self._later = self._later, []
        log.info("%d files that failed are tried once more", len(later))
        self.close()
        self._send, self._receive = anyio.create_memory_object_stream[E](self._queue_max)
        self._again = {self.identity(item): (outcomes, item) for outcomes, item in later}

        async def feed(submit: Callable[[E], Awaitable[None]]) -> None:
            for _, item in later:
                await submit(self.once_more(item))

        await self.run_round(feed)

    async def _work(self) -> None:
        try:
            while True:
                try:
                    entry = self._receive.receive_nowait()
                except (anyio.WouldBlock, anyio.EndOfStream):
                    return
                await self._share.turn()
                try:
                    await self.carry_out(entry)
                finally:
                    self._share.over()
                del entry  # a worker that waits for room keeps no reference to its last entry
                await self.recorder.room()
        finally:
            self._started -= 1

    def put_off(self, outcomes: Sequence[Outcome], item: T) -> bool:
        """Whether a failed item is kept for a further round; False where that cannot help, or `LATER_MAX` wait
        already."""
        if self._again:
            self._again.pop(self.identity(item), None)
        if not may_pass(outcomes[0]) or not self._rounds or len(self._later) >= LATER_MAX:
            return False
        self._later.append((outcomes, item))
        return True

    @property
    def repeating(self) -> bool:
        """Whether this is a further round."""
        return bool(self._again)


class UploadPipeline(Pipeline[Entry, Transfer]):
    """The pipeline of an export: its workers publish transfers."""

    def __init__(
        self,
        resources: Resources,
        publisher: Publisher,
        small_files: SmallFiles,
        recorder: Recorder,
        stack: S3Stack | None,
        *,
        rounds: int = 0,
    ) -> None:
        super().__init__(resources, recorder, stack, queue_max=resources.limits.queue_transfers, rounds=rounds)
        self._publisher = publisher
        self._small_files = small_files
        self._policies = resources.policies
        self._key_turns = resources.key_turns
        self._accepted = resources.accepted

    def identity(self, item: Transfer) -> Hashable:
        """Key and path: with on_collision="last", several files of a run may have one key."""
        return item.key, item.source.path

    def once_more(self, item: Transfer) -> Entry:
        """The transfer, which begins anew and ends the upload that its last attempt left."""
        return Work(replace(item, known=outdated(item.known)))

    def final(self, outcomes: Sequence[Outcome], item: Transfer | None, completion: Completion | None = None) -> None:
        """Record the outcomes of a transfer, or of what could not become one."""
        if item is not None and isinstance(outcomes[0], Failure):
            self.progress.bytes_failed += item.source.size_bytes
        self.recorder.add(outcomes, item, completion)

    async def carry_out(self, entry: Entry) -> None:
        """Publish, or record what needs no work."""
        if isinstance(entry, Batch):
            completions = entry.take()
            self.progress.objects_in_hand += len(entry.transfers)
            ended = partial(self._ended, completions=completions) if completions else self._ended
            passed_on = partial(self._passed_on, completions=completions) if completions else self._passed_on
            await self._small_files.publish(entry.transfers, Callers(ended, passed_on, completions))
        elif isinstance(entry, Skipped):
            self.final(entry.skips, None)
        elif not entry.dropped:
            entry.taken = True
            self.progress.objects_in_hand += 1
            await self._work_on(entry.found, entry.completion)

    async def _work_on(self, found: Found, completion: Completion | None) -> None:
        if isinstance(found, Skip):
            self._skipped(found, completion)
        elif isinstance(found, SourceProblem):
            self.final([problem_outcome(found, self._policies)], None, completion)
            self.progress.objects_in_hand -= 1
        else:
            outcomes, transfer = await self._publisher.publish(found, completion)
            self._ended(outcomes, transfer, {} if completion is None else {transfer.key: completion})

    def _skipped(self, skip: Skip, completion: Completion | None = None) -> None:
        self.final((skip,), None, completion)
        self.progress.objects_in_hand -= 1

    def _ended(
        self, outcomes: Sequence[Outcome], transfer: Transfer, completions: Mapping[str, Completion] = NOBODY
    ) -> None:
        self.progress.objects_in_hand -= 1
        if not outcomes:
            self._withdrawn(transfer.key, completions[transfer.key])
            return
        if (self._again or isinstance(outcomes[0], Failure)) and self.put_off(outcomes, transfer):
            return
        self.final(outcomes, transfer, completions.get(transfer.key))

    def _withdrawn(self, key: str, completion: Completion) -> None:
        """End a transfer without an outcome, unless its caller has seen to that, because nothing was being sent."""
        if not completion.done.is_set():
            assert self._accepted is not None
            self._accepted.withdraw(key)
            self._key_turns.end((key,))
            completion.done.set()

    def _passed_on(self, passed: Passed, completions: Mapping[str, Completion] = NOBODY) -> None:
        self.progress.objects_in_hand -= len(passed.written)
        if completions:
            passed.completions = [
                (completions[each.key], each) for each in passed.receipts() if each.key in completions
            ]
        self.recorder.pass_on(passed)
