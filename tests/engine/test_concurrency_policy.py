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


@given(st.integers(1, 1024), st.integers(1, 1024), st.integers(1, 20))
def test_a_storm_ends_with_one_request_in_flight_and_not_below(start: int, limit_max: int, beats: int) -> None:
    state = State(limit=min(start, limit_max))
    for _ in range(beats):
        state = step(state, sample(throttled=1), limit_max)
    assert state.limit == max(1, min(start, limit_max) >> beats)
    assert state.gentle


@given(st.integers(1, 20), st.integers(1, 256), st.floats(0.001, 1.0))
def test_after_a_storm_the_limit_comes_back_where_the_server_keeps_up(
    beats: int, limit_max: int, latency_seconds: float
) -> None:
    """Throughput that rises with the limit, as where latency is what a request costs: back to the top, in steps."""
    state = State(limit=limit_max)
    for _ in range(beats):
        state = step(state, sample(throttled=1), limit_max)
    samples = 0
    while state.limit < limit_max:
        samples += 1
        before = state
        seen = Sample(1.0, max(1, round(1000 * state.limit / latency_seconds)), 0, 0, 0, saturated=True)
        state = step(state, seen, limit_max)
        assert state.limit >= before.limit
        assert samples <= PATIENCE_SAMPLES + 16 + 6 * limit_max.bit_length()


@given(st.integers(2, 100), st.integers(1, 128))
def test_a_server_that_takes_so_many_keeps_most_of_them(capacity: int, start: int) -> None:
    """It throttles whenever more are in flight: the limit swings around its capacity, and rarely goes too far."""
    state = State(limit=start)
    limits: list[int] = []
    for _ in range(400):
        over = max(0, state.limit - capacity)
        state = step(state, Sample(1.0, 1000 * min(state.limit, capacity), 0, over, 0, saturated=True))
        limits.append(state.limit)
    steady = limits[100:]
    assert max(steady) <= capacity + max(1, capacity // 8)
    assert min(steady) >= capacity // 2
    assert sum(limit > capacity for limit in steady) < len(steady) / 6
