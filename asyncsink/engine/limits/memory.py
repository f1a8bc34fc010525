"""Memory and reader threads of a run: a byte budget over all files and parts, reused buffers, a thread pool."""

from __future__ import annotations

import asyncio
import mmap
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import anyio

LEFT_BYTES = 8 * 1024 * 1024
"""Bytes of a shared budget that are left for each other run: a part of the usual size."""


class ByteBudget:
    """Bytes of file content that may be held at once, handed out first come, first served.

    A request larger than the whole budget is granted when nothing else is held, so it cannot wait for ever; callers
    keep single bodies below the budget where they can.

    Args:
        total_bytes: of the budget.
        within: the budget that several runs share, or None. This one is the part of one run then, bounded by both; the
            runs take turns, so that none waits for all bodies of another, and room for one body is left for each.

    Attributes:
        runs: how many share it.
    """

    def __init__(self, total_bytes: int, *, within: ByteBudget | None = None) -> None:
        self.total_bytes: int = total_bytes if within is None else min(total_bytes, within.total_bytes)
        self.held_bytes = 0
        self.runs = 1
        self._begun_bytes = 0
        self._whole = within if within is not None else self
        self._begun: _Turns = within._begun if within is not None else _Turns()
        self._waiting: _Turns = within._waiting if within is not None else _Turns()

    def __repr__(self) -> str:
        mib = 1 << 20
        held, total = round(self.held_bytes / mib), round(self.total_bytes / mib)
        return f"<ByteBudget {held} MiB of {total} MiB, {len(self._waiting) + len(self._begun)} waiting>"

    @property
    def wanted(self) -> bool:
        """Whether a reservation waits for memory."""
        return bool(self._waiting or self._begun)

    @asynccontextmanager
    async def reserve(self, count_bytes: int) -> AsyncIterator[None]:
        """Hold `count_bytes` for the duration of the block. Cancelled while waiting, it holds nothing."""
        await self._acquire(count_bytes, self._waiting)
        try:
            yield
        finally:
            self._give_back(count_bytes)

    def hold_now(self, count_bytes: int, *, most_bytes: int) -> bool:
        """Hold `count_bytes` if no more than `most_bytes` are held then, and no reservation waits; after True, the
        caller owes a `let_go`.

        For memory that is given back at the speed of a caller, who may himself wait for this budget: with a bound below
        the total, such memory cannot use all of it up.
        """
        if self.wanted or self._whole.held_bytes + count_bytes > most_bytes:
            return False
        self._count(count_bytes)
        return True

    def has_room(self, count_bytes: int) -> bool:
        """Whether `reserve` would grant `count_bytes` now."""
        return not self.wanted and self._fits(count_bytes)

    def let_go(self, count_bytes: int) -> None:
        """Give back what `hold_now` has granted."""
        self._give_back(count_bytes)

    def begin(self, more_bytes: int, size_bytes: int) -> bool:
        """Hold `more_bytes` for the beginning of a part of `size_bytes`, if there is room for beginnings; see
        PartMemory."""
        for budget in (self, self._whole):
            room = min(budget.total_bytes // BEGINNINGS_DIVISOR, budget.total_bytes - size_bytes)
            if budget._begun_bytes + more_bytes > room:
                return False
        if self.wanted or not self._fits(more_bytes):
            return False
        self._count(more_bytes, more_bytes)
        return True

    async def complete(self, begun_bytes: int, size_bytes: int) -> None:
        """Hold a whole part, of which `begun_bytes` are held as its beginning; waits. Cancelled, nothing changes."""
        # What is begun comes first: the memory that it holds is of no use until it is full.
        await self._acquire(size_bytes - begun_bytes, self._begun if begun_bytes else self._waiting)
        self._count(0, -begun_bytes)

    def release(self, held_bytes: int, begun_bytes: int) -> None:
        """Give a part's memory back, of which `begun_bytes` are its beginning."""
        self._count(0, -begun_bytes)
        self._give_back(held_bytes)

    def _room_for(self, count_bytes: int) -> bool:
        # The beginnings of parts do not count here: their producers may take any time (see PartMemory).
        return self.held_bytes <= self._begun_bytes or self.held_bytes + count_bytes <= self.total_bytes

    def _may_have(self, count_bytes: int) -> bool:
        """Whether a part of a shared budget may have so much more."""
        whole = self._whole
        left_for_others = (whole.runs - 1) * min(LEFT_BYTES, whole.total_bytes // whole.runs)
        most = min(self.total_bytes, whole.total_bytes - left_for_others)
        return self.held_bytes <= self._begun_bytes or self.held_bytes + count_bytes <= most

    def _fits(self, count_bytes: int) -> bool:
        return self._may_have(count_bytes) and self._whole._room_for(count_bytes)

    def _count(self, held_bytes: int, begun_bytes: int = 0) -> None:
        self.held_bytes += held_bytes
        self._begun_bytes += begun_bytes
        if self._whole is not self:
            self._whole._count(held_bytes, begun_bytes)

    async def _acquire(self, count_bytes: int, waiting: _Turns) -> None:
        if not self._begun and (not self._waiting or waiting is self._begun) and self._fits(count_bytes):
            self._count(count_bytes)
            return
        granted = anyio.Event()
        waiting.add(self, count_bytes, granted)
        self._whole._wake()  # the others may wait for limits of their own
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():
                # Granted and cancelled in the same iteration of the loop: the bytes go back.
                self._count(-count_bytes)
            else:
                waiting.remove(self, granted)
            self._whole._wake()
            raise

    def _give_back(self, count_bytes: int) -> None:
        self._count(-count_bytes)
        self._whole._wake()

    def _wake(self) -> None:
        held_up: set[ByteBudget] = set()
        for waiting in (self._begun, self._waiting):
            while (budget := waiting.next(self, held_up)) is not None:
                count_bytes, granted = waiting.first(budget)
                if not self._room_for(count_bytes):
                    return
                waiting.pass_on(budget)
                budget._count(count_bytes)
                granted.set()


class _Turns:
    """Who waits for bytes of one budget, or of the parts of a shared one, which take turns."""

    def __init__(self) -> None:
        self._queues: dict[ByteBudget, deque[tuple[int, anyio.Event]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __bool__(self) -> bool:
        return bool(self._queues)

    def add(self, budget: ByteBudget, count_bytes: int, granted: anyio.Event) -> None:
        self._queues.setdefault(budget, deque()).append((count_bytes, granted))

    def remove(self, budget: ByteBudget, granted: anyio.Event) -> None:
        queue = self._queues[budget]
        queue.remove(next(each for each in queue if each[1] is granted))
        if not queue:
            del self._queues[budget]

    def first(self, budget: ByteBudget) -> tuple[int, anyio.Event]:
        return self._queues[budget][0]

    def next(self, whole: ByteBudget, held_up: set[ByteBudget]) -> ByteBudget | None:
        """The budget whose turn it is. Parts that wait for their own limit are left out, and join `held_up`."""
        for budget, queue in self._queues.items():
            if budget in held_up:
                continue
            if budget is whole or budget._may_have(queue[0][0]):
                return budget
            held_up.add(budget)
        return None

    def pass_on(self, budget: ByteBudget) -> None:
        """Remove the first of a budget, whose next turn comes after those of all others."""
        queue = self._queues.pop(budget)
        queue.popleft()
        if queue:
            self._queues[budget] = queue


# -- Parts of streams, which are filled at the speed of their producers ------------------------------------------------
# A part cannot be sent before it is full, so that parts that are half full must never use up the budget: none of them
# could be filled then. The first MiB of a part is counted as it comes, and all such beginnings together have a fourth
# of the budget at most. A part that outgrows its beginning, or finds no room for one, waits until it has its whole
# memory; from then on it depends on its producer alone.

SMALL_BYTES = 1024 * 1024
"""Bodies up to this size are allocated one by one: a whole buffer for each would waste the budget."""
BEGINNINGS_DIVISOR = 4
BEGINNING_BYTES_MIN = 64 * 1024


class PartMemory:
    """The memory of one part that is being filled, until `release`.

    Args:
        size_bytes: of the full part.

    Attributes:
        held_bytes: how much of it the budget has granted.
        whole: whether that is everything it needs.
    """

    __slots__ = ("_budget", "_size_bytes", "held_bytes", "whole")

    def __init__(self, budget: ByteBudget, size_bytes: int) -> None:
        self._budget = budget
        self._size_bytes = size_bytes
        self.held_bytes = 0
        self.whole = False

    def __repr__(self) -> str:
        return f"<PartMemory {self.held_bytes} of {self._size_bytes} bytes>"

    def _begin(self, length: int) -> bool:
        held = self.held_bytes
        wanted = min(self._size_bytes, SMALL_BYTES, max(length, 2 * held, BEGINNING_BYTES_MIN))
        if length > wanted or not self._budget.begin(wanted - held, self._size_bytes):
            return False
        self.held_bytes = wanted
        return True

    async def hold(self, length: int) -> None:
        """Hold at least `length` bytes; waits while the budget has none left. Cancelled, it holds what it held."""
        if self.whole or length <= self.held_bytes or self._begin(length):
            return
        await self._budget.complete(self.held_bytes, self._size_bytes)
        self.held_bytes = self._size_bytes
        self.whole = True

    def release(self) -> None:
        """Give everything back. Harmless when repeated."""
        held, self.held_bytes = self.held_bytes, 0
        self._budget.release(held, 0 if self.whole else held)


# -- Reused memory for large bodies ------------------------------------------------------------------------------------
# A fresh 8 MiB body for every part would fault in every page again, and allocators keep such blocks in per-thread
# arenas, so that a run's memory grows to about twice its budget. Reused buffers avoid both.


class BufferPool:
    """Buffers of one size; the byte budget, not the pool, bounds how many are in use. Used on the event loop only."""

    def __init__(self, size_bytes: int, *, idle_max: int = 1, elsewhere: Callable[[], int] = lambda: 0) -> None:
        """Buffers of `size_bytes`.

        Args:
            size_bytes: of each.
            idle_max: most buffers that are kept while they are not in use.
            elsewhere: how many buffers of the same budget other pools keep now; this pool keeps that many fewer.
        """
        self.size_bytes = size_bytes
        self.idle_max = idle_max
        self._elsewhere = elsewhere
        self._lent = 0
        self._free: list[mmap.mmap] = []

    def __repr__(self) -> str:
        return f"<BufferPool of {self.size_bytes} bytes, {len(self._free)} free>"

    @property
    def count(self) -> int:
        """How many there are, lent or not."""
        return self._lent + len(self._free)

    def cost(self, length: int) -> int:
        """Bytes of the budget that lending `length` bytes takes."""
        return length if length <= SMALL_BYTES else max(length, self.size_bytes)

    @contextmanager
    def lend(self, length: int) -> Iterator[memoryview]:
        """A writable view of `length` bytes, for the duration of the block; its content is arbitrary."""
        if length <= SMALL_BYTES or length > self.size_bytes:
            with memoryview(bytearray(length)) as view:
                yield view
            return
        # Mapped, not allocated: a dropped buffer goes back to the system at once, and leaves no hole in a heap.
        buffer = self._free.pop() if self._free else mmap.mmap(-1, self.size_bytes)
        self._lent += 1
        try:
            yield memoryview(buffer)[:length]
        finally:
            self._lent -= 1
            self._free.append(buffer)
            self.trim()

    def trim(self) -> None:
        """Release the idle buffers beyond the limit, which lent buffers and those of other pools lower."""
        kept = max(0, self.idle_max - self._elsewhere() - self._lent)
        # The buffers that were in use last stay: they are the likeliest to be in the processor's caches.
        del self._free[: max(0, len(self._free) - kept)]


# -- Short blocking work in reader threads, without contention for the interpreter's lock ------------------------------
# A thread that reads small files releases the interpreter's lock at every system call; while the event loop is busy,
# the thread waits for the lock each time, and two context switches per call cost more than the calls do. Work that the
# page cache answers takes about a millisecond, so the loop waits for it in place, for `IN_PLACE_SECONDS` at most: no
# longer than the same bytes would have kept it busy. Longer work goes on beside the loop; since a disk or a network
# file system is slow then, the loop stops waiting in place for a while, and several threads read at once.

T = TypeVar("T")

IN_PLACE_SECONDS = 0.002
"""Most seconds that the event loop waits in place for one piece of work."""
QUIET_SECONDS = 0.05
"""Most seconds that a trial of waiting in place waits for the other pieces of work to end."""
BESIDE_MIN, BESIDE_MAX = 4, 256
"""Pieces of work that run beside the loop after one that took longer than that: twice as many each time."""


class ReaderPool:
    """Reader threads of one run, for one event loop. Close it when nothing runs any more."""

    def __init__(self, threads: int) -> None:
        """Run at most `threads` pieces of work at once; threads are started when they are needed."""
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="asyncsink-reader")
        self._running = 0
        self._quiet = anyio.Event()
        self._beside = 0
        self._beside_next = BESIDE_MIN

    def __repr__(self) -> str:
        return f"<ReaderPool {'beside the loop' if self._beside else 'in place'}>"

    async def run(self, work: Callable[[], T], *, stop: Callable[[], None] | None = None) -> T:
        """Call `work()` in a thread; returns or raises as it does.

        Cancelled, it calls `stop`, which may shorten the work, and waits for its end; work that has not begun never
        does.
        """
        if not self._beside and self._running:
            # A trial measures the disk only where no other work competes with it. The wait for other work is bounded.
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
    """Wait in place for the work, and return whether it has ended."""
    try:
        future.exception(IN_PLACE_SECONDS)
    except TimeoutError:
        return False
    return True
