"""The pacer's tokens: never more in flight than the limit, first come first served, nothing lost on cancellation."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from asyncsink.s3.operations import Done, HeadObject
from asyncsink.s3.pacing import Pacer

pytestmark = pytest.mark.anyio
HEAD = HeadObject(key="k")


class Held:
    """A transport that answers when it is told to, and counts."""

    def __init__(self) -> None:
        self.release = anyio.Event()
        self.now = self.most = 0

    async def send(self, operation: Any) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await self.release.wait()
        finally:
            self.now -= 1
        return Done()

    async def aclose(self) -> None:
        pass


async def test_no_more_in_flight_than_the_limit() -> None:
    pacer, held = Pacer(3), Held()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(pacer.send, held, HEAD)
        await anyio.wait_all_tasks_blocked()
        assert repr(pacer) == "<Pacer 3 of 3 in flight, 7 waiting>"
        held.release.set()
    assert held.most == 3
    assert repr(pacer) == "<Pacer 0 of 3 in flight, 0 waiting>"
    assert (pacer.traffic.requests, pacer.take_window().saturated) == (10, True)


async def test_a_higher_limit_lets_those_who_wait_go_at_once() -> None:
    pacer, held = Pacer(1), Held()
    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(pacer.send, held, HEAD)
        await anyio.wait_all_tasks_blocked()
        pacer.limit = 4
        await anyio.wait_all_tasks_blocked()
        assert pacer.in_flight == 4
        pacer.limit = 1
        assert pacer.in_flight == 4
        held.release.set()
    assert pacer.in_flight == 0


async def test_cancelled_while_waiting_holds_no_token() -> None:
    pacer, held = Pacer(1), Held()
    async with anyio.create_task_group() as group:
        group.start_soon(pacer.send, held, HEAD)
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as inner:
                inner.start_soon(pacer.send, held, HEAD)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert repr(pacer) == "<Pacer 1 of 1 in flight, 0 waiting>"
        group.start_soon(pacer.send, held, HEAD)
        held.release.set()
    assert repr(pacer) == "<Pacer 0 of 1 in flight, 0 waiting>"


async def test_cancelled_in_the_turn_the_token_came() -> None:
    pacer, held = Pacer(1), Held()
    async with anyio.create_task_group() as group:
        group.start_soon(pacer.send, held, HEAD)
        await anyio.wait_all_tasks_blocked()
        scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                await pacer.send(held, HEAD)

        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        held.release.set()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        scope.cancel()
    assert repr(pacer) == "<Pacer 0 of 1 in flight, 0 waiting>"
