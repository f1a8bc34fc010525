"""Scenarios and their data sets, contenders, and interpreters."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

import benchmarks
from benchmarks.lineup import commands, python_build
from benchmarks.lineup.cohort import Member, load_cohort
from benchmarks.lineup.contenders import CONTENDERS, entrants_of
from benchmarks.lineup.pythons import Python, second_python, this_python
from benchmarks.lineup.scenarios import SCENARIOS, Scenario, make_data_set


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
    assert totals["cohort"][0] == totals["cohort-rerun"][0] == 8649
    assert {totals[f"latency-{ms}"] for ms in (5, 20, 50, 100)} == {totals["small"]}
    assert totals["sink-small"] == totals["sink-small-rerun"] == (2_000, 2_000 * 16384)
    assert totals["sink-large"] == totals["sink-large-rerun"] == (1, 2**30)
    assert totals["grab-small"] == (20_000, 20_000 * 16384)
    assert totals["grab-large"] == (2, 2 * 2**30)


def test_data_sets_are_the_same_for_the_same_seed_and_no_two_files_are_alike(tmp_path: Path) -> None:
    sizes = (0, 1, 9, 3000, 3000)
    scenario = Scenario(
        name="few", title="few", members=lambda quick: [Member(f"d/{n}", size) for n, size in enumerate(sizes)]
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
    scenario = Scenario(
        name="linked", title="linked", members=lambda quick: [Member("a", 100), Member("b", 100)], linked=True
    )
    data = make_data_set(scenario, tmp_path)
    assert (data.directory / "a").stat().st_ino == (data.directory / "b").stat().st_ino


def test_every_contender_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commands, "find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    for contender in CONTENDERS.values():
        assert contender.missing().endswith("is not installed")


def test_a_build_tells_version_options_and_speed() -> None:
    build = this_python().build
    assert build["version"].endswith(sys.version.split()[0])
    assert build["pgo"].split(",")[0] in ("yes", "no")
    assert build["million_calls_ms"] > 0
    assert not any("/" in word for word in build["configure"])
    assert python_build.pgo_of(["--enable-optimizations", "--with-lto=full"]) == "yes, LTO"
    assert python_build.pgo_of(["--enable-optimizations"]) == "yes"


def test_under_a_second_python_run_those_written_in_python() -> None:
    second = Python("3.99", Path("/python3.99"), {"version": "CPython 3.99", "pgo": "yes"})
    chosen = [CONTENDERS[name] for name in ("asyncsink", "s5cmd", "boto3")]
    names = [each.name for each in entrants_of(chosen, [this_python(), second])]
    assert names == ["asyncsink", "asyncsink@3.99", "s5cmd", "boto3"]


def test_what_is_no_python_is_told(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="expected the path of a Python"):
        second_python(tmp_path / "nothing")
    (tmp_path / "old").write_text("#!/bin/sh\necho too old >&2; exit 3\n")
    (tmp_path / "old").chmod(0o755)
    with pytest.raises(RuntimeError, match=r"needs to be Python 3.11 or newer\. It says: too old"):
        second_python(tmp_path / "old")


def test_modules_are_short_and_folders_small() -> None:
    root = Path(benchmarks.__file__).parent
    for path in [*root.rglob("*.py"), *root.rglob("*.c")]:
        assert len(path.read_text().splitlines()) <= 600, path
    for folder in {path.parent for path in root.rglob("*.py")}:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 12, folder
