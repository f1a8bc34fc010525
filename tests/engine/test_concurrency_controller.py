"""The tuner: what is told of the limit, and a beat that rests with the run."""

from __future__ import annotations

import pytest

from asyncsink.engine.limits.controller import BEAT_SECONDS, IDLE_BEAT_SECONDS, ConcurrencyController
from asyncsink.model import Event, LimitChanged
from asyncsink.options.schema import Limits
from asyncsink.s3.pacing import Pacer

pytestmark = pytest.mark.anyio


async def test_a_change_of_the_limit_is_told() -> None:
    told: list[Event] = []

    async def emit(event: Event) -> None:
        told.append(event)

    pacer = Pacer(8)
    controller = ConcurrencyController(pacer, Limits(concurrency_start=8, concurrency_max=32), emit)
    pacer._window.throttled = 1
    await controller.step(0.5)
    assert pacer.limit == 4
    assert told == [LimitChanged(8, 4, "the server throttles")]


async def test_a_service_that_publishes_nothing_is_woken_seldom() -> None:
    slept: list[float] = []
    now = 0.0
    pacer = Pacer(8)

    class Stopped(Exception):
        pass

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)
        if len(slept) == 100:
            pacer._window.requests = 1  # a file is published again
        if len(slept) == 110:
            raise Stopped

    async def emit(event: Event) -> None:
        raise AssertionError(event)

    with pytest.raises(Stopped):
        await ConcurrencyController(pacer, Limits(), emit, clock=lambda: now, sleep=sleep).run()
    assert set(slept[:40]) == {BEAT_SECONDS}
    assert set(slept[50:100]) == {IDLE_BEAT_SECONDS}
    assert set(slept[100:]) == {BEAT_SECONDS}
