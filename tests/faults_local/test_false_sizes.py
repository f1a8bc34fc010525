"""Files whose size is not what their file system says: /proc, /sys, and FUSE file systems of that kind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.options.settings import MIB
from asyncsink.sources import reader

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
lanes = pytest.mark.parametrize("transport", ["wire", "aioboto3"])
RANDOM = "/proc/sys/kernel/random"
SHORT = "/sys/kernel/fscaps"
"""It says that it has 4,096 bytes, and has a few."""


def of_proc(path: str) -> str:
    if not os.access(path, os.R_OK):
        pytest.skip(f"{path} cannot be read here")
    return path


@lanes
async def test_single_files_of_proc_are_not_published_empty(
    bucket: str, options: dict[str, Any], stored: Stored, tmp_path: Path, transport: str
) -> None:
    """Nor is the ordinary empty file beside them left out."""
    (tmp_path / "empty").write_bytes(b"")
    files = [of_proc("/proc/self/status"), of_proc("/proc/version"), str(tmp_path / "empty")]
    report = await asyncsink.export({"f": files}, f"s3://{bucket}", transport=transport, **options)
    assert sorted(each.source for each in report.failures) == files[:2]
    assert {each.error for each in report.failures} == {"SourceUnreadable"}
    assert "more than the 0 bytes" in report.failures[0].message
    assert stored() == {"f/empty": b""}


@lanes
@pytest.mark.parametrize("copy", [False, True])
async def test_a_directory_of_proc_is_not_published_empty(
    bucket: str, options: dict[str, Any], stored: Stored, tmp_path: Path, transport: str, copy: bool
) -> None:
    of_proc(f"{RANDOM}/boot_id")
    more = {"local_copy": tmp_path / "copy"} if copy else {}
    report = await asyncsink.export_directory(RANDOM, f"s3://{bucket}", transport=transport, **options, **more)
    assert {each.error for each in report.failures if each.stage != "local copy"} == {"SourceUnreadable"}
    assert (list(report.receipts), stored()) == ([], {})
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]


async def test_a_local_destination_gets_no_empty_file_of_proc(tmp_path: Path) -> None:
    report = await asyncsink.export_directory(of_proc(RANDOM), tmp_path / "out")
    assert {each.error for each in report.failures} == {"SourceUnreadable"}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


async def test_an_empty_object_is_not_the_same_as_a_file_of_proc(
    bucket: str, options: dict[str, Any], s3: Any, tmp_path: Path
) -> None:
    """As an earlier version published it. An ordinary empty file is there already."""
    (tmp_path / "empty").write_bytes(b"")
    for name in ("version", "empty"):
        s3.put_object(Bucket=bucket, Key=f"f/{name}", Body=b"")
    files = [of_proc("/proc/version"), str(tmp_path / "empty")]
    report = await asyncsink.export({"f": files}, f"s3://{bucket}", **options)
    assert [each.source for each in report.failures] == files[:1]
    assert [each.source for each in report.skips] == files[1:]


@lanes
async def test_a_file_that_is_shorter_than_it_says(
    bucket: str, options: dict[str, Any], stored: Stored, transport: str
) -> None:
    files = [of_proc(SHORT)]
    report = await asyncsink.export({"f": files}, f"s3://{bucket}", transport=transport, **options)
    assert [each.error for each in report.failures] == ["SourceUnreadable"]
    assert "fewer than the 4,096 bytes" in report.failures[0].message
    assert not stored()


@lanes
@pytest.mark.parametrize("copy", [False, True])
@pytest.mark.parametrize("size", [1, 2 * MIB, 11 * MIB])
async def test_more_bytes_than_the_size_of_every_kind_of_file(
    bucket: str,
    options: dict[str, Any],
    stored: Stored,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
    size: int,
    copy: bool,
) -> None:
    """In a batch, in a lane thread, in parts: the file system has a byte more wherever the file should end."""
    preadv = os.preadv

    def one_more(descriptor: int, buffers: Any, offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        return count + (offset + count == size and count < sum(map(len, buffers)))

    monkeypatch.setattr(reader.os, "preadv", one_more)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(size))
    more = {"local_copy": tmp_path / "copy"} if copy else {}
    report = await asyncsink.export_directory(source, f"s3://{bucket}", transport=transport, **options, **more)
    assert {each.error for each in report.failures} == {"SourceUnreadable"}
    assert (list(report.receipts), stored()) == ([], {})
    assert not [path for path in (tmp_path / "copy").rglob("*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, 100_000])
async def test_an_ordinary_small_file_is_read_by_one_call(
    bucket: str, options: dict[str, Any], stored: Stored, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    calls: list[int] = []
    preadv = os.preadv

    def counted(descriptor: int, buffers: Any, offset: int) -> int:
        calls.append(offset)
        return preadv(descriptor, buffers, offset)

    monkeypatch.setattr(reader.os, "preadv", counted)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(bytes(size))
    report = await asyncsink.export_directory(source, f"s3://{bucket}", **options)
    assert (len(report.receipts), calls) == (1, [0])
    assert stored() == {"file": bytes(size)}
