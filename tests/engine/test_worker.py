"""What the parent of a run's processes knows of one of them: which transfers it has, and what these weigh."""

from __future__ import annotations

from typing import Any, cast

import pytest

from asyncsink.engine.load import FILE_COST_BYTES, FILES_MAX
from asyncsink.engine.pipeline import Batch, Work
from asyncsink.engine.worker import Worker
from asyncsink.model import SourceFile, Transfer

pytestmark = pytest.mark.anyio


def transfer(name: str, size_bytes: int = 1) -> Transfer:
    return Transfer(SourceFile(f"/s/{name}", size_bytes, 1), name, name)


def worker() -> Worker:
    return Worker(0, cast("Any", None))


async def test_transfers_are_numbered_as_they_are_given_and_end_in_any_order() -> None:
    one = worker()
    first, large, second = [transfer("a"), transfer("b")], transfer("large", 10**9), [transfer("c")]
    await one.give(Batch(first), first)
    await one.give(Work(large), [large])
    await one.give(Batch(second), second)
    assert one.under_way == {0: first[0], 1: first[1], 2: large, 3: second[0]}
    assert one.load.weight_bytes == 10**9 + 3 + 4 * FILE_COST_BYTES
    assert one.load.holds(large)
    one.settle([3, 0])
    assert one.under_way == {1: first[1], 2: large}
    one.settle([2])
    assert not one.load.holds(large)
    one.settle([1])
    assert (one.under_way, one.load.weight_bytes) == ({}, 0)


async def test_the_same_large_file_twice_is_there_until_both_have_ended() -> None:
    one, large = worker(), transfer("large")
    for _ in range(2):
        await one.give(Work(large), [large])
    one.settle([1])
    assert one.load.holds(large)
    one.settle([0])
    assert not one.load.holds(large)


async def test_it_takes_no_more_than_it_may_have_under_way() -> None:
    one = worker()
    many = [transfer(str(number)) for number in range(FILES_MAX)]
    await one.give(Batch(many), many)
    assert not one.load.has_room
    one.settle([5])
    assert one.load.has_room
