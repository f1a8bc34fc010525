"""Short blocking work in reader threads, without two threads fighting over the interpreter's lock.

A thread that reads small files gives the interpreter's lock away at every system call; while the event loop is busy it
has to wait for it each time, and two context switches per call cost more than the calls do. Work that the page cache
answers is over in about a millisecond, so the loop waits for it in place, for `IN_PLACE_SECONDS` at most: no longer
than the same bytes would have kept it busy. Work that takes longer goes on beside the loop; where it was a disk or a
network file system that took long, nothing is waited for in place for a while, and several threads read at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import anyio

T = TypeVar("T")

IN_PLACE_SECONDS = 0.002
"""So long, at most, the event loop waits in place for one piece of work."""
QUIET_SECONDS = 0.05
"""So long, at most, a trial waits until nothing else runs."""
BESIDE_MIN, BESIDE_MAX = 4, 256
"""After work that was not over by then, so many pieces are not waited for in place: twice as many each time."""


class Hops:
    """Reader threads of one run, for one event loop. Close it when nothing runs any more."""

    def __init__(self, threads: int) -> None:
        """At most `threads` pieces of work run at once; threads are started when they are needed."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="asyncsink-reader")
        self._running = 0
        self._quiet = anyio.Event()
        self._beside = 0
        self._beside_next = BESIDE_MIN

    def __repr__(self) -> str:
        return f"<Hops {'beside the loop' if self._beside else 'in place'}>"

    async def run(self, work: Callable[[], T], *, stop: Callable[[], None] | None = None) -> T:
        """What `work()` returns or raises.

        Cancelled, it calls `stop`, which may make the work shorter, and waits until it is over; work that did not
        begin never does.
        """
        if not self._beside and self._running:
            # A trial tells something about the disk only where nobody else is in the way. One that hangs is not waited
            # for.
            with anyio.move_on_after(QUIET_SECONDS):
                await self._quiet.wait()
        if self._beside or self._running:
            self._beside = max(0, self._beside - 1)
            return await self._wait(self._executor.submit(work), stop)
        future = self._executor.submit(work)
        if _over(future):
            self._beside_next = BESIDE_MIN
            return future.result()
        self._beside, self._beside_next = self._beside_next, min(2 * self._beside_next, BESIDE_MAX)
        return await self._wait(future, stop)

    def close(self) -> None:
        """Let the threads end."""
        self._executor.shutdown(wait=False)

    async def _wait(self, future: Future[T], stop: Callable[[], None] | None) -> T:
        self._running += 1
        over = asyncio.wrap_future(future)
        try:
            await asyncio.wait([over])
            return future.result()
        except asyncio.CancelledError:
            if not future.cancel():
                if stop is not None:
                    stop()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([over])
            raise
        finally:
            self._running -= 1
            if not self._running:
                self._quiet.set()
                self._quiet = anyio.Event()


def _over(future: Future[T]) -> bool:
    """Wait in place for the work; whether it is over."""
    try:
        future.exception(IN_PLACE_SECONDS)
    except TimeoutError:
        return False
    return True
