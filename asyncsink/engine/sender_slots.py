"""How many parts and whole files are in lane threads at once: few where the processor is the limit, more where the
network is.

On a fast network a handful of threads keeps every core busy, and more of them only push each other's buffers out of the
caches. Over a distant one each connection has its own limit, and only more of them bring more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from anyio import CapacityLimiter

from asyncsink.engine.concurrency import Sample, State, next_state

SLOTS_PER_CORE = 2
"""To begin with: one body is being sent while another is read."""
SLOTS_START_MIN = 4
WINDOW_SECONDS = 0.25
"""Over which the processor's share is taken: the tuner's beat is too short for that."""
CPU_SHARE_MAX = 0.25
"""Of all cores. A process that uses more is held back by them, or by a server that it shares them with."""


class SenderSlots:
    """A token for each body that may be in a lane thread, over all files of a run. The pacer bounds them besides.

    Args:
        clock: seconds.
        cpu_clock: seconds of processor time that this process has used.
        cores: that it may use; None asks the system.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.process_time,
        cores: int | None = None,
    ) -> None:
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._cores = cores or _usable_cores()
        self._limiter: CapacityLimiter | None = None
        self._slots_min = self._slots_max = max(SLOTS_START_MIN, SLOTS_PER_CORE * self._cores)
        self._state = State(limit=self._slots_max)
        self._begin_window()

    def __repr__(self) -> str:
        return f"<SenderSlots {self._state.limit} of {self._slots_max}: {self._state.reason}>"

    @property
    def count(self) -> int:
        """How many bodies, and buffers, there may be in lane threads now; 0 where nothing ever was."""
        return 0 if self._limiter is None else self._state.limit

    def open(self, slots_max: int) -> CapacityLimiter:
        """The tokens; `slots_max` (at least 1) is how many there may be at most."""
        if self._limiter is None:
            self._slots_min, self._slots_max = min(self._slots_min, slots_max), slots_max
            self._state = State(limit=self._slots_min)
            self._limiter = CapacityLimiter(self._state.limit)
            self._begin_window()
        return self._limiter

    def sent(self, length: int) -> None:
        """Note that a body of `length` bytes was sent; called by a holder of a token."""
        limiter = self._limiter
        assert limiter is not None, "a token is held"
        self._bytes += length
        self._requests += 1
        if limiter.available_tokens <= 0:
            self._saturated = True
        seconds = self._clock() - self._began
        if seconds < WINDOW_SECONDS:
            return
        cpu_share = (self._cpu_clock() - self._cpu_began) / (seconds * self._cores)
        more_could_help = self._saturated and cpu_share < CPU_SHARE_MAX
        # What throttles and fails is the pacer's business: its tokens bound these.
        sample = Sample(seconds, self._requests, self._bytes, 0, 0, more_could_help)
        self._state = next_state(self._state, sample, limit_min=self._slots_min, limit_max=self._slots_max)
        limiter.total_tokens = self._state.limit
        self._begin_window()

    def _begin_window(self) -> None:
        self._began = self._clock()
        self._cpu_began = self._cpu_clock()
        self._bytes = self._requests = 0
        self._saturated = False


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
