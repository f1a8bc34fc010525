"""Parts of a shared byte budget: their sum keeps its bound, own bounds hold beside, and the runs take turns."""

from __future__ import annotations

import random

import anyio
import pytest

from asyncsink.engine.limits.memory import BEGINNING_BYTES_MIN, ByteBudget, PartMemory

pytestmark = pytest.mark.anyio
MIB = 1 << 20


async def test_the_runs_take_turns() -> None:
    whole = ByteBudget(10)
    busy, other = ByteBudget(10, within=whole), ByteBudget(10, within=whole)
    order: list[str] = []

    async def hold(name: str, budget: ByteBudget, size: int) -> None:
        async with budget.reserve(size):
            order.append(name)

    async with anyio.create_task_group() as group:
        async with busy.reserve(10):
            for _ in range(100):
                group.start_soon(hold, "busy", busy, 6)
            await anyio.wait_all_tasks_blocked()
            for _ in range(2):
                group.start_soon(hold, "other", other, 6)
            await anyio.wait_all_tasks_blocked()
            assert repr(whole) == "<ByteBudget 0 MiB of 0 MiB, 102 waiting>"
    assert order[:4] == ["busy", "other", "busy", "other"]
    assert len(order) == 102
    assert whole.held_bytes == busy.held_bytes == other.held_bytes == 0


async def test_room_for_a_body_is_left_for_each_other_run() -> None:
    """Bodies for a server that hangs stay in memory for as long as it may."""
    whole = ByteBudget(40 * MIB)
    whole.runs = 3
    dead, first, second = [ByteBudget(40 * MIB, within=whole) for _ in range(3)]
    async with anyio.create_task_group() as group:

        async def hold() -> None:
            async with dead.reserve(8 * MIB):
                await anyio.sleep_forever()

        for _ in range(10):
            group.start_soon(hold)
        await anyio.wait_all_tasks_blocked()
        assert dead.held_bytes == 24 * MIB
        async with first.reserve(8 * MIB), second.reserve(8 * MIB):
            assert whole.held_bytes == 40 * MIB
        group.cancel_scope.cancel()
    assert whole.held_bytes == 0


async def test_an_own_bound_holds_and_holds_nobody_else_back() -> None:
    whole = ByteBudget(10)
    small, other = ByteBudget(4, within=whole), ByteBudget(50, within=whole)
    assert other.total_bytes == 10
    granted: list[str] = []

    async def hold(name: str, budget: ByteBudget, size: int) -> None:
        async with budget.reserve(size):
            granted.append(name)

    async with anyio.create_task_group() as group:
        async with small.reserve(3):
            group.start_soon(hold, "small", small, 3)
            await anyio.wait_all_tasks_blocked()
            assert granted == []
            group.start_soon(hold, "other", other, 6)
            await anyio.wait_all_tasks_blocked()
            assert granted == ["other"]
    assert granted == ["other", "small"]


async def test_cancelled_in_any_order_nothing_is_lost() -> None:
    """Many runs, bodies and cancellations; the largest sum is the bound, and all of it comes back."""
    whole = ByteBudget(100)
    parts = [ByteBudget(size, within=whole) for size in (30, 60, 100)]
    draw = random.Random(1)

    async def body(budget: ByteBudget) -> None:
        with anyio.CancelScope() as scope:
            if draw.random() < 0.3:
                group.start_soon(cancel_soon, scope)
            async with budget.reserve(draw.randrange(1, 40)):
                for each in (*parts, whole):
                    assert each.held_bytes <= max(each.total_bytes, 39)
                for _ in range(draw.randrange(3)):
                    await anyio.lowlevel.checkpoint()

    async def cancel_soon(scope: anyio.CancelScope) -> None:
        for _ in range(draw.randrange(8)):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as group:
        for number in range(600):
            group.start_soon(body, parts[number % 3])
    assert [each.held_bytes for each in (*parts, whole)] == [0, 0, 0, 0]
    assert not whole.wanted


async def test_beginnings_of_streams_of_all_runs_leave_room_for_parts() -> None:
    """A fourth of each run's budget would be all of a shared one."""
    whole = ByteBudget(32 * MIB)
    runs = [ByteBudget(32 * MIB, within=whole) for _ in range(8)]
    part_bytes = 8 * MIB
    parts = [PartMemory(budget, part_bytes) for budget in runs for _ in range(4)]
    filled = 0

    async def fill(part: PartMemory) -> None:
        nonlocal filled
        for length in (BEGINNING_BYTES_MIN, MIB, part_bytes):
            await part.hold(length)
            await anyio.lowlevel.checkpoint()
            assert whole.held_bytes <= whole.total_bytes
        filled += 1
        part.release()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for part in parts:
                group.start_soon(fill, part)
    assert filled == len(parts)
    assert [each.held_bytes for each in (*runs, whole)] == [0] * 9


async def test_memory_that_callers_give_back_cannot_use_a_shared_budget_up() -> None:
    whole = ByteBudget(10)
    first, second = ByteBudget(10, within=whole), ByteBudget(10, within=whole)
    assert first.hold_now(4, most_bytes=5)
    assert not second.hold_now(4, most_bytes=5)
    assert second.hold_now(1, most_bytes=5)
    async with second.reserve(5):
        assert whole.held_bytes == 10
    first.let_go(4)
    second.let_go(1)
    assert whole.held_bytes == 0
