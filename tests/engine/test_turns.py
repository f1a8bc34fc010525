"""Turns of a key: the order of arrival, whoever gives up on the way, and the end of the run."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from asyncsink.engine.pipeline import Work
from asyncsink.engine.queueing import queue_in_turn
from asyncsink.engine.turns import Turns
from asyncsink.model import SourceFile, Transfer

pytestmark = pytest.mark.anyio


async def test_whoever_comes_first_is_served_first_and_other_keys_are_free() -> None:
    turns, served = Turns(), list[int]()

    async def take(number: int) -> None:
        await turns.take("k")
        served.append(number)

    await turns.take("k")
    await turns.take("other")
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(take, number)
            await anyio.wait_all_tasks_blocked()
        assert served == []
        for expected in ([0], [0, 1], [0, 1, 2]):
            turns.end(["k", "nobody's"])
            await anyio.wait_all_tasks_blocked()
            assert served == expected
    turns.end(["k", "other"])
    assert repr(turns) == "<Turns of 0 keys>"


@pytest.mark.parametrize("given", [False, True])
async def test_a_cancelled_one_lets_nobody_pass_early_and_stops_nobody(given: bool) -> None:
    turns, served = Turns(), list[str]()

    async def take(name: str) -> None:
        await turns.take("k")
        served.append(name)

    await turns.take("k")
    second, third = asyncio.create_task(take("second")), asyncio.create_task(take("third"))
    await anyio.wait_all_tasks_blocked()
    if given:
        turns.end(["k"])
    second.cancel()  # asyncio's own, which also reaches a task whose event was just set
    await anyio.wait_all_tasks_blocked()
    assert served == (["third"] if given else [])
    turns.end(["k"])
    await third
    assert second.cancelled()
    assert served == ["third"]


async def test_nobody_waits_for_a_run_that_is_over() -> None:
    turns = Turns()
    await turns.take("k")
    async with anyio.create_task_group() as group:
        group.start_soon(turns.take, "k")
        await anyio.wait_all_tasks_blocked()
        turns.close()
    await turns.take("k")


@pytest.mark.parametrize("taken", [False, True])
async def test_whoever_is_cancelled_at_the_queue_keeps_the_turn_only_of_what_has_begun(taken: bool) -> None:
    turns = Turns()
    work = Work(Transfer(SourceFile("/s/f", 3, 4), "k", "k"))

    async def submit(handed_over: Work) -> None:
        handed_over.taken = taken
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await queue_in_turn(work, submit, turns=turns, journal=None, ledger=None)
    assert work.dropped != taken
    assert repr(turns) == f"<Turns of {int(taken)} keys>"
