"""Local files: what appears, with which mode, time and durability, and what is refused."""

# ruff: noqa: ASYNC240 - the tests look at the same small directory that the event loop's threads write to

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import threading
from pathlib import Path

import pytest
from anyio import CapacityLimiter

from asyncsink.destinations.base import RunForecast, Stored
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.local.files import TEMPORARY_SUFFIX, make_directories
from asyncsink.errors import AccessDenied, ConfigError, PermanentError
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import SourceFile, Transfer
from asyncsink.options.schema import LocalCopyMode, LocalTarget
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.testing.destination_suite import MTIME_NS, content, transfer_of

pytestmark = pytest.mark.anyio

ANYWHERE = RunForecast(objects_total=None, common_prefix="", sample_key="")


def destination(directory: Path, *, mode: LocalCopyMode = "copy", use_local_key: bool = False) -> LocalDestination:
    return LocalDestination(
        LocalTarget(directory=str(directory), mode=mode), limiter=CapacityLimiter(4), use_local_key=use_local_key
    )


def transfer_from(path: Path, key: str) -> Transfer:
    seen = path.stat()
    return Transfer(SourceFile(path=str(path), size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns), key, key)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def temporaries(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.name.endswith(TEMPORARY_SUFFIX)]


# -- what appears -----------------------------------------------------------------------------------------------------


async def test_the_copy_has_the_sources_time_and_the_usual_mode(out: Path) -> None:
    local = destination(out)
    await local.prepare(ANYWHERE)
    await local.put(transfer_of("a/b.nii", b"abc"), b"abc", None)
    seen = (out / "a/b.nii").stat()
    reference = out / "reference"
    reference.write_bytes(b"")
    assert seen.st_mtime_ns == MTIME_NS
    assert seen.st_mode == reference.stat().st_mode
    assert tree(out) == ["a", "a/b.nii", "reference"]


async def test_the_mode_is_usual_without_prepare_too(out: Path) -> None:
    await destination(out).put(transfer_of("b.nii", b"abc"), b"abc", None)
    reference = out / "reference"
    reference.write_bytes(b"")
    assert (out / "b.nii").stat().st_mode == reference.stat().st_mode


async def test_parts_are_private_while_they_are_written(out: Path) -> None:
    local = destination(out)
    writer = await local.start(transfer_of("b.nii", b"abcd"), PartPlan(4, 2), None)
    (temporary,) = temporaries(out)
    assert temporary.parent == out
    assert re.fullmatch(r"\.b\.nii\.[0-9a-f]{16}\.asyncsink-part", temporary.name)
    assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
    await writer.abort()
    assert tree(out) == []


async def test_the_local_key_or_the_key(out: Path) -> None:
    transfer = Transfer(SourceFile(path="/nowhere/x", size_bytes=1, mtime_ns=0), "prefix/x", "x")
    for use_local_key in (True, False):
        local = destination(out, use_local_key=use_local_key)
        stored = await local.put(transfer, b"x", None)
        assert stored == Stored(location=local.url(transfer), confirmed_by="size")
    assert tree(out) == ["prefix", "prefix/x", "x"]


async def test_look_tells_what_the_file_is(out: Path) -> None:
    local = destination(out)
    body = content(3 << 20)
    transfer = transfer_of("b.nii", body)
    await local.put(transfer, body, None)
    seen = await local.look(transfer, closely=False)
    assert seen is not None
    assert (seen.size_bytes, seen.etag, seen.looked_closely, dict(seen.checksums)) == (len(body), "", False, {})
    assert seen.modified is not None
    assert seen.modified.microsecond == 123456
    closely = await local.look(transfer, closely=True)
    assert closely is not None
    assert closely.checksums == {"CRC64NVME": checksum_of(body, "CRC64NVME").value}
    assert closely.looked_closely


async def test_a_link_in_the_way_is_replaced_and_not_followed(out: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    out.mkdir()
    (out / "x").symlink_to(precious)
    local = destination(out)
    assert await local.look(transfer_of("x", b"new"), closely=True) is None
    await local.put(transfer_of("x", b"new"), b"new", None)
    assert not (out / "x").is_symlink()
    assert (out / "x").read_bytes() == b"new"
    assert precious.read_bytes() == b"precious"


async def test_readers_of_the_old_file_keep_it(out: Path) -> None:
    local = destination(out)
    await local.put(transfer_of("x", b"old"), b"old", None)
    with (out / "x").open("rb") as reader:
        await local.put(transfer_of("x", b"new"), b"new", None)
        assert reader.read() == b"old"
    assert (out / "x").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["n" * 255, "日" * 85, "é" * 127 + "x"])
async def test_the_longest_names_have_temporary_names(out: Path, name: str) -> None:
    local = destination(out)
    await local.put(transfer_of(name, b"x"), b"x", None)
    assert tree(out) == [name]


@pytest.mark.skipif(sys.platform == "darwin", reason="the file system takes UTF-8 names only")
async def test_names_that_are_no_utf8(out: Path) -> None:
    name = os.fsdecode(b"caf\xe9.nii")
    local = destination(out)
    await local.put(transfer_of(name, b"x"), b"x", None)
    assert os.listdir(os.fsencode(out)) == [b"caf\xe9.nii"]
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(PermanentError, match=re.escape(r"caf\xe9.nii is a directory")) as caught:
        await local.put(transfer_of(name, b"x"), b"x", None)
    str(caught.value).encode("utf-8")


