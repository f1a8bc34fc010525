"""Medians, ratios and the table, from measurements whose answer is known; the data sets; one whole small run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks import commands, contenders, launcher, running
from benchmarks.cli import app
from benchmarks.cohort import Member, load_cohort
from benchmarks.measuring import Measurement
from benchmarks.readme import BEGIN, END, PROFILE_BEGIN, PROFILE_END
from benchmarks.running import Order, rotated, run, save
from benchmarks.scenarios import SCENARIOS, Scenario, make_data_set
from benchmarks.summary import Spread, observed_checks, ratios_per_round, rows_of, spread
from benchmarks.table import number, render

SIZES = (7, 1, 3000, 20_000_000)
WRONG = f"""
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1], "d")
folder.mkdir()
for name, size in (("0", 0), ("2", 10), ("3", {SIZES[3]})):
    (folder / name).write_bytes(b"x" * size)
print(json.dumps({{"seconds": 1, "cpu_seconds": 1, "objects": 3}}))
"""


def measurement(contender: str, round_: int, wall: float, engine: float | None = None, **more: Any) -> dict[str, Any]:
    """A measurement of 100 files of 1000 bytes."""
    values = {"objects": 100, "bytes": 100_000, "cpu_seconds": wall / 2, "rss_bytes": 50_000_000, **more}
    made = Measurement(scenario="small", contender=contender, round=round_, place=1, wall_seconds=wall, **values)
    made.engine_seconds, made.engine_cpu_seconds = engine, engine and engine / 4
    return made.as_dict()


@pytest.fixture
def result() -> dict[str, Any]:
    """Three rounds of four contenders; one fails once, one is stopped half-way."""
    rounds = [(1, 1.0), (2, 2.0), (3, 1.2)]
    seen = {"puts": 100, "parts": 0, "cpu_seconds": 0.5, "checks": {"content-md5": 100}}
    return {
        "format": 1, "started": "2026-01-01T00:00:00+00:00", "command": "python -m benchmarks run", "complete": True,
        "quick": False, "server": {"kind": "null", "delay_ms": 20.0}, "concurrency": 32, "rounds": 3,
        "machine": {"cores": 2, "processor": "P", "memory_bytes": 2**34, "kernel": "Linux", "python": "CPython"},
        "versions": {"s5cmd": "v2"},
        "contenders": [
            {"name": name, "title": name.upper(), "checks": "this", "repeats": "", "own_clock": own}
            for name, own in (("asyncsink", False), ("asyncsink-api", True), ("s5cmd", False), ("boto3", True))
        ],
        "data_sets": [{"name": "small", "title": "Files", "repeat": False, "objects": 100, "bytes": 100_000}],
        "left_out": [{"scenario": "small", "contender": "rclone", "reason": "rclone is not installed"}],
        "measurements": [
            *(measurement("asyncsink", number, wall) for number, wall in rounds),
            *(measurement("asyncsink-api", number, wall, wall / 2) for number, wall in rounds),
            *(measurement("s5cmd", number, wall * 3, server=seen) for number, wall in rounds),
            measurement("boto3", 1, 10.0, 8.0),
            measurement("boto3", 2, 10.0, objects=50, status="stopped at the limit"),
            measurement("boto3", 3, 10.0, status="failed", message="no"),
        ],
    }  # fmt: skip


def of(numbers: Spread | None) -> tuple[float, float, float]:
    """The three numbers, for comparisons within rounding."""
    assert numbers is not None
    return numbers.median, numbers.low, numbers.high


def test_spread_is_median_and_range() -> None:
    assert spread([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert spread([]) is None


def test_ratios_pair_rounds_and_leave_out_those_that_one_lacks() -> None:
    assert ratios_per_round({1: 10.0, 2: 30.0, 3: 1.0}, {1: 5.0, 2: 10.0, 4: 1.0}) == Spread(2.5, 2.0, 3.0)
    assert ratios_per_round({1: 1.0}, {1: 0.0}) is None


def test_whole_processes_are_compared_with_the_command_line(result: dict[str, Any]) -> None:
    rows = {row.contender: row for row in rows_of(result, "small", "whole process")}
    assert list(rows) == ["asyncsink", "s5cmd", "boto3"]
    assert of(rows["asyncsink"].rate) == pytest.approx((100 / 1.2, 50.0, 100.0))
    assert of(rows["s5cmd"].speed_ratio) == pytest.approx((3, 3, 3))
    assert rows["s5cmd"].cpu_ratio is not None
    assert rows["s5cmd"].cpu_ratio.median == pytest.approx(1 / 3)
    assert of(rows["s5cmd"].server_busy) == pytest.approx((0.5 / 3.6, 0.5 / 6, 0.5 / 3))


def test_engines_are_compared_with_the_api_and_compiled_programs_keep_their_whole_process(
    result: dict[str, Any],
) -> None:
    rows = {row.contender: row for row in rows_of(result, "small", "engine")}
    assert list(rows) == ["asyncsink-api", "s5cmd", "boto3"]
    assert rows["asyncsink-api"].seconds == Spread(0.6, 0.5, 1.0)
    assert rows["s5cmd"].speed_ratio is not None
    assert rows["s5cmd"].speed_ratio.median == pytest.approx(6)


def test_failures_count_for_nothing_and_a_stopped_run_for_what_arrived(result: dict[str, Any]) -> None:
    row = next(row for row in rows_of(result, "small", "whole process") if row.contender == "boto3")
    assert row.rounds == 2
    assert row.rate == Spread(7.5, 5.0, 10.0)
    assert row.status == "failed, stopped at the limit"


def test_a_repeated_publication_that_was_stopped_counts_for_nothing(result: dict[str, Any]) -> None:
    result["data_sets"][0]["repeat"] = True
    row = next(row for row in rows_of(result, "small", "whole process") if row.contender == "boto3")
    assert (row.rounds, row.rate) == (1, Spread(10.0, 10.0, 10.0))


def test_large_objects_are_counted_in_bytes(result: dict[str, Any]) -> None:
    result["data_sets"][0] |= {"objects": 1, "bytes": 200_000_000}
    result["measurements"] = [measurement("asyncsink", 1, 2.0, objects=1) | {"bytes": 200_000_000}]
    (row,) = rows_of(result, "small", "whole process")
    assert (row.unit, row.rate) == ("MB/s", Spread(100.0, 100.0, 100.0))


def test_observed_checks_say_which_share_of_the_uploads_had_them() -> None:
    server = {"puts": 3, "parts": 1, "checks": {"content-md5": 4, "x-amz-checksum-crc32": 1}}
    assert observed_checks([{"server": server}]) == "content-md5 (all), x-amz-checksum-crc32 (25%)"
    assert observed_checks([{"server": {"puts": 1, "parts": 0, "checks": {}}}]) == "none"
    assert observed_checks([{"server": {}}]) == ""


def test_the_table_renders_every_contender_and_what_was_left_out(result: dict[str, Any]) -> None:
    text = render([result])
    assert "### Server: null, 20 ms of delay" in text
    assert "| **ASYNCSINK** | 83.3 (50.0 to 100)" in text
    assert "| BOTO3 (failed, stopped at the limit) | 7.50 (5.00 to 10.0)" in text
    assert "content-md5 (all)" in text
    assert "- small: rclone is left out; rclone is not installed." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_readme_gets_a_short_table_between_its_marks(result: dict[str, Any], tmp_path: Path) -> None:
    saved, readme = tmp_path / "result.json", tmp_path / "README.md"
    saved.write_text(json.dumps(result))
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    done = CliRunner().invoke(app, ["readme", str(saved), "--file", str(readme)])
    assert done.exit_code == 0, done.output
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    rows = {row.contender: row for row in rows_of(result, "small", "whole process")}
    assert rows["s5cmd"].speed_ratio is not None
    (line,) = [line for line in text.splitlines() if "whole process" in line]
    assert f"{rows['s5cmd'].speed_ratio.median:.2f} x" in line
    readme.write_text("no marks")
    assert CliRunner().invoke(app, ["readme", str(saved), "--file", str(readme)]).exit_code == 2


def test_the_table_of_a_repeated_publication_says_how_sameness_is_found(result: dict[str, Any]) -> None:
    result["data_sets"][0]["repeat"] = True
    result["contenders"][2]["repeats"] = "size and time"
    assert "| size and time |" in render([result])


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (100, "100"), (12.34, "12.3"), (0.123, "0.12")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_every_contender_takes_every_turn() -> None:
    assert [rotated(["a", "b", "c"], by) for by in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip
    assert rotated([], 2) == []


def test_the_cohort_has_the_published_shape() -> None:
    whole = load_cohort(scale=1)
    assert (len(whole), sum(member.size_bytes for member in whole)) == (8649, 55_471_976_287)
    scaled = load_cohort()
    assert [member.path for member in scaled] == [member.path for member in whole]
    assert len({member.path for member in whole}) == 8649
    assert [m.size_bytes == 0 for m in scaled] == [m.size_bytes == 0 for m in whole]
    assert 2_700_000_000 < sum(member.size_bytes for member in scaled) < 2_800_000_000
    assert len(load_cohort(every=8)) == 1082


def test_scenarios_have_the_promised_sizes() -> None:
    totals = {name: (len(m := s.members(False)), sum(x.size_bytes for x in m)) for name, s in SCENARIOS.items()}
    assert totals["small"] == (20_000, 20_000 * 16384)
    assert totals["tiny"] == (200_000, 200_000 * 512)
    assert totals["large"] == (8, 8 * 2**30)
    assert totals["cohort"] == totals["cohort-rerun"]
    assert totals["sink-small"] == totals["sink-small-rerun"] == (2_000, 2_000 * 16384)
    assert totals["sink-large"] == totals["sink-large-rerun"] == (1, 2**30)
    assert totals["grab-small"] == (20_000, 20_000 * 16384)
    assert totals["grab-large"] == (2, 2 * 2**30)


def test_data_sets_are_the_same_for_the_same_seed_and_no_two_files_are_alike(tmp_path: Path) -> None:
    scenario = Scenario(
        "few", "few", lambda quick: [Member(f"d/{n}", size) for n, size in enumerate((0, 1, 9, 3000, 3000))]
    )
    prints = []
    for seed in (0, 0, 1):
        data = make_data_set(scenario, tmp_path, seed=seed)
        content = [(data.directory / member.path).read_bytes() for member in data.members]
        assert [len(one) for one in content] == [member.size_bytes for member in data.members]
        prints.append([hashlib.sha256(one).hexdigest() for one in content])
    assert prints[0] == prints[1] != prints[2]
    assert prints[0][3] != prints[0][4]
    assert (data.objects, data.size_bytes, data.largest_bytes) == (5, 6010, 3000)


def test_linked_data_sets_have_one_file_with_many_names(tmp_path: Path) -> None:
    scenario = Scenario("linked", "linked", lambda quick: [Member("a", 100), Member("b", 100)], linked=True)
    data = make_data_set(scenario, tmp_path)
    assert (data.directory / "a").stat().st_ino == (data.directory / "b").stat().st_ino


def launch(tmp_path: Path, code: str, limit_seconds: float) -> dict[str, Any]:
    """Run a line of Python under the launcher."""
    order = {
        "command": [sys.executable, "-I", "-S", "-c", code], "environment": {}, "limit_seconds": limit_seconds,
        "output": str(tmp_path / "output"),
    }  # fmt: skip
    command = [sys.executable, "-I", "-S", launcher.__file__, json.dumps(order)]
    told: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout)
    return told


def test_the_launcher_measures_a_process_and_keeps_its_output(tmp_path: Path) -> None:
    told = launch(tmp_path, "x = b'x' * 64_000_000; print(len(x)); raise SystemExit(3)", 60)
    assert (told["exit_status"], told["stopped_at_limit"]) == (3, False)
    assert told["rss_bytes"] > 64_000_000
    assert told["wall_seconds"] > 0 < told["cpu_seconds"]
    assert (tmp_path / "output").read_text() == "64000000\n"


def test_the_launcher_does_not_charge_its_own_memory_to_the_contender(tmp_path: Path) -> None:
    ballast = bytes(200_000_000)
    assert launch(tmp_path, "pass", 60)["rss_bytes"] < 50_000_000
    assert len(ballast) == 200_000_000


def test_the_launcher_kills_at_the_limit(tmp_path: Path) -> None:
    told = launch(tmp_path, "import signal; signal.pause()", 0.5)
    assert (told["exit_status"], told["stopped_at_limit"]) == (-9, True)


@pytest.mark.parametrize("server", ["null", "seaweed"])
def test_a_whole_run_measures_verifies_and_can_be_read_back(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Scenario("few", "A few files", lambda quick: [Member(f"d/{n}.bin", 1000 * n + 1) for n in range(12)])
    again = Scenario("again", "The same again", few.members, repeat=True)
    monkeypatch.setattr(running, "SCENARIOS", {"few": few, "again": again})
    names = ["asyncsink", "asyncsink-api", "boto3"]
    lines: list[str] = []
    result = run(
        Order(scenarios=["few", "again"], contenders=names, server=server, rounds=1, limit_seconds=60), lines.append
    )
    problems = [one["message"] for one in result["measurements"] if one["status"] != "ok"]
    assert problems == [], lines
    expected = [("few", name) for name in names]
    if server == "seaweed":
        expected += [("again", name) for name in names[:2]]
    assert [(one["scenario"], one["contender"]) for one in result["measurements"]] == expected
    assert all(one["objects"] == 12 and one["bytes"] == 66_012 and one["verified"] for one in result["measurements"])
    assert result["command"].startswith(f"python -m benchmarks run --server {server} --rounds 1 --scenario few")
    assert str(tmp_path.parent.parent) not in json.dumps(result)
    path = save(result, tmp_path / "result.json")
    shown = CliRunner().invoke(app, ["table", str(path)])
    assert shown.exit_code == 0
    assert "asyncsink (command line)" in shown.output


@pytest.mark.parametrize("server", ["null", "seaweed"])
def test_grabs_are_measured_and_every_byte_is_compared(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever brings other bytes, or too few files, has failed; the others have not."""
    few = Scenario("few", "Few", lambda quick: [Member(f"d/{n}", size) for n, size in enumerate(SIZES)], grab=True)
    monkeypatch.setattr(running, "SCENARIOS", {"few": few})
    wrong = tmp_path / "wrong.py"
    wrong.write_text(WRONG)
    liar = dataclasses.replace(
        contenders.CONTENDERS["boto3"], name="liar", grabs=lambda work: [sys.executable, str(wrong), str(work.target)]
    )
    monkeypatch.setitem(contenders.CONTENDERS, "liar", liar)
    names = ["asyncsink", "asyncsink-api", "boto3", "aioboto3", "liar"]
    lines: list[str] = []
    result = run(Order(scenarios=["few"], contenders=names, server=server, rounds=1, limit_seconds=60), lines.append)
    *good, lied = result["measurements"]
    assert [(one["contender"], one["status"]) for one in good] == [(name, "ok") for name in names[:3]], lines
    assert {(one["objects"], one["bytes"], one["verified"]) for one in good} == {
        (len(SIZES), sum(SIZES), "names, sizes and content of all")
    }
    assert good[1]["notes"]["confirmed_by"] == {"server-checksum": len(SIZES)}
    assert lied["status"] == "failed"
    assert lied["message"].startswith("4 differences: ")
    for problem in ("d/1 is missing", "d/2 has 10 bytes, not 3000", "d/3 has other content"):
        assert problem in lied["message"]
    assert "server's checksum" in render([result])


