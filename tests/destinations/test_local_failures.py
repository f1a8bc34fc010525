"""Local files when the disk, the permissions or a cancellation intervene: what is said, and what is left behind."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import CapacityLimiter

from asyncsink.destinations.base import RunForecast
from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.destinations.local.files import TEMPORARY_SUFFIX, TemporaryFile
from asyncsink.destinations.local.places import PlacesBelow
from asyncsink.errors import AccessDenied, DestinationFull, EntityTooLarge, IntegrityError, PermanentError
from asyncsink.options.schema import LocalTarget
from asyncsink.s3.multipart.parts import PartPlan
from asyncsink.testing.destination_suite import transfer_of

pytestmark = pytest.mark.anyio

ANYWHERE = RunForecast(objects_total=None, common_prefix="", sample_key="")


def destination(directory: Path) -> LocalDestination:
    return LocalDestination(LocalTarget(directory=str(directory)), limiter=CapacityLimiter(4), use_local_key=False)


def tree(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def temporaries(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.name.endswith(TEMPORARY_SUFFIX)]


@pytest.mark.parametrize(
    ("number", "expected", "text"),
    [
        (errno.ENOSPC, DestinationFull, "No space, or no quota, is left for"),
        (errno.EDQUOT, DestinationFull, "No space, or no quota, is left for"),
        (errno.EACCES, AccessDenied, "cannot be written"),
        (errno.EROFS, AccessDenied, "cannot be written"),
        (errno.EFBIG, EntityTooLarge, "is larger than its file system stores"),
        (errno.EIO, PermanentError, "check the disk or the network mount"),
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


async def test_a_full_disk(small_disk: Path) -> None:
    local = destination(small_disk)
    await local.prepare(ANYWHERE)
    await local.put(transfer_of("small", bytes(30_000)), bytes(30_000), None)
    big = bytes(90_000)
    with pytest.raises(DestinationFull, match=r"No space, or no quota, is left for .*/big; free some"):
        await local.put(transfer_of("big", big), big, None)
    assert tree(small_disk) == ["small"]
    writer = await local.start(transfer_of("big", big), PartPlan(90_000, 30_000), None)
    await writer.write_part(1, 0, big[:30_000], None)
    with pytest.raises(DestinationFull):
        await writer.write_part(3, 60_000, big[:30_000], None)
    await writer.abort()
    assert tree(small_disk) == ["small"]
    await local.put(transfer_of("next", bytes(20_000)), bytes(20_000), None)
    assert tree(small_disk) == ["next", "small"]


async def test_a_disk_that_became_read_only(small_disk: Path) -> None:
    local = destination(small_disk)
    await local.put(transfer_of("x", b"old"), b"old", None)
    await anyio.run_process(["mount", "-o", "remount,ro", str(small_disk)])
    with pytest.raises(AccessDenied, match="Read-only file system"):
        await local.put(transfer_of("x", b"new"), b"new", None)
    with pytest.raises(AccessDenied, match="Read-only file system"):
        await destination(small_disk).prepare(ANYWHERE)
    assert (small_disk / "x").read_bytes() == b"old"


_AS_NOBODY = """
import asyncio, os, sys
import anyio.to_thread
from anyio import CapacityLimiter
from asyncsink.options.schema import LocalTarget
from asyncsink.destinations.base import RunForecast
from asyncsink.destinations.local.destination import LocalDestination
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
        lambda: local.prepare(RunForecast(objects_total=1, common_prefix="", sample_key="x")),
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
        if parent.stat().st_uid == os.geteuid() and parent != Path("/"):
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
    with pytest.raises(IntegrityError, match="has 25 bytes on disk; 3 were read"):
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
    with PlacesBelow(str(tmp_path)).open("x") as place:
        temporary = TemporaryFile(place)
        temporary.discard()
        with pytest.raises(PermanentError, match="is not being written any more"):
            temporary.open()
    assert tree(tmp_path) == []
