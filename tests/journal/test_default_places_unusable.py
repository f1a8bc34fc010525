"""A home or state directory that cannot be written costs a default journal and a note, not the run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.combinations import crossed
from tests.support.quirky_s3 import COMMAND, quirky_s3

NOBODY = 65534
EXPORT = """
import sys, asyncsink
report = asyncsink.export_sync({"x": sys.argv[1]}, "s3://tryout/p")
print(*report.notices)
report.raise_for_failures()
"""
SINK = """
import asyncio, os, sys, asyncsink
async def main():
    async with asyncsink.AsyncSink("s3://tryout/p") as sink:
        for entry in os.scandir(sys.argv[1]):
            await sink.put("x", entry.path)
    print(*sink.report.notices)
    sink.report.raise_for_failures()
asyncio.run(main())
"""
Prepare = Callable[[Path, dict[str, str]], None]


def absent(_: Path, __: dict[str, str]) -> None:
    """Its parent is no place to make it in."""


def read_only(home: Path, _: dict[str, str]) -> None:
    home.mkdir(mode=0o755)


def not_to_be_entered(home: Path, _: dict[str, str]) -> None:
    home.mkdir(mode=0o700)  # the home of root, inherited by a container that runs as another user


def a_file(home: Path, _: dict[str, str]) -> None:
    home.write_text("")


def a_file_in_place_of_state(home: Path, environment: dict[str, str]) -> None:
    home.write_text("")
    environment["XDG_STATE_HOME"] = str(home)


def no_name(_: Path, environment: dict[str, str]) -> None:
    del environment["HOME"]


def too_long(_: Path, environment: dict[str, str]) -> None:
    environment["HOME"] = f"/{'x' * 300}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.txt").write_text(str(number))
    return folder


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="asyncsink-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@crossed(
    "prepare,how",
    [absent, read_only, not_to_be_entered, a_file, a_file_in_place_of_state, no_name, too_long],
    ["command", "export", "sink"],
    usual=lambda prepare, how: how == "command" or prepare in (not_to_be_entered, no_name),
)
def test_it_costs_a_note(prepare: Prepare, how: str, source: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("becoming another user needs root")
    with quirky_s3() as server:
        environment = server.environment(tmp_path / "home")
        environment.pop("XDG_STATE_HOME", None)
        prepare(tmp_path / "home", environment)
        words = {
            "command": [COMMAND, "export", source, "s3://tryout/p"],
            "export": [sys.executable, "-c", EXPORT, source],
            "sink": [sys.executable, "-c", SINK, source],
        }[how]
        ended = subprocess.run(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, words)],
            env=environment,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert len(server.bodies()) == 5
    said = ended.stdout + ended.stderr
    assert said.count("goes on without a journal: ") == 1
    assert "Traceback" not in said


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_read_only_disk_costs_one_note(source: Path, read_only_disk: Path) -> None:
    with quirky_s3() as server:
        ended = subprocess.run(
            [COMMAND, "export", source, "s3://tryout/p"],
            env=server.environment(read_only_disk, XDG_STATE_HOME=None),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        assert len(server.bodies()) == 5
    assert ended.stderr.count("goes on without a journal: ") == 1
    assert "Read-only file system" in ended.stderr
