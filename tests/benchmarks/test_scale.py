"""The model of many machines: nothing is lost, every order deals every part once, and requests one by one agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from typer.testing import CliRunner

from asyncsink.options.schema import Limits
from asyncsink.options.settings import GIB, KIB, MIB
from benchmarks.cli import app
from benchmarks.lineup.cohort import load_cohort
from benchmarks.scale import contention as policy
from benchmarks.scale import dask_cost, sweep
from benchmarks.scale.balance import balance, cut, dealt, evenness, in_order
from benchmarks.scale.contention import contention
from benchmarks.scale.fluid import simulate
from benchmarks.scale.requests import simulate_requests
from benchmarks.scale.splitting import make_tree, splits
from benchmarks.scale.throttling import published
from benchmarks.scale.world import (
    Bucket,
    Dealer,
    Machines,
    Order,
    Parts,
    cohort_parts,
    cut_parts,
    requests_of,
    small_parts,
)

ORDERS: tuple[Order, ...] = get_args(Order)
NEVER = 1e9
"""Seconds until a split, where there is to be none."""
SLOW = Bucket(per_second=300.0, split_seconds=NEVER)
TOLERANCE, TOLERANCE_OF_RANGES = 0.25, 0.45
"""Of the time of a run, fluid against requests one by one. Static ranges end with the unluckiest machine."""


@pytest.fixture(autouse=True, scope="module")
def a_short_look_at_the_policy() -> Iterator[None]:
    """A sixth of the measurements, each a third as long: what a result needs takes 20 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "SHARED_BY", (1, 4, 16, 64, 256, 1024))
        patch.setattr(policy, "SECONDS", 30.0)
        patch.setattr(policy, "WARM_SECONDS", 10.0)
        policy.measured.cache_clear()
        yield
        policy.measured.cache_clear()


def parts_of(count: int, objects: float) -> Parts:
    each = np.full(count, objects)
    return Parts(each, each, each * 16 * KIB)


# -- Parts and orders --------------------------------------------------------------------------------------------------


def test_a_file_is_as_many_requests_as_the_part_plan_says() -> None:
    limits = Limits()
    assert requests_of(0, limits) == 1
    assert requests_of(limits.multipart_threshold_bytes - 1, limits) == 1
    assert requests_of(20 * MIB, limits) == 2 + 3


def test_parts_hold_everything_and_keep_the_limits() -> None:
    members = load_cohort(scale=1)
    parts = cut_parts(member.size_bytes for member in in_order(members))
    assert parts.objects.sum() == len(members)
    assert parts.bytes.sum() == sum(member.size_bytes for member in members)
    assert parts.objects.max() <= 10_000
    assert parts.bytes.max() <= 4 * GIB
    longer = parts.repeated_to(100_000)
    assert longer.objects.sum() == pytest.approx(100_000)
    assert longer.bytes[: len(parts.bytes)] == pytest.approx(parts.bytes)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_deals_each_part_once(order: Order) -> None:
    dealer, machines, got = Dealer(11, 3, order), np.arange(3), []
    while dealer.left:
        got += [number for number in dealer.deal(machines).tolist() if number >= 0]
    assert sorted(got) == list(range(11))
    assert (dealer.deal(machines) == -1).all()


def test_the_orders_begin_where_they_should() -> None:
    first = {order: Dealer(16, 4, order).deal(np.arange(4)).tolist() for order in ORDERS}
    assert first == {"walk": [0, 1, 2, 3], "ranges": [0, 4, 8, 12], "bit-reversed": [0, 8, 4, 12]}


# -- The policy on one partition ---------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_partition_that_is_shared_is_used_up_and_refuses_more_the_more_share_it() -> None:
    measured = contention(SLOW, Machines(latency_seconds=0.02), 1e6)
    assert (measured.served > 0.8).all()
    assert (measured.served <= 1.0).all()
    # At 1 in flight nobody can go slower, 50 requests a second here: refusals grow with the machines beyond six.
    assert measured.refused[measured.shared_by == 4] < 0.1
    assert all(fewer < more for fewer, more in pairwise(measured.refused[measured.shared_by >= 4]))
    assert measured.refused[-1] > 10


@pytest.mark.long
def test_who_is_not_throttled_refuses_nothing() -> None:
    course = simulate(Bucket(), Machines(count=3, objects_per_second=100.0, ramp_seconds=1.0), parts_of(30, 1000.0))
    assert course.refused == 0
    assert course.partitions == 1
    assert course.seconds == pytest.approx(30 * 1000 / 300, rel=0.02)


# -- The fluid model ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [*(pytest.param(each, marks=pytest.mark.long) for each in (1, 5)), 40])
def test_objects_done_are_objects_given(order: Order, count: int) -> None:
    for bucket in (SLOW, Bucket(per_second=300.0, split_seconds=20.0, cut="stored")):
        parts = cohort_parts(20_000)
        course = simulate(bucket, Machines(count=count, order=order, latency_seconds=0.02, ramp_seconds=5.0), parts)
        assert course.objects == pytest.approx(20_000)
        assert course.requests == pytest.approx(parts.requests.sum())
        rates = np.array(course.rates)
        assert float((rates * np.diff([0.0, *course.times])).sum()) == pytest.approx(20_000)


@pytest.mark.long
def test_longer_ticks_change_little() -> None:
    bucket, machines, parts = Bucket(split_seconds=300.0), Machines(count=16), small_parts(3e6)
    short, usual = simulate(bucket, machines, parts, tick_seconds=0.5), simulate(bucket, machines, parts)
    assert usual.ticks < short.ticks
    assert usual.seconds == pytest.approx(short.seconds, rel=0.1)