def test_nipypes_datasink_and_ours_publish_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    few = dataclasses.replace(SCENARIOS["sink-small"], name="few", members=lambda quick: [Member("d/1", 9_000_000)])
    again = dataclasses.replace(SCENARIOS["sink-small-rerun"], name="again", members=few.members)
    monkeypatch.setattr(running, "SCENARIOS", {"few": few, "again": again})
    names = ["boto3", "datasink", "asyncsink-datasink"]
    lines: list[str] = []
    order = Order(scenarios=["few", "again"], contenders=names, server="seaweed", rounds=1, limit_seconds=60)
    result = run(order, lines.append)
    assert [(one["scenario"], one["contender"], one["status"]) for one in result["measurements"]] == [
        (scenario, name, "ok") for scenario in ("few", "again") for name in names[1:]
    ], lines
    rows = {row.contender: row for row in rows_of(result, "again", "engine")}
    assert rows["asyncsink-datasink"].reference
    assert rows["datasink"].speed_ratio is not None
    assert "speed: asyncsink-datasink ÷ it" in render([result])


def test_no_scenario_begins_after_the_time_is_over() -> None:
    order = Order(scenarios=["large"], contenders=["asyncsink"], server="null", minutes_max=-1)
    result = run(order, lambda text: None)
    assert (result["complete"], result["data_sets"], result["measurements"]) == (False, [], [])


