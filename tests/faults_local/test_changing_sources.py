"""A source that changes while it is being read: nothing is published under its key, and the rest of the run goes on.

The change is a real one, made to the real file at an exact moment: after the reader's n-th read(2) of it, or between
two steps of the upload. What is read, how, and by which thread stays what it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.cli.main import main
from asyncsink.destinations.uploads import S3PartWriter
from asyncsink.sources.reader import OpenSource
from tests.support.changes import edit_in_secret, grow, replace, truncate
from tests.support.combinations import crossed
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
MIB = 1 << 20
SMALL, WHOLE, PARTS = 70_000, 3 * MIB + 5, 17 * MIB + 5
Change = Callable[[Path], object]
Stored = Callable[[], dict[str, bytes]]
CHANGES = [truncate, grow, edit_in_secret, replace, os.unlink]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a file that is at rest."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "at-rest.txt").write_bytes(b"as it was found")
    return folder


@pytest.fixture
def after_read(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int, Change], list[int]]:
    """Change a file right after so many reads of it; returns the list of the reads' lengths."""

    def arm(path: Path, number: int, change: Change) -> list[int]:
        inode, preadv, reads = path.stat().st_ino, os.preadv, list[int]()

        def read(descriptor: int, buffers: Any, offset: int) -> int:
            count = preadv(descriptor, buffers, offset)
            if os.fstat(descriptor).st_ino == inode:
                reads.append(count)
                if len(reads) == number:
                    change(path)
            return count

        monkeypatch.setattr(os, "preadv", read)
        return reads

    return arm


@crossed(
    "size,change,copied,lane",
    [SMALL, WHOLE, PARTS],
    CHANGES,
    [False, True],
    ["wire", "aioboto3"],
    usual=lambda size, change, copied, lane: (
        (change in (edit_in_secret, os.unlink) and copied) if lane == "aioboto3" else not copied or change is truncate
    ),
)
async def test_a_change_while_it_is_read(
    size: int,
    change: Change,
    copied: bool,
    lane: str,
    root: Path,
    stored: Stored,
    after_read: Any,
    copies: Path,
    export: Any,
) -> None:
    moving, read = root / "moving.bin", 2 if size == PARTS else 1
    moving.write_bytes(os.urandom(size))
    reads = after_read(moving, read, change)
    report = await export(transport=lane, **({"local_copy": copies} if copied else {}))
    assert len(reads) >= read, "the file was being read when it changed"
    (failure,) = report.failures
    gone = change is os.unlink and size == SMALL
    assert (failure.error, failure.stage) == ("SourceMissing" if gone else "SourceChanged", "source")
    assert str(moving) in failure.message
    assert (report.objects_uploaded, report.objects_failed) == (1, 1)
    assert stored() == {"at-rest.txt": b"as it was found"}
    assert content_of(copies) == ({"at-rest.txt": b"as it was found"} if copied else {})


@pytest.mark.parametrize("size", [SMALL, WHOLE, PARTS], ids=["small", "whole", "parts"])
@pytest.mark.parametrize("change", [edit_in_secret, replace])
async def test_an_object_from_before_stays_what_it_was(
    size: int, change: Change, root: Path, stored: Stored, after_read: Any, export: Any
) -> None:
    """The first reading compares, and finds the difference; nothing of it may reach the old object."""
    moving = root / "moving.bin"
    moving.write_bytes(os.urandom(size))
    (await export()).raise_for_failures()
    before = stored()
    moving.write_bytes(os.urandom(size))
    after_read(moving, 1, change)
    report = await export()
    assert [failure.error for failure in report.failures] == ["SourceChanged"]
    assert stored() == before


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_after_the_last_part_and_before_complete(
    change: Change, lane: str, root: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch, copies: Path, export: Any
) -> None:
    moving = root / "moving.bin"
    moving.write_bytes(os.urandom(PARTS))
    check, checked = OpenSource.check_unchanged, list[OpenSource]()

    def change_first(self: OpenSource) -> None:
        checked.append(self)
        change(moving)
        check(self)

    monkeypatch.setattr(OpenSource, "check_unchanged", change_first)
    report = await export(transport=lane, local_copy=copies)
    assert len(checked) == 1
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("SourceChanged", "source")
    assert stored() == content_of(copies) == {"at-rest.txt": b"as it was found"}


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_change_when_complete_is_on_its_way_comes_too_late_to_matter(
    change: Change, lane: str, root: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch, copies: Path, export: Any
) -> None:
    """Every byte was read before the last look at the file: what is published is the file as it was then, whole.

    The check stands before Complete, and after it nobody reads: an object is never completed and then found wrong.
    """
    moving = root / "moving.bin"
    moving.write_bytes(os.urandom(PARTS))
    before = moving.read_bytes()
    complete, read_part = S3PartWriter.complete, OpenSource.read_part
    changed: list[bool] = []

    async def change_first(self: S3PartWriter, checksum: Any) -> Any:
        change(moving)
        changed.append(True)
        return await complete(self, checksum)

    def read(self: OpenSource, *given: Any, **named: Any) -> Any:
        assert not changed, "nothing is read after the check"
        return read_part(self, *given, **named)

    monkeypatch.setattr(S3PartWriter, "complete", change_first)
    monkeypatch.setattr(OpenSource, "read_part", read)
    report = await export(transport=lane, local_copy=copies)
    report.raise_for_failures()
    assert changed == [True]
    expected = {"at-rest.txt": b"as it was found", "moving.bin": before}
    assert stored() == content_of(copies) == expected


