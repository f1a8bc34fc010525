"""One key has one row in the journal: what a run makes of it, and when it is written."""

from __future__ import annotations

import errno
import gc
import os
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.engine.recording import run_journal as run_journal_module
from asyncsink.engine.recording.recorder import Passed
from asyncsink.engine.recording.run_journal import COUNT_BATCH, Kept, RunJournal
from asyncsink.errors import (
    ConfigError,
    DestinationFull,
    InvalidKey,
    JournalError,
    KeyCollision,
    RoutingError,
    SourceChanged,
    SourceMissing,
    SourceUnreadable,
)
from asyncsink.integrity.sameness import UNCHANGED_REASON
from asyncsink.journal.base import PublishedRow, published_row
from asyncsink.model import (
    Event,
    Failure,
    JournalEntry,
    Outcome,
    PendingUpload,
    Receipt,
    Skip,
    SourceFile,
    SourceProblem,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadStep,
)
from asyncsink.options.parse import parse_options
from asyncsink.report.outcomes import OutcomeLines
from asyncsink.sources.base import exclusion_of
from asyncsink.sources.directory import DirectorySource
from tests.support.quirky_s3 import quirky_s3

pytestmark = pytest.mark.anyio
SOURCE = SourceFile("/s/f", 3, 4, ctime_ns=5, inode=6)
TRANSFER = Transfer(SOURCE, "k", "k")
CREATING = UploadCreating("k", SOURCE, 5, None, "t")


class MemoryJournal:
    """A Journal in memory."""

    path = "/j"
    blank = False

    def __init__(self, known: dict[str, JournalEntry] | None = None) -> None:
        self.answers = known or {}
        self.asked = 0
        self.published: list[PublishedRow] = []
        self.forgotten: list[str] = []
        self.steps: list[UploadStep] = []

    def known(self, transfers: Sequence[Transfer]) -> list[JournalEntry | None]:
        self.asked += len(transfers)
        return [self.answers.get(transfer.key) for transfer in transfers]

    def forget(self, keys: Sequence[str]) -> None:
        self.forgotten += keys

    async def publish(self, published: Sequence[PublishedRow]) -> None:
        self.published += published

    async def step(self, step: UploadStep) -> None:
        self.steps.append(step)

    def stop_asking(self) -> None:
        pass

    async def aclose(self, seconds: float | None = None) -> None:
        pass


def upload(**fields: Any) -> PendingUpload:
    return PendingUpload(
        **{"upload_id": "u", "part_size_bytes": 5, "algorithm": None, "token": "t", "begun_seconds": 0.0,
           "completing": False, "same_source": True, **fields}
    )  # fmt: skip


def receipt(key: str = "k") -> Receipt:
    return Receipt("/s/f", key, f"s3://b/{key}", 3, None, "e", "v", 1, 0.0, "", "etag")


FAILURE = Failure("/s/f", "k", "s3://b/k", "Stalled", "No.", "upload")


def ended(outcome: Outcome, transfer: Transfer | None = TRANSFER) -> list[tuple[list[Outcome], Transfer | None, None]]:
    return [([outcome], transfer, None)]


def run_journal(kept: MemoryJournal, overwrite: Any = "journal") -> RunJournal:
    return RunJournal(kept, overwrite=overwrite, bucket="b")


@pytest.mark.parametrize(
    ("known", "overwrite", "forgotten"),
    [
        (JournalEntry(stale=True), "checksum", ["k"]),
        (JournalEntry(stale=True), "journal", ["k"]),
        (JournalEntry(True, "e"), "always", ["k"]),
        (JournalEntry(True, "e"), "checksum", []),
        (JournalEntry(True, "e"), "journal", []),
        (JournalEntry(upload=upload()), "journal", []),
    ],
)
def test_what_may_be_overwritten_is_forgotten_first(known: JournalEntry, overwrite: Any, forgotten: list[str]) -> None:
    kept = MemoryJournal({"k": known})
    run_journal(kept, overwrite).attach([TRANSFER])
    assert kept.forgotten == forgotten
    kept.forgotten = []
    RunJournal(kept, overwrite=overwrite, bucket="b", dry_run=True).attach([TRANSFER])
    assert kept.forgotten == []


@pytest.mark.parametrize(("stage", "forgotten"), [("upload", ["k"]), ("source", [])])
async def test_what_failed_may_have_been_written(stage: Any, forgotten: list[str]) -> None:
    kept = MemoryJournal()
    await run_journal(kept).record(ended(replace(FAILURE, stage=stage)))
    assert kept.forgotten == forgotten


