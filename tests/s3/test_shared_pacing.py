"""Pacers within a shared one: both bounds hold, no token is lost or made up, and the runs take turns."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncsink.options.settings import MIB
from asyncsink.s3.pacing import Bandwidth, Pacer

RUNS = 3


class SharedTokens(RuleBasedStateMachine):
    """Requests of three runs, which hold, wait, give up and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = Pacer(3)
        self.runs = [Pacer(limit, within=self.shared) for limit in (1, 2, 5)]
        self.bounds = [1, 2, 5]
        self.most = 3
        self.held: list[list[int]] = [[] for _ in range(RUNS)]
        self.waiting: list[deque[int]] = [deque() for _ in range(RUNS)]
        self.grants: dict[int, Callable[[], None]] = {}
        self.numbers = itertools.count()

    def granted(self, run: int, number: int) -> None:
        assert self.waiting[run].popleft() == number, "first come, first served within a run"
        self.held[run].append(number)

    @rule(run=st.integers(0, RUNS - 1))
    def take(self, run: int) -> None:
        """A lane asks for a token."""
        number = next(self.numbers)
        self.grants[number] = lambda: self.granted(run, number)
        self.waiting[run].append(number)
        if self.runs[run].take(self.grants[number]):
            self.granted(run, number)

    @precondition(lambda self: any(self.held))
    @rule(data=st.data())
    def give(self, data: st.DataObject) -> None:
        """A request is over."""
        run = data.draw(st.sampled_from([run for run in range(RUNS) if self.held[run]]))
        self.held[run].pop()
        self.runs[run].give(1)

    @precondition(lambda self: any(self.waiting))
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A lane waits no longer."""
        run = data.draw(st.sampled_from([run for run in range(RUNS) if self.waiting[run]]))
        number = data.draw(st.sampled_from(sorted(self.waiting[run])))
        self.waiting[run].remove(number)
        assert self.runs[run].withdraw(self.grants[number])

    @rule(run=st.integers(0, RUNS - 1), bound=st.integers(1, 6))
    def move(self, run: int, bound: int) -> None:
        """The policy moves the limit of one run."""
        self.bounds[run] = bound
        self.runs[run].limit = bound

    @rule(most=st.integers(1, 6))
    def bind(self, most: int) -> None:
        """The shared limit changes."""
        self.most = most
        self.shared.limit = most

    @invariant()
    def as_many_as_both_bounds_allow(self) -> None:
        """Nothing is lost, and nobody waits for a token that is free."""
        counts = [len(each) for each in self.held]
        assert [pacer.in_flight for pacer in self.runs] == counts
        assert self.shared.in_flight == sum(counts)
        for run in range(RUNS):
            own_room = counts[run] < self.bounds[run]
            assert not (self.waiting[run] and own_room and sum(counts) < self.most)


SharedTokens.TestCase.settings = settings(max_examples=200, stateful_step_count=50)
TestSharedTokens = SharedTokens.TestCase


def test_a_run_with_one_request_does_not_wait_for_those_of_another() -> None:
    shared = Pacer(2)
    busy, other = Pacer(1024, within=shared), Pacer(1024, within=shared)
    order: list[str] = []
    for _ in range(2):
        assert busy.take(lambda: None)
    for _ in range(1000):
        assert not busy.take(lambda: order.append("busy"))
    assert not other.take(lambda: order.append("other"))
    assert busy.contended
    busy.give(1)
    busy.give(1)
    assert order == ["busy", "other"]
    assert (busy.in_flight, other.in_flight, shared.in_flight) == (1, 1, 2)
    other.give(1)
    assert (order[-1], shared.in_flight) == ("busy", 2)
    assert not other.contended or shared.contended


def test_the_share_of_others_is_no_reason_for_more_concurrency() -> None:
    """A limit that is not reached shows nothing about the network."""
    shared = Pacer(1)
    first, second = Pacer(4, within=shared), Pacer(4, within=shared)
    assert first.take(lambda: None)
    assert not second.take(lambda: None)
    assert not second.take_window().saturated


@pytest.mark.parametrize("tokens", [1, 4])
def test_no_more_at_a_time_than_the_shared_limit_however_many_threads(tokens: int) -> None:
    shared = Pacer(tokens)
    pacers = [Pacer(limit, within=shared) for limit in (1, 2, 8)]
    lock, now, most, done = threading.Lock(), 0, 0, 0

    def work(pacer: Pacer) -> None:
        nonlocal now, most, done
        granted = threading.Event()
        for _ in range(200):
            granted.clear()
            if not pacer.take(granted.set):
                assert granted.wait(60)
            with lock:
                now += 1
                most = max(most, now)
            with lock:
                now -= 1
                done += 1
            pacer.give(1)

    threads = [threading.Thread(target=work, args=(pacers[number % 3],)) for number in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, shared.in_flight) == (9 * 200, 0)
    assert 1 <= most <= tokens
    assert [pacer.in_flight for pacer in pacers] == [0, 0, 0]


def test_one_token_is_left_for_each_other_run() -> None:
    """Requests to a server that hangs keep their tokens for as long as it may."""
    shared = Pacer(4)
    shared.runs = 3
    dead, first, second = [Pacer(1024, within=shared) for _ in range(3)]
    taken = [dead.take(lambda: None) for _ in range(10)]
    assert taken == [True, True] + 8 * [False]
    assert first.take(lambda: None)
    assert second.take(lambda: None)
    assert not first.take(lambda: None)
    first.give(1)
    assert (dead.in_flight, first.in_flight, second.in_flight) == (2, 1, 1)
    shared.runs = 1
    for each in (first, second):
        each.give(1)
    dead.give(1)
    assert (dead.in_flight, shared.in_flight) == (4, 4)


def test_what_hangs_in_a_file_system_holds_no_other_run_back() -> None:
    shared = Pacer(1)
    first, second = Pacer(1, within=shared), Pacer(1, within=shared)
    granted: list[str] = []
    assert first.take(lambda: None)
    assert not second.take(lambda: granted.append("second"))
    first.hang(1)
    assert granted == ["second"]
    first.hang(-1)
    first.give(1)
    second.give(1)
    assert shared.in_flight == 0


def test_a_shared_rate_and_an_own_one_both_hold() -> None:
    now = 0.0
    shared = Bandwidth(10 * MIB, clock=lambda: now)
    slow, fast = [Bandwidth(rate * MIB, within=shared, clock=lambda: now) for rate in (1, 100)]
    assert slow.slice_bytes < fast.slice_bytes == shared.slice_bytes
    assert slow.reserve(MIB) == pytest.approx(0.9)
    assert fast.reserve(19 * MIB) == pytest.approx(1.9)
    assert slow.reserve(1) == pytest.approx(1.9, rel=1e-3), "after all bytes of the other run"
