"""The architecture page is true: its journeys name every module that an export runs, and no module that is gone."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
from pathlib import Path

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from tests.support.processes import run

ROOT = Path(asyncsink.__file__).parent
PAGE = (ROOT / "guide" / "architecture.md").read_text(encoding="utf-8")
PAGES = [ROOT.parent / "README.md", *sorted((ROOT / "guide").glob("*.md"))]
MIB = 1024 * 1024
NAMES_MAX = 25

TRACER = """
import json, sys, threading
from pathlib import Path

import asyncsink

root, seen = str(Path(asyncsink.__file__).parent) + "/", set()


def importing(frame):
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_code.co_filename.startswith(root):
            return True
        frame = frame.f_back
    return False


def profile(frame, event, argument):
    file = frame.f_code.co_filename
    if event == "call" and file.startswith(root) and file not in seen and not importing(frame):
        seen.add(file)


threading.setprofile(profile)
sys.setprofile(profile)
from asyncsink.cli.main import main

code = main(sys.argv[2:])
sys.setprofile(None)
Path(sys.argv[1]).write_text(json.dumps(sorted(file.removeprefix(root) for file in seen)))
sys.exit(code)
"""
"""Runs the command, and writes down the modules of which a function ran outside of imports, in whatever thread."""


def section(title: str) -> str:
    _, found, rest = PAGE.partition(f"\n## {title}\n")
    assert found, f"the page has no section {title!r}"
    return rest.partition("\n## ")[0]


def modules_in(text: str) -> set[str]:
    return set(re.findall(r"`([a-z0-9_]+(?:/[a-z0-9_]+)*\.py)`", text))


def modules_run(server: DevServer, bucket: str, folder: Path, size: int) -> set[str]:
    """The modules that `asyncsink export` runs for one file of `size` bytes."""
    (folder / "derivatives").mkdir()
    (folder / "derivatives" / "file.nii").write_bytes(os.urandom(size))
    words = ["export", "derivatives", f"s3://{bucket}/study", "--manifest", "study.jsonl"]
    done = run([sys.executable, "-c", TRACER, "trace.json", *words], env=os.environ | server.environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return set(json.loads((folder / "trace.json").read_text()))


def test_the_journey_of_a_small_file_names_every_module_that_runs(
    seaweed: DevServer, bucket: str, tmp_path: Path
) -> None:
    ran = modules_run(seaweed, bucket, tmp_path, 16 * 1024)
    assert {"engine/pipeline.py", "s3/http/lane.py", "sources/reader.py"} <= ran  # of each kind of thread
    assert sorted(ran - modules_in(section("The journey of a small file"))) == []


def test_the_journey_of_a_large_file_names_every_module_that_runs(
    seaweed: DevServer, bucket: str, tmp_path: Path
) -> None:
    ran = modules_run(seaweed, bucket, tmp_path, 20 * MIB)
    assert "engine/transfer/large_file.py" in ran
    journeys = section("The journey of a small file") + section("The journey of a large file")
    assert sorted(ran - modules_in(journeys)) == []


def test_the_page_names_no_module_and_no_folder_that_does_not_exist() -> None:
    named = modules_in(PAGE) | set(re.findall(r"`((?:[a-z0-9_]+/)+)`", PAGE))
    repository = ("asyncsink/", "tests/", "benchmarks/")
    places = {name: (ROOT.parent if name.startswith(repository) else ROOT) / name for name in named}
    assert sorted(name for name, place in places.items() if not place.exists()) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tests_and_results_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"`((?:tests|benchmarks)/[\w./*-]*)`", page.read_text(encoding="utf-8")))
    assert sorted(name for name in named if not list(ROOT.parent.glob(name))) == []


def test_the_names_to_know_are_few_and_stand_where_the_page_says() -> None:
    lines = re.findall(r"^\d+\. (`.*?): [^(]*\(`(.*)`\)\.$", section("Names to know"), re.MULTILINE)
    assert 1 <= len(lines) == len(re.findall(r"^\d+\. ", section("Names to know"), re.MULTILINE)) <= NAMES_MAX
    for names, module in lines:
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"^(class {name}\b|{name} = )", (ROOT / module).read_text(), re.MULTILINE), (name, module)


@pytest.mark.parametrize("container", ["asyncsink", "asyncsink.engine", "asyncsink.s3"])
def test_the_tables_of_rooms_are_the_layers_of_the_import_contracts(container: str) -> None:
    pyproject = ROOT.parent / "pyproject.toml"
    contracts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract.get("containers") == [container]]
    rows = re.findall(r"^\| (`.*?) \|", section("The rooms"), re.MULTILINE)
    told = [[room.removesuffix("/").removesuffix(".py") for room in re.findall(r"`([^`]*)`", row)] for row in rows]
    below = container.removeprefix("asyncsink").removeprefix(".")
    told = [[room.rpartition("/")[2] for room in row] for row in told if row[0].rpartition("/")[0] == below]
    assert [set(row) for row in told] == [{room.strip() for room in layer.split("|")} for layer in layers]
