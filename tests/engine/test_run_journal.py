"""One key has one row in the journal: what a run makes of it, and when it is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from asyncsink.engine.recording.recorder import Passed
from asyncsink.engine.recording.run_journal import COUNT_BATCH, RunJournal
from asyncsink.errors import (
    DestinationFull,
    JournalError,
)
from asyncsink.integrity.sameness import UNCHANGED_REASON
from asyncsink.journal.base import PublishedRow, published_row
from asyncsink.model import (
    Failure,
    JournalEntry,
    Outcome,
    PendingUpload,
    Receipt,
    Skip,
    SourceFile,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadStep,
)
from asyncsink.options.schema import ObjectOptions
from asyncsink.report.outcomes import OutcomeLines

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

    def withdraw(self) -> None:
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


@pytest.mark.parametrize(
    ("of_run", "own", "skipped", "forgotten"),
    [
        ("journal", "checksum", False, []),
        ("journal", "always", False, ["k"]),
        ("checksum", "journal", True, []),
        ("always", "checksum", False, []),
        ("checksum", "always", False, ["k"]),
    ],
)
async def test_a_transfers_own_policy_counts(of_run: Any, own: Any, skipped: bool, forgotten: list[str]) -> None:
    kept = MemoryJournal({"k": JournalEntry(True, "e")})
    transfer = replace(TRANSFER, overwrite=own, objects=ObjectOptions(metadata=(("a", "b"),)))
    (found,) = run_journal(kept, of_run).attach([transfer])
    assert isinstance(found, Skip) == skipped
    assert skipped or found == replace(transfer, known=JournalEntry(True, "e"))
    assert kept.forgotten == forgotten
    there = Skip("/s/f", "k", "s3://b/k", 3, "same checksum", etag="e2")
    await run_journal(kept, of_run).record(ended(there, transfer))
    assert bool(kept.published) == (own != "always")
    await run_journal(kept, of_run).record(ended(receipt(), transfer))
    assert kept.published[-1] == published_row(transfer, "e", "v", None)


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
    assert kept.published == [published_row(TRANSFER, "e", "v", None)]


async def test_rows_of_batches_are_written_where_no_upload_is_under_way() -> None:
    kept = MemoryJournal()
    journal = run_journal(kept)
    await journal.step(CREATING)
    of_k, of_other = (published_row(replace(TRANSFER, key=key), "e", "v", None) for key in ("k", "other"))
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
