"""The worker's side of an export over Dask: one engine in each worker process, in a thread of its own.

The plugin travels to every worker, also to those that come later. It holds destination and options, and no secret: each
worker finds credentials as a program of its own machine does. An engine ends with the plugin: when the caller removes
it, when the worker closes, or when the caller is gone, which each worker asks the scheduler every `CALLER_SECONDS`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from dataclasses import asdict
from functools import partial
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal
from distributed import Worker, WorkerPlugin, get_worker, secede
from tornado.ioloop import PeriodicCallback

from asyncsink.engine.transfer.outcomes import failure_of
from asyncsink.errors import AsyncSinkError, JournalError
from asyncsink.model import Failure, PendingUpload
from asyncsink.options.schema import Settings
from asyncsink.options.settings import VERSION
from asyncsink.os_errors import shortage
from asyncsink.paths import on_disk
from asyncsink.splitting.known_uploads import KnownUploads, Pending
from asyncsink.splitting.part_engine import PartEngine, PartOutcome, open_engine
from asyncsink.splitting.part_of_run import PartOfRun
from asyncsink.value import dataclass

CALLER_SECONDS = 2.0
"""Seconds between two questions whether the caller is still there."""
MISSED_MAX = 2
"""Times that the caller is not found: its task may reach the scheduler after its plugin."""
log = logging.getLogger("asyncsink.dask")
T = TypeVar("T")
SampleFile = tuple[str, int, int]
"""Path, size and mtime of a file."""


class EngineClosed(Exception):
    """The worker's engine was closed: the export has ended, its caller is gone, or the worker ends."""


class EngineMissing(EngineClosed):
    """The worker has no plugin of the export any more: another worker took the caller for gone."""


class WorkerEngine:
    """A PartEngine in a thread with an event loop of its own. Methods block, and may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened: Future[tuple[PartEngine, BlockingPortal]] = Future()
        self._lock = threading.Lock()
        self._over = False
        self._waiting: dict[object, Future[Any]] = {}
        self._thread = threading.Thread(target=self._run, name="asyncsink", daemon=True)
        self._thread.start()

    @property
    def is_over(self) -> bool:
        """Whether it was closed, could not be opened, or has failed."""
        return self._over

    def call(self, work: Callable[[PartEngine], Awaitable[T]], name: object = None) -> T:
        """Run `work` in the engine's loop, or wait for the one of the same name that is under way.

        Raises:
            AsyncSinkError: the engine cannot be opened, or as `work`. EngineClosed: it was closed meanwhile.
        """
        engine, portal = self._opened.result()
        name = object() if name is None else name
        with self._lock:
            if self._over:
                raise EngineClosed
            if name not in self._waiting:
                self._waiting[name] = portal.start_task_soon(work, engine)
            ended: Future[T] = self._waiting[name]
        try:
            return ended.result()
        except CancelledError:
            raise EngineClosed from None
        finally:
            with self._lock:
                if self._waiting.get(name) is ended:
                    del self._waiting[name]

    def close(self) -> None:
        """Cancel what is under way, end its uploads, close the connections, and let every caller go. Blocks."""
        if self._opened.exception() is None:
            _, portal = self._opened.result()
            with self._lock:
                if not self._over:
                    self._over = True
                    portal.start_task_soon(portal.stop, True)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if not self._opened.done():
                self._opened.set_exception(error)
            else:
                log.exception("The engine of an export has stopped.")
        finally:
            with self._lock:
                self._over = True
                for each in self._waiting.values():
                    each.cancel()

    async def _serve(self) -> None:
        async with open_engine(self._settings) as engine, BlockingPortal() as portal:
            self._opened.set_result((engine, portal))
            await portal.sleep_until_stopped()


# -- The plugin --------------------------------------------------------------------------------------------------------


class EnginePlugin(WorkerPlugin):
    """Gives each worker one engine for one export.

    Args:
        name: of the plugin.
        settings: of the export, as far as workers need them.
        run: name of the export: the key of a task that exists while the caller does, and of what the scheduler
            remembers.

    Attributes:
        closed: it opens no engine any more.
    """

    def __init__(self, name: str, settings: Settings, run: str) -> None:
        self.name = name
        self.settings = settings
        self.run = run

    def __repr__(self) -> str:
        return f"<EnginePlugin {self.name}>"

    async def setup(self, worker: Worker) -> None:
        """Begin to ask for the caller; the engine is opened for the first part."""
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._opening = threading.Lock()
        self._engine: WorkerEngine | None = None
        self.closed = False
        self._missed = 0
        self._watch = PeriodicCallback(self._look_for_caller, CALLER_SECONDS * 1000)
        self._watch.start()

    async def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - as WorkerPlugin has it
        """Close the engine."""
        self._watch.stop()
        await asyncio.to_thread(self._close)

    def engine(self) -> WorkerEngine:
        """The engine, opened by the first call, and anew where it has failed. Blocks."""
        with self._opening:
            if self.closed:
                raise EngineClosed
            if self._engine is None or self._engine.is_over:
                self._engine = WorkerEngine(self.settings)
            return self._engine

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Run `work` in the worker's loop, where the connection to the scheduler belongs."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    async def pending(self, number: int) -> dict[str, PendingUpload]:
        """What an earlier attempt at a part has left, on whichever worker."""
        told = await self._on_loop(self._worker.scheduler.get_metadata(keys=[self.run, str(number)], default={}))
        return pending_of(told)

    async def tell(self, number: int, key: str, known: PendingUpload | None) -> None:
        """Have the scheduler remember an upload, which outlives this process then."""
        row = None if known is None else {name: value for name, value in asdict(known).items() if name != "parts"}
        try:
            await self._remember([self.run, str(number), key], row)
        except OSError as error:
            if known is not None:
                raise JournalError(f"The scheduler cannot remember the upload of {key!r}: {error}") from error

    async def forget(self, number: int) -> None:
        """Have the scheduler forget the uploads of a part that is done."""
        await self._remember([self.run, str(number)], {})

    async def _remember(self, keys: list[str], value: Any) -> None:
        await self._on_loop(self._worker.scheduler.set_metadata(keys=keys, value=value))

    def _close(self) -> None:
        with self._opening:
            self.closed = True
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    async def _look_for_caller(self) -> None:
        scheduler = self._worker.scheduler
        try:
            state = await scheduler.get_task_status(keys=[self.run])
        except OSError:
            return  # a worker that has lost its scheduler closes, and its plugins with it
        self._missed = 0 if state.get(self.run) is not None else self._missed + 1
        if self._missed < MISSED_MAX or self.closed:
            return
        self._watch.stop()
        log.warning("The caller of %s is gone: it ends here.", self.run)
        await asyncio.to_thread(self._close)
        with contextlib.suppress(Exception):  # another worker was first
            await scheduler.unregister_worker_plugin(name=self.name)


def pending_of(told: Any) -> dict[str, PendingUpload]:
    """Uploads as `EnginePlugin.tell` has written them."""
    return {key: PendingUpload(**row) for key, row in (told or {}).items() if row is not None}


def dask_setup(worker: Worker) -> None:  # noqa: ARG001 - Dask's own name for what it calls in a module to preload
    """Leave Ctrl-C to the caller, whose terminal the workers of "local:N" have too: it ends them in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


