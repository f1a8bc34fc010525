"""Turns of a key: the order of arrival, whoever gives up on the way, and the end of the run."""

from __future__ import annotations

import asyncio
from functools import partial

import anyio
import pytest

from asyncsink.engine.recording.recorder import KeyTurns

pytestmark = pytest.mark.anyio


async def test_whoever_comes_first_is_served_first_and_other_keys_are_free() -> None:
    key_turns, served = KeyTurns(), list[int]()

    async def take(number: int) -> None:
        await key_turns.take("k")
        served.append(number)

    await key_turns.take("k")
    await key_turns.take("other")
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(take, number)
            await anyio.wait_all_tasks_blocked()
        assert served == []
        for expected in ([0], [0, 1], [0, 1, 2]):
            key_turns.end(["k", "nobody's"])
            await anyio.wait_all_tasks_blocked()
            assert served == expected
    key_turns.end(["k", "other"])
    assert repr(key_turns) == "<KeyTurns of 0 keys>"


@pytest.mark.parametrize("given", [False, True])
async def test_a_cancelled_one_lets_nobody_pass_early_and_stops_nobody(given: bool) -> None:
    key_turns, served = KeyTurns(), list[str]()

    async def take(name: str) -> None:
        await key_turns.take("k")
        served.append(name)

    await key_turns.take("k")
    second, third = asyncio.create_task(take("second")), asyncio.create_task(take("third"))
    await anyio.wait_all_tasks_blocked()
    if given:
        key_turns.end(["k"])
    second.cancel()  # asyncio's own, which also reaches a task whose event was just set
    await anyio.wait_all_tasks_blocked()
    assert served == (["third"] if given else [])
    key_turns.end(["k"])
    await third
    assert second.cancelled()
    assert served == ["third"]


async def test_nobody_waits_for_a_run_that_is_over() -> None:
    key_turns = KeyTurns()
    await key_turns.take("k")
    async with anyio.create_task_group() as group:
        group.start_soon(key_turns.take, "k")
        await anyio.wait_all_tasks_blocked()
        key_turns.close()
    await key_turns.take("k")


def test_whoever_waits_without_a_task_is_called_in_order_and_may_leave() -> None:
    key_turns, called = KeyTurns(), list[str]()
    waiting = {name: partial(called.append, name) for name in ("second", "third", "fourth")}
    assert key_turns.enter("k", partial(called.append, "first"))
    assert not any(key_turns.enter("K", given) for given in waiting.values())
    assert key_turns.leave("k", waiting["third"])
    assert not key_turns.leave("k", waiting["third"])
    key_turns.end(["k"])
    assert called == ["second"]
    assert not key_turns.leave("k", waiting["second"])
    key_turns.close()
    assert called == ["second", "fourth"]
    assert key_turns.enter("k", waiting["third"])
    assert repr(key_turns) == "<KeyTurns of 0 keys>"