async def test_everything_is_synced_before_and_after_the_name_appears(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = destination(out)
    await local.prepare(ANYWHERE)
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        directory = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        steps.append("sync directory" if directory else f"sync {os.fstat(descriptor).st_size} bytes")
        fsync(descriptor)

    def note_rename(source: str, target: str, **directories: int) -> None:
        steps.append("rename")
        rename(source, target, **directories)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    await local.put(transfer_of("x", b"abc"), b"abc", None)
    assert steps == ["sync 3 bytes", "rename", "sync directory"]
    steps.clear()
    await local.put(transfer_of("new/deep/x", b"abc"), b"abc", None)
    assert steps == ["sync directory", "sync directory", "sync 3 bytes", "rename", "sync directory"]


def test_directories_may_be_made_by_many_at_once(tmp_path: Path) -> None:
    deep = [str(tmp_path / "a/b/c/d" / str(number)) for number in range(8)] * 4
    barrier, failures = threading.Barrier(len(deep)), []

    def make(path: str) -> None:
        barrier.wait()
        try:
            make_directories(path)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=make, args=(path,)) for path in deep]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert all(Path(path).is_dir() for path in deep)


async def test_a_system_that_writes_little_at_a_time(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, view, offset: pwrite(descriptor, view[:7], offset))
    body = content(100)
    await destination(out).put(transfer_of("x", body), body, None)
    assert (out / "x").read_bytes() == body


async def test_a_directory_that_knows_no_sync(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def refuse_directories(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_directories)
    await destination(out).put(transfer_of("a/x", b"abc"), b"abc", None)
    assert (out / "a/x").read_bytes() == b"abc"


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["", "/etc/x", "../x", "a/../../x", "a/..", ".", "a//b", "a/./b", "a/", "a\0b"])
async def test_keys_that_could_leave_the_directory(out: Path, key: str) -> None:
    local = destination(out)
    transfer = Transfer(SourceFile(path="/nowhere/x", size_bytes=1, mtime_ns=0), key, key)
    for call in (
        lambda: local.put(transfer, b"x", None),
        lambda: local.look(transfer, closely=False),
        lambda: local.start(transfer, PartPlan(1, 1), None),
    ):
        with pytest.raises(AccessDenied, match="is no path below"):
            await call()
    assert not out.exists()


async def test_links_that_lead_out(out: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    out.mkdir()
    (out / "link").symlink_to(outside)
    (out / "dangling").symlink_to(outside / "absent")
    local = destination(out)
    for key in ("link/x", "link/deep/x", "dangling/x"):
        for call in (
            lambda key=key: local.put(transfer_of(key, b"x"), b"x", None),
            lambda key=key: local.look(transfer_of(key, b"x"), closely=False),
            lambda key=key: local.start(transfer_of(key, b"x"), PartPlan(1, 1), None),
        ):
            with pytest.raises(AccessDenied, match="would be written outside"):
                await call()
    assert tree(outside) == []


async def test_links_that_stay_inside_and_a_directory_that_is_a_link(out: Path, tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "actual").mkdir()
    (real / "link").symlink_to("actual")
    out.symlink_to(real)
    await destination(out).put(transfer_of("link/x", b"x"), b"x", None)
    assert (real / "actual/x").read_bytes() == b"x"


async def test_a_directory_stands_in_the_way(out: Path) -> None:
    (out / "x").mkdir(parents=True)
    local = destination(out)
    with pytest.raises(PermanentError, match="x is a directory and a file was expected"):
        await local.put(transfer_of("x", b"x"), b"x", None)
    with pytest.raises(PermanentError, match="x is a directory and a file was expected"):
        await local.start(transfer_of("x", b"x"), PartPlan(1, 1), None)
    assert await local.look(transfer_of("x", b"x"), closely=True) is None
    assert tree(out) == ["x"]


async def test_a_file_stands_where_a_parent_is_needed(out: Path) -> None:
    out.mkdir()
    (out / "file").write_bytes(b"file")
    local = destination(out)
    for key in ("file/x", "file/deep/x"):
        with pytest.raises(PermanentError, match=r"needs a directory where a file stands \(.*/out/file\)"):
            await local.put(transfer_of(key, b"x"), b"x", None)
        assert await local.look(transfer_of(key, b"x"), closely=True) is None
    assert tree(out) == ["file"]


async def test_a_name_that_is_too_long(out: Path) -> None:
    with pytest.raises(PermanentError, match=r"name longer than its file system allows \(255 bytes\)"):
        await destination(out).put(transfer_of("x" * 256, b"x"), b"x", None)
    assert tree(out) == []


async def test_prepare_refuses_a_file_in_the_directorys_place(out: Path) -> None:
    out.write_bytes(b"")
    with pytest.raises(ConfigError, match="out is no directory"):
        await destination(out).prepare(ANYWHERE)
    out.unlink()
    out.symlink_to("nowhere")
    with pytest.raises(ConfigError, match="out is no directory"):
        await destination(out).prepare(ANYWHERE)


async def test_prepare_makes_the_directory_and_leaves_it_empty(out: Path) -> None:
    await destination(out / "deep").prepare(ANYWHERE)
    assert tree(out) == ["deep"]


async def test_a_source_that_is_its_own_destination(out: Path) -> None:
    out.mkdir()
    (out / "x").write_bytes(b"precious")
    for mode in ("copy", "hardlink"):
        local = destination(out, mode=mode)
        with pytest.raises(PermanentError, match="is its own destination"):
            await local.put(transfer_from(out / "x", "x"), b"precious", None)
    assert (out / "x").read_bytes() == b"precious"
    assert tree(out) == ["x"]
