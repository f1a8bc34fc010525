"""Adaptive limits: samples of the pacer move the limit of requests, and of the bodies in lane threads."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable

import anyio
from anyio import CapacityLimiter

from asyncsink.engine.limits.concurrency import Sample, State, next_state
from asyncsink.model import Event, LimitChanged
from asyncsink.options.schema import Limits
from asyncsink.s3.pacing import Pacer, usable_cores
from asyncsink.s3.transport import Traffic

BEAT_SECONDS = 0.025
"""Seconds between samples: short, since a run of a few seconds has time for many steps only where a round trip is seen
soon after it has ended."""
THROTTLED_SECONDS = 30.0
"""Seconds without a SlowDown after which the next one begins another time of throttling."""
IDLE_AFTER_SECONDS = 1.0
"""Seconds with nothing in flight after which no samples are taken until the next request: an idle service should not
wake a processor."""


class ConcurrencyController:
    """Samples the pacer, and applies the pure policy of `engine.limits.concurrency` to its limit.

    Args:
        emit: gets the changes.
        traffic: of the run; SlowDowns and limits are noted in it.
    """

    def __init__(
        self,
        pacer: Pacer,
        limits: Limits,
        emit: Callable[[Event], Awaitable[None]],
        *,
        traffic: Traffic | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._pacer = pacer
        self._limit_max = limits.concurrency_max
        self._emit = emit
        self._traffic = traffic if traffic is not None else Traffic()
        self._clock = clock
        self._sleep = sleep
        self._state = State(limit=pacer.limit)
        self._idle_seconds = 0.0
        self._sampled_at = clock()

    def __repr__(self) -> str:
        return f"<ConcurrencyController limit {self._state.limit} of {self._limit_max}: {self._state.reason}>"

    async def run(self) -> None:
        """Take samples and move the limit until cancelled."""
        before = self._clock()
        while True:
            if self._idle_seconds < IDLE_AFTER_SECONDS:
                await self._sleep(BEAT_SECONDS)
                now = self._clock()
                await self.step(now - before)
            else:
                await self._use()
                now = self._clock()
                self._idle_seconds = 0.0
                await self._apply(Sample(now - before, 0, 0, 0, 0, saturated=False, idle=True))
            before = now

    async def sample_if_due(self) -> None:
        """Take a sample where `BEAT_SECONDS` have passed since the last one, for users without a task for `run`.

        What was counted before a pause of more than IDLE_AFTER_SECONDS is dropped: it says nothing of the network.
        """
        now = self._clock()
        seconds = now - self._sampled_at
        if seconds < BEAT_SECONDS:
            return
        self._sampled_at = now
        if seconds < IDLE_AFTER_SECONDS:
            await self.step(seconds)
        else:
            self._pacer.take_window()

    async def _use(self) -> None:
        """Wait for the next request."""
        loop, used = asyncio.get_running_loop(), asyncio.Event()

        def call() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(used.set)

        self._pacer.call_at_use(call)
        await used.wait()

    async def step(self, seconds: float) -> None:
        """Take one sample, `seconds` after the last one."""
        window = self._pacer.take_window()
        idle = not window.requests and not self._pacer.in_flight
        self._idle_seconds = self._idle_seconds + seconds if idle else 0.0
        sample = Sample(
            seconds=seconds,
            requests=window.requests,
            bytes=window.bytes,
            throttled=window.throttled,
            errors=window.errors,
            saturated=window.saturated,
            idle=idle,
        )
        await self._apply(sample)

    async def _apply(self, sample: Sample) -> None:
        most = self._pacer.most
        limit_max = self._limit_max if most is None else min(self._limit_max, most)
        state = next_state(self._state, sample, limit_min=1, limit_max=limit_max)
        before, self._state = self._state, state
        traffic = self._traffic
        traffic.limit = state.limit
        if sample.throttled:
            now = self._clock()
            if now - traffic.throttled_at > THROTTLED_SECONDS:
                traffic.limit_before = before.limit
            traffic.throttled_at = now
        if state.limit != before.limit:
            self._pacer.limit = state.limit
            await self._emit(LimitChanged(before.limit, state.limit, state.reason))


# -- Bodies in lane threads: how many parts and whole files are sent at once -------------------------------------------
# On a fast network the processor is the limit: a handful of threads keeps every core busy, and more of them only push
# each other's buffers out of the caches. Over a distant one each connection has its own limit, and only more
# connections raise the throughput.

SLOTS_PER_CORE = 2
"""Bodies for each core at the start: one is sent while another is read."""
SLOTS_START_MIN = 4
WINDOW_SECONDS = 0.25
"""Seconds over which the processor's share is measured: `BEAT_SECONDS` is too short for that."""
CPU_SHARE_MAX = 0.25
"""Share of all cores. A process that uses more is limited by them, or by a server that it shares them with."""


class SenderConcurrency:
    """A token for each body that may be in a lane thread, over all files of a run. The pacer bounds the bodies as well.

    Args:
        clock: seconds.
        cpu_clock: seconds of processor time that this process has used.
        cores: how many it may use; None asks the system.
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
        self._cores = cores or usable_cores()
        self._limiter: CapacityLimiter | None = None
        self._slots_min = self._slots_max = max(SLOTS_START_MIN, SLOTS_PER_CORE * self._cores)
        self._state = State(limit=self._slots_max)
        self._begin_window()

    def __repr__(self) -> str:
        return f"<SenderConcurrency {self._state.limit} of {self._slots_max}: {self._state.reason}>"

    @property
    def count(self) -> int:
        """How many bodies, and so buffers, may be in lane threads now; 0 before the first one."""
        return 0 if self._limiter is None else self._state.limit

    def open(self, slots_max: int) -> CapacityLimiter:
        """The tokens, of which there are at most `slots_max` (at least 1)."""
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
        # Throttling and errors are left to the pacer, whose tokens bound these bodies too.
        sample = Sample(seconds, self._requests, self._bytes, 0, 0, more_could_help)
        self._state = next_state(self._state, sample, limit_min=self._slots_min, limit_max=self._slots_max)
        limiter.total_tokens = self._state.limit
        self._begin_window()

    def _begin_window(self) -> None:
        self._began = self._clock()
        self._cpu_began = self._cpu_clock()
        self._bytes = self._requests = 0
        self._saturated = False