@pytest.mark.long
def test_lockstep_gains_nothing_from_splits_and_spread_parts_do() -> None:
    bucket, parts = Bucket(split_seconds=60.0), small_parts(5e6)
    seconds = {order: simulate(bucket, Machines(count=32, order=order), parts).seconds for order in ORDERS}
    alone = simulate(Bucket(split_seconds=NEVER), Machines(count=32), parts).seconds
    assert seconds["walk"] > 0.5 * alone
    assert seconds["bit-reversed"] < 0.5 * seconds["walk"]
    assert seconds["ranges"] < 0.5 * seconds["walk"]


# -- Checked request by request ----------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("order", ORDERS)
def test_requests_one_by_one_agree(order: Order) -> None:
    bucket, parts = Bucket(split_seconds=20.0), parts_of(60, 2500.0)
    machines = Machines(count=8, order=order)
    fluid, single = simulate(bucket, machines, parts), simulate_requests(bucket, machines, parts)
    assert single.objects == 150_000
    assert fluid.objects == pytest.approx(150_000)
    tolerance = TOLERANCE_OF_RANGES if order == "ranges" else TOLERANCE
    assert fluid.seconds == pytest.approx(single.seconds, rel=tolerance)
    assert fluid.refused == pytest.approx(single.refused, rel=0.6)


def test_the_model_goes_the_same_way_each_time() -> None:
    machines, parts = Machines(count=3, latency_seconds=0.02), parts_of(6, 500.0)
    rows = [simulate_requests(SLOW, machines, parts, seed=4).row for _ in range(2)]
    assert rows[0] == rows[1]
    assert rows[0] != simulate_requests(SLOW, machines, parts, seed=5).row


def test_the_real_engine_reaches_what_the_proxy_lets_through() -> None:
    seen = published(2, 1200, Bucket(per_second=200.0, split_seconds=NEVER))
    assert seen.accepted == 1200
    assert seen.refused > 0
    # What was saved up at the start, and then the rate: it cannot be faster.
    assert seen.seconds >= (1200 - 200 * 0.5) / 200 - 0.1


# -- Balance, split, command -------------------------------------------------------------------------------------------


def test_parts_are_dealt_to_whoever_is_free() -> None:
    # The fourth goes to the machine of the short second part.
    assert dealt([(10**10, 1), (10**9, 1), (5 * 10**9, 1), (10**9, 1)], 2) == [10**10, 7 * 10**9]
    assert evenness([3, 1]) == 1.5


@pytest.mark.long
def test_sixteen_parts_for_each_machine_are_even() -> None:
    rows = {(row["machines"], row["way"]): row for row in balance()}
    for machines in (4, 7):
        assert rows[machines, f"--parts {16 * machines}"]["largest_by_mean"] <= 1.05
        assert rows[machines, "--part-bytes 256MiB --part-objects 1000"]["largest_by_mean"] <= 1.05
        assert rows[machines, "--shard, median of 50 prefixes"]["largest_by_mean"] > 1.05


def test_no_part_is_lost_when_a_cohort_is_cut() -> None:
    from asyncsink.splitting.cutting import IntoParts

    members = in_order(load_cohort(scale=1))
    total = sum(member.size_bytes for member in members)
    parts = cut(members, IntoParts(28, objects_total=len(members), bytes_total=total))
    assert len(parts) == 28
    assert [sum(each) for each in zip(*parts, strict=True)] == [total, len(members)]
    assert sum(dealt(parts, 7)) == total


def test_a_split_is_measured_from_outside(tmp_path: Path) -> None:
    make_tree(tmp_path, 1100)
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1100
    (row,) = splits((1100,))
    assert row["files"] == 1100
    assert row["parts"] == 1
    assert row["peak_rss_bytes"] > 10 * MIB
    assert row["directory_bytes"] > 1100 * 200


@pytest.mark.long
def test_the_check_keeps_its_rows_beside_those_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "CHECKED_COUNTS", (2,))
    monkeypatch.setattr(sweep, "SEEDS", (1,))
    output = tmp_path / "scale.json"
    output.write_text('{"kind": "scale", "split": [1]}')
    done = CliRunner().invoke(app, ["scale", "check", "--quick", "--output", str(output)])
    assert done.exit_code == 0, done.output
    kept = json.loads(output.read_text())
    assert kept["split"] == [1]
    assert {row["order"] for row in kept["check"]} == set(ORDERS)
    refused = CliRunner().invoke(app, ["scale", "check", "--quick"])
    assert refused.exit_code == 2
    assert "no result" in refused.output


def test_the_committed_result_is_whole_and_was_fast() -> None:
    result = json.loads(Path("benchmarks/results/scale/scale.json").read_text())
    assert {"model", "balance", "check", "starts", "throttled", "split"} <= set(result)
    taken = result["model"]["cpu_seconds"]
    assert max(taken["small"]["longest"], taken["cohort"]["longest"]) < 1.0
    assert taken["many"]["together"] < 300


@pytest.mark.long
def test_the_cost_of_dask_is_measured_over_all_its_processes() -> None:
    told: list[str] = []
    result = dask_cost.measure_dask_cost(files=300, rounds=1, tell=told.append)
    alone, through = result["ways"].values()
    assert alone["cpu_us"] > 0
    assert through["cpu_us"] > 0
    assert [len(way["rounds"]) for way in result["ways"].values()] == [1, 1]
    assert len(told) == 2
    table = dask_cost.render_dask_cost(result)
    assert table.splitlines()[2].startswith(f"ratio: {through['cpu_us'] / alone['cpu_us']:.2f} of the CPU")
