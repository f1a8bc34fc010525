"""The parts of a run, dealt to the workers of a cluster; workers come and go meanwhile.

Each worker has a few parts at a time, in the order of their keys, and gets the next one when one is done. The parts of
a worker that is gone go to the others. A part that has lost more than `LOSSES_MAX` workers is given up: each of its
files is a Failure.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
from distributed import Client, KilledWorker

from asyncsink.adapters.dask_worker import (
    Admission,
    EnginePlugin,
    PartDone,
    admit,
    end_left_uploads,
    here,
    pending_of,
    present,
    publish_part,
)
from asyncsink.engine.transfer.outcomes import error_of, failure
from asyncsink.errors import AsyncSinkError, ConfigError, ConnectionLost
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
ENDERS_MAX = 3
"""Workers that are asked, one after the other, to end uploads that others have left."""
_STAY_OPEN = "Multipart uploads may stay open: `asyncsink abort-uploads` shows and ends them."
OnOutcome = Callable[[PartOutcome], Awaitable[None]]


class Dealer:
    """Deals parts.

    Args:
        client: of our own.
        run: name of the export, and of its plugin.
        settings: of the export, as far as workers need them.
        sample: path, size and mtime of a file that every worker has to see.
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
        sample: tuple[str, int, int],
        notice: Callable[[str], None],
    ) -> None:
        self._client = client
        self._run = run
        self._settings = settings
        self._sample = sample
        self._notice = notice
        self._lease: Any = None
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
        lease = f"{self._run}-caller"
        self._lease = self._client.submit(present, key=lease, pure=False)
        try:
            await self._client.register_plugin(EnginePlugin(self._run, self._settings, lease), name=self._run)
        except (ImportError, AttributeError, TypeError) as error:
            raise ConfigError(
                f"The workers cannot load asyncsink ({error}); install the same version, with its extra [dask], where "
                "they run."
            ) from error
        while True:
            workers = await self._workers()
            if not workers:
                self._notice("The Dask cluster has no worker yet; the export begins with the first one.")
            for worker in workers:
                if worker not in self._left_out and await self._proves(worker):
                    return self._proved[worker]
            await anyio.sleep(BEAT_SECONDS)

    async def end(self) -> None:
        """Take the engine from the workers, which end what they have; then end the uploads that lost workers have left.
        Shielded; bounded in time."""
        seconds = 2 * self._settings.retry.abort_seconds
        with anyio.move_on_after(seconds, shield=True) as scope:
            try:
                await self._client.scheduler.unregister_worker_plugin(name=self._run)
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
        async with anyio.create_task_group() as group:
            while not self._is_over:
                workers = await self._workers()
                for worker in set(self._serving) - workers:
                    self._serving[worker].cancel()
                    self._proved.pop(worker, None)
                for worker in sorted(workers - set(self._serving) - set(self._left_out)):
                    self._serving[worker] = scope = anyio.CancelScope()
                    group.start_soon(self._serve, worker, scope)
                if not workers and self.out == 0:
                    self._notice("The Dask cluster has no worker left; the export goes on with the next one.")
                await self._change()
            group.cancel_scope.cancel()

    @property
    def _is_over(self) -> bool:
        return self._exhausted and not self._returned and not self.out

    async def _change(self) -> None:
        with anyio.move_on_after(BEAT_SECONDS):
            await self._changed.wait()

    def _has_changed(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _workers(self) -> set[str]:
        try:
            return set(await self._client.scheduler.ncores())
        except OSError as error:
            raise ConnectionLost(f"The Dask scheduler is gone ({error}); export again.") from error

    async def _serve(self, worker: str, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                if not await self._proves(worker):
                    return
                async with anyio.create_task_group() as group:
                    for _ in range(PARTS_OUT):
                        group.start_soon(self._work, worker)
        finally:
            del self._serving[worker]

    async def _work(self, worker: str) -> None:
        while not self._is_over:
            part = await self._take()
            if part is None:
                await self._change()
                continue
            done = False
            try:
                outcome = await self._published(worker, part)
                if outcome is not None:
                    done = True
                    await self._record(outcome)
                else:  # its engine was closed, or the part has killed several workers
                    await anyio.sleep(BEAT_SECONDS)
            finally:
                if not done:  # also where the worker is gone, or the export ends
                    self._give_back(part)
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

    def _give_back(self, part: PartOfRun) -> None:
        self._losses[part.number] = self._losses.get(part.number, 0) + 1
        self._returned.appendleft(part)

    async def _published(self, worker: str, part: PartOfRun) -> PartOutcome | None:
        """The outcome of a part; None where the worker has lost it."""
        attempt, scheduler = self._losses.get(part.number, 0), self._client.scheduler
        if attempt > LOSSES_MAX:
            keys, seconds = [self._run, str(part.number)], 2 * self._settings.retry.abort_seconds
            left = pending_of(await scheduler.get_metadata(keys=keys, default={}))
            if left and await self._ends(worker, part.number, left, seconds):
                await scheduler.set_metadata(keys=keys, value={})
            return PartOutcome(self._given_up(part), bytes_failed=part.size_bytes)
        done = await self._result(worker, f"{part.number}-{attempt}", partial(publish_part, self._run), part)
        if not isinstance(done, PartDone):
            return None
        if done.problem is not None:
            raise error_of(done.problem)
        return done.outcome

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
            able = [worker for worker in self._proved if worker in await self._workers()][:ENDERS_MAX]
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
                work = partial(end_left_uploads, self._settings)
                notices = await self._result(worker, f"{number}-ends-{worker}", work, left)
            except Exception as error:  # noqa: BLE001 - another worker may have what this one lacks
                self._notice(f"The Dask worker {worker} cannot end what another one has left: {error}")
        for notice in notices or ():
            self._notice(notice)
        return notices is not None

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
        sample = await anyio.to_thread.run_sync(_looked_at, self._sample)
        admission = await self._result(worker, f"proof-{worker}", partial(admit, self._run), sample, prefix, here())
        if not isinstance(admission, Admission):
            return False
        if admission.problem is None:
            self._proved[worker] = admission.place
            return True
        error = self._left_out[worker] = error_of(admission.problem)
        if await self._workers() <= set(self._left_out):
            raise type(error)(f"No worker of the Dask cluster can publish. {worker}: {error}") from error
        self._notice(f"The Dask worker {worker} is left out: {error}")
        return False

    async def _result(self, worker: str, name: str, work: Callable[..., Any], *values: Any) -> Any:
        """The result of a task on one worker; None where it has lost the task.

        Raises:
            Exception: as the task does.
        """
        number = int(name.partition("-")[0]) if name[0].isdigit() else 0
        future = self._client.submit(
            work,
            *values,
            key=f"{self._run}-{name}",
            pure=False,
            workers=[worker],
            allow_other_workers=False,
            priority=-number,
        )
        try:
            error = await future.exception()
            if error is None and future.status == "finished":
                found = await self._client.gather([future], errors="skip")
                return found[0] if found else None
        finally:
            future.release()
        if error is not None and not isinstance(error, KilledWorker):
            raise error
        return None


def _looked_at(sample: tuple[str, int, int]) -> tuple[str, int, int]:
    """The sample as it is now: a file may have changed since the survey. Blocking."""
    try:
        status = os.stat(on_disk(sample[0]))
    except OSError:
        return sample
    return sample[0], status.st_size, status.st_mtime_ns
