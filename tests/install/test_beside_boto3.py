"""asyncsink installs beside boto3, awscli and typer, as the guide's page python.md says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest

import asyncsink

ROOT = Path(asyncsink.__file__).parent
PAGE = (ROOT / "guide" / "python.md").read_text()
SECTION = PAGE.partition("## Beside boto3\n")[2].partition("\n## ")[0]
DEPENDENCIES = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]["dependencies"]
OF_THE_COMMAND = ("click", "rich")


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=540)


def bounds(requirements: list[str] | None, name: str) -> set[str]:
    """The bounds of one requirement: {">=1.40.46", "<1.40.62"}."""
    (found,) = [each for each in requirements or [] if re.match(rf"{name}[^\w-]", each)]
    return set(re.findall(r"[<>=!~]+[\d.]+", found.partition(";")[0]))


def test_the_page_says_what_aioboto3_pins() -> None:
    pinned = bounds(requires("aioboto3"), "aiobotocore")
    assert pinned == {f"=={version('aiobotocore')}"}
    assert f"aioboto3 {version('aioboto3')}" in SECTION
    assert f"aiobotocore=={version('aiobotocore')}" in SECTION
    told = set(re.findall(r"botocore(>=[\d.]+),(<[\d.]+)", SECTION))
    assert {bound for pair in told for bound in pair} == bounds(requires("aiobotocore"), "botocore")


def test_the_libraries_of_the_command_have_no_upper_bound() -> None:
    required = {name: bounds(DEPENDENCIES, name) for name in OF_THE_COMMAND}
    assert all(bound.startswith(">=") for bounds_of in required.values() for bound in bounds_of), required
    assert not [each for each in DEPENDENCIES if re.match(r"typer|pygments|uvloop", each, re.IGNORECASE)]


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_resolver_finds_versions_for_all_of_them() -> None:
    """pip's own, over the package registry: half a minute."""
    if pip("index", "versions", "click", "--timeout", "5", "--retries", "0").returncode:
        pytest.skip("no package registry can be reached")
    beside = ("boto3", "awscli", "typer")
    done = pip("install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", *DEPENDENCIES, *beside)
    assert done.returncode == 0, done.stderr
    found = {
        each["metadata"]["name"].lower(): each["metadata"]["version"] for each in json.loads(done.stdout)["install"]
    }
    assert {"aioboto3", "click", "rich", *beside} <= found.keys()
    assert found["boto3"] == found["botocore"]
    newest = pip("index", "versions", "typer").stdout
    assert f"typer ({found['typer']})" in newest, "asyncsink holds typer back"
