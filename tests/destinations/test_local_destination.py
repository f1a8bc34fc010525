"""Local files: what appears, with which mode, time and durability, what is refused, and what is left behind."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter

from asyncsink.config import LocalCopyMode, LocalTarget
from asyncsink.destinations.base import Outlook, PartWriter, Stored
from asyncsink.destinations.local import LocalDestination
from asyncsink.destinations.local_files import TEMPORARY_SUFFIX, TemporaryFile, make_directories, related_files
from asyncsink.errors import (
    AccessDenied,
    ConfigError,
    DestinationFull,
    EntityTooLarge,
    PermanentError,
    SourceChanged,
    SourceError,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import SourceFile, Transfer
from asyncsink.s3.part_plan import PartPlan
from asyncsink.testing.destination_suite import MTIME_NS, content, transfer_of

pytestmark = pytest.mark.anyio

ANYWHERE = Outlook(objects_total=None, common_prefix="", sample_key="")


def destination(
    directory: Path, *, mode: LocalCopyMode = "copy", use_local_key: bool = False, related_files: bool = False
) -> LocalDestination:
    return LocalDestination(
        LocalTarget(directory=str(directory), mode=mode),
        limiter=CapacityLimiter(4),
        use_local_key=use_local_key,
        related_files=related_files,
    )


def transfer_from(path: Path, key: str) -> Transfer:
    seen = path.stat()
    return Transfer(SourceFile(path=str(path), size_bytes=seen.st_size, mtime_ns=seen.st_mtime_ns), key, key)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def temporaries(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.name.endswith(TEMPORARY_SUFFIX)]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def source_file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a source file below the test's own directory, parents included."""

    def write(relative: str, body: bytes) -> Path:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return path

    return write


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

    def note_rename(source: str, target: str) -> None:
        steps.append("rename")
        rename(source, target)

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
    assert all(os.path.isdir(path) for path in deep)


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
    for mode in ("copy", "hardlink", "reflink"):
        local = destination(out, mode=mode)
        with pytest.raises(PermanentError, match="is its own destination"):
            await local.put(transfer_from(out / "x", "x"), b"precious", None)
    assert (out / "x").read_bytes() == b"precious"
    assert tree(out) == ["x"]


@pytest.mark.parametrize(
    ("number", "expected", "text"),
    [
        (errno.ENOSPC, DestinationFull, "No space, or no quota, is left for"),
        (errno.EDQUOT, DestinationFull, "No space, or no quota, is left for"),
        (errno.EACCES, AccessDenied, "cannot be written"),
        (errno.EROFS, AccessDenied, "cannot be written"),
        (errno.EFBIG, EntityTooLarge, "is larger than its file system stores"),
        (errno.EIO, PermanentError, "check the disk and the mount"),
    ],
)
@pytest.mark.parametrize("call", ["open", "pwrite", "fsync", "rename"])
async def test_every_step_may_fail(
    out: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, expected: type[PermanentError], text: str
) -> None:
    local = destination(out)
    await local.prepare(ANYWHERE)
    await local.put(transfer_of("x", b"old"), b"old", None)
    genuine: Callable[..., Any] = getattr(os, call)

    def fail(*arguments: Any, **options: Any) -> Any:
        if call == "open" and TEMPORARY_SUFFIX not in str(arguments[0]):
            return genuine(*arguments, **options)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(expected, match=text) as caught:
            await local.put(transfer_of("x", b"new"), b"new", None)
        assert type(caught.value) is expected
        assert str(out / "x") in str(caught.value)
        assert caught.value.operation == "local copy"
        assert caught.value.transfer == transfer_of("x", b"new")
    assert (out / "x").read_bytes() == b"old"
    assert tree(out) == ["x"]