async def test_a_whole_object_does_not_end_the_row_of_an_upload_under_way() -> None:
    kept = MemoryJournal()
    journal = run_journal(kept)
    await journal.step(CREATING)
    await journal.record(ended(receipt()))
    assert kept.published == []
    await journal.step(UploadCompleting("k"))
    await journal.record(ended(receipt()))
    assert kept.published == [published_row(SOURCE, "k", "e", "v", None)]


async def test_rows_of_batches_are_written_where_no_upload_is_under_way() -> None:
    kept = MemoryJournal()
    journal = run_journal(kept)
    await journal.step(CREATING)
    of_k, of_other = (published_row(SOURCE, key, "e", "v", None) for key in ("k", "other"))
    await journal.record([], [Passed(OutcomeLines(), [of_k, of_other], list)])
    assert kept.published == [of_other]
    await journal.step(UploadCompleting("k"))
    await journal.record([], [Passed(OutcomeLines(), [of_k], list)])
    assert kept.published == [of_other, of_k]
    await journal.step(UploadGone("k"))
    assert UploadGone("k") not in kept.steps, "what is published has ended its upload"


async def test_what_is_gone_is_told_once_also_after_a_failure() -> None:
    kept = MemoryJournal()
    journal = run_journal(kept)
    for step in (CREATING, UploadOpened("k", "u"), UploadCompleting("k")):
        await journal.step(step)
    await journal.record(ended(FAILURE))
    await journal.step(UploadGone("k"))
    await journal.step(UploadGone("k"))
    assert kept.steps.count(UploadGone("k")) == 1


@pytest.mark.parametrize(
    ("overwrite", "written"), [("checksum", 1), ("journal", 1), ("never", 0), ("size", 0), ("size-mtime", 0)]
)
async def test_only_proved_sameness_is_written_down(overwrite: Any, written: int) -> None:
    kept = MemoryJournal()
    skip = Skip("/s/f", "k", "s3://b/k", 3, "same checksum", etag="e")
    await run_journal(kept, overwrite).record(ended(skip) + ended(FAILURE) + ended(receipt(), None))
    assert len(kept.published) == written


async def test_what_is_known_already_is_not_written_again() -> None:
    kept = MemoryJournal({"k": JournalEntry(True, "e")})
    (skip,) = run_journal(kept).attach([TRANSFER])
    assert isinstance(skip, Skip)
    assert (skip.reason, skip.etag, skip.url) == (UNCHANGED_REASON, "e", "s3://b/k")
    (transfer,) = run_journal(kept, "checksum").attach([TRANSFER])
    assert isinstance(transfer, Transfer)
    await run_journal(kept, "checksum").record(ended(skip, transfer))
    assert kept.published == []


def test_a_first_run_is_not_walked_once_more() -> None:
    walk = [Transfer(SOURCE, str(number), "") for number in range(3 * COUNT_BATCH)]
    kept = MemoryJournal()
    assert run_journal(kept).count_unknown(walk, len(walk)) == len(walk)
    assert kept.asked == COUNT_BATCH
    kept = MemoryJournal({str(number): JournalEntry(published=True) for number in range(2 * COUNT_BATCH + 7)})
    assert run_journal(kept).count_unknown(walk, len(walk)) == COUNT_BATCH - 7


async def test_a_full_disk_under_the_journal_is_no_affair_of_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = MemoryJournal()

    async def full(_: UploadStep) -> None:
        raise DestinationFull("full")

    monkeypatch.setattr(kept, "step", full)
    with pytest.raises(JournalError, match="full"):
        await run_journal(kept).step(CREATING)


# -- What a survey found is given again as it was, from memory or from disk --------------------------------------------


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
        patch.setattr(run_journal_module, "IN_MEMORY_MAX", in_memory_max)
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
    monkeypatch.setattr(run_journal_module, "IN_MEMORY_MAX", 2)
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

    monkeypatch.setattr(run_journal_module, "IN_MEMORY_MAX", 0)
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

    monkeypatch.setattr(run_journal_module, "IN_MEMORY_MAX", 2)
    monkeypatch.setattr(tempfile, "TemporaryFile", noted)
    for number in range(9):
        (tmp_path / f"f{number}").touch()
    (tmp_path / "left.out").touch()
    settings = parse_options(str(tmp_path.parent / "to"), {"exclude": ["*.out"]})
    with pytest.raises(ZeroDivisionError):
        await run_source(
            settings,
            DirectorySource(tmp_path, symlinks="inside", exclude=exclusion_of(settings.policies.exclude)),
            observe=stop,
        )
    assert [file.closed for file in opened] == [True]


async def test_an_attribute_that_is_no_plain_str_is_kept_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_journal_module, "IN_MEMORY_MAX", 2)
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

    monkeypatch.setattr(run_journal_module, "IN_MEMORY_MAX", 2)
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
