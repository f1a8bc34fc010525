"""A journal whose disk fills or breaks in mid-run: one that nobody asked for costs a note, a named one the run."""

from __future__ import annotations

import os
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import DestinationFull, JournalError
from asyncsink.journal.base import Rows
from tests.support.combinations import crossed
from tests.support.files import mounted
from tests.support.processes import run
from tests.support.quirky_s3 import COMMAND, QuirkyS3, quirky_s3

pytestmark = pytest.mark.anyio
FULL = sqlite3.OperationalError("database or disk is full")
FULL.sqlite_errorcode = sqlite3.SQLITE_FULL
BROKEN = sqlite3.OperationalError("disk I/O error")
BROKEN.sqlite_errorcode = sqlite3.SQLITE_IOERR


@pytest.fixture
def server(dummy_keys: None) -> Iterator[QuirkyS3]:
    with quirky_s3() as server:
        yield server


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(30):
        (folder / f"{number}.txt").write_bytes(bytes(number + 1))
    (folder / "large.bin").write_bytes(os.urandom(11 << 20))
    return folder


def break_journal(method: str, fault: Exception, patch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise fault

    patch.setattr(Rows, method, fail)


@pytest.mark.parametrize("fault", [FULL, BROKEN], ids=["full", "broken"])
@pytest.mark.parametrize("method", ["write", "known"])
@pytest.mark.parametrize("sink", [False, True])
async def test_a_default_journal_costs_a_note(
    fault: Exception,
    method: str,
    sink: bool,
    server: QuirkyS3,
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    given: dict[str, Any] = {"endpoint_url": server.url, "region": "us-east-1"}
    # One run that succeeds: the journal is not blank any more, so that it is asked.
    await asyncsink.export({"x": str(source / "0.txt")}, "s3://tryout/p", **given)
    kept = list(tmp_path.rglob("*.sqlite"))
    assert kept
    with monkeypatch.context() as patch:
        break_journal(method, fault, patch)
        if sink:
            async with asyncsink.AsyncSink("s3://tryout/p", **given) as opened:
                for path in sorted(source.iterdir()):
                    await opened.put("x", path)
            report = opened.report
        else:
            report = await asyncsink.export({"x": [str(path) for path in source.iterdir()]}, "s3://tryout/p", **given)
    assert not report.failures
    assert not report.interrupted
    assert len(server.bodies()) == 31
    (notice,) = [each for each in report.notices if "journal" in each]
    assert "goes on without its journal" in notice
    assert kept[0].name in notice
    assert not any(path.exists() for path in kept)  # it does not know what was published without it
    again = await asyncsink.export({"x": [str(path) for path in source.iterdir()]}, "s3://tryout/p", **given)
    assert (len(again.receipts), len(again.skips)) == (0, 31)


@pytest.mark.parametrize("fault", [FULL, BROKEN], ids=["full", "broken"])
async def test_a_named_journal_stops_the_run(
    fault: Exception, server: QuirkyS3, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = tmp_path / "named.sqlite"
    break_journal("write", fault, monkeypatch)
    with pytest.raises((JournalError, DestinationFull), match=r"named\.sqlite"):
        await asyncsink.export_directory(
            source, "s3://tryout/p", journal=journal, endpoint_url=server.url, region="us-east-1"
        )
    assert journal.exists()


# -- A home or state directory that cannot be written costs a default journal and a note, not the run ------------------


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
def published(tmp_path: Path) -> Path:
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
def test_it_costs_a_note(prepare: Prepare, how: str, published: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("becoming another user needs root")
    with quirky_s3() as server:
        environment = server.environment(tmp_path / "home")
        environment.pop("XDG_STATE_HOME", None)
        prepare(tmp_path / "home", environment)
        words = {
            "command": [COMMAND, "export", published, "s3://tryout/p"],
            "export": [sys.executable, "-c", EXPORT, published],
            "sink": [sys.executable, "-c", SINK, published],
        }[how]
        ended = run(
            ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *map(str, words)],
            env=environment,
            cwd="/",
        )
        assert ended.returncode == 0, ended.stderr
        assert len(server.bodies()) == 5
    said = ended.stdout + ended.stderr
    assert said.count("goes on without a journal: ") == 1
    assert "Traceback" not in said


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that takes nothing."""
    with mounted(tmp_path / "disk", "ro,size=4k") as disk:
        yield disk


def test_a_read_only_disk_costs_one_note(published: Path, read_only_disk: Path) -> None:
    with quirky_s3() as server:
        ended = run(
            [COMMAND, "export", published, "s3://tryout/p"], env=server.environment(read_only_disk, XDG_STATE_HOME=None)
        )
        assert ended.returncode == 0, ended.stderr
        assert len(server.bodies()) == 5
    assert ended.stderr.count("goes on without a journal: ") == 1
    assert "Read-only file system" in ended.stderr
