"""Blocking work in threads: results, errors, cancellation, and when the loop waits in place."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import anyio
import pytest

from asyncsink.engine.limits import memory as hops_module
from asyncsink.engine.limits.memory import BESIDE_MIN, ReaderPool

pytestmark = pytest.mark.anyio


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
    monkeypatch.setattr(hops_module, "IN_PLACE_SECONDS", 20.0)  # a thread may have to wait for a busy machine
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
