"""Journals and receipts of earlier runs: what is listed, and what is removed and what is not."""

from __future__ import annotations

import os
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncsink.errors import ConfigError
from asyncsink.journal.at_rest import JournalAtRest, look_at, remove_journal
from asyncsink.journal.base import published_row
from asyncsink.journal.sqlite import open_journal
from asyncsink.maintenance.runs import default_journals, list_runs, remove_runs, runs_of
from asyncsink.model import (
    Checksum,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCreating,
    UploadOpened,
    UploadPartStored,
)
from asyncsink.options.schema import ObjectOptions, S3Target
from asyncsink.options.settings import JournalChoice
from tests.support.manifests import failure_of, receipt_of, write_manifest

pytestmark = pytest.mark.anyio
Opening = Callable[..., Awaitable[Any]]
PART_BYTES = 8 << 20


@pytest.fixture
def opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opening:
    """Opens the default journal of a prefix, in a state directory of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)

    def opened(prefix: str, *, sse: str = "") -> Awaitable[Any]:
        return open_journal(
            JournalChoice(state_directory=str(tmp_path / "state")),
            S3Target(bucket="results", prefix=prefix),
            endpoint_url="http://127.0.0.1:8333",
            objects=ObjectOptions(),
            algorithm="CRC64NVME",
            notice=pytest.fail,
        )

    return opened


async def filled(opening: Opening, prefix: str, *, uploads: int = 0) -> Any:
    """An open journal with one published object, and large files of which one of two parts is stored."""
    journal = await opening(prefix)
    small = Transfer(SourceFile("/data/a", 1, 10), f"{prefix}/a", "")
    await journal.publish([published_row(small, "etag", "", Checksum("CRC64NVME", "AAAAAAAAAAA="))])
    for number in range(uploads):
        key, source = f"{prefix}/{number}", SourceFile(f"/data/{number}", 2 * PART_BYTES, 10)
        await journal.step(UploadCreating(key, source, PART_BYTES, "CRC64NVME", "token"))
        await journal.step(UploadOpened(key, f"id-{number}"))
        await journal.step(UploadPartStored(key, StoredPart(1, "etag", None)))
    return journal


async def test_journals_are_listed_with_what_the_next_run_resumes(opening: Opening) -> None:
    for prefix, uploads in (("whole", 0), ("begun", 2)):
        await (await filled(opening, prefix, uploads=uploads)).aclose()
    before = {each.path: os.stat(each.path).st_mtime for each in list_runs(".").journals}
    begun, whole = sorted(list_runs(".").journals, key=lambda each: str(each.identity))
    assert str(begun.identity) == "s3://results/begun at http://127.0.0.1:8333"
    assert (begun.objects_total, begun.uploads_total, begun.in_use, begun.problem) == (1, 2, False, "")
    assert [(each.bytes_stored, each.size_bytes) for each in begun.uploads] == [(PART_BYTES, 2 * PART_BYTES)] * 2
    assert (whole.objects_total, whole.uploads_total) == (1, 0)
    assert {each.path: os.stat(each.path).st_mtime for each in (begun, whole)} == before, "to look is no use"
    assert [each.path for each in runs_of("s3://results/whole/", ".").journals] == [whole.path]


async def test_a_journal_in_use_is_never_removed_and_keeps_its_lock(opening: Opening) -> None:
    journal = await filled(opening, "busy")
    try:
        assert look_at(journal.path).in_use
        told: list[Any] = []
        remove_runs([], older_than_seconds=0, with_uploads=True, observe=lambda each, what: told.append(what))
        assert told == ["in use"]
        assert remove_journal(journal.path, with_uploads=True) == "in use"
        reads = f"import sqlite3; sqlite3.connect({journal.path!r}, timeout=0).execute('SELECT * FROM meta').fetchall()"
        other = await anyio.run_process([sys.executable, "-c", reads], check=False)
        assert "database is locked" in other.stderr.decode(), "looking has released the lock of the run"
        await journal.publish([])
    finally:
        await journal.aclose()
    assert not look_at(journal.path).in_use
    assert remove_journal(journal.path) == "removed"
    assert list_runs(".").journals == []


async def test_open_uploads_keep_a_journal_until_somebody_says_otherwise(opening: Opening) -> None:
    for prefix, uploads in (("whole", 0), ("begun", 1), ("new", 0)):
        await (await filled(opening, prefix, uploads=uploads)).aclose()
    paths = {each.identity.prefix: each.path for each in list_runs(".").journals if each.identity}
    for prefix in ("whole", "begun"):
        os.utime(paths[prefix], (time.time() - 100, time.time() - 100))
    told: list[tuple[str, str]] = []

    def observe(journal: JournalAtRest, what: str) -> None:
        assert journal.identity is not None
        told.append((journal.identity.prefix, what))

    remove_runs([], older_than_seconds=50, dry_run=True, observe=observe)
    assert sorted(told) == [("begun", "open uploads"), ("whole", "removed")]
    assert all(map(os.path.exists, paths.values()))
    told.clear()
    remove_runs([], older_than_seconds=50, observe=observe)
    assert sorted(told) == [("begun", "open uploads"), ("whole", "removed")]
    assert [prefix for prefix, path in paths.items() if os.path.exists(path)] == ["new", "begun"]
    remove_runs(["s3://results/begun", paths["new"]], with_uploads=True, observe=observe)
    assert os.listdir(default_journals()) == []


async def test_what_is_no_journal_stays(opening: Opening, tmp_path: Path) -> None:
    await (await filled(opening, "whole")).aclose()
    (directory := Path(default_journals())).joinpath("notes.sqlite").write_text("not a database" * 100)
    with closing(sqlite3.connect(directory / "other.sqlite")) as database:
        database.execute("CREATE TABLE x (y)")
    problems = {Path(each.path).name: each.problem for each in list_runs(".").journals}
    assert ["damaged" in problems["notes.sqlite"], "no journal of asyncsink" in problems["other.sqlite"]] == [True] * 2
    told: list[str] = []
    remove_runs([], older_than_seconds=0, with_uploads=True, observe=lambda each, what: told.append(what))
    assert sorted(told) == ["no journal", "no journal", "removed"]
    (tmp_path / "empty").touch()
    for name in (str(directory / "other.sqlite"), str(tmp_path / "empty"), "nowhere", "s3://results/none"):
        with pytest.raises(ConfigError, match=r"neither|No journal"):
            runs_of(name, ".")


def test_receipts_are_listed_by_how_their_run_ended(tmp_path: Path) -> None:
    write_manifest(tmp_path / "whole.jsonl", [receipt_of("a")])
    write_manifest(tmp_path / "lacking.jsonl", [receipt_of("a"), failure_of("b")])
    lines = (tmp_path / "whole.jsonl").read_text().splitlines()
    (tmp_path / "killed.jsonl.partial").write_text("\n".join([*lines[:-1], ""]))
    (tmp_path / "other.jsonl").write_text('{"subject": 1}\n')
    (tmp_path / "notes.txt").write_text(lines[0])
    found = {Path(each.path).name: each.state for each in list_runs(str(tmp_path)).receipts}
    assert found == {"whole.jsonl": "complete", "lacking.jsonl": "failed", "killed.jsonl.partial": "killed"}
    with pytest.raises(ConfigError, match="cannot be read"):
        list_runs(str(tmp_path / "none"))
