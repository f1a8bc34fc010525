"""The buffers of a lane's bodies: their pages are used again, and given back when they are not."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.http import lane as lane_module
from asyncsink.s3.http.lane import BUFFER_KEPT_BYTES_MAX, Lane
from asyncsink.s3.pacing import Pacer

SIZE = 8 * MIB


class Open:
    """A connection to which nothing happens."""

    def check(self, now: float) -> None:
        """Nothing is late."""


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    """A lane whose thread has nothing to do, and does not sweep by itself."""
    monkeypatch.setattr(lane_module, "SWEEP_SECONDS_MIN", 3600)
    shared: Any = SimpleNamespace(
        host="localhost", tls=None, retry=RetryPolicy(), pacer=Pacer(4), addresses=None, bandwidth=None,
        outbox=SimpleNamespace(flush=lambda: None), owner=threading.current_thread(),
    )  # fmt: skip
    lane = Lane(shared, "lane", large=True)
    yield lane
    lane.stop()


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the buffers that are made."""
    sizes: list[int] = []
    real = mmap.mmap

    def counted(descriptor: int, length: int, **named: Any) -> mmap.mmap:
        sizes.append(length)
        return real(descriptor, length, **named)

    monkeypatch.setattr(mmap, "mmap", counted)
    return sizes


def wave(lane: Lane, number: int, size: int = SIZE) -> None:
    lent = [lane.lend(size) for _ in range(number)]
    assert {len(each) for each in lent} <= {size}
    assert len({id(each.obj) for each in lent}) == number
    for each in lent:
        each[:1] = b"x"
        lane.take_in(each)


def test_bodies_that_come_in_waves_make_no_new_buffers(lane: Lane, made: list[int]) -> None:
    for _ in range(10):
        wave(lane, 3)
        wave(lane, 1)
    assert made == [SIZE] * 3
    wave(lane, 3, SIZE // 2)
    assert made == [SIZE] * 3


def test_sweeps_give_back_what_was_not_used_since_the_last_one(lane: Lane, made: list[int]) -> None:
    lane._connections.add(Open())  # type: ignore[arg-type]
    wave(lane, 4)
    lane._sweep()
    assert len(lane._buffers) == 4
    wave(lane, 2)
    held = lane.lend(SIZE)
    lane._sweep()
    assert len(lane._buffers) == 1
    lane.take_in(held)
    assert len(lane._buffers) == 1
    lane._sweep()
    lane._sweep()
    assert lane._buffers == []
    assert len(made) == 4
    wave(lane, 1)
    lane._connections.clear()
    lane._sweep()
    assert lane._buffers == []


def test_a_very_large_buffer_serves_no_small_body(lane: Lane, made: list[int]) -> None:
    wave(lane, 1, BUFFER_KEPT_BYTES_MAX + SIZE)
    wave(lane, 1)
    assert made == [BUFFER_KEPT_BYTES_MAX + SIZE, SIZE]


def test_a_kernel_without_huge_pages_does_without(lane: Lane, made: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmap, "MADV_HUGEPAGE", -1)  # madvise(2) answers EINVAL to what it does not know
    wave(lane, 2)
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE")
    wave(lane, 4)
    assert made == [SIZE] * 4
