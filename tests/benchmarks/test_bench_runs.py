"""The launcher, and whole small runs: what they verify, what they leave out, and how they go on."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.cli import app
from benchmarks.lineup.cohort import Member
from benchmarks.lineup.commands import Work, asyncsink, rclone, s5cmd
from benchmarks.lineup.contenders import CONTENDERS, Contender, Entrant
from benchmarks.lineup.pythons import this_python
from benchmarks.lineup.scenarios import SCENARIOS, DataSet, Scenario, make_data_set
from benchmarks.measuring import launcher
from benchmarks.measuring.grabbing import grab_once
from benchmarks.measuring.running import Order, rotated, run
from benchmarks.scripts.clock import AT_ONCE
from benchmarks.servers.running import running_server
from benchmarks.showing.readme import PROFILE_BEGIN, PROFILE_END
from benchmarks.showing.saving import load, save
from benchmarks.showing.summary import rows_of
from benchmarks.showing.table import render
from benchmarks.showing.targets import LINES, Line, Target

SIZES = (7, 1, 3000, 20_000_000)
WRONG = f"""
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1], "d")
folder.mkdir()
for name, size in (("0", 0), ("2", 10), ("3", {SIZES[3]})):
    (folder / name).write_bytes(b"x" * size)
print(json.dumps({{"seconds": 1, "cpu_seconds": 1, "objects": 3}}))
"""


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


def test_every_contender_takes_every_turn() -> None:
    assert [rotated(["a", "b", "c"], by) for by in range(4)] == [
        ["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"], ["a", "b", "c"],
    ]  # fmt: skip
    assert rotated([], 2) == []


MEMBERS = [Member(f"d/{number}.bin", 1000 * number + 1) for number in range(12)]
FEW = Scenario(name="few", title="A few files", members=lambda quick: MEMBERS)
GRABBED = [Member(f"d/{number}", size) for number, size in enumerate(SIZES)]
FEW_GRABBED = Scenario(name="few", title="Few", members=lambda quick: GRABBED, grab=True)


def measured(order: Order) -> dict[str, Any]:
    """The result of an order in which nothing may fail."""
    lines: list[str] = []
    result = run(order, lines.append)
    assert [one["message"] for one in result["measurements"] if one["status"] != "ok"] == [], lines
    return result


def chosen(*names: str) -> list[Contender]:
    return [CONTENDERS[name] for name in names]


@pytest.mark.parametrize(
    "server", ["null", *(pytest.param(server, marks=pytest.mark.long) for server in ("null-tls", "seaweed"))]
)
def test_a_whole_run_measures_verifies_and_can_be_read_back(server: Any, tmp_path: Path) -> None:
    names = ["asyncsink", "asyncsink-api", "boto3"]
    result = measured(Order(scenario=FEW, contenders=chosen(*names), server=server, rounds=2, limit_seconds=60))
    assert [one["contender"] for one in result["measurements"]] == [*names, *rotated(names, 1)]
    assert all(one["objects"] == 12 and one["bytes"] == 66_012 and one["verified"] for one in result["measurements"])
    assert all((one["server"].get("cpu_seconds", 0) > 0) == (server != "seaweed") for one in result["measurements"])
    assert result["command"].startswith(
        f"python -m benchmarks run few --server {server} --rounds 2 --contender asyncsink"
    )
    assert (result["complete"], result["left_out"], list(result["pythons"])) == (True, [], [""])
    assert result["pythons"][""] == this_python().build
    assert str(tmp_path.parent.parent) not in json.dumps(result)
    save(result, tmp_path / "result.json")
    shown = CliRunner().invoke(app, ["table", str(tmp_path / "result.json")])
    assert shown.exit_code == 0, shown.output
    assert "asyncsink (command line)" in shown.output


@pytest.mark.long
def test_a_repeated_run_sends_nothing_and_needs_a_server_that_keeps_things() -> None:
    again = dataclasses.replace(FEW, repeat=True)
    contenders = chosen("asyncsink", "asyncsink-journal", "boto3")
    result = measured(Order(scenario=again, contenders=contenders, server="seaweed", rounds=1, limit_seconds=60))
    assert [one["contender"] for one in result["measurements"]] == ["asyncsink", "asyncsink-journal"]
    assert [out["reason"] for out in result["left_out"]] == ["has no way to skip what is there already"]
    none = run(Order(scenario=again, contenders=contenders[:1], server="null", rounds=1), lambda text: None)
    assert "keeps nothing" in none["left_out"][0]["reason"]


@pytest.mark.parametrize("at_once", [0, 32])
def test_contenders_have_their_own_defaults_or_all_the_same(at_once: int, tmp_path: Path) -> None:
    told = f"""
