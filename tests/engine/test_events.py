"""Every subscriber hears everything, in order; a stuck one holds nobody up for ever, and is told what it missed."""

from __future__ import annotations

import gc

import anyio
import pytest

from asyncsink.engine.recording.events import QUEUE_EVENTS, Events, Subscription
from asyncsink.errors import AsyncSinkError
from asyncsink.model import Event, LimitChanged

pytestmark = pytest.mark.anyio


def event(number: int) -> LimitChanged:
    return LimitChanged(number, number + 1, "grows")


async def read(subscription: Subscription) -> list[Event]:
    return [each async for each in subscription]


async def test_every_subscriber_hears_everything_from_its_call_on() -> None:
    events = Events()
    early = events.subscribe()
    await events.emit(event(0))
    late = events.subscribe()
    await events.emit(event(1))
    events.close()
    assert await read(early) == [event(0), event(1)]
    assert await read(late) == [event(1)]
    assert await read(events.subscribe()) == []


async def test_a_slow_reader_holds_back_and_misses_nothing() -> None:
    events = Events()
    subscription = events.subscribe()
    count = QUEUE_EVENTS + 5

    async def emit() -> None:
        for number in range(count):
            await events.emit(event(number))
        events.close()

    async with anyio.create_task_group() as group:
        group.start_soon(emit)
        await anyio.wait_all_tasks_blocked()
        assert await read(subscription) == [event(number) for number in range(count)]


async def test_a_reader_that_is_stuck_is_left_behind_and_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsink.engine.recording.events.PATIENCE_SECONDS", 0.0)
    events = Events()
    stuck = events.subscribe()
    seen: list[Event] = []

    async def listen(healthy: Subscription) -> None:
        async for each in healthy:
            seen.append(each)  # noqa: PERF401 - kept as it comes

    async with anyio.create_task_group() as group:
        group.start_soon(listen, events.subscribe())
        with anyio.fail_after(30):
            for number in range(QUEUE_EVENTS + 5):
                await events.emit(event(number))
                await anyio.lowlevel.checkpoint()
        events.close()
    assert len(seen) == QUEUE_EVENTS + 5
    for number in range(QUEUE_EVENTS):
        assert await anext(stuck) == event(number)
    with pytest.raises(AsyncSinkError, match=r"left behind.*the report has every outcome"):
        await anext(stuck)
    assert await read(stuck) == []


async def test_a_reader_may_be_ended_from_another_task() -> None:
    events = Events()
    subscription = events.subscribe()
    await events.emit(event(0))
    seen: list[Event] = []

    async def listen() -> None:
        seen.extend(await read(subscription))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            await anyio.wait_all_tasks_blocked()
            await subscription.aclose()
    await events.emit(event(1))
    assert seen == [event(0)]
    assert not events.heard


async def test_ending_a_reader_frees_who_waits_for_it() -> None:
    events = Events()
    subscription = events.subscribe()
    for number in range(QUEUE_EVENTS):
        await events.emit(event(number))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(events.emit, event(QUEUE_EVENTS))
            await anyio.wait_all_tasks_blocked()
            await subscription.aclose()
    assert len(await read(subscription)) == QUEUE_EVENTS, "it ended by its own wish: nothing is complained about"


async def test_a_reader_that_nobody_holds_is_forgotten() -> None:
    events = Events()
    subscription = events.subscribe()
    await events.emit(event(0))
    del subscription
    gc.collect()
    await events.emit(event(1))
    assert not events.heard


async def test_a_reader_that_is_dropped_in_a_circle_of_references_warns_of_nothing() -> None:
    """A task or an exception that holds a reader is such a circle; warnings are errors here."""
    for _ in range(10):
        events = Events()
        circle: list[object] = [events.subscribe()]
        circle.append(circle)
        events.close()
        del circle, events
        gc.collect()
