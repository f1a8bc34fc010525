"""The concurrency policy is pure: samples in, limits out."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from functools import cache
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from asyncsink.engine.limits.concurrency import (
    GENTLE_SECONDS,
    PATIENCE_SECONDS,
    RECOVER_SECONDS,
    Sample,
    State,
    next_state,
)
from asyncsink.options.schema import Limits
from benchmarks.policy.models import MODELS, UNLIMITED, Course, at, constant, simulate

BEAT_SECONDS = 0.025


def beat(requests: int = 100, **other: Any) -> Sample:
    given = {"seconds": BEAT_SECONDS, "bytes": 0, "throttled": 0, "errors": 0, "saturated": True, **other}
    return Sample(requests=requests, **given)


def step(state: State, seen: Sample, limit_max: int = 1024) -> State:
    return next_state(state, seen, limit_min=1, limit_max=limit_max)


def go_on(state: State, seconds: float, requests_per_second: float, limit_max: int = 1024) -> list[int]:
    """The limits over so many seconds at a throughput that does not depend on them."""
    limits = []
    for _ in range(round(seconds / BEAT_SECONDS)):
        state = step(state, beat(round(requests_per_second * BEAT_SECONDS)), limit_max)
        limits.append(state.limit)
    return limits


def climbed(limit: int, requests_per_second: float) -> State:
    """After the first measurement, which is followed by a step up in any case."""
    state = State(limit=limit)
    while state.limit == limit:
        state = step(state, beat(round(requests_per_second * BEAT_SECONDS)))
    return state


def test_the_limit_doubles_while_throughput_doubles() -> None:
    state, limits = State(limit=64), [64]
    for _ in range(40):
        # A server that is 50 ms away: two beats for a round trip.
        state = step(state, beat(state.limit // 2))
        if state.limit != limits[-1]:
            limits.append(state.limit)
    assert limits == [64, 128, 256, 512, 1024]


def test_doubling_that_brings_nothing_is_taken_back_and_not_tried_for_a_while() -> None:
    assert climbed(64, 4000).limit == 128
    limits = go_on(climbed(64, 4000), PATIENCE_SECONDS, 4000)
    assert limits[0] == 128
    first = limits.index(64)
    assert first < 10
    assert set(limits[first:]) == {64}


def test_tries_become_rare_where_they_bring_nothing() -> None:
    limits = go_on(climbed(64, 4000), 300, 4000)
    tries = sum(after != before == 64 for before, after in pairwise(limits))
    assert 5 <= tries <= 9
    assert sum(limit == 64 for limit in limits) > 0.95 * len(limits)
    assert {80, 52} <= set(limits), "a step up as well as a step down was tried"


def test_a_throttling_server_halves_the_limit_which_then_grows_by_small_steps() -> None:
    state = step(State(limit=64), beat(throttled=1))
    assert (state.limit, state.reason) == (32, "the server throttles")
    limits = [32]
    for _ in range(round(10 / BEAT_SECONDS)):
        state = step(state, beat(state.limit))
        limits.append(state.limit)
    assert 40 < limits[-1] < 120
    assert all(after - before <= max(1, before // 8) for before, after in pairwise(limits))


def test_what_was_sent_before_a_halving_does_not_halve_again() -> None:
    state = climbed(64, 640)  # a round trip takes 0.1 s
    state = step(state, beat(throttled=40))
    assert state.limit == 64
    for _ in range(5):
        state = step(state, beat(throttled=20))
    assert state.limit == 64
    state = step(step(state, beat(throttled=20)), beat(throttled=20))
    assert state.limit == 32


@pytest.mark.parametrize(("errors", "after"), [(1, 64), (3, 64), (4, 32), (64, 32)])
def test_errors_halve_where_they_are_a_share_of_what_is_in_flight(errors: int, after: int) -> None:
    state = State(limit=64)
    for number in range(4):
        # One after another, as they are seen at a beat that is much shorter than a round trip.
        state = step(state, beat(1, errors=errors // 4 + (number < errors % 4)))
    assert state.limit == after


def test_one_error_alone_is_never_too_many() -> None:
    assert step(State(limit=1), beat(1, errors=1)).limit == 1
    assert step(step(State(limit=8), beat(1, errors=1)), beat(1, errors=1)).limit == 4


def test_the_limit_stays_where_the_source_is_what_holds_the_run_back() -> None:
    state = State(limit=64)
    for _ in range(4000):
        state = step(state, beat(saturated=False))
    assert state.limit == 64


def test_a_pause_is_no_measure() -> None:
    """A limit that is being tried is not given up because a service had nothing to publish for a while."""
    state = climbed(64, 1000)
    for _ in range(400):
        state = step(state, beat(0, saturated=False, idle=True))
    limits = []
    for _ in range(40):
        state = step(state, beat(state.limit // 2))
        limits.append(state.limit)
    assert limits[0] == 128
    assert limits[-1] == 1024


def test_a_bound_that_held_the_limit_and_is_raised_lets_it_double_again() -> None:
    """A run gets descriptors back when another one ends: it does not wait for the next try, which may be a minute
    away."""
    state = State(limit=2)
    for _ in range(200):
        state = step(state, beat(1, seconds=0.05), limit_max=2)
    assert (state.limit, state.phase) == (2, "steady")
    limits = []
    for _ in range(40):
        state = step(state, beat(state.limit, seconds=0.05), limit_max=64)
        limits.append(state.limit)
    assert max(limits) == 64
    # A limit that the network set stays.
    state = replace(climbed(8, 100), limit=8, phase="steady", trying_from=0, rest_seconds=60.0)
    state = step(step(state, beat(5), limit_max=64), beat(5), limit_max=1024)
    assert (state.limit, state.phase) == (8, "steady")


def test_a_bound_that_is_lowered_lowers_the_limit() -> None:
    state = step(climbed(64, 1000), beat(), limit_max=20)
    assert (state.limit, state.reason) == (20, "no more is allowed")


SAMPLES = st.lists(
    st.builds(
        Sample,
        seconds=st.floats(0, 10) | st.just(BEAT_SECONDS),
        requests=st.integers(0, 10_000),
        bytes=st.integers(0, 1 << 40),
        throttled=st.sampled_from([0, 0, 0, 0, 1, 100]),
        errors=st.sampled_from([0, 0, 0, 1, 100]),
        saturated=st.booleans() | st.just(True),
        idle=st.sampled_from([False, False, False, True]),
    ),
    max_size=120,
)


@given(SAMPLES, st.integers(1, 2000), st.integers(1, 2000))
def test_any_sequence_of_samples_keeps_the_bounds(samples: list[Sample], limit_max: int, start: int) -> None:
    """Within the bounds, never more than doubled, never less than halved but back to where a step began; finite."""
    state = State(limit=min(start, limit_max))
    for seen in samples:
        before = state
        state = step(before, seen, limit_max)
        assert state == step(before, seen, limit_max), "pure"
        assert 1 <= state.limit <= limit_max
        assert state.limit <= max(2 * before.limit, before.trying_from)
        assert state.limit >= before.limit // 2
        assert all(math.isfinite(value) and value >= 0 for value in astuple(state) if isinstance(value, int | float))
        assert state.trying_from <= limit_max


@given(SAMPLES, st.integers(1, 2000))
def test_throttling_halves_once_in_the_seconds_after_a_halving(samples: list[Sample], limit_max: int) -> None:
    state = State(limit=limit_max)
    since = math.inf
    for seen in samples:
        before = state
        state = step(before, seen, limit_max)
        since += seen.seconds
        halved = state.limit < before.limit and state.reason in ("the server throttles", "errors rise")
        if halved:
            assert state.limit == max(1, before.limit // 2)
            assert since >= RECOVER_SECONDS * (1 - 1e-9)
            since = 0.0
        elif seen.throttled and not before.recover_seconds:
            assert before.limit == 1
            since = 0.0
        if seen.throttled:
            assert state.limit <= before.limit
            assert state.gentle_seconds == GENTLE_SECONDS


@given(st.integers(1, 1024), st.floats(0.5, 20.0))
def test_a_storm_ends_with_one_request_in_flight_and_not_below(start: int, seconds: float) -> None:
    state = State(limit=start)
    for _ in range(round(seconds / BEAT_SECONDS)):
        state = step(state, beat(throttled=50))
    assert state.limit >= max(1, start >> math.ceil(seconds / RECOVER_SECONDS))
    assert state.limit <= max(1, start >> math.floor(seconds / (RECOVER_SECONDS + 2 * BEAT_SECONDS)))


@settings(max_examples=25)
@given(st.integers(1, 1024), st.integers(1, 1024), st.floats(0.001, 0.5))
def test_after_a_storm_the_limit_comes_back_where_the_server_keeps_up(
    start: int, limit_max: int, latency_seconds: float
) -> None:
    """Throughput that rises with the limit, as where latency is what a request costs: back to the top, though one step
    or another is taken back where few requests fall into a measurement."""
    state = State(limit=min(start, limit_max))
    for _ in range(100):
        state = step(state, beat(throttled=5), limit_max)
    seconds, owed = 0.0, 0.0
    while state.limit < limit_max:
        owed += BEAT_SECONDS * state.limit / latency_seconds
        state = step(state, beat(int(owed)), limit_max)
        owed -= int(owed)
        seconds += BEAT_SECONDS
        assert seconds < 180


# -- The real policy against models of networks and servers (benchmarks/policy/models.py) ------------------------------


# The models' clock is their own, so every number here is the same on every machine.


BY_NAME = {model.name: model for model in MODELS}
MOST = Limits().concurrency_max


def course(name: str, seed: int = 1) -> Course:
    return simulated(name, seed)


@cache
def simulated(name: str, seed: int) -> Course:
    """Once, whichever test asks first: a model takes seconds."""
    return simulate(BY_NAME[name], seed=seed)


def share(name: str, begin: float = 0.5, seed: int = 1) -> float:
    """Of what is possible: the throughput from that share of the run to its end."""
    run = course(name, seed)
    seconds = run.model.seconds
    return run.rate(begin * seconds, seconds) / run.model.possible_per_second(seconds, MOST)


LONG = ("partition-split", "throttled-minute")
CROWDED = "crowded-server"
"""What is possible there takes three requests in flight: it has a test of its own."""
STEADY = [
    pytest.param(each.name, seed, marks=pytest.mark.long if seed > 1 else ())
    for each in MODELS
    for seed in (1, 2)
    if each.name != CROWDED and not (seed > 1 and each.name in LONG)
]


@pytest.mark.parametrize(("name", "seed"), STEADY)
def test_what_is_possible_is_reached(name: str, seed: int) -> None:
    assert share(name, 0.7, seed) >= 0.93


@pytest.mark.parametrize("name", [model.name for model in MODELS if not model.throttle_per_second])
def test_the_limit_settles_between_what_is_needed_and_a_little_more(name: str) -> None:
    """At most what doubling finds, and one step that is being tried; at least what brings nine tenths of everything."""
    run = course(name)
    seconds = run.model.seconds
    needed = run.model.needed_in_flight(seconds, MOST)
    limits = run.limits(0.75 * seconds, seconds)
    assert min(limits) >= min(0.75 * needed, MOST)
    start = max(Limits().concurrency_start, max(run.limits(0.0, 10.0)) if name == "latency-falls" else 0)
    assert max(limits) <= min(MOST, max(2.5 * start, 2.5 * needed))


@pytest.mark.parametrize(
    ("name", "seconds"), [("latency-50ms", 0.5), ("latency-100ms", 0.9), ("latency-300ms", 9 * 0.3)]
)
def test_1024_in_flight_are_reached_within_nine_round_trips(name: str, seconds: float) -> None:
    assert course(name).seconds_to_limit(1024) <= seconds


@pytest.mark.parametrize("milliseconds", [0.2, 1, 5, 20, 50, 100, 300])
def test_nine_tenths_of_what_is_possible_are_reached_within_nine_round_trips(milliseconds: float) -> None:
    """Or two beats, where a round trip is shorter than they are."""
    run = course(f"latency-{milliseconds:g}ms")
    assert run.seconds_to(0.9) <= max(0.05, 9 * milliseconds / 1000)


@pytest.mark.parametrize(
    "name", ["latency-0.2ms", "latency-5ms", "latency-50ms", "bandwidth", "bandwidth-small", "queueing-server"]
)
def test_a_steady_network_sees_few_tries(name: str) -> None:
    """No oscillation: the tries of a direction come after 4 s, 8 s, 16 s…, and each turns the limit twice."""
    run = course(name)
    assert run.key_turns(0.0, run.model.seconds) <= 6


def test_a_server_of_200_a_second_says_slow_down_a_few_hundred_times_at_the_start_and_seldom_then() -> None:
    """The bound: fewer than 500 in the first two seconds, though the source would send without end, and the 64 of the
    start alone are 3,200 a second; then at most one in 50 requests. It is never hit with more than 128 at once."""
    run = course("slow-down-200")
    assert run.throttled(0.0, 2.0) < 500
    assert run.throttled(2.0, 60.0) < run.rate(2.0, 60.0) * 58 / 50
    assert max(run.limits(0.0, 60.0)) <= 128
    assert max(run.limits(2.0, 60.0)) <= 3 * run.model.needed_in_flight(60.0, MOST)
    assert run.rate(2.0, 60.0) >= 0.9 * 200


def test_a_distant_server_of_200_a_second_is_hit_with_no_more() -> None:
    """100 ms away, SlowDowns come late."""
    run = simulate(replace(BY_NAME["slow-down-200"], latency_seconds=constant(0.1), seconds=30.0))
    assert run.throttled(0.0, 3.0) < 500
    assert max(run.limits(0.0, 30.0)) <= 256
    assert run.rate(5.0, 30.0) >= 0.85 * 200


def test_a_prefix_of_s3_is_used_up_to_its_limit() -> None:
    """3,500 a second, and an allowance for bursts that lets the limit grow to 1,024 before the first SlowDown."""
    run = course("slow-down-3500")
    assert run.throttled(0.0, 2.0) < 4500
    assert run.throttled(2.0, 40.0) < 0.01 * run.rate(2.0, 40.0) * 38
    assert run.rate(2.0, 40.0) >= 0.9 * 3500


def test_a_partition_that_is_split_is_found() -> None:
    run = course("partition-split")
    assert run.rate(20.0, 60.0) >= 0.9 * 3500
    assert run.rate(75.0, 120.0) >= 0.9 * 7000


def test_the_way_back_after_a_throttled_minute() -> None:
    """One small step a second at first: from one in flight to 120 in about half a minute."""
    run = course("throttled-minute")
    assert run.rate(5.0, 10.0) >= 0.95 * 4000
    assert max(run.limits(15.0, 70.0)) <= 8
    assert run.throttled(12.0, 70.0) < 58 * (1 / 0.03 - 20) * 1.1, "one at a time is what is left: 33 a second"
    assert run.seconds_to(0.5, 70.0) <= 35
    assert run.seconds_to(0.9, 70.0) <= 40


def test_a_crowded_server_gets_fewer_at_a_time_than_at_the_start() -> None:
    run = course("crowded-server")
    seconds = run.model.seconds
    assert max(run.limits(0.75 * seconds, seconds)) < 64
    assert run.rate(0.75 * seconds, seconds) >= 1.15 * run.rate(1.0, 4.0)


def test_a_server_that_moves_away_gets_more_within_some_round_trips() -> None:
    run = course("latency-rises")
    assert max(run.limits(5.0, 10.0)) <= 256
    assert run.seconds_to(0.9, 10.0) <= 16 * 0.08
    assert run.rate(20.0, 30.0) >= 0.95 * run.model.possible_per_second(30.0, MOST)


def test_a_server_that_comes_nearer_stays_as_fast_as_it_can() -> None:
    run = course("latency-falls")
    assert run.rate(11.0, 30.0) >= 0.98 * run.model.possible_per_second(30.0, MOST)


def test_a_slow_source_changes_nothing_until_it_yields_more() -> None:
    run = course("slow-source")
    assert set(run.limits(0.0, 20.0)) == {64}
    assert run.rate(1.0, 20.0) >= 0.98 * 500
    assert run.seconds_to(0.9, 20.05) <= 12 * 0.05


def test_the_models_themselves() -> None:
    """Without a bound in the way, Little's law: the limit divided by the latency."""
    model = replace(BY_NAME["latency-100ms"], served_per_second=constant(UNLIMITED))
    run = simulate(model, limits=Limits(concurrency_start=10, concurrency_max=10))
    assert run.rate(1.0, 6.0) == pytest.approx(100, rel=0.03)
    throttled = simulate(
        replace(model, throttle_per_second=constant(50)), limits=Limits(concurrency_start=1, concurrency_max=1)
    )
    assert throttled.throttled(0.0, 6.0) == 0
    assert at(((0.0, 1.0), (5.0, 2.0)), 5.0) == 2.0
