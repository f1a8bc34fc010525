"""What is told of the limit on requests is about all processes of a run."""

from __future__ import annotations

import pytest

from asyncsink.config import Limits
from asyncsink.engine.tuner import Tuner
from asyncsink.model import Event, LimitChanged
from asyncsink.s3.pacing import Pacer

pytestmark = pytest.mark.anyio


async def test_the_limits_of_other_processes_count() -> None:
    told: list[Event] = []

    async def emit(event: Event) -> None:
        told.append(event)
        if len(told) == 1:
            # While a slow reader is told of the first change, another process tells of its own.
            await tuner.tell_elsewhere(-3, "errors rise")

    pacer = Pacer(8)
    tuner = Tuner(pacer, Limits(concurrency_start=8, concurrency_max=32), emit)
    tuner.limit_elsewhere = 10
    pacer._window.throttled = 1
    await tuner.step(0.5)
    assert pacer.limit == 4
    assert told == [LimitChanged(18, 14, "the server throttles"), LimitChanged(14, 11, "errors rise")]
