"""What a survey found is given again as it was, from memory or from disk."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
import weakref
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.engine.planning import key_ledger
from asyncsink.engine.planning.key_ledger import Kept, KeyLedger
from asyncsink.errors import (
    ConfigError,
    InvalidKey,
    JournalError,
    KeyCollision,
    RoutingError,
    SourceChanged,
    SourceMissing,
    SourceUnreadable,
)
from asyncsink.model import (
    Event,
    SourceFile,
    SourceProblem,
    Transfer,
)
from asyncsink.options.parse import parse_options
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.selection import Selection
from asyncsink.temporary import TemporaryDatabase
from tests.support.quirky_s3 import quirky_s3

pytestmark = pytest.mark.anyio

TEXT = st.text(max_size=8) | st.just("\udcff/a")
NUMBER = st.integers(0, 2**63 - 1)
FILES = st.builds(
    SourceFile,
    path=TEXT,
    size_bytes=NUMBER,
    mtime_ns=st.integers(-(2**63), 2**63 - 1),
    attribute=TEXT,
    entry=NUMBER,
    root=TEXT,
    relative=TEXT,
    key=st.none() | TEXT,
    ctime_ns=NUMBER,
    inode=st.integers(0, 2**64 - 1),
    real_path=TEXT,
)
ERRORS = (SourceMissing, SourceUnreadable, SourceChanged, ConfigError, RoutingError, InvalidKey, KeyCollision)
FOUND = st.builds(Transfer, FILES, TEXT, TEXT) | st.builds(
    SourceProblem,
    path=TEXT,
    error=st.one_of(*(st.builds(kind, TEXT) for kind in ERRORS)),
    entry=st.integers(-1, 2**63 - 1),
    attribute=TEXT,
    skippable=st.booleans(),
    skipped=st.booleans(),
    unreadable=st.booleans(),
    reason=TEXT,
)


def comparable(found: Transfer | SourceProblem) -> object:
    """Errors are equal where class and sentence are."""
    if isinstance(found, Transfer):
        return found
    return type(found.error), str(found.error), replace(found, error=NO_ERROR)


NO_ERROR = SourceMissing("")


@given(batches=st.lists(st.lists(FOUND, max_size=5), max_size=6), in_memory_max=st.integers(0, 20))
def test_what_is_kept_comes_back_as_it_was_and_as_often_as_it_is_asked(
    batches: list[list[Transfer | SourceProblem]], in_memory_max: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_ledger, "IN_MEMORY_MAX", in_memory_max)
        kept = Kept()
        for batch in batches:
            kept.add(batch)
    everything = [found for batch in batches for found in batch]
    assert kept.whole
    assert kept.in_memory == (len(everything) <= in_memory_max)
    for _ in range(2):
        assert [comparable(found) for found in kept] == [comparable(found) for found in everything]
    kept.close()
    kept.close()
    assert list(kept) == []


def test_problems_that_are_on_disk_take_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """exclude= may leave out a million files of a tree, and symlinks="skip" as many links."""
    monkeypatch.setattr(key_ledger, "IN_MEMORY_MAX", 2)
    errors = [SourceUnreadable(f"excluded {number}") for number in range(9)]
    alive = [weakref.ref(error) for error in errors]
    kept = Kept()
    kept.add([SourceProblem(str(error), error, skipped=True) for error in errors])
    errors.clear()
    gc.collect()
    assert [reference() for reference in alive] == [None] * 9
    assert [str(found.error) for found in kept if isinstance(found, SourceProblem)] == [
        f"excluded {number}" for number in range(9)
    ]
    kept.close()


def test_a_disk_that_gives_nothing_back_is_told_as_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(key_ledger, "IN_MEMORY_MAX", 0)
    kept = Kept()
    kept.add([Transfer(SourceFile("/a", 1, 1), "a", "a")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", broken)
        with pytest.raises(JournalError, match="directory for temporary files: Input/output error"):
            list(kept)
    kept.close()


async def test_a_run_that_ends_before_it_begins_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, temporary = list[Any](), tempfile.TemporaryFile

    def noted(*given: Any, **named: Any) -> Any:
        opened.append(temporary(*given, **named))
        return opened[-1]

    def stop(_: Event) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(key_ledger, "IN_MEMORY_MAX", 2)
    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    for number in range(9):
        (tmp_path / f"f{number}").touch()
    (tmp_path / "left.out").touch()
    settings = parse_options(str(tmp_path.parent / "to"), {"exclude": ["*.out"]})
    with pytest.raises(ZeroDivisionError):
        await run_source(
            settings,
            DirectorySource(tmp_path, symlinks="inside", selection=Selection(settings.policies)),
            observe=stop,
        )
    assert [file.closed for file in opened] == [True]


async def test_an_attribute_that_is_no_plain_str_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ledger, "IN_MEMORY_MAX", 2)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    files = [tmp_path / f"f{number}" for number in range(5)]
    for file in files:
        file.write_bytes(b"x")

    class Output(str, Enum):  # noqa: UP042 - what pipelines of before Python 3.11 have
        MOTION = "motion"

    with quirky_s3() as server:
        report = await asyncsink.export(
            {Output.MOTION: files}, "s3://tryout/p", endpoint_url=server.url, region="us-east-1", journal=False
        )
        assert sorted(server.bodies()) == [f"p/motion/f{number}" for number in range(5)]
    report.raise_for_failures()


async def test_where_there_is_no_room_for_it_the_tree_is_walked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published before without room for temporary files still is."""
    walks, scan = list[str](), DirectorySource.scan

    def counted(source: DirectorySource) -> Any:
        walks.append(source.directory)
        return scan(source)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(key_ledger, "IN_MEMORY_MAX", 2)
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    monkeypatch.setattr(DirectorySource, "scan", counted)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(9):
        (tree / f"f{number}").write_bytes(b"x" * number)
    with quirky_s3() as server:
        report = await asyncsink.export_directory(
            tree, "s3://tryout/p", endpoint_url=server.url, region="us-east-1", journal=False
        )
        assert server.bodies() == {f"p/f{number}": b"x" * number for number in range(9)}
    report.raise_for_failures()
    assert len(walks) == 2


def test_claims_that_come_one_by_one_commit_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sink claims each key by itself where its calls follow each other; a commit would double the price."""
    statements: list[str] = []
    change = TemporaryDatabase.change

    def noted(database: TemporaryDatabase, statement: str, *values: Any) -> int:
        statements.append(statement)
        return change(database, statement, *values)

    monkeypatch.setattr(TemporaryDatabase, "change", noted)
    ledger = KeyLedger()
    try:
        assert [ledger.claim([(f"k{number}", f"/{number}", number)]) for number in range(50)] == [[]] * 50
        assert ledger.claim([("k7", "/7", 50), ("k8", "/other", 51)]) == [("k8", "/8", "/other")]
        assert (ledger.last("k49"), ledger.last("k8"), ledger.last("k")) == (("/49", 49), ("/other", 51), None)
    finally:
        ledger.close()
    assert statements == ["BEGIN"]
