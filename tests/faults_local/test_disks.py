"""Disks that fail under the local copy, and disks that stand still under the source."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink import temporary
from asyncsink.destinations import existing_objects
from asyncsink.destinations.existing_objects import Inventory
from asyncsink.download.plan import Matches
from asyncsink.engine.planning import key_ledger
from asyncsink.engine.planning.key_ledger import AlikeKeys, KeyLedger
from asyncsink.errors import JournalError
from asyncsink.model import Receipt
from asyncsink.report import earlier_proofs
from asyncsink.report.earlier_proofs import EarlierProofs
from asyncsink.s3.operations import ListedObject
from asyncsink.testing.peers import CannedPeer, canned
from tests.support.files import content_of, mounted
from tests.support.quirky_s3 import QuirkyS3, StoredObject, quirky_s3, run_command

pytestmark = pytest.mark.anyio
MIB = 1 << 20
SIZES = {"small.txt": 70_000, "whole.bin": 3 * MIB, "parts.bin": 17 * MIB}
Stored = Callable[[], dict[str, bytes]]


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
    lane: str, root: Path, stored: Stored, largest_file: Callable[[int], None], copies: Path, export: Any
) -> None:
    largest_file(MIB)
    report = await export(transport=lane, local_copy=copies)
    assert report.objects_uploaded == 3
    assert {failure.error for failure in report.failures} == {"EntityTooLarge"}
    assert {failure.stage for failure in report.failures} == {"local copy"}
    assert sorted(Path(failure.source).name for failure in report.failures) == ["parts.bin", "whole.bin"]
    assert stored() == content_of(root)
    assert content_of(copies) == {"small.txt": (root / "small.txt").read_bytes()}


@pytest.mark.parametrize("call", ["pwrite", "fsync", "rename"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
async def test_a_disk_that_fails_costs_only_the_copies(
    call: str, number: int, root: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch, copies: Path, export: Any
) -> None:
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
    report = await export(local_copy=copies)
    assert report.objects_uploaded == 3
    assert [failure.stage for failure in report.failures] == ["local copy"] * 3
    for failure in report.failures:
        assert str(copies) in failure.message
        assert ("free some" if number == errno.ENOSPC else os.strerror(number)) in failure.message
    assert stored() == content_of(root)
    assert content_of(copies) == {}


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_server_that_refuses_everything_costs_no_copy(
    lane: str, root: Path, tmp_path: Path, options: dict[str, Any]
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
    assert content_of(copies) == content_of(root)


@pytest.mark.parametrize("name", list(SIZES))
@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_the_loop_goes_on_while_a_disk_stands_still(
    name: str, lane: str, root: Path, bucket: str, s3: Any, stored: Stored, monkeypatch: pytest.MonkeyPatch, export: Any
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

    async def publish() -> None:
        reports.append(await export(transport=lane))

    async with anyio.create_task_group() as group:
        group.start_soon(publish)
        try:
            with anyio.fail_after(60):
                while not (await anyio.to_thread.run_sync(arrived) and still.is_set()):
                    beats += 1
            assert not reports
        finally:
            moving.set()
    assert beats, "the loop turned while the read stood"
    reports[0].raise_for_failures()
    assert stored() == content_of(root)


async def test_a_directory_that_may_not_be_written_to_is_refused_before_anything_is_sent(
    stored: Stored, monkeypatch: Any, copies: Path, export: Any
) -> None:
    opened = os.open

    def refuse(path: Any, flags: int, *given: Any, **named: Any) -> int:
        # Root may write anywhere but on a file system that is mounted read-only: it answers with EROFS.
        folder = f"{os.readlink('/proc/self/fd/' + str(named['dir_fd']))}/" if named.get("dir_fd") is not None else ""
        if flags & os.O_CREAT and f"{folder}{path}".startswith(str(copies)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        return opened(path, flags, *given, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(asyncsink.errors.AccessDenied, match=r"Read-only file system.*choose another directory"):
        await export(local_copy=copies)
    assert stored() == {}


# -- A directory for temporary files that is full ----------------------------------------------------------------------


FILES = 3000
KEYS = [f"{number:05}{'k' * 200}" for number in range(FILES)]


@pytest.fixture
def full_directory(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, mounted for temporary files."""
    with mounted(tmp_path / "little", "size=256k") as disk:
        yield disk


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Many files with long paths, so that what is kept of them is more than stays in memory."""
    folder = tmp_path / ("a" * 250) / ("b" * 250) / ("c" * 200) / "source"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / f"{number:05}.txt").touch()
    return folder


def check_sentence(ended: subprocess.CompletedProcess[bytes], code: int, directory: Path) -> None:
    said = ended.stderr.decode()
    assert ended.returncode == code, said
    (line,) = [line for line in said.splitlines() if line.startswith("asyncsink: error: ")]
    assert str(directory) in line
    assert "TMPDIR" in line
    assert "bug of asyncsink" not in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "journal" not in line


def test_the_ledger_of_keys(tmp_path: Path, full_directory: Path, source: Path) -> None:
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps({"x": sorted(map(str, source.iterdir()))}))
    with quirky_s3() as server:
        env = server.environment(tmp_path, TMPDIR=str(full_directory))
        words = ("export", "--outputs", outputs, "s3://tryout/p")
        check_sentence(run_command(*words, env=env), 2, full_directory)
        assert server.bodies() == {}


def test_outcomes(tmp_path: Path, full_directory: Path, source: Path) -> None:
    with quirky_s3() as server:
        env = server.environment(tmp_path, TMPDIR=str(full_directory))
        check_sentence(run_command("export", source, "s3://tryout/p", env=env), 1, full_directory)


def listed(server: QuirkyS3) -> None:
    stored = StoredObject(b"x")
    server.objects["tryout"] = {f"p/{key}{'x' * 500}/y.txt": stored for key in KEYS}


def test_matches_of_a_template(tmp_path: Path, full_directory: Path) -> None:
    with quirky_s3() as server:
        listed(server)
        env = server.environment(tmp_path, TMPDIR=str(full_directory))
        words = ("grab", "s3://tryout/p", tmp_path / "back", "--template", ".*/y.txt")
        check_sentence(run_command(*words, env=env), 2, full_directory)


def fill_inventory(page: list[ListedObject]) -> None:
    Inventory("").add_page(page, last=True)


def forget_much(page: list[ListedObject]) -> None:
    keys = Inventory("")
    for each in page:
        keys.forget([each.key])


def fill_ledger(page: list[ListedObject]) -> None:
    KeyLedger().claim((each.key, "/source", 0) for each in page)


def fill_alike(page: list[ListedObject]) -> None:
    AlikeKeys().add(each.key for each in page)


def fill_matches(page: list[ListedObject]) -> None:
    Matches().add((each, [0]) for each in page)


def fill_proofs(page: list[ListedObject]) -> None:
    EarlierProofs().add(0, (receipt(each.key) for each in page))


def receipt(key: str) -> Receipt:
    return Receipt("/s", key, "s3://b/k", 0, None, "e", "", 1, 0.0, "", "etag")


@pytest.mark.parametrize(
    "fill", [fill_inventory, forget_much, fill_ledger, fill_alike, fill_matches, fill_proofs], ids=lambda f: f.__name__
)
def test_whatever_is_kept(
    fill: Callable[[list[ListedObject]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(existing_objects, "IN_MEMORY_MAX", 10)
    monkeypatch.setattr(key_ledger, "ALIKE_IN_MEMORY_MAX", 10)
    monkeypatch.setattr(earlier_proofs, "IN_MEMORY_MAX", 10)
    monkeypatch.setattr(temporary, "_SETTINGS", f"{temporary._SETTINGS} PRAGMA max_page_count=8;")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(JournalError, match=r"cannot be kept in .*TMPDIR") as caught:
        fill([ListedObject(key, 1, "etag", None) for key in KEYS])
    assert repr(str(tmp_path)) in str(caught.value)