# -- Tasks: what the caller submits ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a worker can publish.

    Attributes:
        problem: why it cannot, or None.
        place: endpoint, region and lane in use.
    """

    problem: Failure | None = None
    place: tuple[str, str, str] = ("", "", "")


@dataclass(frozen=True, slots=True)
class PartDone:
    """What a worker tells about a part.

    Attributes:
        outcome: None where the part could not be begun, or where the export's engine was closed on its worker.
        problem: why it could not be begun, or None.
    """

    outcome: PartOutcome | None = None
    problem: Failure | None = None


def here() -> str:
    """What has to be the same for the caller and all workers."""
    return f"asyncsink {VERSION} on Python {sys.version_info[0]}.{sys.version_info[1]}"


def present() -> None:
    """A task that exists as long as its client does."""


def admit(plugin_name: str, sample: SampleFile | None, prefix: str, same: str) -> Admission | None:
    """Whether this worker sees the source, and reaches the destination; None where its engine was closed meanwhile.

    Args:
        plugin_name: of the export's plugin.
        sample: path, size and mtime of one of the files; None where the caller sees none any more.
        prefix: of the destination's keys.
        same: `here` of the caller.
    """
    if here() != same:
        return Admission(_problem(AsyncSinkError(f"it has {here()}, and the caller has {same}.")))
    if sample is not None:
        path, size, mtime = sample
        try:
            status = os.stat(on_disk(path))
        except OSError as error:
            return Admission(_problem(AsyncSinkError(f"it does not see {path!r} ({error.strerror}).")))
        if (status.st_size, status.st_mtime_ns) != (size, mtime):
            return Admission(_problem(AsyncSinkError(f"it sees another file at {path!r}, by size or time.")))
    plugin = _plugin(plugin_name)
    try:
        engine = plugin.engine()

        async def ask(opened: PartEngine) -> tuple[str, str, str]:
            await opened.prove(prefix)
            return opened.place

        return Admission(place=engine.call(ask))
    except EngineClosed:
        return None
    except AsyncSinkError as error:
        return Admission(_problem(error))


def publish_part(plugin_name: str, part: PartOfRun) -> PartDone | None:
    """Publish one part; blocks until all its files have an outcome. None where its engine has failed.

    A caller whose connection was broken asks again, and gets the outcome of what it has begun.
    """
    plugin = _plugin(plugin_name)
    secede()  # the next part begins beside this one: they share one engine, and its limits

    async def work(engine: PartEngine) -> PartOutcome:
        uploads = KnownUploads(await plugin.pending(part.number), partial(plugin.tell, part.number))
        known = bool(uploads.pending)
        outcome = await engine.publish(part, uploads)
        if known or uploads.pending:
            await plugin.forget(part.number)
        return outcome

    try:
        return PartDone(plugin.engine().call(work, part.number))
    except EngineClosed:
        return PartDone() if plugin.closed else None
    except AsyncSinkError as error:
        return PartDone(problem=_problem(error))
    except Exception as error:
        if lacking := shortage(error):
            return PartDone(problem=_problem(AsyncSinkError(lacking)))
        raise


def not_begun(keys: list[str], dask_worker: Worker) -> list[str]:
    """Which of these tasks this worker has, and has not begun. Called in its event loop, also where it is paused."""
    tasks = dask_worker.state.tasks
    return [key for key in keys if key in tasks and tasks[key].state == "ready"]


def end_left_uploads(settings: Settings, left: Pending, plugin_name: str) -> tuple[str, ...]:  # noqa: ARG001
    """End uploads that lost workers have left, also where the export's own engine is closed; returns notices."""
    notices: list[str] = []

    async def work() -> None:
        async with open_engine(settings) as engine:
            await engine.end_uploads(left, notices.append)

    asyncio.run(work())
    return tuple(notices)


def _plugin(name: str) -> EnginePlugin:
    plugin = get_worker().plugins.get(name)
    if plugin is None:
        raise EngineMissing
    assert isinstance(plugin, EnginePlugin)
    return plugin


def _problem(error: AsyncSinkError) -> Failure:
    return failure_of("", "", "", error, stage="upload")
