"""Every subscriber hears everything, in order; a stuck one holds nobody up for ever, and is told what it missed."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import anyio
import pytest

from asyncsink.engine.progress.speed import Rate, Speedometer
from asyncsink.engine.recording.events import QUEUE_EVENTS, Events, Progress, Subscription, UnderWay
from asyncsink.errors import AsyncSinkError
from asyncsink.model import Event, LimitChanged
from asyncsink.report.outcomes import Counts

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


# -- How far a run is, and how fast: pure, with a clock of the test's own ----------------------------------------------


MIB = 1 << 20


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_that_of_the_window_and_falls_to_nothing() -> None:
    rate, now = Rate(10.0), 0.0
    for tick in range(100):
        now = tick / 10
        found = rate.at(now, tick * 100)
    assert found == pytest.approx(1000)
    falling = [rate.at(now + second, 9900) for second in range(1, 12)]
    assert falling == sorted(falling, reverse=True)
    assert falling[4] < 600
    assert falling[-1] == 0.0


def test_time_left_is_unknown_where_nothing_moves() -> None:
    clock = Clock()
    progress = Progress(objects_total=10, bytes_total=100 * MIB, started=True)
    speedometer = Speedometer(progress, clock)
    assert speedometer.read().seconds_left is None
    for _ in range(20):
        clock.now += 0.5
        progress.bytes_moved += 2 * MIB
        progress.counts.bytes_uploaded += 2 * MIB
        speed = speedometer.read()
    assert speed.bytes_per_second == pytest.approx(4 * MIB, rel=0.1)
    assert speed.seconds_left == pytest.approx(60 / 4, rel=0.1)
    for _ in range(30):
        clock.now += 0.5
        speed = speedometer.read()
    assert (speed.bytes_per_second, speed.seconds_left) == (0.0, None)


def test_what_is_there_already_needs_time_but_is_no_transfer() -> None:
    clock = Clock()
    progress = Progress(objects_total=100, bytes_total=100 * MIB, started=True)
    speedometer = Speedometer(progress, clock)
    speedometer.read()
    for _ in range(10):
        clock.now += 1
        progress.counts.bytes_skipped += MIB
        progress.counts.objects_skipped += 1
        speed = speedometer.read()
    assert speed.bytes_per_second == 0
    assert (speed.objects_per_second, speed.seconds_left) == (pytest.approx(1), pytest.approx(90))


def test_failed_bytes_are_neither_done_nor_left() -> None:
    progress = Progress(objects_total=4, bytes_total=40)
    progress.counts.objects_uploaded, progress.counts.bytes_uploaded = 1, 10
    progress.counts.objects_failed, progress.bytes_failed = 2, 20
    assert (progress.objects_done, progress.bytes_done, progress.bytes_left, progress.objects_left) == (1, 10, 10, 1)
    assert progress.done_share == 0.25


def test_bytes_of_an_attempt_that_ended_are_taken_back_and_what_moved_never_falls() -> None:
    progress = Progress(objects_total=1, bytes_total=100)
    attempt = UnderWay(progress, "sub-01/bold.nii", 10)
    attempt.there(30)
    attempt.moved(20)
    assert (progress.bytes_under_way, progress.bytes_moved, progress.bytes_done, progress.bytes_left) == (50, 20, 0, 50)
    attempt.take_back()
    attempt.take_back()
    assert (progress.bytes_under_way, progress.bytes_moved, progress.bytes_done, progress.bytes_left) == (0, 20, 0, 100)


@pytest.mark.parametrize(
    ("counts", "share"),
    [
        (Counts(), 0.0),
        (Counts(objects_uploaded=2, bytes_uploaded=50), 0.5),
        # The object that is there (overwrite="never") is far larger than the file.
        (Counts(objects_skipped=1, bytes_skipped=10**9), 0.99),
        (Counts(objects_uploaded=3, objects_failed=1, bytes_uploaded=100), 0.99),
        (Counts(objects_uploaded=3, objects_skipped=1, bytes_uploaded=90), 1.0),
    ],
)
def test_a_share_is_whole_only_where_everything_is_done(counts: Counts, share: float) -> None:
    assert Progress(objects_total=4, bytes_total=100, counts=counts).done_share == share


def test_empty_files_are_a_share_of_the_files() -> None:
    assert Progress(objects_total=4, bytes_total=0, counts=Counts(objects_uploaded=1)).done_share == 0.25


def test_no_share_without_totals() -> None:
    assert Progress().done_share is None
    assert Progress().bytes_left is None
