"""Several processes publish one run: the parent surveys, walks, shares out, records, reports, and is one of them.

Work goes to whoever has least before it. A process that dies costs what it had in hand, each transfer a Failure, and
the others go on.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

from asyncsink.config import JournalChoice, Limits, Settings, Shard
from asyncsink.destinations.base import Outlook
from asyncsink.engine.messages import Begin, News, told_error
from asyncsink.engine.outcomes import problem_outcome
from asyncsink.engine.own_share import OwnShare
from asyncsink.engine.pipeline import Batch, Entry, Skipped, Submit, Work
from asyncsink.engine.progress import Progress
from asyncsink.engine.run import Run
from asyncsink.engine.step_writer import StepWriter
from asyncsink.engine.worker import Worker
from asyncsink.errors import ConfigError, TransferError
from asyncsink.model import Event, Failure, GaveUp, Outcome, Paused, SourceProblem, Transfer

LEAVE_SECONDS = 10.0
"""So much longer than `abort_seconds` a process that is asked to stop may take before it is killed."""

log = logging.getLogger("asyncsink.engine")


class Runner(Protocol):
    """What publishes everything that a feed submits: a Pipeline, or a ProcessPool."""

    async def run(self, feed: Callable[[Submit], Awaitable[None]]) -> None:
        """As `Pipeline.run`."""
        ...


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@asynccontextmanager
async def processes_loading(wanted: int) -> AsyncIterator[list[Worker]]:
    """What this process needs beside it to be `wanted`, or one for a core; they load beside what the block does first.

    `start_loading` adds to the list, and `open_runner` takes out of it; leaving the block ends those that are left.

    Raises:
        ConfigError: a process cannot be started.
    """
    waiting: list[Worker] = []
    try:
        await start_loading(waiting, min(wanted, available_cores()))
        yield waiting
    finally:
        with anyio.CancelScope(shield=True):
            for worker in waiting:
                await worker.dismiss()


async def start_loading(waiting: list[Worker], processes: int) -> None:
    """Start what `processes` have and `waiting` lacks. Before the destination is opened: their pipes are open files,
    and what may be open besides is counted then.

    Raises:
        ConfigError: a process cannot be started.
    """
    while len(waiting) < processes - 1:
        waiting.append(await Worker.start(1 + len(waiting)))


@asynccontextmanager
async def open_runner(
    run: Run,
    *,
    settings: Settings,
    outlook: Outlook,
    progress: Progress,
    shares: Sequence[Limits],
    waiting: list[Worker],
) -> AsyncIterator[Runner]:
    """One process more for each of `shares`, ready to publish beside this one; leaving the block ends them.

    Args:
        waiting: loading, at least as many; those that are used are taken out.

    Raises:
        ConfigError, TransferError: a process cannot use the destination; nothing was sent.
    """
    log.info("%d processes publish", 1 + len(shares))
    async with anyio.create_task_group() as group:
        pool = ProcessPool(run, settings, progress, group)
        try:
            await pool.start(replace(outlook, unknown_total=run.unknown_total), shares, waiting)
            yield pool
        finally:
            await pool.wind_down()


class ProcessPool:
    """The processes of one run."""

    def __init__(self, run: Run, settings: Settings, progress: Progress, group: TaskGroup) -> None:
        """Nothing is started yet; `group` is where they are listened to."""
        self._run = run
        self._group = group
        self._settings = settings
        self._progress = progress
        self._recorder = run.pipeline.recorder
        self._tuner = run.pipeline.tuner
        self._own = OwnShare(run.pipeline, self._wake)
        run.pipeline.see_off = self._see_off
        # The others are seen off before their last outcomes are known.
        run.pipeline.recording.seconds += LEAVE_SECONDS
        self._workers: list[Worker] = []
        self._steps: dict[int, StepWriter] = {}
        self._room = anyio.Event()
        self._scope = anyio.CancelScope()
        self._error: Exception | None = None
        self._stopping = False
        self._waiting: set[int] = set()
        self._winding_down = anyio.Lock()

    def __repr__(self) -> str:
        return f"<ProcessPool of {len(self._workers)}, {sum(len(w.under_way) for w in self._workers)} under way>"

    async def start(self, outlook: Outlook, shares: Sequence[Limits], waiting: list[Worker]) -> None:
        """Have the processes begin, and wait until all of them can: none sends before the last has looked.

        Raises:
            ConfigError, TransferError: one of them cannot.
        """
        for number in range(1, 1 + len(shares)):
            worker = waiting.pop(0)
            self._workers.append(worker)
            if self._run.recorded is not None:
                writer = StepWriter(self._run.recorded, worker.note, self._give_up)
                self._steps[number] = writer
                self._group.start_soon(writer.run)
            self._group.start_soon(worker.listen, self._take, self._gone)
        for worker, share in zip(self._workers, shares, strict=True):
            settings = replace(
                self._settings,
                target=self._run.target,
                limits=share,
                policies=replace(self._settings.policies, on_unreachable="error"),
                manifest="",
                journal=JournalChoice(enabled=False),
                remove_dest_dir=False,
                processes=1,
                shard=Shard(),
            )
            worker.news = News(limit=share.concurrency_start)
            if self._tuner is not None:
                self._tuner.limit_elsewhere += share.concurrency_start
            await worker.begin(Begin(settings, outlook, journalled=self._run.recorded is not None))
        for worker in self._workers:
            await worker.ready.wait()
            if self._error is not None:
                raise self._error
            if not worker.alive:
                raise ConfigError(
                    f"Process {worker.number + 1} of {1 + len(shares)} {worker.ending}, before anything was sent; use "
                    "processes=1, or fewer."
                )

    async def run(self, feed: Callable[[Submit], Awaitable[None]]) -> None:
        """Publish everything that `feed` submits.

        Returns when all of it is recorded. Cancelled, it has the processes abort what is under way, records what is
        done, and leaves.
        """
        with self._scope:
            await self._run.pipeline.run(partial(self._share_out, feed))
        if self._error is not None:
            raise self._error

    async def _share_out(self, feed: Callable[[Submit], Awaitable[None]], _submit: Submit) -> None:
        """What the pipeline of this process is fed by, while the other processes have their share."""
        try:
            await feed(self._submit)
            for worker in self._workers:
                worker.finish()
            for worker in self._workers:
                await worker.ended.wait()
        except BaseException:
            # They abort what they have beside this process, which does so when this is raised.
            self._group.start_soon(self._see_off)
            raise

    async def _see_off(self) -> None:
        """The run is being stopped: end the other processes, and hear what became of the work they had."""
        # Nobody is waited for any more who only listens.
        self._run.events.closing(0.0)
        for writer in self._steps.values():
            writer.stop(self._settings.retry.abort_seconds + LEAVE_SECONDS)
        await self.wind_down()

    async def wind_down(self) -> None:
        """End all processes: ask them, wait (shielded, bounded), and kill those that do not go."""
        self._stopping = True
        with anyio.CancelScope(shield=True):
            async with self._winding_down:
                for worker in self._workers:
                    await worker.leave()
                with anyio.move_on_after(self._settings.retry.abort_seconds + LEAVE_SECONDS):
                    for worker in self._workers:
                        await worker.ended.wait()
                for worker in self._workers:
                    worker.kill()
                for worker in self._workers:
                    await worker.ended.wait()

    async def _submit(self, work: Entry) -> None:
        """Give `work` to the process that has least before it; waits while all have enough."""
        if isinstance(work, Skipped):
            for skip in work.skips:
                self._ended(skip)
            await self._recorder.room()
            return
        transfers = work.transfers if isinstance(work, Batch) else [work.found]
        given = [found for found in transfers if isinstance(found, Transfer)]
        for found in transfers:
            if isinstance(found, SourceProblem):
                self._ended(problem_outcome(found, self._settings.policies))
        while given:
            alive: list[Worker | OwnShare] = [self._own, *(worker for worker in self._workers if worker.alive)]
            idlest = _holder(alive, work) or min(alive, key=lambda each: each.load.weight_bytes)
            if idlest.load.has_room:
                await idlest.give(work, given)
                break
            await self._room.wait()
        await self._recorder.room()

    def _ended(self, outcome: Outcome, transfer: Transfer | None = None) -> None:
        if transfer is not None:
            self._progress.bytes_failed += transfer.source.size_bytes  # one that was lost with its process
        self._recorder.add([outcome], transfer)

    async def _take(self, worker: Worker, news: News) -> None:
        """Bring what a process told into the run. An error ends the run; the process is heard out all the same."""
        try:
            await self._bring(news, worker)
        except Exception as error:  # noqa: BLE001 - raised where the run waits
            self._give_up(error)

    async def _bring(self, news: News, worker: Worker) -> None:
        before = worker.news
        self._progress.objects_in_hand += news.objects_in_hand - before.objects_in_hand
        self._progress.bytes_under_way += news.bytes_under_way - before.bytes_under_way
        self._progress.bytes_failed += news.bytes_failed - before.bytes_failed
        self._progress.bytes_moved += news.bytes_moved - before.bytes_moved
        self._progress.traffic.requests += news.requests - before.requests
        self._progress.traffic.retries += news.retries - before.retries
        self._progress.counts.bytes_resumed += news.bytes_resumed - before.bytes_resumed
        for gone in before.resumable:
            self._progress.resumable.pop(gone.key, None)
        self._progress.resumable.update((each.key, each) for each in news.resumable)
        if news.steps:
            await self._steps[worker.number].add(news.steps)
        for passed in news.passed:
            self._recorder.pass_on(passed)
        for number, outcomes in news.put_off:
            self._put_off(worker.under_way[number], outcomes)
        if news.ended or news.put_off:
            worker.settle([*news.ended, *(number for number, _ in news.put_off)])
            self._wake()
        for event in news.events:
            self._bring_outage(worker, event)
        if news.stopped:
            self._stopping = True
            self._run.pipeline.halt.stop(news.stopped)
        for notice in news.notices:
            self._run.events.notice(notice)
        if news.error is not None:
            self._give_up(told_error(*news.error))
        await self._recorder.room()
        if news.limit != before.limit and not self._stopping and self._tuner is not None:
            await self._tuner.tell_elsewhere(news.limit - before.limit, news.reason)

    def _put_off(self, transfer: Transfer, outcomes: Sequence[Outcome]) -> None:
        """This process tries it once more, when all else is done."""
        if not self._run.pipeline.put_off(outcomes, transfer):
            self._progress.bytes_failed += transfer.source.size_bytes
            self._recorder.add(outcomes, transfer)

    def _bring_outage(self, worker: Worker, event: Event) -> None:
        """One process after another notices: the first speaks for all."""
        waiting, paused_here = self._waiting, self._run.stack is not None and self._run.stack.transport.paused
        if isinstance(event, Paused):
            waiting.add(worker.number)
            first = not paused_here and worker.number == min(waiting)
        elif isinstance(event, GaveUp):
            first = not self._run.pipeline.halt.reason
        else:
            waiting.discard(worker.number)
            first = not paused_here and not waiting
        if first:
            self._run.events.tell(event)

    def _give_up(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._stopping = True
        self._scope.cancel()

    def _gone(self, worker: Worker) -> None:
        """A process has ended: what it had in hand has failed, unless the run itself is being stopped. Its uploads
        stay in the journal, for the next run to go on with."""
        if worker.number in self._steps:
            self._steps[worker.number].gone()
        self._progress.objects_in_hand -= worker.news.objects_in_hand
        self._progress.bytes_under_way -= worker.news.bytes_under_way
        if not self._stopping:
            if worker.under_way:
                log.warning("process %d %s", worker.number + 1, worker.ending)
            try:
                for transfer in worker.under_way.values():
                    self._ended(self._lost(transfer, worker), transfer)
            except anyio.BrokenResourceError as error:
                self._give_up(error)
        worker.under_way.clear()
        self._wake()

    def _lost(self, transfer: Transfer, worker: Worker) -> Failure:
        url = self._run.destination.url(transfer)
        return Failure(
            source=transfer.source.path,
            key=transfer.key,
            url=url,
            error=TransferError.__name__,
            message=f"{transfer.source.path} is not confirmed at {url}: its process {worker.ending}. Export it again; "
            "where memory is short, with fewer processes or less memory_bytes.",
            stage="upload",
            entry=transfer.source.entry,
        )

    def _wake(self) -> None:
        self._room.set()
        self._room = anyio.Event()


def _holder(workers: Sequence[Worker | OwnShare], work: Work | Batch) -> Worker | OwnShare | None:
    """The process that has the same large file under the same key already: there, its uploads take turns."""
    found = work.found if isinstance(work, Work) else None
    if not isinstance(found, Transfer):
        return None
    return next((worker for worker in workers if worker.load.holds(found)), None)
