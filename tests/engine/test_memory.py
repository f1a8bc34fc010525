"""The byte budget bounds memory: never more than the total, first come first served, nothing lost on cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given

from asyncsink.engine.limits import memory
from asyncsink.engine.limits.memory import BESIDE_MIN, SMALL_BYTES, BufferPool, ByteBudget, ReaderPool

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


async def test_all_that_fit_are_granted_at_once() -> None:
    budget, granted = ByteBudget(10), list[int]()
    release = anyio.Event()

    async def hold(number: int) -> None:
        async with budget.reserve(3):
            granted.append(number)
            await release.wait()

    async with anyio.create_task_group() as group:
        async with budget.reserve(10):
            for number in range(4):
                group.start_soon(hold, number)
            await anyio.wait_all_tasks_blocked()
        await anyio.wait_all_tasks_blocked()
        assert granted == [0, 1, 2]
        release.set()


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


# -- Large bodies go round in a few buffers; small ones are allocated as they come -------------------------------------


def test_a_large_body_is_lent_the_same_memory_again() -> None:
    pool = BufferPool(8 * MIB)
    with pool.lend(8 * MIB) as first:
        first[:4] = b"abcd"
        assert repr(pool) == "<BufferPool of 8388608 bytes, 0 free>"
    with pool.lend(2 * MIB) as second:
        assert len(second) == 2 * MIB
        assert bytes(second[:4]) == b"abcd"


def test_two_bodies_at_once_never_share_memory_and_only_one_buffer_is_kept() -> None:
    pool = BufferPool(8 * MIB)
    with pool.lend(8 * MIB) as first, pool.lend(8 * MIB) as second:
        first[0] = 1
        second[0] = 2
        assert first[0] == 1
    assert repr(pool).endswith("1 free>")


def test_what_is_lent_is_what_is_charged() -> None:
    pool = BufferPool(8 * MIB)
    assert [pool.cost(size) for size in (0, 1, SMALL_BYTES, SMALL_BYTES + 1, 8 * MIB, 9 * MIB)] == [
        0,
        1,
        SMALL_BYTES,
        8 * MIB,
        8 * MIB,
        9 * MIB,
    ]
    with pool.lend(9 * MIB) as view:
        assert len(view) == 9 * MIB
    assert repr(pool).endswith("0 free>")


def test_fewer_are_kept_while_others_keep_some() -> None:
    elsewhere = 0
    pool = BufferPool(8 * MIB, idle_max=3, elsewhere=lambda: elsewhere)
    with pool.lend(8 * MIB), pool.lend(8 * MIB), pool.lend(8 * MIB):
        assert repr(pool).endswith("0 free>")
    assert repr(pool).endswith("3 free>")
    elsewhere = 2
    with pool.lend(8 * MIB):
        pool.trim()
        assert repr(pool).endswith("0 free>")
    assert repr(pool).endswith("1 free>")
    elsewhere = 5
    pool.trim()
    assert repr(pool).endswith("0 free>")


# -- Blocking work in threads: results, errors, cancellation, and when the loop waits in place -------------------------


@pytest.fixture
async def readers() -> AsyncIterator[ReaderPool]:
    readers = ReaderPool(4)
    yield readers
    readers.close()


async def test_results_and_errors_come_back(readers: ReaderPool) -> None:
    assert await readers.run(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await readers.run(lambda: 1 // 0)


async def test_an_error_that_is_a_timeout_is_the_works_own(readers: ReaderPool) -> None:
    def work() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        await readers.run(work)


async def test_slow_work_does_not_hold_up_the_loop_and_runs_side_by_side(readers: ReaderPool) -> None:
    """Three pieces that each wait for all of them, and for the loop: nothing of it ends if any waits in place."""
    meeting = threading.Barrier(3, timeout=20)
    go = threading.Event()

    def work() -> None:
        assert go.wait(20)
        meeting.wait()

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(readers.run, work)
        await anyio.wait_all_tasks_blocked()
        assert "beside" in repr(readers)
        go.set()


async def test_after_slow_work_the_page_cache_is_tried_again(
    readers: ReaderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(readers.run, lambda: go.wait(20))
        await anyio.wait_all_tasks_blocked()
        go.set()
    monkeypatch.setattr(memory, "IN_PLACE_SECONDS", 20.0)  # a thread may have to wait for a busy machine
    for _ in range(BESIDE_MIN):
        assert "beside" in repr(readers)
        await readers.run(lambda: None)
    assert "in place" in repr(readers)
    await readers.run(lambda: None)
    assert "in place" in repr(readers)


async def test_cancelled_it_waits_for_the_work(readers: ReaderPool) -> None:
    go, ended = threading.Event(), threading.Event()

    def work() -> None:
        assert go.wait(20)
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(readers.run, work)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
        await anyio.lowlevel.cancel_shielded_checkpoint()
        assert not ended.is_set()
        go.set()
    assert ended.is_set()


@pytest.mark.parametrize("native", [False, True])
async def test_cancelled_work_is_told_and_work_that_did_not_begin_never_does(native: bool) -> None:
    readers = ReaderPool(1)
    told, begun, second, cancelled = threading.Event(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        # The thread is free for the second work only when that has been cancelled too.
        assert told.wait(20)
        assert cancelled.wait(20)

    async def other() -> None:
        try:
            await readers.run(second.set)
        finally:
            cancelled.set()

    async def both() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: readers.run(work, stop=told.set))
            group.start_soon(other)

    async with anyio.create_task_group() as outer:
        if native:
            task = asyncio.ensure_future(both())
        else:
            outer.start_soon(both)
        await anyio.wait_all_tasks_blocked()
        assert begun.is_set()
        if native:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            outer.cancel_scope.cancel()
    assert told.is_set()
    readers.close()
    assert not second.is_set()


async def test_work_goes_on_while_other_work_hangs(readers: ReaderPool) -> None:
    go = threading.Event()
    async with anyio.create_task_group() as group:
        group.start_soon(readers.run, lambda: go.wait(20))
        await anyio.wait_all_tasks_blocked()
        for number in range(3 * BESIDE_MIN):
            with anyio.fail_after(10):
                assert await readers.run(lambda number=number: number) == number  # type: ignore[misc]
        go.set()