def test_names_that_do_not_exist_are_told() -> None:
    for option, name in (("--scenario", "smal"), ("--contender", "s3cmd")):
        arguments = ["run", "--scenario", "small", option, name]
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 2
        assert "expected one of" in shown.output


def test_every_contender_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    for contender in contenders.CONTENDERS.values():
        assert contender.missing().endswith("is not installed")


def test_the_profile_measures_every_step_of_an_export(tmp_path: Path) -> None:
    saved = tmp_path / "profile.json"
    done = CliRunner().invoke(app, ["profile", "--quick", "--rounds", "1", "--output", str(saved)])
    assert done.exit_code == 0, done.output
    result = json.loads(saved.read_text())
    cost = {part["name"]: part["user_us"] + part["system_us"] for part in result["parts"]}
    assert all(cost.values())
    assert cost["export"] > cost["wire lane"] > cost["request"]
    assert result["objects"] == 2000
    assert f"| survey | {cost['survey']:.1f} |" in done.output
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n{PROFILE_BEGIN}\nold\n{PROFILE_END}\n")
    assert CliRunner().invoke(app, ["readme", str(saved), "--file", str(readme)]).exit_code == 0
    assert "| survey |" in readme.read_text()
    assert "old" not in readme.read_text()
    printed = CliRunner().invoke(app, ["table", str(saved)])
    assert (printed.exit_code, "| survey |" in printed.output) == (0, True)
