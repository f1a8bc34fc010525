"""A journal whose disk fills or breaks in mid-run: one that nobody asked for costs a note, a named one the run."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import DestinationFull, JournalError
from asyncsink.journal.base import Rows
from tests.support.quirky_s3 import QuirkyS3, quirky_s3

pytestmark = pytest.mark.anyio
FULL = sqlite3.OperationalError("database or disk is full")
FULL.sqlite_errorcode = sqlite3.SQLITE_FULL
BROKEN = sqlite3.OperationalError("disk I/O error")
BROKEN.sqlite_errorcode = sqlite3.SQLITE_IOERR


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[QuirkyS3]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")
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
