"""Event loops of the package's own, the loop that owns an object, coroutines run from synchronous code, blocking
iterators read in threads, and the errors of task groups."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import anyio
import anyio.to_thread
from anyio import CapacityLimiter

from asyncsink.errors import AsyncSinkError, ConfigError

T = TypeVar("T")
BATCH = 128
"""Entries per call to a thread: such a call costs tens of microseconds, an entry a few."""


def refuse_trio() -> None:
    """Raise ConfigError where the caller's coroutine does not run on asyncio."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "asyncsink runs on asyncio (its S3 client is asyncio's); run it with asyncio, not with trio."
        ) from None


class OwnerLoop:
    """The process and the event loop that own an object: those of its creation."""

    __slots__ = ("_loop", "_pid")

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._loop = asyncio.get_running_loop()

    def check(self, what: str) -> None:
        """Refuse a call from elsewhere, which would wait for an event loop that does not run there.

        Args:
            what: names the object, as the beginning of a sentence.

        Raises:
            ConfigError: this is another process, another event loop, or no event loop at all.
        """
        if os.getpid() != self._pid:
            raise ConfigError(
                f"{what} was opened in process {self._pid}, and this is its fork {os.getpid()}, in which nothing of it "
                "runs; open another one here."
            )
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is not self._loop:
            where = "outside of any event loop" if here is None else "from another event loop"
            raise ConfigError(
                f"{what} is used {where}; use it in the one it was opened in, from other threads by "
                "asyncio.run_coroutine_threadsafe(…, loop)."
            )


