"""The sentence the project is built around, readable as such.

A producer walks workflow outputs and puts routed transfers on a bounded queue; a pool of workers publishes them; each
transfer ends as a receipt, a skip or a failure, recorded before it is reported.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.engine.limits.controller import ConcurrencyController
from asyncsink.engine.queue_entries import Batch, Entry, Found, Skipped, Submit, Work
from asyncsink.engine.recording.recorder import Completion, Passed, Recorder, Recording
from asyncsink.engine.resources import Resources
from asyncsink.engine.transfer.destination_state import outdated
from asyncsink.engine.transfer.outcomes import may_pass, problem_outcome
from asyncsink.engine.transfer.publisher import Publisher
from asyncsink.engine.transfer.small_files import SmallFiles
from asyncsink.model import Failure, Outcome, Skip, SourceProblem, Transfer
from asyncsink.s3.stack import S3Stack

NOBODY: Mapping[str, Completion] = {}
LATER_MAX = 10_000
"""Files that failed and wait for a further round; what fails besides is final."""
log = logging.getLogger("asyncsink.engine")


class Pipeline:
    """Queue, workers, recorder and concurrency of one run. Cancelled, it waits a bounded time for the recorder.

    Attributes:
        progress: counts what is under way.
        halt: stops the run from inside.
    """

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
        """`rounds` more are made, at the end, over what failed for a cause that may pass. The concurrency of `stack`
        is adapted to the network."""
        limits, events = resources.limits, resources.events
        self._publisher = publisher
        self._small_files = small_files
        self._recorder = recorder
        self._controller = None if stack is None else ConcurrencyController(stack.pacer, limits, events.emit)
        self._share = resources.share
        self._policies = resources.policies
        self._events = events
        self._recording = Recording(recorder, resources.settings.retry.abort_seconds)
        self._workers = limits.workers
        self._send: MemoryObjectSendStream[Entry]
        self._receive: MemoryObjectReceiveStream[Entry]
        self._queue_transfers = limits.queue_transfers
        self._send, self._receive = anyio.create_memory_object_stream[Entry](limits.queue_transfers)
        self.progress = resources.progress
        self.halt = resources.halt
        self._rounds = rounds
        self._later: list[tuple[Sequence[Outcome], Transfer]] = []
        # By key and path: what a further round has not ended yet, with how the round before ended it.
        self._again: dict[tuple[str, str], tuple[Sequence[Outcome], Transfer]] = {}

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
            recording.start_soon(self._recording.run)
            try:
                with self.halt.bounds():
                    await self._publish_all(feed)
                if self.halt.reason:
                    self._stop()
                await self._recording.finish()
            except BaseException:
                self._stop()
                raise
            finally:
                # The recorder outlives the workers, cancelled or not: what they finished last is written down too.
                self._recorder.finish()

    def _stop(self) -> None:
        self._events.closing(0.0)  # slow subscribers hold nothing up any more
        self._recording.stop()

    async def _publish_all(self, feed: Callable[[Submit], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as tuning:
            if self._controller is not None:
                tuning.start_soon(self._controller.run)
            try:
                await self._publish_round(feed)
                while self._later and self._rounds:
                    self._rounds -= 1
                    await self._publish_later()
            finally:
                # A run that is stopped has tried them all the same.
                for outcomes, transfer in [*self._again.values(), *self._later]:
                    self._final(outcomes, transfer)
            tuning.cancel_scope.cancel()

    async def _publish_round(self, feed: Callable[[Submit], Awaitable[None]]) -> None:
        async with anyio.create_task_group() as workers:
            for _ in range(self._workers):
                workers.start_soon(self._work)
            await feed(self.submit)
            self._send.close()

    async def _publish_later(self) -> None:
        """One more round, over what failed in the last."""
        later, self._later = self._later, []
        log.info("%d files that failed are tried once more", len(later))
        self.close()
        self._send, self._receive = anyio.create_memory_object_stream[Entry](self._queue_transfers)

        self._again = {(transfer.key, transfer.source.path): (outcomes, transfer) for outcomes, transfer in later}

        async def feed(submit: Submit) -> None:
            for _, transfer in later:
                await submit(Work(replace(transfer, known=outdated(transfer.known))))

        await self._publish_round(feed)

    async def _work(self) -> None:
        async for entry in self._receive:
            await self._share.turn()
            try:
                await self._work_off(entry)
            finally:
                self._share.over()
            del entry  # workers that wait keep nothing of what they did last
            await self._recorder.room()

    async def _work_off(self, entry: Entry) -> None:
        if isinstance(entry, Batch):
            completions = entry.take()
            self.progress.objects_in_hand += len(entry.transfers)
            ended = partial(self._ended, completions=completions) if completions else self._ended
            passed_on = partial(self._passed_on, completions=completions) if completions else self._passed_on
            await self._small_files.publish(entry.transfers, ended, passed_on)
        elif isinstance(entry, Skipped):
            self._final(entry.skips, None)
        elif not entry.dropped:
            entry.taken = True
            self.progress.objects_in_hand += 1
            await self._work_on(entry.found, entry.completion)

    async def _work_on(self, found: Found, completion: Completion | None) -> None:
        if isinstance(found, Skip):
            self._skipped(found, completion)
        elif isinstance(found, SourceProblem):
            self._final([problem_outcome(found, self._policies)], None, completion)
            self.progress.objects_in_hand -= 1
        else:
            outcomes, transfer = await self._publisher.publish(found)
            self._ended(outcomes, transfer, {} if completion is None else {transfer.key: completion})

    def _skipped(self, skip: Skip, completion: Completion | None = None) -> None:
        self._final((skip,), None, completion)
        self.progress.objects_in_hand -= 1

    def _put_off(self, outcomes: Sequence[Outcome], transfer: Transfer) -> bool:
        """Try a transfer that failed once more, at the end of the run; False where that cannot help, or there are too
        many of them."""
        if not may_pass(outcomes[0]) or not self._rounds or len(self._later) >= LATER_MAX:
            return False
        self._later.append((outcomes, transfer))
        return True

    def _ended(
        self, outcomes: Sequence[Outcome], transfer: Transfer, completions: Mapping[str, Completion] = NOBODY
    ) -> None:
        self.progress.objects_in_hand -= 1
        if self._again:
            self._again.pop((transfer.key, transfer.source.path), None)
        if isinstance(outcomes[0], Failure) and self._put_off(outcomes, transfer):
            return
        self._final(outcomes, transfer, completions.get(transfer.key))

    def _passed_on(self, passed: Passed, completions: Mapping[str, Completion] = NOBODY) -> None:
        self.progress.objects_in_hand -= len(passed.written)
        if completions:
            passed.completions = [
                (completions[each.key], each) for each in passed.receipts() if each.key in completions
            ]
        self._recorder.pass_on(passed)

    def _final(
        self, outcomes: Sequence[Outcome], transfer: Transfer | None, completion: Completion | None = None
    ) -> None:
        if transfer is not None and isinstance(outcomes[0], Failure):
            self.progress.bytes_failed += transfer.source.size_bytes
        self._recorder.add(outcomes, transfer, completion)
