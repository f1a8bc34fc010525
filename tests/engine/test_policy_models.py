"""The real policy against models of networks and servers (benchmarks/policy/models.py): what it reaches, and how soon.

The models' clock is their own, so every number here is the same on every machine.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from asyncsink.options.schema import Limits
from benchmarks.policy.models import MODELS, UNLIMITED, Course, at, constant, simulate

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
