"""Event loops of the package's own, the loop that owns an object, coroutines run from synchronous code, blocking
iterators read in threads, and the errors of task groups."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
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