# -- real disks that refuse -------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command on this machine")
    if mounted.returncode:
        pytest.skip(f"mounting is refused on this machine: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


async def test_a_full_disk(small_disk: Path) -> None:
    local = destination(small_disk)
    await local.prepare(ANYWHERE)
    await local.put(transfer_of("small", bytes(30_000)), bytes(30_000), None)
    big = bytes(90_000)
    with pytest.raises(DestinationFull, match="No space, or no quota, is left for .*/big; free some"):
        await local.put(transfer_of("big", big), big, None)
    assert tree(small_disk) == ["small"]
    plan = PartPlan(90_000, 30_000)
    writer = await local.start(transfer_of("big", big), plan, None)
    with pytest.raises(DestinationFull):
        for part in plan:
            await writer.write_part(part.part_number, part.offset, big[: part.length], None)
    await writer.abort()
    assert tree(small_disk) == ["small"]
    await local.put(transfer_of("next", bytes(20_000)), bytes(20_000), None)
    assert tree(small_disk) == ["next", "small"]


async def test_a_disk_that_became_read_only(small_disk: Path) -> None:
    local = destination(small_disk)
    await local.put(transfer_of("x", b"old"), b"old", None)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(AccessDenied, match="Read-only file system"):
        await local.put(transfer_of("x", b"new"), b"new", None)
    with pytest.raises(AccessDenied, match="Read-only file system"):
        await destination(small_disk).prepare(ANYWHERE)
    assert (small_disk / "x").read_bytes() == b"old"


_AS_NOBODY = """
import asyncio, os, sys
import anyio.to_thread
from anyio import CapacityLimiter
from asyncsink.config import LocalTarget
from asyncsink.destinations.base import Outlook
from asyncsink.destinations.local import LocalDestination
from asyncsink.errors import AsyncSinkError
from asyncsink.testing.destination_suite import transfer_of

async def main(directory):
    # Everything is imported before the privileges go: the interpreter may stand where nobody else can read.
    await anyio.to_thread.run_sync(int)
    if os.geteuid() == 0:
        os.setegid(65534), os.seteuid(65534)
    local = LocalDestination(LocalTarget(directory=directory), limiter=CapacityLimiter(1), use_local_key=False)
    transfer = transfer_of("x", b"x")
    for step in (
        lambda: local.prepare(Outlook(objects_total=1, common_prefix="", sample_key="x")),
        lambda: local.put(transfer, b"x", None),
        lambda: local.look(transfer, closely=True),
    ):
        try:
            await step()
        except AsyncSinkError as error:
            print(type(error).__name__, error)

asyncio.run(main(sys.argv[1]))
"""


def test_directories_of_somebody_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "x").write_bytes(b"x")
    (out / "x").chmod(0)
    out.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents]:
        if os.stat(parent).st_uid == os.geteuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
            if parent.name.startswith("pytest-of-"):
                break
    ran = subprocess.run([sys.executable, "-c", _AS_NOBODY, str(out)], check=True, capture_output=True, text=True)
    out.chmod(0o755)
    prepared, put, looked = ran.stdout.splitlines()
    for line, verb in [(prepared, "written"), (put, "written"), (looked, "looked at")]:
        assert line.startswith("AccessDenied")
        assert f"cannot be {verb} (Permission denied); change the permissions" in line
    assert tree(out) == ["x"]


# -- giving up --------------------------------------------------------------------------------------------------------


async def test_aclose_removes_what_was_forgotten(out: Path) -> None:
    local = destination(out)
    for number in range(3):
        await local.start(transfer_of(f"{number}", b"x"), PartPlan(1, 1), None)
    assert len(temporaries(out)) == 3
    await local.aclose()
    assert tree(out) == []


async def test_abort_after_complete_keeps_the_file(out: Path) -> None:
    local = destination(out)
    writer = await local.start(transfer_of("x", b"x"), PartPlan(1, 1), None)
    await writer.write_part(1, 0, b"x", None)
    await writer.complete(None)
    await writer.abort()
    with pytest.raises(PermanentError, match="was completed or aborted"):
        await writer.complete(None)
    assert tree(out) == ["x"]


