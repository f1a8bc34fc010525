"""One byte budget over all files and parts: what bounds the memory of a run."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio


class ByteBudget:
    """Bytes of file content that may be held at once, handed out first come, first served.

    A request larger than the whole budget is granted when nothing else is held, so it cannot wait for ever; callers
    keep single bodies below the budget where they can.
    """

    def __init__(self, total_bytes: int) -> None:
        self.total_bytes = total_bytes
        self.held_bytes = 0
        self._waiting: deque[tuple[int, anyio.Event]] = deque()

    def __repr__(self) -> str:
        mib = 1 << 20
        held, total = round(self.held_bytes / mib), round(self.total_bytes / mib)
        return f"<ByteBudget {held} MiB of {total} MiB, {len(self._waiting)} waiting>"

    @asynccontextmanager
    async def reserve(self, count_bytes: int) -> AsyncIterator[None]:
        """Hold `count_bytes` for the duration of the block. Cancelled while waiting, it holds nothing."""
        await self._acquire(count_bytes)
        try:
            yield
        finally:
            self.held_bytes -= count_bytes
            self._wake()

    def _fits(self, count_bytes: int) -> bool:
        return self.held_bytes == 0 or self.held_bytes + count_bytes <= self.total_bytes

    async def _acquire(self, count_bytes: int) -> None:
        if not self._waiting and self._fits(count_bytes):
            self.held_bytes += count_bytes
            return
        granted = anyio.Event()
        ticket = (count_bytes, granted)
        self._waiting.append(ticket)
        try:
            await granted.wait()
        except BaseException:
            if granted.is_set():
                # Granted and cancelled in the same turn of the loop: what was granted goes back.
                self.held_bytes -= count_bytes
            else:
                self._waiting.remove(ticket)
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._fits(self._waiting[0][0]):
            count_bytes, granted = self._waiting.popleft()
            self.held_bytes += count_bytes
            granted.set()
