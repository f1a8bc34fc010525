"""Looks at the pacer at a steady beat and moves its limit as the policy says."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import anyio

from asyncsink.config import Limits
from asyncsink.engine.concurrency import Sample, State, next_state
from asyncsink.model import Event, LimitChanged
from asyncsink.s3.pacing import Pacer

BEAT_SECONDS = 0.025
"""A run of a few seconds has time for many steps only where a round trip is seen soon after it has ended."""
IDLE_AFTER_SECONDS = 1.0
IDLE_BEAT_SECONDS = 0.25
"""The beat of a service that publishes nothing at the moment: it should not wake a processor 40 times a second."""


class Tuner:
    """Adaptive concurrency: mechanism around the pure policy in concurrency.py."""

    def __init__(
        self,
        pacer: Pacer,
        limits: Limits,
        emit: Callable[[Event], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._pacer = pacer
        self._limit_max = limits.concurrency_max
        self._emit = emit
        self._clock = clock
        self._sleep = sleep
        self._state = State(limit=pacer.limit)
        self._idle_seconds = 0.0

    def __repr__(self) -> str:
        return f"<Tuner limit {self._state.limit} of {self._limit_max}: {self._state.reason}>"

    async def run(self) -> None:
        """Tune until cancelled."""
        before = self._clock()
        while True:
            await self._sleep(BEAT_SECONDS if self._idle_seconds < IDLE_AFTER_SECONDS else IDLE_BEAT_SECONDS)
            now = self._clock()
            await self.step(now - before)
            before = now

    async def step(self, seconds: float) -> None:
        """One look, `seconds` after the last."""
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
        most = self._pacer.most
        limit_max = self._limit_max if most is None else min(self._limit_max, most)
        state = next_state(self._state, sample, limit_min=1, limit_max=limit_max)
        before, self._state = self._state, state
        if state.limit != before.limit:
            self._pacer.limit = state.limit
            await self._emit(LimitChanged(before.limit, state.limit, state.reason))
