"""The byte budget bounds memory: never more than the total, first come first served, nothing lost on cancellation."""

from __future__ import annotations

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given

from asyncsink.engine.limits.memory import ByteBudget

pytestmark = pytest.mark.anyio
MIB = 1 << 20


async def test_repr_tells_the_state() -> None:
    budget = ByteBudget(256 * MIB)
    async with budget.reserve(96 * MIB):
        assert repr(budget) == "<ByteBudget 96 MiB of 256 MiB, 0 waiting>"
    assert repr(budget) == "<ByteBudget 0 MiB of 256 MiB, 0 waiting>"


async def test_a_large_request_is_not_overtaken() -> None:
    budget = ByteBudget(10)
    order: list[str] = []
    release = anyio.Event()

    async def hold(name: str, size: int) -> None:
        async with budget.reserve(size):
            order.append(name)
            await release.wait()

    async with anyio.create_task_group() as group:
        group.start_soon(hold, "first", 8)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(hold, "large", 9)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(hold, "small", 1)
        await anyio.wait_all_tasks_blocked()
        assert order == ["first"]
        assert repr(budget).endswith("2 waiting>")
        release.set()
    assert order == ["first", "large", "small"]
    assert budget.held_bytes == 0


async def test_more_than_everything_is_granted_alone() -> None:
    budget = ByteBudget(10)
    async with budget.reserve(25):
        assert budget.held_bytes == 25
        with anyio.move_on_after(0) as scope:
            async with budget.reserve(1):
                pytest.fail("granted beside a request that already exceeds the budget")
        assert scope.cancelled_caught
    async with budget.reserve(10):
        assert budget.held_bytes == 10


async def test_cancelled_while_waiting_holds_nothing_and_wakes_the_next() -> None:
    budget = ByteBudget(10)
    got: list[str] = []

    async def want(name: str, size: int) -> None:
        async with budget.reserve(size):
            got.append(name)

    async with anyio.create_task_group() as group:
        async with budget.reserve(8):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(want, "cancelled", 5)
                    await anyio.wait_all_tasks_blocked()
                    group.start_soon(want, "fits", 2)
                    await anyio.wait_all_tasks_blocked()
                    assert got == []
                    scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert got == ["fits"]
    assert budget.held_bytes == 0


async def test_cancelled_in_the_turn_it_was_granted() -> None:
    budget = ByteBudget(10)
    async with anyio.create_task_group() as group:
        scope = anyio.CancelScope()

        async def wait() -> None:
            with scope:
                async with budget.reserve(10):
                    pytest.fail("ran although it was cancelled")

        async with budget.reserve(10):
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            # The grant happens on leaving this block, the cancellation before the waiter's next step.
            scope.cancel()
    assert budget.held_bytes == 0
    assert repr(budget).endswith("0 waiting>")


@given(sizes=st.lists(st.integers(1, 12), max_size=30), total=st.integers(1, 12))
def test_never_more_than_the_total(sizes: list[int], total: int) -> None:
    async def main() -> None:
        budget = ByteBudget(total)

        async def use(size: int) -> None:
            async with budget.reserve(size):
                assert budget.held_bytes <= max(total, size)
                await anyio.lowlevel.checkpoint()
                assert budget.held_bytes <= max(total, size)

        async with anyio.create_task_group() as group:
            for size in sizes:
                group.start_soon(use, size)
        assert budget.held_bytes == 0

    anyio.run(main)
