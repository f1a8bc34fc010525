"""The open uploads of an attempt, in a file that the next attempt takes over."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import DestinationFull, JournalError
from asyncsink.journal.base import published_row
from asyncsink.journal.open_uploads import OpenUploads, open_uploads
from asyncsink.journal.opening import Identity, UnusableJournal
from asyncsink.model import (
    Checksum,
    PendingUpload,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadPartStored,
    UploadStep,
)
from asyncsink.options.schema import ObjectOptions

pytestmark = pytest.mark.anyio
IDENTITY = Identity("http://127.0.0.1:9000", "bucket", "study")
SOURCE = SourceFile("/data/bold.nii", 100, 7, ctime_ns=8, inode=9)
PART = StoredPart(2, "etag", Checksum("CRC64NVME", "AAAAAAAAAAA="))
STEPS: list[UploadStep] = [
    UploadCreating("k", SOURCE, 50, "CRC64NVME", "token"),
    UploadOpened("k", "id"),
    UploadPartStored("k", StoredPart(1, "first", None)),
    UploadPartStored("k", PART),
    UploadCompleting("k"),
]
Open = Callable[..., Any]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Opens the file of a numbered attempt."""

    async def of(number: int, identity: Identity = IDENTITY, *, dry_run: bool = False, **objects: Any) -> OpenUploads:
        path = str(tmp_path / "uploads.jsonl")
        options = ObjectOptions(**objects)
        return await open_uploads(path, f"{number}", identity, objects=options, algorithm="CRC64NVME", dry_run=dry_run)

    return of


def upload_of(uploads: OpenUploads, key: str = "k", source: SourceFile = SOURCE) -> PendingUpload | None:
    (entry,) = uploads.known([Transfer(source, key, "")])
    return None if entry is None else entry.upload


async def begun(uploads: OpenUploads, count: int = len(STEPS), key: str = "k") -> None:
    for step in STEPS[:count]:
        await uploads.step(replace(step, key=key))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("count", range(1, len(STEPS) + 1))
async def test_every_state_is_taken_over(opened: Open, tmp_path: Path, count: int) -> None:
    """From attempt to attempt, also where the second one takes no step of its own."""
    first = await opened(1)
    assert first.blank
    await begun(first, count)
    before = upload_of(first)
    assert before is not None
    assert (before.upload_id, before.completing) == ("id" if count > 1 else "", count == len(STEPS))
    assert [part.part_number for part in before.parts] == [1, 2][: max(0, count - 2)]
    assert before.same_source
    for number in (2, 3):
        await first.aclose()
        first = await opened(number)
        assert not first.blank
        assert names(tmp_path) == [f"uploads.jsonl.{number}"]
        assert upload_of(first) == before
    moved = replace(SOURCE, path="/mnt/other/bold.nii")
    assert upload_of(first, source=moved) == before
    await first.aclose()


async def test_a_file_without_open_uploads_is_removed(opened: Open, tmp_path: Path) -> None:
    uploads = await opened(1)
    await uploads.aclose()
    assert names(tmp_path) == []
    uploads = await opened(2)
    await begun(uploads, 4)
    await begun(uploads, 4, key="l")
    await uploads.publish([published_row(Transfer(SOURCE, key, ""), "e", "", None) for key in ("k", "other")])
    assert upload_of(uploads) is None
    await uploads.step(UploadGone("l"))
    assert names(tmp_path) == ["uploads.jsonl.2"]
    await uploads.aclose()
    await uploads.aclose()
    assert names(tmp_path) == []


@pytest.mark.parametrize("other", [{"storage_class": "GLACIER"}, {"metadata": (("a", "b"),)}])
async def test_other_object_options_or_another_content_are_told(opened: Open, other: dict[str, Any]) -> None:
    uploads = await opened(1)
    await begun(uploads, 3)
    await uploads.aclose()
    for number in (2, 3):
        uploads = await opened(number, **other)
        found = upload_of(uploads)
        assert found is not None
        assert (found.upload_id, found.same_source) == ("id", False)
        await uploads.aclose()
    uploads = await opened(4)
    changed = upload_of(uploads, source=replace(SOURCE, inode=10))
    assert changed is not None
    assert not changed.same_source
    await uploads.aclose()