def run_to_end(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run `main()` in a new event loop and return its result.

    Inside a running loop (Jupyter's, or trio's) the new one has a thread of its own, and the running one is blocked, as
    by any synchronous call. KeyboardInterrupt cancels `main`, waits until it has cleaned up, and is raised.
    """
    if _inside_a_loop():
        return _run_beside(main)
    with asyncio.Runner() as runner:
        return runner.run(main())


def _inside_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _inside_trio()
    return True


def _inside_trio() -> bool:
    # Inside trio's own thread, libraries that detect the current event loop would mistake a new loop for trio.
    try:
        anyio.get_current_task()
    except RuntimeError:
        return False
    return True


def _run_beside(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    results: list[T] = []
    errors: list[BaseException] = []
    cancel: list[Callable[[], object]] = []
    started = threading.Event()

    async def supervised() -> T:
        work = asyncio.ensure_future(main())
        loop = asyncio.get_running_loop()
        cancel.append(lambda: loop.call_soon_threadsafe(work.cancel))
        started.set()
        return await work

    def body() -> None:
        try:
            with asyncio.Runner() as runner:
                results.append(runner.run(supervised()))
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits, which raises it
            errors.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=body, name="asyncsink", daemon=True)
    thread.start()
    started.wait()
    try:
        thread.join()
    except KeyboardInterrupt:
        if cancel:
            cancel[0]()
        thread.join()
        raise
    if errors:
        raise errors[0]
    return results[0]


# -- One loop in the background, for objects that synchronous code uses for long ---------------------------------------

END_SECONDS_MAX = 10.0
"""Seconds that a call waits for the clean-up after KeyboardInterrupt, and the process at its exit for what is still
open."""


class BackgroundLoop:
    """An event loop in a thread of its own, started by its first use. Methods may be called from any thread.

    A forked child begins with none: its parent's loop does not run there.

    Attributes:
        lock: protects what the users of the loop share.
    """

    def __init__(self) -> None:
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Begin anew: in a forked child."""
        self.lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closers: dict[object, Callable[[], Awaitable[object]]] = {}

    def __repr__(self) -> str:
        return f"<BackgroundLoop {'not started' if self._loop is None else f'{len(self._closers)} open'}>"

    def run(self, main: Callable[[], Awaitable[T]]) -> T:
        """Run `main()` in the loop, and return its result.

        Raises:
            ConfigError: this is the loop's own thread, which would wait for itself.
            BaseException: what `main()` raises. KeyboardInterrupt cancels it, waits for its clean-up, for
                END_SECONDS_MAX, and is raised.
        """
        self.check_thread()
        loop = self._started()
        result: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def ended(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                result.set_exception(asyncio.CancelledError())
            elif (error := task.exception()) is not None:
                result.set_exception(error)
            else:
                result.set_result(task.result())

        async def supervised() -> T:
            return await main()

        def begin() -> None:
            tasks.append(loop.create_task(supervised()))
            tasks[0].add_done_callback(ended)

        loop.call_soon_threadsafe(begin)
        try:
            return result.result()
        except BaseException:
            if not result.done():
                # Not before `begin`: functions are called in their order.
                loop.call_soon_threadsafe(lambda: tasks[0].cancel())  # noqa: PLW0108 - there is no task yet
                with contextlib.suppress(Exception, asyncio.CancelledError):
                    result.exception(END_SECONDS_MAX)
            raise

    def check_thread(self) -> None:
        """Raise ConfigError in the loop's own thread, which would wait for itself."""
        if threading.current_thread() is self._thread:
            raise ConfigError(
                "A synchronous call was made in the thread of asyncsink's own event loop (by a function given as "
                "observe=?), which would wait for itself; make it in another thread."
            )

    def keep(self, owner: object, close: Callable[[], Awaitable[object]]) -> None:
        """Have `close()` run at the exit of the process, unless `drop` is called before."""
        with self.lock:
            self._closers[owner] = close

    def drop(self, owner: object) -> None:
        """Forget what `keep` noted. Harmless when repeated."""
        with self.lock:
            self._closers.pop(owner, None)

    def _started(self) -> asyncio.AbstractEventLoop:
        with self.lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon, and ended before Python waits for the threads of the lanes, which end with it.
                self._thread = threading.Thread(
                    target=self._serve, args=(self._loop,), name="asyncsink-loop", daemon=True
                )
                self._thread.start()
                _before_threads_end(self._end)
            if self._loop.is_closed():
                raise ConfigError("This process is ending, and asyncsink's event loop has ended; call it before.")
            return self._loop

    @staticmethod
    def _serve(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
        finally:
            loop.close()

    def _end(self) -> None:
        """Close what is open, and end the loop, within END_SECONDS_MAX; at the exit of the process."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            return
        with self.lock:
            closers = [*self._closers.values()]
            self._closers.clear()

        async def close_all() -> None:
            with anyio.move_on_after(END_SECONDS_MAX):
                await asyncio.gather(*(close() for close in closers), return_exceptions=True)
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for task in rest:
                task.cancel()
            if rest:
                await asyncio.wait(rest, timeout=1)
            await loop.shutdown_asyncgens()

        self.run(close_all)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(END_SECONDS_MAX)


def _before_threads_end(function: Callable[[], None]) -> None:
    # As concurrent.futures does it: atexit's functions come after the wait for threads.
    register = getattr(threading, "_register_atexit", atexit.register)
    register(function)


BACKGROUND = BackgroundLoop()
"""The loop of this process."""


async def batches(items: Iterator[T], *, limiter: CapacityLimiter, size: int = BATCH) -> AsyncIterator[list[T]]:
    """Lists of up to `size` items of a blocking iterator, each taken in one call to a thread.

    Cancelled, it waits for the call under way and takes no further one.
    """
    take = partial(taken, items, size)
    while batch := await anyio.to_thread.run_sync(take, limiter=limiter):
        yield batch


def taken(items: Iterator[T], size: int) -> list[T]:
    """The next `size` items, or those that are left. Blocks as the iterator does."""
    return list(islice(items, size))


def surface(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that a caller should see instead of a task group's.

    An error of asyncsink that stopped the run, else a bug unchanged, else the group itself (nothing but cancellation).
    """
    leaves = list(_leaves(group))
    for kind in (AsyncSinkError, Exception):
        for leaf in leaves:
            if isinstance(leaf, kind):
                return leaf
    return leaves[0] if leaves else group


def _leaves(group: BaseExceptionGroup[BaseException]) -> Sequence[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found.extend(_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    return found
