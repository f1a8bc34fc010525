"""Tokens as lanes take them, from threads: whatever the interleaving, none is lost, made up or overtaken."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncsink.s3.pacing import Pacer, Problem


class Tokens(RuleBasedStateMachine):
    """A model beside the pacer: who holds a token, and who waits, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.pacer = Pacer(2)
        self.limit, self.most, self.hanging = 2, None, 0  # type: int, int | None, int
        self.held: list[int] = []
        self.waiting: deque[int] = deque()
        self.granted: list[int] = []
        self.grants: dict[int, Callable[[], None]] = {}
        self.numbers = itertools.count()
        self.requests = self.bytes = self.errors = self.throttled = 0

    @property
    def bound(self) -> int:
        """What may be held."""
        return (self.limit if self.most is None else min(self.limit, self.most)) + self.hanging

    def settle(self) -> None:
        """Those who waited longest have a token now, as far as there are any."""
        expected = []
        while self.waiting and len(self.held) < self.bound:
            number = self.waiting.popleft()
            self.held.append(number)
            expected.append(number)
        assert self.granted == expected
        self.granted.clear()

    @rule()
    def take(self) -> None:
        """A lane asks for a token."""
        number = next(self.numbers)
        self.grants[number] = lambda: self.granted.append(number)
        at_once = self.pacer.take(self.grants[number])
        assert at_once == (len(self.held) < self.bound and not self.waiting)
        (self.held if at_once else self.waiting).append(number)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), size=st.integers(0, 9), problem=st.sampled_from(["", "error", "throttled"]))
    def give(self, data: st.DataObject, size: int, problem: Problem) -> None:
        """A request is over."""
        self.held.remove(data.draw(st.sampled_from(self.held)))
        self.pacer.give(size, problem)
        self.requests, self.bytes = self.requests + 1, self.bytes + size
        self.errors, self.throttled = self.errors + (problem == "error"), self.throttled + (problem == "throttled")
        self.settle()

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """Nothing was sent with a token."""
        self.held.remove(data.draw(st.sampled_from(self.held)))
        self.pacer.give_back()
        self.settle()

    @precondition(lambda self: self.grants)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        """A lane waits no longer; it may have its token already."""
        number = data.draw(st.sampled_from(sorted(self.grants)))
        waits = number in self.waiting
        assert self.pacer.withdraw(self.grants[number]) == waits
        if waits:
            self.waiting.remove(number)
        self.settle()

    @rule(limit=st.integers(-1, 6))
    def move(self, limit: int) -> None:
        """The policy moves the limit."""
        self.pacer.limit = limit
        self.limit = max(1, limit)
        self.settle()

    @rule(most=st.none() | st.integers(0, 6))
    def bind(self, most: int | None) -> None:
        """Descriptors are scarce, or not any more."""
        self.pacer.most = most
        self.most = None if most is None else max(1, most)
        self.settle()

    @rule(more=st.integers(-2, 2))
    def hang(self, more: int) -> None:
        """Lanes hang, or go on."""
        more = max(more, -self.hanging)
        self.pacer.hang(more)
        self.hanging += more
        self.settle()

    @rule()
    def look(self) -> None:
        """The policy looks at what happened."""
        window = self.pacer.take_window()
        seen = (window.requests, window.bytes, window.errors, window.throttled)
        assert seen == (self.requests, self.bytes, self.errors, self.throttled)
        self.requests = self.bytes = self.errors = self.throttled = 0

    @invariant()
    def same(self) -> None:
        """The pacer says what the model says."""
        assert self.pacer.in_flight == len(self.held)
        assert repr(self.pacer) == f"<Pacer {len(self.held)} of {self.bound} in flight, {len(self.waiting)} waiting>"
        assert not self.waiting or len(self.held) >= self.bound


Tokens.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestTokens = Tokens.TestCase


@pytest.mark.parametrize("limit", [1, 3])
def test_no_more_at_a_time_than_the_limit_however_many_threads(limit: int) -> None:
    pacer = Pacer(limit)
    lock, under_way, most, done = threading.Lock(), 0, 0, 0

    def work() -> None:
        nonlocal under_way, most, done
        granted = threading.Event()
        for _ in range(300):
            granted.clear()
            if not pacer.take(granted.set):
                assert granted.wait(60)
            with lock:
                under_way += 1
                most = max(most, under_way)
            with lock:
                under_way -= 1
                done += 1
            pacer.give(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, pacer.in_flight, pacer.traffic.requests) == (2400, 0, 2400)
    assert most <= limit
    assert pacer.take_window().bytes == 2400


def test_withdrawing_and_granting_at_the_same_time_loses_no_token() -> None:
    pacer = Pacer(1)

    def work(patient: bool) -> None:
        for _ in range(400):
            granted = threading.Event()
            if pacer.take(granted.set):
                pacer.give()
            elif patient:
                assert granted.wait(60)
                pacer.give()
            elif not pacer.withdraw(granted.set):
                # It was granted, or is about to be: the token is ours.
                pacer.give_back()

    threads = [threading.Thread(target=work, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert repr(pacer) == "<Pacer 0 of 1 in flight, 0 waiting>"


@given(st.lists(st.integers(0, 5), max_size=20))
def test_the_window_is_saturated_where_all_were_in_use_at_some_moment(limits: list[int]) -> None:
    pacer = Pacer(4)
    for taken in limits:
        number = min(taken, 4)
        for _ in range(number):
            assert pacer.take(lambda: None)
        for _ in range(number):
            pacer.give()
        assert pacer.take_window().saturated == (number == 4)
