"""Reused memory for large bodies.

A fresh 8 MiB body for every part would fault in every page again, and allocators keep such blocks in per-thread arenas,
so that a run's memory grows to about twice its budget. Buffers that go round do neither.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SMALL_BYTES = 1024 * 1024
"""Bodies up to this size are allocated as they come: reusing a whole buffer for them would waste the budget."""


class BufferPool:
    """Buffers of one size. The number in use is bounded by the byte budget, not here. For one thread: the loop's."""

    def __init__(self, size_bytes: int, *, idle_max: int = 1, elsewhere: Callable[[], int] = lambda: 0) -> None:
        """Buffers of `size_bytes`.

        Args:
            size_bytes: of each.
            idle_max: at most so many are kept while nobody uses them.
            elsewhere: how many buffers of the same budget others keep now; so many fewer are kept here.
        """
        self.size_bytes = size_bytes
        self.idle_max = idle_max
        self._elsewhere = elsewhere
        self._lent = 0
        self._free: list[mmap.mmap] = []

    def __repr__(self) -> str:
        return f"<BufferPool of {self.size_bytes} bytes, {len(self._free)} free>"

    def cost(self, length: int) -> int:
        """What lending `length` bytes takes from the byte budget."""
        return length if length <= SMALL_BYTES else max(length, self.size_bytes)

    @contextmanager
    def lend(self, length: int) -> Iterator[memoryview]:
        """A writable view of `length` bytes, for the duration of the block; its content is arbitrary."""
        if length <= SMALL_BYTES or length > self.size_bytes:
            with memoryview(bytearray(length)) as view:
                yield view
            return
        # Mapped, not allocated: what is dropped goes back to the system at once, and leaves no hole in a heap.
        buffer = self._free.pop() if self._free else mmap.mmap(-1, self.size_bytes)
        self._lent += 1
        try:
            yield memoryview(buffer)[:length]
        finally:
            self._lent -= 1
            self._free.append(buffer)
            self.trim()

    def trim(self) -> None:
        """Give back what is not to be kept beside what is lent, and what others keep by now."""
        kept = max(0, self.idle_max - self._elsewhere() - self._lent)
        # Those that were in use last stay: they are in the processor's caches, if any are.
        del self._free[: max(0, len(self._free) - kept)]