async def test_a_failed_complete_leaves_the_old_file(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = destination(out)
    await local.put(transfer_of("x", b"old"), b"old", None)
    writer = await local.start(transfer_of("x", b"new"), PartPlan(3, 3), None)
    await writer.write_part(1, 0, b"new", None)
    (temporary,) = temporaries(out)
    temporary.write_bytes(b"longer than what was read")
    with pytest.raises(Exception, match="has 25 bytes on disk; 3 were read"):
        await writer.complete(None)
    await writer.abort()
    assert (out / "x").read_bytes() == b"old"
    assert tree(out) == ["x"]


class Gate:
    """Holds a thread inside one call of `os` until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, *, only: str = "") -> None:
        self.reached, self._open = threading.Event(), threading.Event()
        genuine: Callable[..., Any] = getattr(os, call)

        def hold(*arguments: Any, **options: Any) -> Any:
            if only in str(arguments[0]):
                self.reached.set()
                assert self._open.wait(10)
            return genuine(*arguments, **options)

        monkeypatch.setattr(os, call, hold)

    async def wait(self) -> None:
        assert await anyio.to_thread.run_sync(self.reached.wait, 10)

    def open(self) -> None:
        self._open.set()


async def test_a_put_that_is_cancelled_while_it_writes_is_waited_for(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = destination(out)
    await local.prepare(ANYWHERE)
    gate = Gate(monkeypatch, "pwrite")
    async with anyio.create_task_group() as group:
        group.start_soon(local.put, transfer_of("x", b"abc"), b"abc", None)
        await gate.wait()
        group.cancel_scope.cancel()
        gate.open()
    assert tree(out) == ["x"]
    assert (out / "x").read_bytes() == b"abc"


async def test_an_abort_waits_for_the_parts_of_a_task_that_was_cancelled(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio's own cancellation leaves a thread writing: its descriptor must not be closed under it."""
    local = destination(out)
    writer = await local.start(transfer_of("x", b"abc"), PartPlan(3, 3), None)
    gate = Gate(monkeypatch, "pwrite")
    task = asyncio.create_task(writer.write_part(1, 0, b"abc", None))
    await gate.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    abort = asyncio.create_task(writer.abort())
    await asyncio.sleep(0)
    assert len(temporaries(out)) == 1
    gate.open()
    await abort
    assert tree(out) == []


async def test_a_start_whose_task_is_cancelled_leaves_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local = destination(out)
    await local.prepare(ANYWHERE)
    gate = Gate(monkeypatch, "open", only=TEMPORARY_SUFFIX)
    task = asyncio.create_task(local.start(transfer_of("x", b"abc"), PartPlan(3, 3), None))
    await gate.wait()
    task.cancel()
    await asyncio.sleep(0)
    gate.open()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tree(out) == []


async def test_looking_closely_ends_soon_when_cancelled(out: Path) -> None:
    local = destination(out)
    (out / "x").parent.mkdir()
    with (out / "x").open("wb") as file:
        file.truncate(1 << 42)  # a sparse file that takes minutes to read
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: local.look(transfer_of("x", b""), closely=True))
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught


def test_a_temporary_file_that_was_discarded_is_not_opened(tmp_path: Path) -> None:
    temporary = TemporaryFile(str(tmp_path / "x"))
    temporary.discard()
    with pytest.raises(PermanentError, match="is not being written any more"):
        temporary.open()
    assert tree(tmp_path) == []


# -- links and companions ---------------------------------------------------------------------------------------------


async def both_ways(local: LocalDestination, transfer: Transfer, body: bytes, *, parts: bool) -> None:
    if not parts:
        await local.put(transfer, body, None)
        return
    plan = PartPlan(len(body), 3)
    writer: PartWriter = await local.start(transfer, plan, None)
    try:
        for part in reversed(list(plan)):
            await writer.write_part(part.part_number, part.offset, body[part.offset :][: part.length], None)
        await writer.complete(None)
    finally:
        await writer.abort()


@pytest.fixture(params=[False, True], ids=["whole", "parts"])
def parts(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


async def test_hardlinks(out: Path, source_file: Callable[[str, bytes], Path], parts: bool) -> None:
    source = source_file("work/x.nii", b"content")
    os.chmod(source, 0o640)
    before = source.stat()
    local = destination(out, mode="hardlink")
    for _ in range(2):
        await both_ways(local, transfer_from(source, "sub/x.nii"), b"content", parts=parts)
        assert (out / "sub/x.nii").samefile(source)
    after = source.stat()
    assert (before.st_mode, before.st_mtime_ns, before.st_size) == (after.st_mode, after.st_mtime_ns, after.st_size)
    assert after.st_nlink == 2
    assert tree(out) == ["sub", "sub/x.nii"]


async def test_a_hardlink_of_a_symbolic_link_is_one_of_its_file(
    out: Path, source_file: Callable[[str, bytes], Path], parts: bool
) -> None:
    source = source_file("work/x.nii", b"content")
    link = source.with_name("link.nii")
    link.symlink_to(source)
    await both_ways(destination(out, mode="hardlink"), transfer_from(link, "x.nii"), b"content", parts=parts)
    assert not (out / "x.nii").is_symlink()
    assert (out / "x.nii").samefile(source)


async def test_a_copy_takes_the_place_of_a_hardlink(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source = source_file("work/x.nii", b"content")
    for mode in ("hardlink", "copy"):
        await destination(out, mode=mode).put(transfer_from(source, "x.nii"), b"content", None)
    assert not (out / "x.nii").samefile(source)
    assert (out / "x.nii").read_bytes() == source.read_bytes() == b"content"


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK])
async def test_hardlinks_that_are_refused_become_copies(
    out: Path, source_file: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch, parts: bool, number: int
) -> None:
    source = source_file("work/x.nii", b"content")

    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    await both_ways(destination(out, mode="hardlink"), transfer_from(source, "x.nii"), b"content", parts=parts)
    assert (out / "x.nii").read_bytes() == b"content"
    assert not (out / "x.nii").samefile(source)
    assert (out / "x.nii").stat().st_mtime_ns == source.stat().st_mtime_ns
    assert tree(out) == ["x.nii"]


