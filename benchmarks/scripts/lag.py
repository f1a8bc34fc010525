"""The lag of an event loop: how late callbacks run that are due every millisecond."""

from __future__ import annotations

import asyncio
import time

BEAT_SECONDS = 0.001


class Lag:
    """Measures the running loop during a block.

    A loop that is held for long misses beats; each of these counts, as late as it would have been, so that a percentile
    is of moments and not of callbacks ("coordinated omission"). uvloop's timers have whole milliseconds: up to one of
    the lag is theirs.
    """

    def __init__(self) -> None:
        self._late: list[float] = []

    def __enter__(self) -> Lag:
        self._loop = asyncio.get_running_loop()
        self._begin()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.cancel()
        self._note()

    def milliseconds(self) -> dict[str, float]:
        """Percentiles, after the block."""
        late = sorted(self._late)
        picked = {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]}
        return {name: round(seconds * 1e3, 3) for name, seconds in picked.items()}

    def _begin(self) -> None:
        self._due = time.perf_counter() + BEAT_SECONDS
        self._handle = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self._note()
        self._begin()

    def _note(self) -> None:
        late = max(0.0, time.perf_counter() - self._due)
        self._late += [late - missed * BEAT_SECONDS for missed in range(int(late / BEAT_SECONDS) + 1)]
