"""Disks that fail under the local copy, and disks that stand still under the source."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.testing.peers import CannedPeer, canned

pytestmark = pytest.mark.anyio
MIB = 1 << 20
SIZES = {"small.txt": 70_000, "whole.bin": 3 * MIB, "parts.bin": 17 * MIB}
Stored = Callable[[], dict[str, bytes]]
FilesIn = Callable[[Path], dict[str, bytes]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One file for each way that a file can take."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name, size in SIZES.items():
        (folder / name).write_bytes(os.urandom(size))
    return folder


@pytest.fixture
def largest_file() -> Iterator[Callable[[int], None]]:
    """Forbid this process to write files larger than this (setrlimit(2), EFBIG; Python ignores SIGXFSZ)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_disk_that_takes_no_such_files_costs_only_the_copies(
    lane: str,
    root: Path,
    tmp_path: Path,
    bucket: str,
    options: dict[str, Any],
    stored: Stored,
    files_in: FilesIn,
    largest_file: Callable[[int], None],
) -> None:
    copies = tmp_path / "copies"
    largest_file(MIB)
    report = await asyncsink.export_directory(
        root, f"s3://{bucket}", **{**options, "transport": lane, "local_copy": copies}
    )
    assert report.objects_uploaded == 3
    assert {failure.error for failure in report.failures} == {"EntityTooLarge"}
    assert {failure.stage for failure in report.failures} == {"local copy"}
    assert sorted(Path(failure.source).name for failure in report.failures) == ["parts.bin", "whole.bin"]
    assert stored() == files_in(root)
    assert files_in(copies) == {"small.txt": (root / "small.txt").read_bytes()}


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
async def test_a_disk_that_fails_costs_only_the_copies(
    call: str,
    number: int,
    root: Path,
    tmp_path: Path,
    bucket: str,
    options: dict[str, Any],
    stored: Stored,
    files_in: FilesIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    copies = tmp_path / "copies"
    real = getattr(os, call)

    def fail(target: Any, *given: Any, **named: Any) -> Any:
        opened = target if isinstance(target, int) else named["src_dir_fd"]
        path = os.readlink(f"/proc/self/fd/{opened}")
        if not isinstance(target, int):
            path = f"{path}/{target}"
        if path.startswith(str(copies)) and path.endswith(".asyncsink-part") and "probe" not in path:
            raise OSError(number, os.strerror(number), path)
        return real(target, *given, **named)

    monkeypatch.setattr(os, call, fail)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", **{**options, "local_copy": copies})
    assert report.objects_uploaded == 3
    assert [failure.stage for failure in report.failures] == ["local copy"] * 3
    for failure in report.failures:
        assert str(copies) in failure.message
        assert ("free some" if number == errno.ENOSPC else os.strerror(number)) in failure.message
    assert stored() == files_in(root)
    assert files_in(copies) == {}


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_server_that_refuses_everything_costs_no_copy(
    lane: str, root: Path, tmp_path: Path, options: dict[str, Any], files_in: FilesIn
) -> None:
    listing = canned(
        200,
        b'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bkt</Name><KeyCount>0</KeyCount>'
        b"<IsTruncated>false</IsTruncated></ListBucketResult>",
    )
    denied = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
    copies = tmp_path / "copies"
    async with CannedPeer(listing, denied, hang_up=False) as peer:
        given = {**options, "endpoint_url": peer.endpoint_url, "transport": lane, "local_copy": copies}
        report = await asyncsink.export_directory(root, "s3://bkt", **given)
    assert {(failure.stage, failure.error) for failure in report.failures} == {("upload", "AccessDenied")}
    assert report.objects_failed == 3
    assert files_in(copies) == files_in(root)


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_the_loop_goes_on_while_a_disk_stands_still(
    name: str,
    lane: str,
    root: Path,
    bucket: str,
    s3: Any,
    options: dict[str, Any],
    stored: Stored,
    files_in: FilesIn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A read that does not return holds its own thread, and nothing else: the loop turns, and other files arrive."""
    still, moving = threading.Event(), threading.Event()
    inode, preadv = (root / name).stat().st_ino, os.preadv

    def stand_still(descriptor: int, buffers: Any, offset: int) -> int:
        if os.fstat(descriptor).st_ino == inode:
            still.set()
            assert moving.wait(100)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", stand_still)
    others = set(SIZES) - {name}
    beats, reports = 0, []

    def arrived() -> bool:
        return others <= {item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])}

    async def export() -> None:
        reports.append(await asyncsink.export_directory(root, f"s3://{bucket}", **{**options, "transport": lane}))

    async with anyio.create_task_group() as group:
        group.start_soon(export)
        try:
            with anyio.fail_after(60):
                while not (await anyio.to_thread.run_sync(arrived) and still.is_set()):
                    beats += 1
            assert not reports
        finally:
            moving.set()
    assert beats, "the loop turned while the read stood"
    reports[0].raise_for_failures()
    assert stored() == files_in(root)


async def test_a_directory_that_may_not_be_written_to_is_refused_before_anything_is_sent(
    root: Path, tmp_path: Path, bucket: str, options: dict[str, Any], stored: Stored, monkeypatch: Any
) -> None:
    opened = os.open

    def refuse(path: Any, flags: int, *given: Any, **named: Any) -> int:
        # Root may write anywhere but on a file system that is mounted read-only: it answers with EROFS.
        folder = f"{os.readlink('/proc/self/fd/' + str(named['dir_fd']))}/" if named.get("dir_fd") is not None else ""
        if flags & os.O_CREAT and f"{folder}{path}".startswith(str(tmp_path / "copies")):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *given, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(asyncsink.errors.AccessDenied, match=r"Read-only file system.*choose another directory"):
        await asyncsink.export_directory(root, f"s3://{bucket}", **{**options, "local_copy": tmp_path / "copies"})
    assert stored() == {}
