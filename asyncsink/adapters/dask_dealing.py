"""The parts of a run, dealt to the workers of a cluster; workers come and go meanwhile.

Each worker has a few parts at a time, in the order of their keys, and gets the next one when one is done. The parts of
a worker that is gone go to the others, and so do those of one that cannot reach the destination any more, and those
that a paused one has not begun. A part that has lost more than `LOSSES_MAX` workers is given up: each of its files is a
Failure.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import count as counted
from typing import Any

import anyio
import anyio.to_thread
from distributed import Client, KilledWorker

from asyncsink.adapters.dask_worker import (
    Admission,
    EngineMissing,
    EnginePlugin,
    PartDone,
    SampleFile,
    admit,
    end_left_uploads,
    here,
    not_begun,
    pending_of,
    present,
    publish_part,
)
from asyncsink.engine.transfer.outcomes import error_of, failure
from asyncsink.errors import AsyncSinkError, ConfigError, ConnectionLost, CredentialsError, RetryableError
from asyncsink.options.schema import S3Target, Settings
from asyncsink.paths import on_disk
from asyncsink.report.outcomes import OutcomeLines, encoded
from asyncsink.report.sentences import count
from asyncsink.splitting.known_uploads import Pending
from asyncsink.splitting.part_engine import PartOutcome
from asyncsink.splitting.part_of_run import PartOfRun

PARTS_OUT = 3
"""Parts that a worker has at a time: one that ends, one in full swing, one that begins."""
LOSSES_MAX = 4
"""Workers that a part may lose: on machines that are taken away, most of them died of something else."""
BEAT_SECONDS = 0.5
"""Seconds between two looks at the workers of the cluster."""
BREAK_SECONDS = 10.0
"""Seconds for which the scheduler may not answer: the client connects again meanwhile."""
PROOF_SECONDS = 15.0
"""Seconds after which a worker that has not proved yet that it can publish is named."""
ENDERS_MAX = 3
"""Workers that are asked, one after the other, to end uploads that others have left."""
_NOT_LOST = PartDone()
_STAY_OPEN = "Multipart uploads may stay open: `asyncsink abort-uploads` shows and ends them."
OnOutcome = Callable[[PartOutcome], Awaitable[None]]


class Dealer:
    """Deals parts.

    Args:
        client: of our own.
        run: name of the export, and of its plugin.
        settings: of the export, as far as workers need them.
        samples: files of which every worker has to see one that is still there.
        notice: called with a sentence for people.

    Attributes:
        place: endpoint, region and lane in use, once a worker has proved itself.
        out: how many parts are with workers.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        settings: Settings,
        samples: Sequence[SampleFile],
        notice: Callable[[str], None],
    ) -> None:
        self._client = client
        self._run = run
        self._settings = settings
        self._samples = samples
        self._notice = notice
        self._lease: Any = None
        self._plugin = ""
        self._bringing = anyio.Lock()
        self._tries = counted()
        self._waiting: dict[str, tuple[str, anyio.CancelScope]] = {}
        self._paused: set[str] = set()
        self._parts: Iterator[PartOfRun] = iter(())
        self._record: OnOutcome
        self._exhausted = False
        self._taking = anyio.Lock()
        self._changed = anyio.Event()
        self._returned: deque[PartOfRun] = deque()
        self._losses: dict[int, int] = {}
        self._serving: dict[str, anyio.CancelScope] = {}
        self._left_out: dict[str, AsyncSinkError] = {}
        self._proved: dict[str, tuple[str, str, str]] = {}
        self.place: tuple[str, str, str] | None = None
        self.out = 0

    def __repr__(self) -> str:
        return f"<Dealer of {self._run}: {self.out} parts out, {len(self._serving)} workers>"

    # -- Before and after ----------------------------------------------------------------------------------------------

    async def begin(self) -> tuple[str, str, str]:
        """Bring the engine to the workers, and wait for the first that can publish; returns endpoint, region and lane.

        Raises:
            ConfigError: no worker can.
        """
        self._keep_lease()
        try:
            await self._bring("")
        except (ImportError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"The workers cannot load asyncsink ({error}); install the same version, with its extra [dask], where "
                "they run."
            ) from error
        nobody = "The Dask cluster has no worker yet; the export begins with the first one."
        await self._attend(self._proves, lambda: bool(self._proved), nobody)
        return next(iter(self._proved.values()))

    async def end(self) -> None:
        """Take the engine from the workers, which end what they have; then end the uploads that lost workers have left.
        Shielded; bounded in time."""
        seconds = 2 * self._settings.retry.abort_seconds
        with anyio.move_on_after(seconds, shield=True) as scope:
            try:
                await self._client.scheduler.unregister_worker_plugin(name=self._plugin)
            except Exception as error:  # noqa: BLE001 - whatever it is, the workers notice the end by themselves
                self._notice(f"The workers could not be told that the export has ended ({error}); they notice it.")
        if scope.cancelled_caught:
            self._notice(f"A worker had not ended its part of the export after {seconds:g} s; it goes on to do so.")
        with anyio.move_on_after(ENDERS_MAX * seconds, shield=True) as scope:
            await self._end_left(seconds)
        if scope.cancelled_caught:
            self._notice(f"The workers did not end all that lost workers have left in time. {_STAY_OPEN}")

    # -- Dealing -------------------------------------------------------------------------------------------------------

    async def deal(self, parts: Iterator[PartOfRun], record: OnOutcome) -> None:
        """Have all parts published; `record` is called with each outcome.

        Args:
            parts: in order; taking one blocks.

        Raises:
            ConfigError: no worker can publish. AsyncSinkError: a part could not be begun.
        """
        self._parts, self._record = parts, record
        nobody = "The Dask cluster has no worker left; the export goes on with the next one."
        await self._attend(self._publish_on, lambda: self._is_over, nobody)

    async def _attend(
        self, serve: Callable[[str], Awaitable[object]], is_over: Callable[[], bool], nobody: str
    ) -> None:
        """Serve each worker that takes tasks, until `is_over`; `nobody` is the notice for a cluster without workers."""
        async with anyio.create_task_group() as group:
            while not is_over():
                self._keep_lease()
                workers = await self._workers()
                for worker in set(self._serving) - set(workers):
                    self._serving[worker].cancel()
                    self._proved.pop(worker, None)
                await self._pause({worker for worker, runs in workers.items() if not runs})
                for worker in sorted(set(workers) - self._paused - set(self._serving) - set(self._left_out)):
                    self._serving[worker] = scope = anyio.CancelScope()
                    group.start_soon(self._serve, serve, worker, scope)
                if not workers and self.out == 0:
                    self._notice(nobody)
                await self._change()
            group.cancel_scope.cancel()
        if not is_over():  # a task group takes a cancellation by others for its own, and ends without a word
            raise AsyncSinkError("Dask has cancelled what the export waits for; export again.")

    @property
    def _is_over(self) -> bool:
        return self._exhausted and not self._returned and not self.out

    async def _change(self) -> None:
        with anyio.move_on_after(BEAT_SECONDS):
            await self._changed.wait()

    def _has_changed(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _serve(self, serve: Callable[[str], Awaitable[object]], worker: str, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                await serve(worker)
        finally:
            del self._serving[worker]

    async def _publish_on(self, worker: str) -> None:
        if await self._proves(worker):
            async with anyio.create_task_group() as group:
                for _ in range(PARTS_OUT):
                    group.start_soon(self._work, worker)

    async def _work(self, worker: str) -> None:
        while not self._is_over and worker not in self._left_out:
            part = await self._take() if worker not in self._paused else None
            if part is None:
                await self._change()
                continue
            outcome: PartOutcome | PartDone | None = None  # it stays None where the worker is gone
            try:
                outcome = await self._published(worker, part)
                if isinstance(outcome, PartOutcome):
                    await self._record(outcome)
                else:
                    await anyio.sleep(BEAT_SECONDS)
            finally:
                if not isinstance(outcome, PartOutcome):
                    self._give_back(part, lost=outcome is None)
                self.out -= 1
                self._has_changed()

    async def _take(self) -> PartOfRun | None:
        async with self._taking:
            if not self._returned and not self._exhausted:
                part = await anyio.to_thread.run_sync(next, self._parts, None)
                if part is not None:
                    self._returned.append(part)
                else:
                    self._exhausted = True
                    self._has_changed()
            if not self._returned:
                return None
            self.out += 1
            return self._returned.popleft()

    def _give_back(self, part: PartOfRun, *, lost: bool) -> None:
        self._losses[part.number] = self._losses.get(part.number, 0) + lost
        self._returned.appendleft(part)

    async def _published(self, worker: str, part: PartOfRun) -> PartOutcome | PartDone | None:
        """The outcome of a part; None where the worker has lost it, and `_NOT_LOST` where it has done nothing of it."""
        attempt, scheduler = self._losses.get(part.number, 0), self._client.scheduler
        if attempt > LOSSES_MAX:
            keys, seconds = [self._run, str(part.number)], 2 * self._settings.retry.abort_seconds
            left = pending_of(await scheduler.get_metadata(keys=keys, default={}))
            if left and await self._ends(worker, part.number, left, seconds):
                await scheduler.set_metadata(keys=keys, value={})
            return PartOutcome(self._given_up(part), bytes_failed=part.size_bytes)
        done = await self._result(worker, f"{part.number}-{attempt}", publish_part, part)
        if not isinstance(done, PartDone):
            return None
        if done.problem is not None:
            error = error_of(done.problem)
            if not isinstance(error, (RetryableError, CredentialsError)):
                raise error
            await self._leave_out(worker, error)
            return None
        if done.outcome is not None and done.outcome.stop_reason and not await self._is_last(worker):
            await self._leave_out(worker, ConnectionLost(done.outcome.stop_reason))
            return None
        return done.outcome or _NOT_LOST

    def _given_up(self, part: PartOfRun) -> OutcomeLines:
        target = self._settings.target
        assert isinstance(target, S3Target)
        error = ConnectionLost(
            f"The part of {count(part.objects, 'file')} that this file is in has lost {LOSSES_MAX + 1} workers of the "
            "Dask cluster, one after another; look at their logs, and export again."
        )
        return encoded(
            [failure(each, f"s3://{target.bucket}/{each.key}", error) for each in part.transfers()],
        )

    # -- Uploads that lost workers have left ---------------------------------------------------------------------------

    async def _end_left(self, seconds: float) -> None:
        """End the uploads of all parts; one that may stay open is named in a notice."""
        try:
            told = await self._client.scheduler.get_metadata(keys=[self._run], default=None)
            workers = await self._workers()
            able = [worker for worker in self._proved if workers.get(worker)][:ENDERS_MAX]
        except (OSError, ConnectionLost) as error:
            self._notice(f"The Dask scheduler, which knows the open multipart uploads, is gone ({error}). {_STAY_OPEN}")
            return
        for number, rows in (told or {}).items():
            left = pending_of(rows)
            while left and able and not await self._ends(able[0], number, left, seconds):
                able.pop(0)
            if left and not able:
                named = ", ".join(f"{each.upload_id or '(its id is unknown)'} of {key!r}" for key, each in left.items())
                self._notice(f"No worker is left to end the multipart uploads {named}. {_STAY_OPEN}")
        await self._client.scheduler.set_metadata(keys=[self._run], value=None)

    async def _ends(self, worker: str, number: int | str, left: Pending, seconds: float) -> bool:
        """Whether a worker has ended uploads, or told which may stay open."""
        notices = None
        with anyio.move_on_after(seconds):
            try:
                work = partial(end_left_uploads, self._settings, left)
                notices = await self._result(worker, f"{number}-ends", work)
            except Exception as error:  # noqa: BLE001 - another worker may have what this one lacks
                self._notice(f"The Dask worker {worker} cannot end what another one has left: {error}")
        if not isinstance(notices, tuple):
            return False
        for notice in notices:
            self._notice(notice)
        return True

    # -- Workers -------------------------------------------------------------------------------------------------------

    async def _proves(self, worker: str) -> bool:
        """Whether a worker can publish; else it is named in a notice, and left out.

        Raises:
            ConfigError: none of the workers can.
        """
        if worker in self._proved:
            return True
        target = self._settings.target
        assert isinstance(target, S3Target)
        prefix = f"{target.prefix}/" if target.prefix else ""
        sample = await anyio.to_thread.run_sync(_looked_at, self._samples)
        async with anyio.create_task_group() as group:
            group.start_soon(self._remind, worker)
            admission = await self._result(worker, f"proof-{worker}", admit, sample, prefix, here())
            group.cancel_scope.cancel()
        if not isinstance(admission, Admission):
            return False
        if admission.problem is None:
            self._proved[worker] = admission.place
            self._has_changed()
            return True
        if sample == await anyio.to_thread.run_sync(_looked_at, self._samples):
            await self._leave_out(worker, error_of(admission.problem))
        return False  # where the sample has changed meanwhile, the worker is asked again

    async def _remind(self, worker: str) -> None:
        await anyio.sleep(PROOF_SECONDS)
        self._notice(
            f"The Dask worker {worker} has not told for {PROOF_SECONDS:g} s whether it sees the source and the bucket; "
            "it gets no part before that."
        )

    async def _leave_out(self, worker: str, error: AsyncSinkError) -> None:
        """Give a worker no more parts.

        Raises:
            AsyncSinkError: it was the last one.
        """
        if worker in self._left_out:
            return
        self._left_out[worker] = error
        if await self._is_last(worker):
            raise type(error)(f"No worker of the Dask cluster can publish. {worker}: {error}") from error
        self._notice(f"The Dask worker {worker} is left out: {error}")

    async def _is_last(self, worker: str) -> bool:
        return set(await self._workers()) <= {worker, *self._left_out}

    async def _workers(self) -> dict[str, bool]:
        """The workers, and whether each takes tasks: Dask pauses one whose memory is nearly full."""
        scheduler, deadline = self._client.scheduler, anyio.current_time() + BREAK_SECONDS
        while True:
            try:
                running = await scheduler.ncores_running()
                return {worker: worker in running for worker in await scheduler.ncores()}
            except OSError as error:
                if self._client.status not in ("running", "connecting") or anyio.current_time() > deadline:
                    raise ConnectionLost(f"The Dask scheduler is gone ({error}); export again. {_STAY_OPEN}") from error
            await anyio.sleep(BEAT_SECONDS)

    async def _pause(self, paused: set[str]) -> None:
        """Withdraw what paused workers have not begun: they would begin it when they have memory again."""
        for worker in paused - self._paused:
            self._notice(
                f"The Dask worker {worker} takes no tasks at present, as one whose memory is nearly full; it ends what "
                "it has begun, and gets no further part before it takes tasks again."
            )
        self._paused = paused
        if keys := [key for key, (worker, _) in self._waiting.items() if worker in paused]:
            states = await self._client.scheduler.get_task_status(keys=keys)
            told: dict[str, list[str]] = {}
            with anyio.move_on_after(BREAK_SECONDS):
                told = await self._client.run(not_begun, keys, workers=sorted(paused), on_error="ignore")
            withdrawn = {key for key in keys if states.get(key) == "no-worker"}.union(*told.values())
            for key in withdrawn & set(self._waiting):
                self._waiting[key][1].cancel()

    def _keep_lease(self) -> None:
        """Have the task that tells the workers that the caller is there; a broken connection ends it."""
        if self._lease is None or self._lease.cancelled():
            self._lease = self._client.submit(present, key=self._run, pure=False)

    async def _bring(self, missing: str) -> None:
        """Bring the engine to the workers; once more where they miss the plugin of that name, because they took the
        caller for gone."""
        async with self._bringing:
            if missing != self._plugin:
                return
            # A new name: the old one may still be on its way out.
            name = f"{self._run}-{next(self._tries)}"
            await self._client.register_plugin(EnginePlugin(name, self._settings, self._run), name=name)
            self._plugin = name
        if missing:
            with suppress(ValueError):  # the worker that took the caller for gone has removed it
                await self._client.scheduler.unregister_worker_plugin(name=missing)

    async def _result(self, worker: str, name: str, work: Callable[..., Any], *values: Any) -> Any:
        """The result of a task on one worker, which is given the plugin's name first; None where it has lost the task,
        `_NOT_LOST` where it has not begun it.

        Raises:
            Exception: as the task does.
        """
        number = int(name.partition("-")[0]) if name[0].isdigit() else 0
        while True:
            plugin = self._plugin
            future = self._client.submit(
                work,
                plugin,
                *values,
                key=f"{self._run}-{name}-{next(self._tries)}",
                pure=False,
                workers=[worker],
                allow_other_workers=False,
                priority=-number,
            )
            found: dict[str, Any] = {}
            with anyio.CancelScope() as withdrawn:
                self._waiting[future.key] = worker, withdrawn
                try:
                    error = await future.exception()
                    if error is None and future.status == "finished":
                        # Not Client.gather: it joins requests, and one that is cancelled cancels the others.
                        found = await self._client.scheduler.gather(keys=[future.key])
                finally:
                    del self._waiting[future.key]
                    future.release()
            if withdrawn.cancelled_caught:
                return _NOT_LOST
            if isinstance(error, EngineMissing):
                await self._bring(plugin)
                return _NOT_LOST
            if error is not None and not isinstance(error, KilledWorker):
                raise error
            if not future.cancelled():
                return found["data"][future.key] if found.get("status") == "OK" else None
            await self._workers()  # the caller's connection was broken: the worker goes on, and is asked again
            await anyio.sleep(BEAT_SECONDS)


def _looked_at(samples: Sequence[SampleFile]) -> SampleFile | None:
    """The first sample that is there, as it is now: files may change, and vanish, after the survey. Blocking."""
    for path, _, _ in samples:
        with suppress(OSError):
            status = os.stat(on_disk(path))
            return path, status.st_size, status.st_mtime_ns
    return None