@pytest.mark.parametrize("size", [SMALL, WHOLE, PARTS], ids=["small", "whole", "parts"])
async def test_a_copy_that_shares_the_sources_bytes(
    size: int, root: Path, stored: Stored, after_read: Any, copies: Path, export: Any
) -> None:
    moving = root / "moving.bin"
    moving.write_bytes(os.urandom(size))
    after_read(moving, 1, edit_in_secret)
    report = await export(local_copy=copies, local_copy_mode="hardlink")
    assert [failure.error for failure in report.failures] == ["SourceChanged"]
    assert stored() == content_of(copies) == {"at-rest.txt": b"as it was found"}


@pytest.mark.parametrize("size", [SMALL, WHOLE, PARTS], ids=["small", "whole", "parts"])
def test_the_command_says_it_in_one_sentence(
    size: int, root: Path, bucket: str, options: dict[str, Any], stored: Stored, after_read: Any, capfd: Any
) -> None:
    moving = root / "moving.bin"
    moving.write_bytes(os.urandom(size))
    after_read(moving, 1, edit_in_secret)
    code = main(["export", str(root), f"s3://{bucket}", "--endpoint-url", options["endpoint_url"], "--json"])
    told = capfd.readouterr()
    assert code == 1
    (failure,) = json.loads(told.out)["failures"]
    assert failure["error"] == "SourceChanged"
    for words in (repr(str(moving)), "changed while it was being published", "export again when its writer is done."):
        assert words in failure["message"]
        assert words in told.err
    assert "Traceback" not in told.err
    assert stored() == {"at-rest.txt": b"as it was found"}


@pytest.mark.parametrize("size_bytes", [WHOLE, PARTS])
async def test_a_file_that_is_linked_before_every_look_is_published(
    tmp_path: Path, bucket: str, stored: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, size_bytes: int
) -> None:
    """Several sinks at once make local copies of one file: its ctime changes, and nothing else."""
    root, opened = tmp_path / "root", list[OpenSource]()
    root.mkdir()
    (root / "file").write_bytes(bytes(size_bytes))
    look = OpenSource.__init__

    def link_first(self: OpenSource, *given: Any) -> None:
        opened.append(self)
        if len(opened) <= 5:
            os.link(root / "file", tmp_path / f"link-{len(opened)}")
        look(self, *given)

    monkeypatch.setattr(OpenSource, "__init__", link_first)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    report.raise_for_failures()
    assert len(opened) > 5
    assert stored() == {"file": bytes(size_bytes)}


async def test_a_file_that_grows_before_every_look_is_not_published(
    tmp_path: Path, bucket: str, stored: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_bytes(bytes(6 * MIB))
    look = OpenSource.__init__

    def grow_first(self: OpenSource, *given: Any) -> None:
        with (root / "file").open("ab") as file:
            file.write(b"more")
        look(self, *given)

    monkeypatch.setattr(OpenSource, "__init__", grow_first)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    [failure] = report.failures
    assert "changes faster than it can be opened" in failure.message
    assert stored() == {}
