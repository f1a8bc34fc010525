"""The pools of a run: memory, reader threads and tokens, its own or its part of those that several runs share.

Runs with the same SharedLimits share the pools while one of them is open. The open files of the process are divided
among all runs, with SharedLimits or without (`engine.limits.descriptors`).
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from asyncsink.engine.limits.controller import SenderConcurrency
from asyncsink.engine.limits.memory import BufferPool, ByteBudget, ReaderPool
from asyncsink.errors import ConfigError
from asyncsink.options.schema import Limits
from asyncsink.options.shared_limits import SharedLimits
from asyncsink.s3.pacing import Bandwidth, Pacer


class SharedPools:
    """What the runs with one SharedLimits have in common. Belongs to the event loop in which it is made.

    Attributes:
        loop: that event loop.
        runs: how many are open.
    """

    def __init__(self, limits: SharedLimits) -> None:
        self.loop = asyncio.get_running_loop()
        self.runs = 0
        self.threads = CapacityLimiter(limits.threads // 4)
        self.readers = ReaderPool(limits.threads // 4)
        self.budget = ByteBudget(limits.memory_bytes)
        rate = limits.bandwidth_bytes_per_second
        bandwidth = Bandwidth(rate) if rate is not None else None
        self.pacer = Pacer(limits.concurrency, bandwidth=bandwidth, lanes=threading.Semaphore(limits.threads // 2))
        self._senders: weakref.WeakSet[SenderConcurrency] = weakref.WeakSet()
        self._buffers: dict[int, BufferPool] = {}

    def __repr__(self) -> str:
        return f"<SharedPools of {self.runs} runs, {self.budget}, {self.pacer}>"

    def count(self, runs: int) -> None:
        """Count so many runs more, for each of which something is left by the others."""
        self.runs += runs
        self.pacer.runs = self.budget.runs = max(1, self.runs)

    def buffers(self, size_bytes: int, senders: SenderConcurrency) -> BufferPool:
        """The buffers of one size, for one run more; `senders` counts the buffers of its lane threads."""
        self._senders.add(senders)

        def elsewhere() -> int:
            other = sum(pool.size_bytes * pool.count for size, pool in self._buffers.items() if size != size_bytes)
            return sum(each.count for each in self._senders) + -(-other // size_bytes)

        if size_bytes not in self._buffers:
            most = max(1, self.budget.total_bytes // size_bytes)
            self._buffers[size_bytes] = BufferPool(size_bytes, idle_max=most, elsewhere=elsewhere)
        return self._buffers[size_bytes]


class Pools:
    """The pools of one run.

    Args:
        limits: of the run.
        shared: what it shares with others, or None.

    Attributes:
        threads: bounds blocking calls; readers: runs short ones.
        budget: bounds the bytes of file content that are held. buffers: reused memory for large bodies.
        senders: bounds the bodies in lane threads; each run adapts it to its own network.
        pacer: the tokens that it shares with others, or None.
    """

    def __init__(self, limits: Limits, shared: SharedPools | None) -> None:
        self.senders = senders = SenderConcurrency()
        self.pacer = shared.pacer if shared is not None else None
        if shared is not None:
            self.threads, self.readers = shared.threads, shared.readers
            self.budget = ByteBudget(limits.memory_bytes, within=shared.budget)
            self.buffers = shared.buffers(limits.part_size_bytes, senders)
            return
        self.threads = CapacityLimiter(limits.reader_threads)
        self.readers = ReaderPool(limits.reader_threads)
        self.budget = ByteBudget(limits.memory_bytes)
        # As many idle buffers as the budget allows are kept, so that no buffer is allocated again.
        self.buffers = BufferPool(
            limits.part_size_bytes,
            idle_max=max(1, limits.memory_bytes // limits.part_size_bytes),
            elsewhere=lambda: senders.count,
        )

    def __repr__(self) -> str:
        return f"<Pools {self.budget}, {self.readers}>"


class Sharing:
    """The shared pools of this process that are in use. Threads may use it; a forked child begins with none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: weakref.WeakKeyDictionary[SharedLimits, SharedPools] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        return f"<Sharing {list(self._pools.values())}>"

    @contextmanager
    def pools(self, limits: Limits, shared: SharedLimits | None) -> Iterator[Pools]:
        """The pools of one run more: made with its first run, gone with its last.

        Raises:
            ConfigError: runs in another event loop use them now.
        """
        common = None if shared is None else self._joined(shared)
        pools = Pools(limits, common)
        try:
            yield pools
        finally:
            if shared is None or common is None or self._left(shared, common):
                pools.readers.close()

    def forget(self) -> None:
        """Begin anew: the runs of the parent do not go on in a forked child."""
        self.__init__()  # type: ignore[misc]

    def _joined(self, shared: SharedLimits) -> SharedPools:
        with self._lock:
            found = self._pools.get(shared)
            if found is not None and found.loop is not asyncio.get_running_loop() and not found.loop.is_closed():
                raise ConfigError(
                    "limits are in use in another event loop, and serve one at a time; give this run SharedLimits of "
                    "its own, or run all in one event loop (from other threads by asyncio.run_coroutine_threadsafe)."
                )
            if found is None or found.loop.is_closed():
                found = self._pools[shared] = SharedPools(shared)
            found.count(1)
            return found

    def _left(self, shared: SharedLimits, pools: SharedPools) -> bool:
        with self._lock:
            pools.count(-1)
            if not pools.runs and self._pools.get(shared) is pools:
                del self._pools[shared]
            return not pools.runs


SHARING = Sharing()
os.register_at_fork(after_in_child=SHARING.forget)
