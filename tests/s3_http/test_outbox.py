"""Results on their way from lanes to the event loop: each is brought once, in its order, by few wake-ups."""

from __future__ import annotations

import asyncio
import threading
from itertools import pairwise
from typing import Any

import pytest

from asyncsink.s3.http.exchange import Outbox

pytestmark = pytest.mark.anyio


async def test_many_results_are_brought_by_one_wake_up(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.get_running_loop()
    woken, came = [], list[int]()

    class Watched:
        def call_soon_threadsafe(self, function: Any) -> None:
            woken.append(function)
            loop.call_soon(function)

    outbox = Outbox(Watched())  # type: ignore[arg-type]
    outbox.flush()
    assert not woken, "there is nothing to bring"
    for number in range(10):
        outbox.put(lambda number=number: came.append(number))  # type: ignore[misc]
        outbox.flush()
    assert repr(outbox) == "<Outbox 10 results waiting>"
    await asyncio.sleep(0)
    assert (came, len(woken)) == ([*range(10)], 1)
    outbox.put(lambda: came.append(10))
    outbox.flush()
    await asyncio.sleep(0)
    assert (came[-1], len(woken)) == (10, 2)


async def test_what_is_put_while_others_are_brought_is_brought_too() -> None:
    outbox, came = Outbox(asyncio.get_running_loop()), list[str]()

    def first() -> None:
        came.append("first")
        outbox.put(lambda: came.append("second"))
        outbox.flush()

    outbox.put(first)
    outbox.flush()
    for _ in range(3):
        await asyncio.sleep(0)
    assert came == ["first", "second"]


async def test_none_is_lost_or_brought_twice_however_many_threads() -> None:
    outbox, came = Outbox(asyncio.get_running_loop()), list[tuple[int, int]]()
    all_there = asyncio.Event()

    def take(place: tuple[int, int]) -> None:
        came.append(place)
        if len(came) == 4000:
            all_there.set()

    def work(lane: int) -> None:
        for number in range(1000):
            outbox.put(lambda place=(lane, number): take(place))  # type: ignore[misc]
            if number % 3 == 0:
                outbox.flush()
        outbox.flush()

    threads = [threading.Thread(target=work, args=(lane,)) for lane in range(4)]
    for thread in threads:
        thread.start()
    async with asyncio.timeout(60):
        await all_there.wait()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    for lane in range(4):
        assert [number for where, number in came if where == lane] == [*range(1000)]


@pytest.mark.parametrize(("weight", "at_once"), [(1, 64), (64, 1), (40, 2)])
async def test_many_results_leave_turns_to_others(weight: int, at_once: int) -> None:
    """A service's own callbacks do not wait until everybody who has a result has run."""
    outbox, came, key_turns = Outbox(asyncio.get_running_loop()), list[int](), list[int]()
    for number in range(130):
        outbox.put(lambda number=number: came.append(number), weight)  # type: ignore[misc]
    outbox.flush()
    while len(came) < 130:
        key_turns.append(len(came))
        await asyncio.sleep(0)
    assert came == [*range(130)]
    assert max(after - before for before, after in pairwise(key_turns)) <= at_once


def test_a_loop_that_is_closed_is_left_alone() -> None:
    loop = asyncio.new_event_loop()
    outbox = Outbox(loop)
    loop.close()
    outbox.put(lambda: None)
    outbox.flush()
    assert repr(outbox) == "<Outbox 1 results waiting>"
