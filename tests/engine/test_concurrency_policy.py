"""The concurrency policy is pure: samples in, limits out."""

from __future__ import annotations

from itertools import pairwise

import hypothesis.strategies as st
from hypothesis import given

from asyncsink.engine.concurrency import PATIENCE_SAMPLES, Sample, State, next_state


def sample(requests: int = 100, size: int = 0, throttled: int = 0, errors: int = 0, saturated: bool = True) -> Sample:
    return Sample(0.5, requests, size, throttled, errors, saturated)


def step(state: State, seen: Sample, limit_max: int = 128) -> State:
    return next_state(state, seen, limit_min=1, limit_max=limit_max)


def test_grows_while_throughput_grows() -> None:
    state = State(limit=32)
    limits = []
    for requests in (100, 150, 220, 330, 500):
        state = step(state, sample(requests))
        limits.append(state.limit)
    assert limits == [48, 72, 108, 128, 128]


def test_goes_back_when_a_step_brought_nothing_and_rests() -> None:
    state = step(State(limit=32), sample(100))
    assert state.limit == 48
    state = step(state, sample(101))
    assert (state.limit, state.reason) == (32, "more in flight brought nothing")
    for _ in range(PATIENCE_SAMPLES):
        state = step(state, sample(300))
        assert state.limit == 32
    assert step(state, sample(300)).limit == 48


def test_halves_when_the_server_throttles_and_recovers_gently() -> None:
    state = step(State(limit=64), sample(throttled=1))
    assert (state.limit, state.reason) == (32, "the server throttles")
    for _ in range(PATIENCE_SAMPLES // 2):
        state = step(state, sample())
    assert state.limit == 32
    assert step(state, sample()).limit == 36


def test_halves_when_errors_rise_but_not_for_one() -> None:
    assert step(State(limit=64), sample(errors=10)).limit == 32
    assert step(State(limit=64), sample(requests=3, errors=1)).limit == 96


def test_stays_where_the_source_is_the_bottleneck() -> None:
    state = State(limit=32)
    assert step(state, sample(saturated=False)) == state


def test_idle_changes_nothing() -> None:
    state = State(limit=32)
    assert step(state, sample(requests=0)) == state


@given(
    st.lists(
        st.builds(
            Sample,
            seconds=st.floats(0.01, 10),
            requests=st.integers(0, 10_000),
            bytes=st.integers(0, 1 << 40),
            throttled=st.integers(0, 3),
            errors=st.integers(0, 100),
            saturated=st.booleans(),
        ),
        max_size=60,
    ),
    st.integers(1, 300),
)
def test_the_limit_never_leaves_its_bounds_and_moves_by_at_most_half(samples: list[Sample], limit_max: int) -> None:
    states = [State(limit=min(32, limit_max))]
    for seen in samples:
        states.append(step(states[-1], seen, limit_max))
    for before, after in pairwise(states):
        assert 1 <= after.limit <= limit_max
        assert after.limit >= before.limit // 2
        assert after.limit <= max(before.limit + max(1, before.limit // 2), before.limit_before)
