"""Files that are submitted one by one go in batches, as those of an export do."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.limits.call_threads import CallThreads
from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.engine.transfer.small_files import SmallFiles
from asyncsink.errors import JournalError, KeyCollision, SourceMissing

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


def small(directory: Path, count: int) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:04}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    return paths


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the parts of a sink are asked."""
    counted: Counter[str] = Counter()

    def count(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def counting(*given: Any, **named: Any) -> Any:
            counted[f"{owner.__name__}.{name}"] += 1
            return method(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    count(SmallFiles, "publish")
    count(RunJournal, "attach")
    count(CallThreads, "begin")
    return counted


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Submitted files wait for a whole batch, or for the end."""
    monkeypatch.setattr("asyncsink.engine.intake.GATHER_SECONDS", 3600.0)


@pytest.mark.parametrize("journal", [False, True])
async def test_single_submits_go_in_batches(
    tmp_path: Path,
    bucket: str,
    stored: Stored,
    options: dict[str, Any],
    calls: Counter[str],
    patient: None,
    journal: bool,
) -> None:
    paths = small(tmp_path / "s", 150)
    options |= {"journal": str(tmp_path / "journal") if journal else False}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        for path in paths:
            assert await sink.submit("m", path) == 1
    assert stored() == {f"m/{path.name}": path.read_bytes() for path in paths}
    # 150 files are two full batches of 64 and the rest; each has one question to the journal.
    assert calls["SmallFiles.publish"] == 3
    assert calls["RunJournal.attach"] == (3 if journal else 0)
    # The next submit shares its call to a thread with a question.
    assert 150 <= calls["CallThreads.begin"] <= 150 + (3 if journal else 0)
    assert sink.report.requests == 151


async def test_a_put_is_one_call_to_a_thread_and_waits_for_nobody(
    tmp_path: Path, bucket: str, options: dict[str, Any], calls: Counter[str], patient: None
) -> None:
    paths = small(tmp_path / "s", 20)
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", journal=False, **options) as sink:
        for path in paths:
            await sink.put("m", path)
        assert calls["CallThreads.begin"] == 20


async def test_what_is_gathered_goes_on_by_itself(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    """After a moment, without another call; then a put of the same key has its turn."""
    (path,) = small(tmp_path / "s", 1)
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.submit("m", path)
        await sink.put("m", path)
        assert stored() == {"m/0000": b"0"}
    assert (sink.report.objects_uploaded, sink.report.objects_skipped) == (1, 1)


async def test_gathered_files_that_the_journal_has_are_skips(
    tmp_path: Path, bucket: str, options: dict[str, Any], calls: Counter[str], patient: None
) -> None:
    paths = small(tmp_path / "s", 20)
    options |= {"journal": str(tmp_path / "journal"), "overwrite": "journal"}
    for round_ in range(2):
        paths[0].write_text(f"changed {round_}")
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            for path in paths:
                await sink.submit("m", path)
            if round_:
                flushed = asyncio.create_task(sink.flush())
                await asyncio.sleep(0)
                assert not flushed.done()
                sink._session.intake._gathered_long()  # type: ignore[union-attr]
                assert (await flushed).objects_skipped == 19
    assert (sink.report.objects_uploaded, sink.report.objects_skipped) == (1, 19)
    assert not sink.report.unfinished


async def test_errors_go_to_the_call_and_leave_the_gathered_alone(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], patient: None
) -> None:
    one, two = small(tmp_path / "s", 2)
    (twin,) = small(tmp_path / "t", 1)
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await sink.submit("m", one)
        with pytest.raises(SourceMissing, match="nowhere"):
            await sink.submit("m", tmp_path / "nowhere")
        late = asyncio.create_task(sink.submit("m", twin))  # waits for the turn of its key
        await sink.submit("m", two)
        assert not late.done()
        sink._session.intake._gathered_long()  # type: ignore[union-attr]
        with pytest.raises(KeyCollision, match="m/0000"):
            await late
    assert stored() == {"m/0000": b"0", "m/0001": b"1"}


async def test_a_journal_that_fails_for_gathered_files_stops_the_sink(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = small(tmp_path / "s", 1)

    def broken(*_: Any) -> Any:
        raise JournalError("cannot be read")

    async with asyncio.timeout(60):
        with pytest.raises(JournalError, match="cannot be read"):  # noqa: PT012 - the block is what is tested
            async with asyncsink.AsyncSink(f"s3://{bucket}", journal=str(tmp_path / "j"), **options) as sink:
                monkeypatch.setattr(RunJournal, "attach", broken)
                await sink.submit("m", path)
                await asyncio.Event().wait()
    assert [each.key for each in sink.report.unfinished] == ["m/0000"]


async def test_a_sink_that_is_stopped_names_what_was_gathered(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], patient: None
) -> None:
    paths = small(tmp_path / "s", 3)
    async with asyncio.timeout(60):
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
                for path in paths:
                    await sink.submit("m", path)
                _ = 1 / 0
    assert [each.key for each in sink.report.unfinished] == [f"m/{path.name}" for path in paths]
    assert stored() == {}
