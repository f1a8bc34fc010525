"""The kill runs and the soak: what they draw, what they count, how they judge; and a few real ones of each."""

from __future__ import annotations

import asyncio
import json
import tempfile
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.chaos import flatness, soak
from benchmarks.chaos.changing import ChangingTree, is_one_version, lines
from benchmarks.chaos.dask_kills import Outcome as DaskOutcome
from benchmarks.chaos.dask_kills import summarize as summarize_dask
from benchmarks.chaos.killing import Attempt, Outcome, kill_runs, summarize
from benchmarks.chaos.plans import Kill, Plan, draw
from benchmarks.chaos.tree import PART_BYTES, Found, make_tree
from benchmarks.chaos.weather import CYCLE_SECONDS, phase_at
from benchmarks.cli import app


def test_plans_come_from_the_seed_alone_and_reach_every_moment() -> None:
    plans = draw(7, 200)
    assert plans == draw(7, 200)
    assert plans != draw(8, 200)
    assert all(plan.kills for plan in plans)
    clocks = sorted(plan.kills[0].fraction for plan in plans if not plan.kills[0].operation)
    assert clocks[0] < 0.05
    assert clocks[-1] > 0.95
    assert max(after - before for before, after in pairwise(clocks)) < 0.1
    kills = [kill for plan in plans for kill in plan.kills if kill.operation]
    for operation in ("CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "PutObject"):
        assert {kill.phase for kill in kills if kill.operation == operation} >= {"request", "late", "answer"}
    assert {kill.how for plan in plans for kill in plan.kills} == {"KILL", "INT", "TERM"}


def outcome(again: int = 0, **found: int) -> Outcome:
    plan = Plan(number=0, concurrency=2, transport="auto", overwrite="journal", kills=(Kill(fraction=0.5),))
    attempts = [Attempt(None, 2, 2), Attempt(0, 2, 0)]
    return Outcome(plan, 1.0, attempts, Found(**found), again, "")


def test_one_part_for_each_connection_may_be_sent_again_and_nothing_may_be_wrong() -> None:
    assert outcome(2 * PART_BYTES).good
    assert not outcome(2 * PART_BYTES + 1).good
    for what in asdict(Found()):
        assert not outcome(**{what: 1}).good
    told = summarize([outcome(PART_BYTES, wrong=1), outcome(3 * PART_BYTES, wrong=2)], 20 * PART_BYTES)
    assert (told["good"], told["wrong"], told["kills"]) == (False, 3, 2)
    assert (told["beyond_one_part_per_connection"], told["bytes_again_of_tree"]) == (1, 0.1)


def test_the_tree_is_the_same_for_everybody(tmp_path: Path) -> None:
    files = make_tree(tmp_path / "a", 1)
    assert files == make_tree(tmp_path / "b", 1)
    assert {str(path.relative_to(tmp_path / "a")) for path in (tmp_path / "a").rglob("*.*")} == set(files)
    assert sum(len(content) >= 2 * PART_BYTES for content in files.values()) == 3


def test_what_grows_is_not_flat() -> None:
    seconds = [float(second) for second in range(300)]
    flat = flatness.trend(seconds, [50.0 + second % 7 * 10 for second in seconds], allowed=4)
    assert flat.flat
    assert abs(flat.slope_per_minute) < 1
    grows = flatness.trend(seconds, [50.0 + second % 7 * 10 + second / 20 for second in seconds], allowed=4)
    assert grows.flat is False
    assert grows.slope_per_minute == pytest.approx(3, rel=0.1)
    # What happens while it warms up is nobody's leak, nor is a burst at the end.
    assert flatness.trend(seconds, [min(second, 50.0) * 100 for second in seconds], allowed=4).flat
    assert flatness.trend(seconds, [9.0 if second < 250 else second for second in seconds], allowed=4).flat
    # A short series is not judged.
    assert flatness.trend(seconds[:100], seconds[:100], allowed=4).flat is None
    with pytest.raises(ValueError, match="too few"):
        flatness.trend([1.0, 2.0], [1.0, 2.0], allowed=1)


@pytest.mark.long
def test_killed_workers_of_dask_lose_nothing(tmp_path: Path) -> None:
    output = tmp_path / "dask-kill.json"
    done = CliRunner().invoke(app, ["dask-kill", "--runs", "1", "--seed", "3", "--output", str(output)])
    assert done.exit_code == 0, done.output
    told = json.loads(output.read_text())["summary"]
    assert (told["kills"], told["open_uploads"], told["more_than_once"]) == (2, 0, 0)
    assert told["in_an_upload"] >= 1
    good = DaskOutcome(0, bytes_again=3, bytes_allowed=3)
    assert summarize_dask([good])["good"]
    for wrong in ({"more_than_once": 1}, {"unrecorded": 1}, {"problem": "one"}, {"bytes_again": 4}):
        assert not summarize_dask([good, replace(good, **wrong)])["good"]


def test_every_weather_comes_within_a_cycle() -> None:
    assert {phase_at(second) for second in range(int(CYCLE_SECONDS))} == {"fair", "faults", "SlowDown"}
    assert phase_at(0) == phase_at(CYCLE_SECONDS) == "fair"


def test_a_mixture_of_versions_is_told_from_each_of_them() -> None:
    old, new = lines("a", 1, 3) * 3, lines("a", 2, 3) * 3
    assert is_one_version(old)
    assert not is_one_version(old[:64] + new[64:])
    assert not is_one_version(old[:-64])
    assert not is_one_version(b"")


def test_a_changing_tree_is_whole_when_it_comes_to_rest(tmp_path: Path) -> None:
    with ChangingTree(tmp_path / "tree", 1) as tree:
        while tree.changes < 20:
            pass  # changes are all that is waited for
        tree.stop()
        files = [path for path in (tmp_path / "tree").rglob("*") if path.is_file()]
        assert {str(path.relative_to(tmp_path / "tree")) for path in files} <= tree.names
        assert all(is_one_version(path.read_bytes()) for path in files)


def test_only_a_soak_is_drawn(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"kind": "kill"}))
    done = CliRunner().invoke(app, ["plot-soak", str(other)])
    assert done.exit_code == 2
    assert "is no soak" in " ".join(done.output.replace("│", "").split())


def names_no_place(result: dict[str, Any]) -> bool:
    return not any(place in json.dumps(result) for place in (tempfile.gettempdir(), str(Path.home()), str(Path.cwd())))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_runs_that_are_killed() -> None:
    told: list[str] = []
    result = kill_runs(200, 11, told.append, only=range(1, 13))
    assert result["summary"]["good"], told
    assert result["summary"]["kills"] >= 8
    assert names_no_place(result)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_short_soak() -> None:
    told: list[str] = []
    result = asyncio.run(soak.run_soak(1, 1, told.append))
    summary = result["summary"]
    bad = ("wrong", "missing", "mixed", "extra", "open_uploads", "unexpected_failures")
    assert {name: summary[name] for name in bad} == dict.fromkeys(bad, 0), told
    assert summary["requests"] > 500
    assert summary["credentials_ended"] > 0
    assert names_no_place(result)