async def test_an_upload_with_object_options_of_its_own_is_not_that_of_the_run(opened: Open) -> None:
    uploads, own = await opened(1), ObjectOptions(metadata=(("a", "b"),))
    await uploads.step(replace(STEPS[0], objects=own))
    entries = uploads.known([Transfer(SOURCE, "k", ""), Transfer(SOURCE, "k", "", objects=own)])
    assert [entry and entry.upload and entry.upload.same_source for entry in entries] == [False, True]
    await uploads.aclose()


async def test_an_attempt_that_is_under_way_is_left_alone(opened: Open, tmp_path: Path) -> None:
    first = await opened(1)
    await begun(first, 3)
    second = await opened(2)
    assert second.blank
    await begun(second, 2)
    await first.aclose()
    third = await opened(3)
    assert names(tmp_path) == ["uploads.jsonl.2", "uploads.jsonl.3"]
    await second.aclose()
    # Of two uploads of one key, the second is left to a later attempt.
    fourth = await opened(4)
    assert upload_of(fourth) is not None
    await third.aclose()
    assert names(tmp_path) == ["uploads.jsonl.3", "uploads.jsonl.4"]
    await fourth.step(UploadGone("k"))
    await fourth.aclose()
    fifth = await opened(5)
    assert upload_of(fifth) is not None
    assert names(tmp_path) == ["uploads.jsonl.5"]
    await fifth.aclose()


async def test_a_plan_changes_nothing(opened: Open, tmp_path: Path) -> None:
    first = await opened(1)
    await begun(first, 3)
    await first.aclose()
    plan = await opened(2, dry_run=True)
    assert upload_of(plan) is not None
    await plan.aclose()
    assert names(tmp_path) == ["uploads.jsonl.1"]


async def test_uploads_of_another_destination_are_left_alone(opened: Open, tmp_path: Path) -> None:
    first = await opened(1)
    await begun(first, 3)
    await first.aclose()
    other = await opened(2, replace(IDENTITY, endpoint_url="http://127.0.0.1:9001"))
    assert other.blank
    await other.aclose()
    assert names(tmp_path) == ["uploads.jsonl.1"]


async def test_a_line_that_a_kill_has_cut_is_not_read(opened: Open, tmp_path: Path) -> None:
    first = await opened(1)
    await begun(first)
    await first.aclose()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    second = await opened(2)
    found = upload_of(second)
    assert found is not None
    assert (found.completing, found.parts[-1]) == (False, PART)
    await second.aclose()


@pytest.mark.parametrize(
    "content",
    [
        b"\n", b"not JSON\n", b"[]\n", b'{"format": "asyncsink open uploads", "version": 2}\n',
        b'{"step": "creating", "key": "k"}\n', "a directory", "a link",
    ],
)  # fmt: skip
async def test_a_strange_file_is_left_as_it_is(opened: Open, tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "uploads.jsonl.1"
    if content == "a directory":
        path.mkdir()
    elif content == "a link":
        path.symlink_to(tmp_path.parent / "elsewhere")
    elif isinstance(content, bytes):
        path.write_bytes(content)

    def seen() -> tuple[int, ...]:
        found = path.lstat()
        return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    before = seen()
    second = await opened(2)
    assert upload_of(second) is None
    await second.aclose()
    assert seen() == before


@pytest.mark.parametrize("content", [b"", b'{"format": "asyncsink op'])
async def test_the_file_of_an_attempt_that_began_nothing_is_removed(
    opened: Open, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "uploads.jsonl.1").write_bytes(content)
    plan = await opened(2, dry_run=True)
    await plan.aclose()
    assert names(tmp_path) == ["uploads.jsonl.1"]
    second = await opened(3)
    await second.aclose()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "line", [b"\0" * 40, b"{}", b'{"step": "odd", "key": "k"}', b'{"step": "part", "key": "k", "part_number": "x"}']
)
async def test_of_a_damaged_file_the_lines_before_the_damage_count_and_it_stays(
    opened: Open, tmp_path: Path, line: bytes
) -> None:
    first = await opened(1)
    await begun(first, 3)
    await first.aclose()
    path = tmp_path / "uploads.jsonl.1"
    path.write_bytes(path.read_bytes() + line + b'\n{"step": "gone", "key": "k"}\n')
    second = await opened(2)
    found = upload_of(second)
    assert found is not None
    assert (found.upload_id, len(found.parts)) == ("id", 1)
    await second.step(UploadGone("k"))
    await second.aclose()
    assert names(tmp_path) == ["uploads.jsonl.1"]


