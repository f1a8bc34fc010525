"""How fast a run sends: turns that are paid for in advance, over all lanes, connections and threads together.

A sender asks for a slice of a body, and waits until its turn ends: the bytes that have left are then never more than
`bytes_per_second` allows since the first one, and BURST_SECONDS more (a leaky bucket, as in ATM Forum TM 4.0, "generic
cell rate algorithm"). A turn is a point in time, so nobody polls, and turns are given in the order of asking.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

from asyncsink.config import KIB, MIB

BURST_SECONDS: Final = 0.1
"""Time that was not used is made up for this far: sleeps end late, and a rate that never caught up would fall short."""
SLICE_SECONDS: Final = 0.05
"""What a sender asks for at a time is worth so long, so that all connections move all the time."""
SLICE_BYTES_MIN, SLICE_BYTES_MAX = 4 * KIB, 4 * MIB


class Bandwidth:
    """A limit on the bytes of requests (heads and bodies; not of TLS and TCP). May be asked from any thread.

    Args:
        bytes_per_second: more than 0.
        clock: seconds, never going back.
    """

    def __init__(self, bytes_per_second: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = float("-inf")
        self.slice_bytes = int(min(max(bytes_per_second * SLICE_SECONDS, SLICE_BYTES_MIN), SLICE_BYTES_MAX))
        """What a sender of a large body should ask for at a time."""

    def __repr__(self) -> str:
        return f"<Bandwidth {self._rate:,} bytes a second>"

    def reserve(self, size_bytes: int) -> float:
        """Take a turn for `size_bytes`, and return the seconds to wait before they are sent.

        One who sends without waiting (the head of a request that is already on its way) delays those who come after.
        """
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - BURST_SECONDS) + size_bytes / self._rate
            return max(0.0, self._paid_until - now)

    async def turn(self, size_bytes: int) -> None:
        """Wait until `size_bytes` may be sent.

        Cancelled, it gives nothing back: the next ones wait a little longer.
        """
        seconds = self.reserve(size_bytes)
        if seconds:
            await asyncio.sleep(seconds)
