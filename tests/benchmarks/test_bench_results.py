"""Medians, ratios, tables, bounds and pictures, from measurements whose answer is known."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import GUIDE, app
from benchmarks.measuring.measuring import Measurement
from benchmarks.showing.plot import plot
from benchmarks.showing.readme import BEGIN, END, PROFILE_BEGIN, PROFILE_END, short_table
from benchmarks.showing.saving import load, save
from benchmarks.showing.summary import Spread, observed_checks, ratios_per_round, rows_of, spread
from benchmarks.showing.table import number, render
from benchmarks.showing.targets import LINES, Target, render_targets

ROUNDS = [(1, 1.0), (2, 2.0), (3, 1.2)]
BUILD = {"version": "CPython 3.11.7", "pgo": "no", "million_calls_ms": 90.0}


def measurement(contender: str, round_: int, wall: float, engine: float | None = None, **more: Any) -> dict[str, Any]:
    """A measurement of 100 files of 1000 bytes."""
    values = {"objects": 100, "bytes": 100_000, "cpu_seconds": wall / 2, "rss_bytes": 50_000_000, **more}
    made = Measurement(contender=contender, round=round_, place=1, wall_seconds=wall, **values)
    made.engine_seconds, made.engine_cpu_seconds = engine, engine and engine / 4
    return made.as_dict()


@pytest.fixture
def result() -> dict[str, Any]:
    """Three rounds of four contenders; one fails once, one is stopped half-way."""
    seen = {"puts": 100, "parts": 0, "cpu_seconds": 0.5, "checks": {"content-md5": 100}}
    return {
        "format": 2, "started": "2026-01-01T00:00:00+00:00", "command": "python -m benchmarks run", "complete": True,
        "quick": False, "server": "null", "rounds": 3,
        "scenario": {
            "name": "small", "title": "Files", "repeat": False, "grab": False, "reference": "", "objects": 100,
            "bytes": 100_000, "at_once": 32, "delay_ms": 20.0, "bytes_per_second": 90e6,
        },
        "machine": {"cores": 2, "processor": "P", "memory_bytes": 2**34, "kernel": "Linux"},
        "versions": {"s5cmd": "v2"},
        "pythons": {"": BUILD},
        "contenders": [
            {"name": name, "title": name.upper(), "checks": "this", "proves": "", "repeats": "", "python": "",
             "every_python": every}
            for name, every in (("asyncsink", True), ("asyncsink-api", True), ("s5cmd", False), ("boto3", False))
        ],
        "left_out": [{"contender": "rclone", "reason": "rclone is not installed"}],
        "measurements": [
            *(measurement("asyncsink", number, wall) for number, wall in ROUNDS),
            *(measurement("asyncsink-api", number, wall, wall / 2) for number, wall in ROUNDS),
            *(measurement("s5cmd", number, wall * 3, server=seen) for number, wall in ROUNDS),
            measurement("boto3", 1, 10.0, 8.0),
            measurement("boto3", 2, 10.0, objects=50, status="stopped at the limit"),
            measurement("boto3", 3, 10.0, status="failed", message="no"),
        ],
    }  # fmt: skip


@pytest.fixture
def of_two_pythons(result: dict[str, Any]) -> dict[str, Any]:
    """The same with obstore, and asyncsink and obstore under a second Python, twice as fast."""
    contenders, tag = result["contenders"], "3.11.2"
    contenders.append({**contenders[0], "name": "obstore-unsigned"})
    result["measurements"] += [measurement("obstore-unsigned", number, wall * 2) for number, wall in ROUNDS]
    for name, factor in (("asyncsink", 0.5), ("asyncsink-api", 0.5), ("obstore-unsigned", 2)):
        contenders.append({**contenders[0], "name": f"{name}@{tag}", "python": tag})
        result["measurements"] += [measurement(f"{name}@{tag}", number, wall * factor) for number, wall in ROUNDS]
    result["pythons"][tag] = {**BUILD, "version": "CPython 3.11.2", "pgo": "yes"}
    return result


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
    rows = {row.contender: row for row in rows_of(result, "whole process")}
    assert list(rows) == ["asyncsink", "s5cmd", "boto3"]
    assert of(rows["asyncsink"].rate) == pytest.approx((100 / 1.2, 50.0, 100.0))
    assert of(rows["s5cmd"].speed_ratio) == pytest.approx((3, 3, 3))
    assert rows["s5cmd"].cpu_ratio is not None
    assert rows["s5cmd"].cpu_ratio.median == pytest.approx(1 / 3)
    assert of(rows["s5cmd"].server_busy) == pytest.approx((0.5 / 3.6, 0.5 / 6, 0.5 / 3))


def test_engines_are_compared_with_the_api_and_compiled_programs_keep_their_whole_process(
    result: dict[str, Any],
) -> None:
    rows = {row.contender: row for row in rows_of(result, "engine")}
    assert list(rows) == ["asyncsink-api", "s5cmd", "boto3"]
    assert rows["asyncsink-api"].seconds == Spread(0.6, 0.5, 1.0)
    assert rows["s5cmd"].speed_ratio is not None
    assert rows["s5cmd"].speed_ratio.median == pytest.approx(6)


def test_failures_count_for_nothing_and_a_stopped_run_for_what_arrived(result: dict[str, Any]) -> None:
    row = next(row for row in rows_of(result, "whole process") if row.contender == "boto3")
    assert row.rounds == 2
    assert row.rate == Spread(7.5, 5.0, 10.0)
    assert row.status == "failed, stopped at the limit"


def test_a_repeated_publication_that_was_stopped_counts_for_nothing(result: dict[str, Any]) -> None:
    result["scenario"]["repeat"] = True
    row = next(row for row in rows_of(result, "whole process") if row.contender == "boto3")
    assert (row.rounds, row.rate) == (1, Spread(10.0, 10.0, 10.0))


def test_large_objects_are_counted_in_bytes(result: dict[str, Any]) -> None:
    result["scenario"] |= {"objects": 1, "bytes": 200_000_000}
    result["measurements"] = [measurement("asyncsink", 1, 2.0, objects=1) | {"bytes": 200_000_000}]
    (row,) = rows_of(result, "whole process")
    assert (row.unit, row.rate) == ("MB/s", Spread(100.0, 100.0, 100.0))


def test_observed_checks_say_which_share_of_the_uploads_had_them() -> None:
    server = {"puts": 3, "parts": 1, "checks": {"content-md5": 4, "x-amz-checksum-crc32": 1}}
    assert observed_checks([{"server": server}]) == "content-md5 (all), x-amz-checksum-crc32 (25%)"
    assert observed_checks([{"server": {"puts": 1, "parts": 0, "checks": {}}}]) == "none"
    assert observed_checks([{"server": {}}]) == ""


def test_the_table_renders_every_contender_and_what_was_left_out(result: dict[str, Any]) -> None:
    text = render([result])
    assert "### Files, server: null, 20 ms of delay, 90 MB/s per connection" in text
    assert "| **ASYNCSINK** | 83.3 (50.0 to 100)" in text
    assert "| BOTO3 (failed, stopped at the limit) | 7.50 (5.00 to 10.0)" in text
    assert "content-md5 (all)" in text
    assert "- rclone is left out: rclone is not installed." in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1


def test_the_guide_gets_a_table_and_the_readme_a_brief_one_between_their_marks(
    of_two_pythons: dict[str, Any], tmp_path: Path
) -> None:
    over_tls = {**copy.deepcopy(of_two_pythons), "server": "null-tls"}
    over_tls["contenders"].append({**over_tls["contenders"][2], "name": "rclone"})
    over_tls["measurements"] += [measurement("rclone", number, wall * 4) for number, wall in ROUNDS]
    without_obstore = copy.deepcopy(of_two_pythons)
    without_obstore["measurements"] = [m for m in over_tls["measurements"] if "obstore" not in m["contender"]]
    saved = [tmp_path / f"{number}.json" for number in range(3)]
    for path, each in zip(saved, (of_two_pythons, over_tls, without_obstore), strict=True):
        path.write_text(json.dumps(each))
    pages = {"--guide": tmp_path / "speed.md", "--readme": tmp_path / "README.md"}
    for page in pages.values():
        page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    words = ["readme", *map(str, saved), *(str(word) for pair in pages.items() for word in pair)]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    texts = {option: page.read_text() for option, page in pages.items()}
    for text in texts.values():
        assert text.startswith("before\n")
        assert text.endswith("after\n")
        assert "old" not in text
    what = "20 ms of delay, 90 MB/s per connection, engine"
    assert f"| Files, null, {what} | 167 objects/s | 4.00 x | 6.00 x |  |" in texts["--guide"]
    assert f"| Files, null, {what}, CPython 3.11.2 | 167 objects/s | 4.00 x |" in texts["--guide"]
    assert f"| Files, null-tls, {what} | 167 objects/s | 4.00 x | 6.00 x | 8.00 x |" in texts["--guide"]
    assert f"| Files, null, {what} | 167 objects/s |  | 6.00 x |  |" in texts["--guide"]
    assert [line for line in texts["--readme"].splitlines() if line.startswith("| Files")] == [
        "| Files | 167 objects/s | 4.00 x | 6.00 x |  |",
        "| Files, over TLS | 167 objects/s | 4.00 x | 6.00 x | 8.00 x |",
    ]
    for page in pages.values():
        kept = page.read_text()
        page.write_text("no marks")
        assert CliRunner().invoke(app, words).exit_code == 2
        page.write_text(kept)


def test_the_marks_are_in_the_pages_that_have_the_tables() -> None:
    root = Path(__file__).parents[2]
    for page, marks in ((GUIDE, (BEGIN, END, PROFILE_BEGIN, PROFILE_END)), (Path("README.md"), (BEGIN, END))):
        text = (root / page).read_text()
        assert [text.count(mark) for mark in marks] == [1] * len(marks), page


def test_the_table_of_a_repeated_publication_says_how_sameness_is_found(result: dict[str, Any]) -> None:
    result["scenario"]["repeat"] = True
    result["contenders"][2]["repeats"] = "size and time"
    assert "| size and time |" in render([result])


@pytest.mark.parametrize(("value", "text"), [(12345.6, "12,346"), (100, "100"), (12.34, "12.3"), (0.123, "0.12")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_each_python_has_its_own_ratios_and_programs_stand_beside_both(of_two_pythons: dict[str, Any]) -> None:
    rows = {row.contender: row for row in rows_of(of_two_pythons, "whole process", python="3.11.2")}
    assert set(rows) == {"asyncsink@3.11.2", "obstore-unsigned@3.11.2", "s5cmd", "boto3"}
    assert of(rows["obstore-unsigned@3.11.2"].speed_ratio) == pytest.approx((4, 4, 4))
    assert of(rows["s5cmd"].speed_ratio) == pytest.approx((6, 6, 6))
    text = render([of_two_pythons])
    assert "Clock: engine. CPython 3.11.2 (PGO: yes); a million calls take 90 ms." in text
    assert [line.split("|")[2:4] for line in short_table([of_two_pythons]).splitlines()[2:]] == [
        [" 167 objects/s ", " 4.00 x "],
        [" 167 objects/s ", " 4.00 x "],
    ]


def test_another_setting_of_ours_can_be_the_reference(result: dict[str, Any]) -> None:
    rows = {row.contender: row for row in rows_of(result, "whole process", reference="boto3")}
    assert rows["boto3"].reference
    assert of(rows["s5cmd"].speed_ratio) == pytest.approx((0.3, 0.3, 0.3))


def test_a_service_has_a_lag_and_a_latency(result: dict[str, Any]) -> None:
    for one in result["measurements"]:
        told = {"p50": 0.1, "p99": one["round"], "max": 9.0}
        one["notes"] = {"lag_ms": told, "latency_ms": told}
    row = rows_of(result, "engine")[0]
    assert (row.lag_ms, row.p50_ms, row.p99_ms) == (Spread(2, 1, 3), Spread(0.1, 0.1, 0.1), Spread(2, 1, 3))
    assert "| loop lag, p99 | latency, p50 | p99 |" in render([result])


def test_a_bound_can_be_for_another_than_the_reference(result: dict[str, Any]) -> None:
    line = replace(LINES["rerun"], name="r")
    ours = line.value(Target("CPU", 1.0, ("s5cmd",), "whole process", ours="boto3"), {"r": result}, "")
    theirs = line.value(Target("CPU", 1.0, ("boto3",), "whole process", ours="s5cmd"), {"r": result}, "")
    assert ours is not None
    assert theirs is not None
    assert ours.median == pytest.approx(1 / theirs.median)


def test_a_file_has_medians_and_one_line_for_each_measurement(result: dict[str, Any], tmp_path: Path) -> None:
    save(result, tmp_path / "r.json")
    kept = load(tmp_path / "r.json")
    medians = kept.pop("medians")
    assert kept == result
    (ours,) = [each for each in medians if each["contender"] == "s5cmd" and each["clock"] == "whole process"]
    assert ours["speed_ratio"]["median"] == pytest.approx(3)
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert len([line for line in lines if '"round":' in line]) == len(result["measurements"])
    (tmp_path / "r.json").write_text("{}")
    shown = CliRunner().invoke(app, ["table", str(tmp_path / "r.json")])
    assert (shown.exit_code, "another format" in shown.output) == (2, True)


@pytest.mark.parametrize(
    ("target", "words", "met", "missed"),
    [
        (Target("speed", 1.5, ("obstore-unsigned", "s5cmd")), "speed ≥ 1.5 x obstore and s5cmd", 1.5, 1.49),
        (Target("CPU", 0.5, ("obstore-unsigned",)), "CPU ≤ 0.5 x obstore", 0.5, 0.51),
        (Target("loop lag", 5.0), "loop lag ≤ 5 ms (p99)", 5, 5.1),
        (Target("objects/s", 1520), "objects/s ≥ 1,520", 1600, 1500),
        (Target("growth", 1.05), "CPU of an object ≤ 1.05 x that of tiny-20k", 1.05, 1.1),
    ],
)
def test_bounds_are_bounds(target: Target, words: str, met: float, missed: float) -> None:
    assert target.words == words
    assert (target.is_met(met), target.is_met(missed)) == (True, False)


def test_targets_stand_beside_what_was_measured(of_two_pythons: dict[str, Any]) -> None:
    lines = [LINES["small"], LINES["large"]]
    text = render_targets(lines, {"small": of_two_pythons})
    head, _, *rows = (line.strip("| ").split(" | ") for line in text.splitlines())
    assert head[3:] == ["CPython 3.11.7 (PGO: no)", "CPython 3.11.2 (PGO: yes)", "met"]
    assert rows[0][2:] == ["speed ≥ 1.5 x obstore", "4.00", "4.00", "yes, yes"]
    assert rows[2][2:] == ["speed ≥ 1.3 x obstore, whole process", "2.00", "4.00", "yes, yes"]
    assert {row[-1] for row in rows[3:]} == {"not measured"}
    of_two_pythons["complete"] = False
    for one in of_two_pythons["measurements"]:
        one["wall_seconds"] = 0.5
        one["engine_seconds"] = None
        one["server"] = {"cpu_seconds": 0.45, "puts": 1, "parts": 0, "checks": {}}
    (row, *_) = render_targets(lines[:1], {"small": of_two_pythons}).splitlines()[2:]
    assert "| 1.00, server 90% busy | 1.00, server 90% busy | **no**, **no** (not all rounds) |" in row


def test_growth_is_of_an_object_in_the_two_lines(result: dict[str, Any]) -> None:
    many = copy.deepcopy(result)
    many["scenario"] |= {"objects": 1000}
    for one in many["measurements"]:
        one["objects"] = 1000
    target = Target("growth", 1.05)
    assert of(LINES["tiny"].value(target, {"tiny": many, "tiny-20k": result}, "")) == pytest.approx((0.1, 0.1, 0.1))
    assert LINES["tiny"].value(target, {"tiny": many}, "") is None


def test_every_line_can_be_held_against_its_bounds() -> None:
    """What a target compares is among the contenders, and takes part in the scenario."""
    from benchmarks.lineup.contenders import CONTENDERS
    from benchmarks.lineup.scenarios import SCENARIOS

    for line in LINES.values():
        names = {name for target in line.targets for name in target.beside} | set(line.contenders)
        assert names == set(line.contenders), line.name
        assert all(CONTENDERS[name].takes_part(SCENARIOS[line.scenario]) for name in names), line.name


def test_four_plots_are_drawn_of_what_there_is(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="nothing that could be drawn"):
        plot([], tmp_path / "none.png")
    late = copy.deepcopy(result)
    late["scenario"]["name"] = "latency-20"
    for results in ([result], [result, late]):
        plot(results, tmp_path / "some.png")
        assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
