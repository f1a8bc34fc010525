"""The tuner: what is told of the limit, and a beat that rests with the run."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio import CapacityLimiter

from asyncsink.engine.limits.controller import (
    BEAT_SECONDS,
    IDLE_AFTER_SECONDS,
    SLOTS_PER_CORE,
    SLOTS_START_MIN,
    ConcurrencyController,
    SenderConcurrency,
)
from asyncsink.model import Event, LimitChanged
from asyncsink.options.schema import Limits
from asyncsink.options.settings import MIB
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.stack import bodies_at_once
from tests.support.requests import until

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


async def test_a_service_that_publishes_nothing_is_not_woken() -> None:
    slept: list[float] = []
    now = 0.0
    pacer = Pacer(8)

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)
        await anyio.lowlevel.checkpoint()

    async def emit(event: Event) -> None:
        raise AssertionError(event)

    controller = ConcurrencyController(pacer, Limits(), emit, clock=lambda: now, sleep=sleep)
    async with anyio.create_task_group() as group:
        group.start_soon(controller.run)
        await until(lambda: pacer._at_use is not None)
        assert slept == [BEAT_SECONDS] * round(IDLE_AFTER_SECONDS / BEAT_SECONDS)
        now += 3600.0
        # A request is sent, from a lane's thread: samples are taken until nothing has been in flight for a while again.
        assert await anyio.to_thread.run_sync(pacer.take, lambda: None)
        await until(lambda: len(slept) > 3 * IDLE_AFTER_SECONDS / BEAT_SECONDS)
        pacer.give()
        await until(lambda: pacer._at_use is not None)
        group.cancel_scope.cancel()


async def test_a_controller_samples_at_once_where_requests_are_in_flight() -> None:
    pacer, called = Pacer(8), list[str]()
    assert pacer.take(lambda: None)
    pacer.call_at_use(lambda: called.append("in flight"))
    assert called == ["in flight"]
    pacer.give()
    pacer.call_at_use(lambda: called.append("next"))
    for _ in range(2):
        assert pacer.take(lambda: None)
    assert called == ["in flight", "next"]


# -- How many lane threads work at once --------------------------------------------------------------------------------


CORES = 4
SLOTS_START = SLOTS_PER_CORE * CORES


class Machine:
    """Two clocks, and a network whose throughput grows with every connection up to `connections_max`."""

    def __init__(self, *, cpu_share: float, connections_max: int = 1000) -> None:
        self.now = self.used = 0.0
        self._cpu_share = cpu_share
        self._connections_max = connections_max

    def slots(self) -> SenderConcurrency:
        return SenderConcurrency(clock=lambda: self.now, cpu_clock=lambda: self.used, cores=CORES)

    def send_for(
        self, seconds: float, slots: SenderConcurrency, limiter: CapacityLimiter, *, busy: bool = True
    ) -> None:
        """Send parts of 1 MiB, each of which takes a connection 0.1 s."""
        ends = self.now + seconds
        while self.now < ends:
            in_use = int(limiter.total_tokens) if busy else 1
            holders = [object() for _ in range(in_use)]
            for holder in holders:
                limiter.acquire_on_behalf_of_nowait(holder)
            step = 0.1 / min(in_use, self._connections_max)
            self.now += step
            self.used += step * 4 * self._cpu_share
            slots.sent(MIB)
            for holder in holders:
                limiter.release_on_behalf_of(holder)


async def test_a_distant_server_gets_more_connections() -> None:
    machine = Machine(cpu_share=0.1)
    slots = machine.slots()
    limiter = slots.open(32)
    assert limiter.total_tokens == SLOTS_START
    machine.send_for(2, slots, limiter)
    assert limiter.total_tokens == 32
    machine.send_for(60, slots, limiter)
    assert limiter.total_tokens == 32


async def test_a_busy_processor_gets_no_more_threads() -> None:
    machine = Machine(cpu_share=0.5)
    slots = machine.slots()
    limiter = slots.open(32)
    machine.send_for(60, slots, limiter)
    assert limiter.total_tokens == SLOTS_START


async def test_connections_that_bring_nothing_are_given_up() -> None:
    machine = Machine(cpu_share=0.1, connections_max=SLOTS_START)
    slots = machine.slots()
    limiter = slots.open(32)
    seen = set()
    for _ in range(100):
        machine.send_for(0.5, slots, limiter)
        seen.add(limiter.total_tokens)
    assert min(seen) == SLOTS_START
    assert max(seen) == 2 * SLOTS_START
    assert limiter.total_tokens <= 1.25 * SLOTS_START, "the first step in vain was the last large one"


async def test_slots_that_are_not_all_in_use_stay_as_they_are() -> None:
    machine = Machine(cpu_share=0.1)
    slots = machine.slots()
    limiter = slots.open(32)
    machine.send_for(60, slots, limiter, busy=False)
    assert limiter.total_tokens == SLOTS_START


async def test_all_files_share_the_slots() -> None:
    slots = SenderConcurrency()
    assert slots.open(3) is slots.open(3)
    assert slots.open(3).total_tokens == 3
    assert repr(slots) == "<SenderConcurrency 3 of 3: start>"
    assert slots.count == 3


async def test_one_core_begins_with_a_few() -> None:
    slots = SenderConcurrency(cores=1)
    assert slots.count == 0
    assert slots.open(32).total_tokens == SLOTS_START_MIN


@pytest.mark.parametrize(
    ("limits", "bodies"),
    [
        ({}, 32),
        ({"concurrency": 4}, 4),
        ({"concurrency_max": 16}, 16),
        ({"memory_bytes": 20 * MIB}, 2),
        ({"memory_bytes": 5 * MIB}, 1),
    ],
)
def test_bodies_in_lanes_are_bounded_by_concurrency_and_memory(limits: dict[str, Any], bodies: int) -> None:
    assert bodies_at_once(Limits(**limits)) == bodies