import json, os
print(json.dumps({{"seconds": 1, "cpu_seconds": 1, "at_once": os.environ["{AT_ONCE}"],
                   "bytecode": "PYTHONDONTWRITEBYTECODE" not in os.environ}}))
"""
    (tmp_path / "tells.py").write_text(told)
    teller = dataclasses.replace(
        CONTENDERS["boto3"], name="teller", grabs=lambda work: [sys.executable, str(tmp_path / "tells.py")]
    )
    nothing = Scenario(name="none", title="None", members=lambda quick: [], grab=True, at_once=at_once)
    data = DataSet(nothing, tmp_path, ())
    with running_server("null", tmp_path) as server:
        work = Work(data, server, "bench", tmp_path, tmp_path / "target", this_python())
        made = grab_once(Entrant(teller, this_python()), work, round_=1, place=1, limit_seconds=60)
        assert (made.status, made.notes) == ("ok", {"at_once": str(at_once), "bytecode": True}), made.message
        for command in (s5cmd(work), rclone(work), asyncsink(work)):
            assert (str(at_once) in command) == bool(at_once)


@pytest.mark.long
@pytest.mark.parametrize("server", ["null", pytest.param("seaweed", marks=pytest.mark.long)])
def test_grabs_are_measured_and_whoever_brings_less_is_left_out(server: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    liar = dataclasses.replace(
        CONTENDERS["boto3"],
        name="liar",
        grabs=lambda work: [sys.executable, str(tmp_path / "wrong.py"), str(work.target)],
    )
    names = ["asyncsink", "asyncsink-api", "boto3"]
    contenders = [*chosen(*names, "aioboto3"), liar]
    result = measured(Order(scenario=FEW_GRABBED, contenders=contenders, server=server, rounds=1, limit_seconds=60))
    assert [one["contender"] for one in result["measurements"]] == names
    assert {(one["objects"], one["bytes"], one["verified"]) for one in result["measurements"]} == {
        (len(SIZES), sum(SIZES), "names, sizes and content of all")
    }
    assert result["measurements"][1]["notes"]["confirmed_by"] == {"server-checksum": len(SIZES)}
    (out,) = result["left_out"]
    assert (out["contender"], "differences: " in out["reason"]) == ("liar", True)
    assert "server's checksum" in render([result])


def test_every_byte_of_a_grab_is_compared(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    command = [sys.executable, str(tmp_path / "wrong.py"), str(tmp_path / "target")]
    liar = dataclasses.replace(CONTENDERS["boto3"], grabs=lambda work: command)
    data = make_data_set(FEW_GRABBED, tmp_path)
    with running_server("null", tmp_path) as server:
        work = Work(data, server, "bench", tmp_path, tmp_path / "target", this_python())
        made = grab_once(Entrant(liar, this_python()), work, round_=1, place=1, limit_seconds=60)
    assert made.status == "failed"
    assert made.message.startswith("4 differences: ")
    for problem in ("d/1 is missing", "d/2 has 10 bytes, not 3000", "d/3 has other content"):
        assert problem in made.message


@pytest.mark.long
def test_nipypes_datasink_and_ours_publish_the_same() -> None:
    few = dataclasses.replace(SCENARIOS["sink-small"], members=lambda quick: [Member("d/1", 9_000_000)])
    names = ["boto3", "datasink", "asyncsink-datasink"]
    for scenario in (few, dataclasses.replace(few, repeat=True)):
        result = measured(
            Order(scenario=scenario, contenders=chosen(*names), server="seaweed", rounds=1, limit_seconds=60)
        )
        assert [one["contender"] for one in result["measurements"]] == names[1:]
        rows = {row.contender: row for row in rows_of(result, "engine")}
        assert rows["asyncsink-datasink"].reference
        assert rows["datasink"].speed_ratio is not None
        assert "speed: asyncsink-datasink ÷ it" in render([result])


@pytest.mark.parametrize(
    "name",
    [
        "service",
        "service-read-16",
        *(pytest.param(f"service-{what}", marks=pytest.mark.long) for what in ("1", "256", "large")),
    ],
)
def test_a_service_tells_its_latency_and_its_loops_lag(name: str) -> None:
    few = dataclasses.replace(SCENARIOS[name], members=FEW.members)
    contenders = [CONTENDERS[each] for each in few.contenders if not CONTENDERS[each].missing()]
    result = measured(Order(scenario=few, contenders=contenders, server="null", rounds=1, limit_seconds=60))
    ours = {one["contender"]: one for one in result["measurements"] if one["contender"].startswith("asyncsink-")}
    assert {one["objects"] for one in ours.values()} == {12}
    for one in ours.values():
        waits = one["contender"] not in ("asyncsink-submit", "asyncsink-directory")
        for noted in ("lag_ms", "latency_ms") if waits else ("lag_ms",):
            told = one["notes"][noted]
            assert 0 <= told["p50"] <= told["p99"] <= told["max"]
    rows = {row.contender: row for row in rows_of(result, "engine")}
    assert all(rows[contender].lag_ms is not None for contender in ours)
    assert name == "service-large" or "| latency, p50 | p99 |" in render([result])


@pytest.mark.long
def test_a_run_whose_time_was_over_is_gone_on_with() -> None:
    order = Order(scenario=FEW, contenders=chosen("asyncsink-api"), server="null", rounds=2, limit_seconds=60)
    over = dataclasses.replace(order, ends=0.0)
    lines: list[str] = []
    nothing = run(over, lines.append)
    assert (nothing["complete"], nothing["measurements"], lines[-1]) == (
        False, [], "  stopped before round 1: the time is over",
    )  # fmt: skip
    kept: list[str] = []
    one = run(dataclasses.replace(order, rounds=1), lambda text: None)
    both = run(order, lambda text: None, before=one, keep=lambda result: kept.append(json.dumps(result)))
    assert [each["round"] for each in both["measurements"]] == [1, 2]
    assert both["measurements"][0] == one["measurements"][0]
    assert [json.loads(each)["complete"] for each in kept] == [True]
    other = one | {"versions": {"asyncsink commit": "another"}}
    assert len(run(over, lambda text: None, before=other)["measurements"]) == 0
    assert len(run(over, lambda text: None, before=one)["measurements"]) == 1


def test_lines_are_measured_once_and_shown_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target("objects/s", 1)
    monkeypatch.setitem(LINES, "few", Line("few", "few", "null", ("asyncsink-api",), (target,), 1))
    monkeypatch.setitem(SCENARIOS, "few", FEW)
    arguments = ["targets", "few", "--rounds", "1", "--folder", str(tmp_path)]
    shown = CliRunner().invoke(app, [*arguments, "--show"])
    assert (shown.exit_code, "not measured" in shown.stdout, list(tmp_path.iterdir())) == (0, True, [])
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "1 lines, 1 rounds: about" in done.stderr
    assert "| A few files | null | objects/s ≥ 1 |" in done.stdout
    written = (tmp_path / "few.json").stat().st_mtime_ns
    assert "0 lines" in CliRunner().invoke(app, arguments).stderr
    assert (tmp_path / "few.json").stat().st_mtime_ns == written
    assert "1 lines" in CliRunner().invoke(app, [*arguments, "--again"]).stderr
    assert load(tmp_path / "few.json")["complete"]
    refused = CliRunner().invoke(app, ["targets", "few", "--quick"])
    assert (refused.exit_code, "another --folder" in refused.stderr) == (2, True)


def test_names_that_do_not_exist_are_told() -> None:
    for arguments in (["run", "smal"], ["run", "small", "--contender", "s3cmd"], ["targets", "smal"]):
        shown = CliRunner().invoke(app, arguments)
        assert shown.exit_code == 2
        assert "expected one of" in shown.output


@pytest.mark.long
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
    guide = tmp_path / "speed.md"
    guide.write_text(f"{PROFILE_BEGIN}\nold\n{PROFILE_END}\n")
    assert CliRunner().invoke(app, ["readme", str(saved), "--guide", str(guide)]).exit_code == 0
    assert "| survey |" in guide.read_text()
    assert "old" not in guide.read_text()
    printed = CliRunner().invoke(app, ["table", str(saved)])
    assert (printed.exit_code, "| survey |" in printed.output) == (0, True)
