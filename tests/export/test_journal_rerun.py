"""A run after a run, with a journal between them: what is known is neither read nor asked for."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.engine.recording.recorder import Recorder
from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.engine.transfer.outcomes import REPEATED
from asyncsink.errors import ConfigError, JournalError
from asyncsink.integrity.sameness import UNCHANGED_REASON
from asyncsink.journal.base import Rows
from asyncsink.model import Event, Started
from asyncsink.options.parse import parse_options
from asyncsink.sources.directory import DirectorySource
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]

_watched: dict[str, list[str]] = {}


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not isinstance(arguments[0], (str, bytes)):
        return
    name = os.fsdecode(arguments[0])
    for root, opened in list(_watched.items()):
        if name.startswith(root):
            opened.append(name)
        elif os.sep not in name:
            # Relative to the descriptor of its directory, which the event does not name.
            found = (os.path.join(place, name) for place, _, names in os.walk(root) if name in names)
            opened.extend(found)


sys.addaudithook(_hear)


@pytest.fixture
def opened(tree: Path) -> Iterator[list[str]]:
    """Every file of the tree that this process opens."""
    _watched[f"{tree}{os.sep}"] = opened = []
    yield opened
    del _watched[f"{tree}{os.sep}"]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("named", [True, False])
async def test_a_rerun_reads_nothing_and_sends_one_request(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], opened: list[str], lane: Any, named: bool
) -> None:
    options = {**options, "transport": lane, **({"journal": tmp_path / "j.sqlite"} if named else {})}
    first = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert first.objects_uploaded == 5
    assert len(opened) >= 5
    opened.clear()
    again = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert (again.objects_uploaded, again.objects_skipped, again.requests, opened) == (0, 5, 1, [])
    expected = {UNCHANGED_REASON} if named else {"same ETag as when it was published"}
    assert {skip.reason for skip in again.skips} == expected
    kept = {(receipt.key, receipt.checksum, receipt.etag) for receipt in first.receipts}
    assert {(skip.key, skip.checksum, skip.etag) for skip in again.skips} == kept


async def test_what_changed_is_sent_and_only_that_is_read(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], opened: list[str]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    (tree / "a.txt").write_bytes(b"ALPHA")
    (tree / "new").write_bytes(b"new")
    opened.clear()
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert {receipt.key for receipt in report.receipts} == {"p/a.txt", "p/new"}
    assert set(opened) == {str(tree / "a.txt"), str(tree / "new")}
    assert stored() == {f"p/{name}": data for name, data in content_of(tree).items()}


async def test_other_options_are_another_object(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], opened: list[str]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    opened.clear()
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", checksum="SHA256", **options)
    assert opened, "what was published with another checksum is compared again"


async def test_a_run_that_ended_without_recording_leaves_no_false_claim(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """What it wrote over is not known any more: not that it is the old object, nor that it is the new one."""
    other = tmp_path / "other/a.txt"
    other.parent.mkdir()
    other.write_bytes(b"OMEGA")
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    with monkeypatch.context() as patch:
        patch.setattr(RunJournal, "record", _lost)
        for published, more in ((other.parent, {}), (tree, {"overwrite": "always", "metadata": {"study": "7"}})):
            with pytest.raises(JournalError, match="lost"):
                await asyncsink.export_directory(published, f"s3://{bucket}/p", **options, **more)
            assert more or stored()["p/a.txt"] == b"OMEGA"
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert UNCHANGED_REASON not in {skip.reason for skip in report.skips}
    assert stored()["p/a.txt"] == b"alpha"


async def _lost(*_: object) -> None:
    raise JournalError("The disk is lost.")


async def test_what_is_gone_from_the_server_is_noticed_where_the_server_is_asked(
    tree: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    s3.delete_object(Bucket=bucket, Key="p/a.txt")
    s3.put_object(Bucket=bucket, Key="p/sub/deep/é✓.tsv", Body=b"other bytes!")
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert {receipt.key for receipt in report.receipts} == {"p/a.txt", "p/sub/deep/é✓.tsv"}


async def test_what_the_listing_shows_to_be_gone_or_replaced_is_not_trusted(
    tree: Path, tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any]
) -> None:
    """The one request that proves bucket and credentials says so anyway."""
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    s3.delete_object(Bucket=bucket, Key="p/a.txt")
    s3.put_object(Bucket=bucket, Key="p/sub/deep/é✓.tsv", Body=b"other bytes!")
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert {receipt.key for receipt in report.receipts} == {"p/a.txt", "p/sub/deep/é✓.tsv"}
    assert stored() == {f"p/{name}": data for name, data in content_of(tree).items()}


@pytest.mark.parametrize("in_memory_max", [2, 1000])
async def test_a_tree_is_walked_once_and_its_journal_asked_once(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
    in_memory_max: int,
) -> None:  # fmt: skip
    """Whether what was found is kept in memory, or on disk."""
    monkeypatch.setattr("asyncsink.engine.planning.key_ledger.IN_MEMORY_MAX", in_memory_max)
    walks, scan = list[str](), DirectorySource.scan
    asked, known = list[str](), Rows.known

    def counted(source: DirectorySource) -> Any:
        walks.append(source.directory)
        return scan(source)

    def noted(rows: Rows, transfers: Any) -> Any:
        asked.extend(transfer.key for transfer in transfers)
        return known(rows, transfers)

    monkeypatch.setattr(DirectorySource, "scan", counted)
    monkeypatch.setattr(Rows, "known", noted)
    options = {**options, "journal": tmp_path / "j.sqlite"}
    for _ in range(2):
        asked.clear()
        report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert (len(walks), report.objects_skipped) == (2, 5)
    assert sorted(asked) == sorted(f"p/{name}" for name in content_of(tree))


async def test_a_first_run_over_objects_that_are_there_makes_the_next_one_cheap(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], opened: list[str]
) -> None:
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", journal=False, **options)
    options = {**options, "journal": tmp_path / "j.sqlite"}
    compared = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert (compared.objects_uploaded, compared.objects_skipped) == (0, 5)
    opened.clear()
    again = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert ({skip.reason for skip in again.skips}, again.requests, opened) == ({UNCHANGED_REASON}, 1, [])


async def test_size_proves_nothing_for_the_journal(
    tree: Path, tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any]
) -> None:
    s3.put_object(Bucket=bucket, Key="p/a.txt", Body=b"omega")
    options = {**options, "journal": tmp_path / "j.sqlite"}
    skipped = await asyncsink.export_directory(tree, f"s3://{bucket}/p", overwrite="size", **options)
    assert [skip.key for skip in skipped.skips] == ["p/a.txt"]
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert [receipt.key for receipt in report.receipts] == ["p/a.txt"]
    assert stored()["p/a.txt"] == b"alpha"


async def test_a_missing_local_copy_is_made_again(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], opened: list[str]
) -> None:
    copies = tmp_path / "copies"
    options = {**options, "journal": tmp_path / "j.sqlite", "local_copy": copies}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    for name in ("a.txt", "sub/large.nii.gz"):
        (copies / name).unlink()
    opened.clear()
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert (report.objects_uploaded, report.objects_skipped, report.requests) == (0, 5, 1)
    assert set(opened) == {str(tree / "a.txt"), str(tree / "sub/large.nii.gz")}
    assert content_of(copies) == content_of(tree)
    assert all(skip.local_copy for skip in report.skips)


async def test_what_was_read_is_remembered_and_not_what_was_found(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    """Another tool publishes its results by renaming, between the walk and the opening, and takes them back later."""
    new, old = tmp_path / "new", tmp_path / "old"
    shutil.copytree(tree / "sub", new)
    (new / "b c+%.json").write_bytes(b'{"new": 1}')

    def rename(event: Event) -> None:
        if isinstance(event, Started):
            (tree / "sub").rename(old)
            new.rename(tree / "sub")

    given = {**options, "journal": tmp_path / "j.sqlite"}
    settings = parse_options(f"s3://{bucket}/p", given)
    report = await run_source(settings, DirectorySource(tree, symlinks="follow"), observe=rename)
    assert (report.objects_uploaded, stored()["p/sub/b c+%.json"]) == (5, b'{"new": 1}')
    (tree / "sub").rename(new)
    old.rename(tree / "sub")
    again = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **given)
    assert (again.objects_uploaded, stored()["p/sub/b c+%.json"]) == (1, b"{}")


async def test_the_same_source_under_the_same_key_is_sent_once(
    tree: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    large = str(tree / "sub/large.nii.gz")
    options = {**options, "journal": tmp_path / "j.sqlite", "overwrite": "always"}
    report = await asyncsink.export({"@a": [large] * 4}, f"s3://{bucket}/p", **options)
    assert (len(report.receipts), list(report.failures)) == (1, [])
    assert [skip.reason for skip in report.skips] == [REPEATED] * 3
    assert report.out_file == [f"s3://{bucket}/p/{Path(large).name}"] * 4
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


async def test_a_long_lived_sink_remembers(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], opened: list[str]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options) as sink:
        await sink.put("@a", tree / "a.txt")
        await sink.submit("@b", [tree / "sub/large.nii.gz", tree / "empty"])
    opened.clear()
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options) as sink:
        again = await sink.put("@a", tree / "a.txt")
        assert isinstance(again, asyncsink.Skip)
        await sink.submit("@b", [tree / "sub/large.nii.gz", tree / "empty"])
    assert (sink.report.objects_skipped, sink.report.requests, opened) == (3, 1, [])


@pytest.mark.parametrize("linked", [False, True])
async def test_a_journal_is_never_published(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], linked: bool
) -> None:
    """Reading it would take its lock away. Nothing is sent, and no file is made."""
    (tmp_path / "link").symlink_to(tree)
    journal = (tmp_path / "link" if linked else tree) / "sub/j.sqlite"
    with pytest.raises(ConfigError, match=r"lies inside the source .*; name a file outside"):
        await asyncsink.export_directory(tree, f"s3://{bucket}/p", journal=journal, **options)
    assert stored() == {}
    assert not journal.exists()
    journal.write_bytes(b"")
    with pytest.raises(ConfigError, match="lies inside the source"):
        await asyncsink.export({"x": str(journal)}, f"s3://{bucket}/p", journal=journal, **options)


async def test_a_default_journal_inside_the_source_is_left_out(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a whole home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME")
    (tmp_path / "a.txt").write_bytes(b"alpha")
    report = await asyncsink.export_directory(tmp_path, f"s3://{bucket}", **options)
    assert stored() == {"a.txt": b"alpha"}
    (notice,) = report.notices
    assert "goes on without a journal: The journal" in notice
    assert "lies inside the source" in notice
    with pytest.raises(JournalError, match="name one outside"):
        await asyncsink.export_directory(tmp_path, f"s3://{bucket}", overwrite="journal", **options)


async def test_a_journal_on_a_stalled_disk_does_not_hold_a_cancelled_run(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it where all wait for the recorder, which waits for the journal."""
    room, write, stalled, released = Recorder.room, Rows.write, asyncio.Event(), threading.Event()
    (tmp_path / "many").mkdir()
    for number in range(3000):
        (tmp_path / f"many/{number}").touch()

    def stall(*arguments: Any) -> None:
        assert released.wait(120)
        write(*arguments)

    async def noted(recorder: Recorder) -> None:
        if recorder._passed or recorder._records:
            stalled.set()
        await room(recorder)

    monkeypatch.setattr(Rows, "write", stall)
    monkeypatch.setattr(Recorder, "room", noted)
    monkeypatch.setattr("asyncsink.engine.recording.recorder.QUEUE_OUTCOMES", 1)
    monkeypatch.setattr("asyncsink.engine.recording.recorder.QUEUE_PASSED", 1)
    given = {**options, "journal": tmp_path / "j.sqlite"}
    settings = parse_options(f"s3://{bucket}/p", given)
    settings = replace(settings, retry=replace(settings.retry, abort_seconds=0.1))
    run = asyncio.create_task(run_source(settings, DirectorySource(tmp_path / "many", symlinks="follow")))
    try:
        await stalled.wait()
        run.cancel()
        ended, _ = await asyncio.wait({run}, timeout=25)
        assert ended
        with pytest.raises(JournalError, match=r"could not be (recorded|written) within"):
            run.result()
    finally:
        released.set()