async def test_a_file_that_was_found_empty_before_it_was_locked_is_made_again(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploads, lock, removed = await opened(1), fcntl.flock, list[int]()

    def late(descriptor: int, how: int) -> None:
        if not removed:
            removed.append(descriptor)
            (tmp_path / "uploads.jsonl.1").unlink()  # as an attempt does that begins in this moment
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    await begun(uploads, 2)
    assert names(tmp_path) == ["uploads.jsonl.1"]
    await uploads.aclose()
    second = await opened(2)
    assert upload_of(second) is not None
    await second.aclose()


async def test_names_that_are_no_utf_8_are_kept(opened: Open) -> None:
    key, source = "caf\udce9", replace(SOURCE, path="/data/caf\udce9")
    first = await opened(1)
    await begun(first, 3, key=key)
    await first.aclose()
    second = await opened(2)
    assert upload_of(second, key, source) is not None
    await second.publish([published_row(Transfer(source, key, ""), "e", "", None)])
    assert upload_of(second, key, source) is None
    await second.aclose()


async def test_it_holds_no_secret_and_only_its_owner_reads_it(opened: Open, tmp_path: Path) -> None:
    uploads = await opened(1, metadata=(("name", "a-private-value"),))
    await begun(uploads, 3)
    await uploads.aclose()
    (path,) = tmp_path.iterdir()
    assert b"private" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    head = json.loads(path.read_bytes().splitlines()[0])
    assert {"format", "version", "endpoint_url", "bucket", "prefix", "salt"} == head.keys()


async def test_a_step_that_cannot_follow_is_a_bug_and_is_not_written(opened: Open, tmp_path: Path) -> None:
    uploads = await opened(1)
    with pytest.raises(JournalError, match="UploadOpened of 'k' cannot follow"):
        await uploads.step(UploadOpened("k", "id"))
    await uploads.aclose()
    assert names(tmp_path) == []


async def test_a_directory_that_is_missing_or_full_is_told(opened: Open, tmp_path: Path) -> None:
    with pytest.raises(UnusableJournal) as unusable:
        await open_uploads(
            str(tmp_path / "missing/uploads.jsonl"), "1", IDENTITY, objects=ObjectOptions(), algorithm=None
        )
    assert str(unusable.value.error).endswith("No such file or directory; look at the file system it is on.")
    uploads = await opened(1)
    await begun(uploads, 2)
    # /dev/full answers each write with ENOSPC.
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, uploads._descriptor)
    os.close(full)
    with pytest.raises(DestinationFull, match=r"uploads.jsonl.1' cannot be written: no space is left; free some"):
        await uploads.step(UploadGone("k"))
    await uploads.aclose()


async def test_without_locks_the_file_of_an_attempt_is_left_alone(
    opened: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing shows whether it has ended."""

    def unsupported(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    first = await opened(1)
    await begun(first, 3)
    second = await opened(2)
    assert upload_of(second) is None
    await second.aclose()
    await first.aclose()
    assert names(tmp_path) == ["uploads.jsonl.1"]


async def test_the_file_of_a_run_that_goes_on_without_it_stays(opened: Open, tmp_path: Path) -> None:
    first = await opened(1)
    await begun(first, 3)
    await first.aclose()
    second = await opened(2)
    second.withdraw()
    await second.aclose()
    assert names(tmp_path) == ["uploads.jsonl.2"]
