"""Records: lossless, one inert ASCII line each; the log that keeps them in bounded memory."""

from __future__ import annotations

import json
import tempfile
import threading
import tracemalloc
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import JournalError
from asyncsink.model import Checksum, ConfirmedBy, Failure, Outcome, Planned, Receipt, Skip
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.report.kept_lines import BLOCK_LINES, MEMORY_BYTES
from asyncsink.report.outcomes import (
    NOT_PUBLISHED_KEPT,
    OTHER_REASONS,
    REASONS_MAX,
    OutcomeLog,
    decode,
    encode,
    encoded,
    parse_checksum,
)

# Names that are no UTF-8 hold the surrogates U+DC80 to U+DCFF (PEP 383); any other character may be there as well.
texts = st.text(st.characters(codec="utf-8") | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
sizes = st.integers(0, 2**50)
small = st.integers(0, 10_000)
checksums = st.none() | st.builds(Checksum, st.sampled_from(get_args(ChecksumAlgorithm)), texts)
seconds = st.floats(0, allow_nan=False, allow_infinity=False)
proofs = st.sampled_from(get_args(ConfirmedBy))
stages = st.sampled_from(["source", "routing", "upload", "local copy"])
outcomes = st.one_of(
    st.builds(Receipt, texts, texts, texts, sizes, checksums, texts, texts, small, seconds, texts, proofs, small),
    st.builds(Skip, texts, texts, texts, sizes, texts, st.booleans(), checksums, texts, texts, small),
    st.builds(Failure, texts, texts, texts, texts, texts, stages, small, small),
    st.builds(Planned, texts, texts, texts, sizes, texts, small),
)


def receipt(number: int, **changes: Any) -> Receipt:
    path = f"work/_subject_id_sub-{number % 100:02d}/realign/file_{number:07d}.nii.gz"
    fields: dict[str, Any] = {
        "source": f"/data/{path}",
        "key": f"prefix/{path}",
        "url": f"s3://bucket/prefix/{path}",
        "size_bytes": 1000 + number,
        "checksum": Checksum("CRC64NVME", "AAAAAAAAAAA="),
        "etag": "d41d8cd98f00b204e9800998ecf8427e",
        "version_id": "",
        "attempts": 1,
        "seconds": 0.25,
        "local_copy": "",
        "confirmed_by": "server-checksum",
        "entry": number,
    }
    return Receipt(**(fields | changes))


@given(outcomes)
def test_a_record_reads_back_exactly(outcome: Outcome) -> None:
    line = encode(outcome)
    assert decode(line) == outcome
    assert decode(line.encode("ascii")) == outcome
    assert line.isprintable(), "nothing in it can move a cursor or end the line"


@given(outcomes)
def test_a_record_is_json_with_the_models_fields(outcome: Outcome) -> None:
    record = json.loads(encode(outcome))
    assert record.pop("record") == type(outcome).__name__.lower()
    left_out = set() if outcome.attribute else {"attribute"}
    assert set(record) == set(type(outcome).__dataclass_fields__) - left_out


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", "Expecting value"),
        ("[1]", "JSON object"),
        ('{"record":"receipt"}', "source is missing"),
        ('{"record":"wish"}', "'wish' is not one of"),
        ('{"record":["receipt"]}', "is not one of"),
        ('{"record":"planned","source":1}', "source has the value 1"),
        ('{"record":"planned","source":"","key":"","url":"","size_bytes":true,"reason":""}', "size_bytes has"),
    ],
)
def test_malformed_records(line: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        decode(line)


@pytest.mark.parametrize("text", ["", "CRC64NVME", "ROT13:abc", ":abc"])
def test_malformed_checksums(text: str) -> None:
    with pytest.raises(ValueError, match="ALGORITHM:base64"):
        parse_checksum(text)


def test_fields_of_a_later_version_are_ignored_and_defaults_may_be_left_out() -> None:
    line = '{"record":"planned","source":"a","key":"b","url":"c","size_bytes":1,"reason":"d","colour":"blue"}'
    assert decode(line) == Planned("a", "b", "c", 1, "d")


@given(st.lists(outcomes, max_size=30), st.booleans())
def test_the_log_gives_back_what_it_was_given_by_kind(given_outcomes: list[Outcome], in_batches: bool) -> None:
    log = OutcomeLog()
    if in_batches:
        log.extend(encoded(given_outcomes))
    else:
        for outcome in given_outcomes:
            log.append(outcome)
    by_kind: dict[type, Any] = {Receipt: log.receipts, Skip: log.skips, Failure: log.failures, Planned: log.planned}
    for kind, view in by_kind.items():
        expected = [outcome for outcome in given_outcomes if isinstance(outcome, kind)]
        assert view == expected
        assert len(view) == len(expected)
        assert view[1:-1] == expected[1:-1]
        assert view[::-2] == expected[::-2]
        assert [view[index] for index in range(-len(expected), len(expected))] == expected + expected
        with pytest.raises(IndexError):
            view[len(expected)]
    assert len(log) == len(given_outcomes)
    assert log.counts.bytes_uploaded == sum(o.size_bytes for o in given_outcomes if isinstance(o, Receipt))
    assert log.counts.bytes_skipped == sum(o.size_bytes for o in given_outcomes if isinstance(o, Skip))
    assert log.counts.bytes_planned == sum(o.size_bytes for o in given_outcomes if isinstance(o, Planned))
    assert log.counts.local_copies_failed == sum(
        isinstance(o, Failure) and o.stage == "local copy" for o in given_outcomes
    )
    assert log.counts.confirmed_by.total() == len(log.receipts)
    assert log.counts.skip_reasons.total() == len(log.skips)


def test_views_grow_with_the_log_and_compare_as_sequences() -> None:
    log = OutcomeLog()
    view = log.receipts
    assert view == []
    assert not view
    log.append(receipt(1))
    assert view == (receipt(1),)
    assert view != [receipt(2)]
    assert view != "receipts"
    assert receipt(1) in view
    assert repr(view) == "<1 outcomes>"
    with pytest.raises(TypeError):
        hash(view)


def test_reading_between_appends_changes_nothing() -> None:
    log = OutcomeLog()
    for number in range(50):
        log.append(receipt(number))
        assert log.receipts[number // 2] == receipt(number // 2)
    assert list(log.receipts) == [receipt(number) for number in range(50)]


def test_reasons_are_grouped_in_bounded_memory() -> None:
    log = OutcomeLog()
    for number in range(1001):
        path = f"/data/{number}"
        log.append(Skip(path, "", "", 0, f"{path} does not exist", already_there=False))
        log.append(Skip(path, "", "", 0, f"reason {number}"))
    assert (log.counts.not_published_total, log.counts.already_there) == (1001, 1001)
    assert len(log.counts.not_published) == NOT_PUBLISHED_KEPT
    assert log.counts.skip_reasons["… does not exist"] == 1001
    assert len(log.counts.skip_reasons) == REASONS_MAX + 1
    assert log.counts.skip_reasons[OTHER_REASONS] == 1001 - (REASONS_MAX - 1)


@pytest.mark.long
def test_memory_does_not_grow_with_the_outcomes() -> None:
    batch = [receipt(number) for number in range(200)]
    log = OutcomeLog()
    tracemalloc.start()
    try:
        for _ in range(250):
            log.extend(batch)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(250):
            log.extend(batch)
        after, _ = tracemalloc.get_traced_memory()
        assert sum(one.size_bytes for one in log.receipts[::1000]) > 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(log.receipts) == 100_000
    assert log.receipts[99_999] == batch[-1]
    assert after - before < 50_000, "a byte for each"
    assert peak < 4 * MEMORY_BYTES


@pytest.mark.parametrize("count", [BLOCK_LINES - 1, BLOCK_LINES, BLOCK_LINES + 1, 3 * BLOCK_LINES])
def test_outcomes_around_the_blocks_they_are_read_by(count: int) -> None:
    log = OutcomeLog()
    given_receipts = [receipt(number) for number in range(count)]
    for each in given_receipts:
        log.extend([each, SKIPPED])
    assert log.receipts == given_receipts
    assert list(reversed(log.receipts)) == given_receipts[::-1]
    assert log.receipts[count - 1 :: -BLOCK_LINES + 1] == given_receipts[count - 1 :: -BLOCK_LINES + 1]
    assert list(log.skips) == [SKIPPED] * count
    assert max(len(log.read(Receipt, number)[1]) for number in range(count)) <= BLOCK_LINES


def test_one_thread_may_read_while_another_appends() -> None:
    log = OutcomeLog()
    log.extend([receipt(number) for number in range(5000)])  # past the part that is kept in memory
    wrong: list[int] = []

    def read() -> None:
        for _ in range(3):
            wrong.extend(index for index, one in enumerate(log.receipts) if one.entry != index)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for number in range(5000, 8000):
        log.append(receipt(number))
    for thread in readers:
        thread.join()
    assert wrong == []
    assert len(log.receipts) == 8000


SKIPPED = Skip("/data/s", "", "", 0, "source is missing", already_there=False)


def test_a_full_temporary_directory_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    log = OutcomeLog()
    log.append(receipt(0))

    def full(_data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(log._kinds[Receipt]._newer.file, "write", full)
    with pytest.raises(JournalError, match="No space left on device; free some space there, or set TMPDIR"):
        log.extend([SKIPPED, receipt(1)])
    assert (len(log), log.counts.objects_total) == (1, 1)
    monkeypatch.undo()
    log.append(receipt(2))
    log.append(SKIPPED)
    assert log.receipts == [receipt(0), receipt(2)]
    assert log.skips == [SKIPPED]


def test_a_collected_log_closes_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[bool] = []
    make: Any = tempfile.SpooledTemporaryFile

    class Watched(make):  # type: ignore[misc]
        def close(self) -> None:
            closed.append(True)
            super().close()

    monkeypatch.setattr(tempfile, "SpooledTemporaryFile", Watched)
    log = OutcomeLog()
    log.append(receipt(1))
    del log
    assert closed == [True] * 4