async def test_a_journal_in_use_refuses_a_run_before_anything_is_sent(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", **options):
        with pytest.raises(JournalError, match="in use"):
            await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert stored() == {}


async def test_a_plan_tells_what_the_journal_knows_and_changes_nothing(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    (tree / "new").write_bytes(b"new")
    settings = parse_options(f"s3://{bucket}/p", options)
    for _ in range(2):
        plan = await run_source(settings, DirectorySource(tree, symlinks="follow"), dry_run=True)
        assert [planned.key for planned in plan.planned] == ["p/new"]
        assert {skip.reason for skip in plan.skips} == {UNCHANGED_REASON}


@pytest.mark.parametrize("inside", ["j.sqlite", "new/er/j.sqlite", "linked"])
async def test_a_journal_inside_what_is_published_is_refused(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any], inside: str
) -> None:
    """Reading it as a source would give its lock away."""
    journal = tree / inside
    if inside == "linked":
        (tmp_path / "link").symlink_to(tree)
        journal = tmp_path / "link/j.sqlite"
    with pytest.raises(ConfigError, match="lies inside the source"):
        await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options, journal=journal)
    with pytest.raises(ConfigError, match="lies inside the source"):
        await asyncsink.export({"@a": [tree / "a.txt", tree]}, f"s3://{bucket}/p", **options, journal=journal)
    assert stored() == {}
    assert not journal.exists()


async def test_an_existing_journal_is_no_source_of_its_own_run(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    with pytest.raises(ConfigError, match="lies inside the source"):
        await asyncsink.export({"@a": tmp_path / "j.sqlite"}, f"s3://{bucket}/p", **options)


async def test_a_home_directory_is_published_without_the_journal_that_it_would_hold(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tree))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert report.objects_uploaded == len(stored()) == 5
    assert any("goes on without a journal" in notice for notice in report.notices)