@pytest.mark.parametrize("mode", ["hardlink", "reflink"])
async def test_another_file_system(
    small_disk: Path, source_file: Callable[[str, bytes], Path], parts: bool, mode: LocalCopyMode
) -> None:
    source = source_file("work/x.nii", b"content")
    await both_ways(destination(small_disk, mode=mode), transfer_from(source, "x.nii"), b"content", parts=parts)
    assert (small_disk / "x.nii").read_bytes() == b"content"
    assert tree(small_disk) == ["x.nii"]


async def test_a_source_that_changed_is_not_linked(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source = source_file("work/x.nii", b"content")
    transfer = transfer_from(source, "x.nii")
    source.write_bytes(b"changed!")
    local = destination(out, mode="hardlink")
    await both_ways(local, transfer, b"content", parts=False)
    assert (out / "x.nii").read_bytes() == b"content", "the bytes that were read are published"
    (out / "x.nii").unlink()
    with pytest.raises(SourceChanged, match=r"work/x\.nii changed while it was copied"):
        await both_ways(local, transfer, b"content", parts=True)
    assert tree(out) == []


async def test_a_source_that_went_away_is_not_linked(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source = source_file("work/x.nii", b"content")
    local, transfer = destination(out, mode="hardlink"), transfer_from(source, "x.nii")
    writer = await local.start(transfer, PartPlan(7, 7), None)
    await writer.write_part(1, 0, b"content", None)
    source.unlink()
    with pytest.raises(SourceError, match=r"work/x\.nii does not exist any more"):
        await writer.complete(None)
    await writer.abort()
    assert tree(out) == []


async def test_a_fifo_in_the_sources_place_does_not_block(
    out: Path, source_file: Callable[[str, bytes], Path], parts: bool
) -> None:
    source = source_file("work/x.nii", b"content")
    transfer = transfer_from(source, "x.nii")
    source.unlink()
    os.mkfifo(source)
    await both_ways(destination(out, mode="reflink"), transfer, b"content", parts=parts)
    assert (out / "x.nii").read_bytes() == b"content"
    (out / "x.nii").unlink()
    local = destination(out, mode="hardlink")
    if parts:
        with pytest.raises(SourceError):
            await both_ways(local, transfer, b"content", parts=True)
    else:
        await both_ways(local, transfer, b"content", parts=False)
        assert (out / "x.nii").is_file()
    assert not temporaries(out)


async def test_reflinks_or_copies(out: Path, source_file: Callable[[str, bytes], Path], parts: bool) -> None:
    source = source_file("work/x.nii", b"content")
    await both_ways(destination(out, mode="reflink"), transfer_from(source, "x.nii"), b"content", parts=parts)
    assert (out / "x.nii").read_bytes() == b"content"
    assert (out / "x.nii").stat().st_mtime_ns == source.stat().st_mtime_ns
    source.write_bytes(b"changed")
    assert (out / "x.nii").read_bytes() == b"content"


async def test_clones_are_published_without_the_bytes(
    out: Path, source_file: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """The ioctl is answered here: few test machines have a file system that shares extents."""
    source = source_file("work/x.nii", b"content")

    def clone(descriptor: int, request: int, source_descriptor: int) -> int:
        assert request == 0x40049409
        return os.pwrite(descriptor, os.pread(source_descriptor, 100, 0), 0)

    monkeypatch.setattr(fcntl, "ioctl", clone)
    transfer = transfer_from(source, "x.nii")
    await both_ways(destination(out, mode="reflink"), transfer, b"CONTENT", parts=parts)
    assert (out / "x.nii").read_bytes() == b"content", "the parts were not written again"
    source.write_bytes(b"longer than before")
    await both_ways(destination(out, mode="reflink"), transfer, b"CONTENT", parts=parts)
    assert (out / "x.nii").read_bytes() == b"CONTENT", "a source that changed is not cloned"


@pytest.mark.parametrize(
    ("name", "target", "beside", "expected"),
    [
        ("a.img", "b.img", ["a.hdr", "a.mat", "a.nii"], ["b.hdr", "b.mat"]),
        ("a.hdr", "a.hdr", ["a.img.gz"], ["a.img.gz"]),
        ("a.img.gz", "a.img.gz", ["a.hdr", "a.hdr.gz", "a.img"], ["a.hdr", "a.hdr.gz"]),
        ("a.nii", "a.nii", ["a.mat", "a.hdr"], ["a.mat"]),
        ("a.nii.gz", "a.nii.gz", ["a.mat"], []),
        ("a.mat", "a.mat", ["a.hdr", "a.img", "a.nii"], ["a.hdr", "a.img", "a.nii"]),
        ("a+orig.BRIK", "a+orig.BRIK", ["a+orig.HEAD"], ["a+orig.HEAD"]),
        ("a+orig.BRIK.gz", "a+orig.BRIK.gz", ["a+orig.HEAD"], ["a+orig.HEAD"]),
        ("a+orig.HEAD", "a+orig.HEAD", ["a+orig.BRIK.gz"], ["a+orig.BRIK.gz"]),
        ("a.b.img", "a.b.img", ["a.b.hdr", "a.hdr"], ["a.b.hdr"]),
        ("a.img", "a.nii", ["a.hdr"], []),
        ("a.txt", "a.txt", ["a.hdr"], []),
        ("a.gz", "a.gz", ["a.hdr"], []),
    ],
)
def test_which_files_are_related(
    tmp_path: Path, name: str, target: str, beside: list[str], expected: list[str]
) -> None:
    for file in [name, *beside]:
        (tmp_path / file).write_bytes(b"")
    found = related_files(str(tmp_path / name), f"/there/{target}")
    assert [place for _, place in found] == [f"/there/{place}" for place in expected]


@pytest.mark.parametrize("mode", ["copy", "hardlink", "reflink"])
async def test_companions_come_along(
    out: Path, source_file: Callable[[str, bytes], Path], parts: bool, mode: LocalCopyMode
) -> None:
    source = source_file("work/x.img", b"image")
    header = source_file("work/x.hdr", b"header")
    source_file("work/unrelated.hdr", b"unrelated")
    local = destination(out, mode=mode, related_files=True)
    for _ in range(2):
        await both_ways(local, transfer_from(source, "sub/y.img"), b"image", parts=parts)
        assert tree(out) == ["sub", "sub/y.hdr", "sub/y.img"]
        assert (out / "sub/y.hdr").read_bytes() == b"header"
    assert (out / "sub/y.hdr").stat().st_mtime_ns == header.stat().st_mtime_ns
    header.write_bytes(b"other")
    await both_ways(local, transfer_from(source, "sub/y.img"), b"image", parts=parts)
    assert (out / "sub/y.hdr").read_bytes() == b"other"


async def test_companions_stay_where_they_are_by_default(out: Path, source_file: Callable[[str, bytes], Path]) -> None:
    source_file("work/x.hdr", b"header")
    source = source_file("work/x.img", b"image")
    await destination(out).put(transfer_from(source, "x.img"), b"image", None)
    assert tree(out) == ["x.img"]


async def test_a_companion_that_cannot_be_copied_keeps_the_file_away(
    out: Path, source_file: Callable[[str, bytes], Path]
) -> None:
    source_file("work/x.hdr", b"header")
    source = source_file("work/x.img", b"image")
    (out / "x.hdr").mkdir(parents=True)
    with pytest.raises(PermanentError, match=r"x\.hdr is a directory"):
        await destination(out, related_files=True).put(transfer_from(source, "x.img"), b"image", None)
    assert tree(out) == ["x.hdr"]
