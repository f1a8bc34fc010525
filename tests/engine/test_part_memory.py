"""Parts that are being filled never use up the budget: whoever holds one can be filled, whatever the others do."""

from __future__ import annotations

import anyio
import pytest

from asyncsink.engine.limits.memory import BEGINNING_BYTES_MIN, SMALL_BYTES, ByteBudget, PartMemory

pytestmark = pytest.mark.anyio
KIB, MIB = 1 << 10, 1 << 20


async def test_a_small_beginning_counts_as_it_comes() -> None:
    budget = ByteBudget(64 * MIB)
    part = PartMemory(budget, 8 * MIB)
    await part.hold(0)
    assert budget.held_bytes == 0
    await part.hold(1)
    assert budget.held_bytes == part.held_bytes == BEGINNING_BYTES_MIN
    await part.hold(BEGINNING_BYTES_MIN + 1)
    assert budget.held_bytes == 2 * BEGINNING_BYTES_MIN
    await part.hold(SMALL_BYTES)
    assert (budget.held_bytes, part.whole) == (SMALL_BYTES, False)
    await part.hold(SMALL_BYTES + 1)
    assert (budget.held_bytes, part.whole) == (8 * MIB, True)
    part.release()
    part.release()
    assert budget.held_bytes == 0


async def test_beginnings_have_a_fourth_and_the_next_part_waits_for_its_whole_memory() -> None:
    budget = ByteBudget(16 * MIB)
    parts = [PartMemory(budget, 8 * MIB) for _ in range(5)]
    for part in parts:
        await part.hold(SMALL_BYTES)
    assert [part.whole for part in parts] == [False] * 4 + [True]
    assert budget.held_bytes == 12 * MIB
    for part in parts:
        part.release()


async def test_what_is_begun_is_filled_before_a_new_body_gets_memory() -> None:
    """A file that waits would keep the part from being filled, and the part the file from its memory."""
    budget = ByteBudget(16 * MIB)
    part = PartMemory(budget, 8 * MIB)
    await part.hold(SMALL_BYTES)
    order: list[str] = []

    async def file() -> None:
        async with budget.reserve(16 * MIB):
            order.append("file")

    async def fill() -> None:
        await part.hold(8 * MIB)
        order.append("part")
        part.release()

    async with anyio.create_task_group() as group:
        async with budget.reserve(15 * MIB):
            group.start_soon(file)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(fill)
            await anyio.wait_all_tasks_blocked()
            assert order == []
            assert budget.wanted
    assert order == ["part", "file"]
    assert budget.held_bytes == 0


async def test_a_beginning_whose_producer_pauses_blocks_no_body_of_any_size() -> None:
    budget = ByteBudget(16 * MIB)
    idle = PartMemory(budget, 8 * MIB)
    await idle.hold(1)
    with anyio.fail_after(10):
        async with budget.reserve(16 * MIB):
            pass
        async with budget.reserve(32 * MIB):
            pass
    idle.release()
    assert budget.held_bytes == 0


async def test_cancelled_while_waiting_it_holds_what_it_held() -> None:
    budget = ByteBudget(16 * MIB)
    part = PartMemory(budget, 8 * MIB)
    await part.hold(64 * KIB)
    async with budget.reserve(15 * MIB):
        with anyio.move_on_after(0) as scope:
            await part.hold(8 * MIB)
        assert scope.cancelled_caught
        assert part.held_bytes == 64 * KIB
        assert not budget.wanted
    part.release()
    assert budget.held_bytes == 0


@pytest.mark.parametrize(("total", "size"), [(5, 5), (6, 5), (10, 5), (11, 8), (40, 5)])
async def test_many_parts_share_the_smallest_budget(total: int, size: int) -> None:
    """Every producer gives its bytes in small pieces, in turns with the others, beside files."""
    budget = ByteBudget(total * MIB)
    filled, most = 0, 0

    async def stream(number: int) -> None:
        nonlocal filled, most
        for _ in range(3):
            part = PartMemory(budget, size * MIB)
            for length in range(256 * KIB, size * MIB + 1, (number % 3 + 1) * 256 * KIB):
                await part.hold(length)
                most = max(most, budget.held_bytes)
                await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()  # it is sent
            part.release()
            filled += 1

    async def file() -> None:
        nonlocal most
        for _ in range(10):
            async with budget.reserve(size * MIB):
                most = max(most, budget.held_bytes)
                await anyio.lowlevel.checkpoint()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(stream, number)
            for _ in range(3):
                group.start_soon(file)
    assert filled == 90
    assert most <= total * MIB * 5 // 4
    assert budget.held_bytes == 0
    assert not budget.wanted
