"""The pacer's tokens: never more in flight than the limit, first come first served, nothing lost on cancellation."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from asyncsink.s3.operations import Done, HeadObject
from asyncsink.s3.pacing import Pacer, Problem

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


# -- Tokens as lanes take them, from threads: whatever the interleaving, none is lost, made up or overtaken ------------


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
