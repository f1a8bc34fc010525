"""ESTALE: a server of a network file system forgot a handle. The path has a fresh one, so it is opened once more."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

import asyncsink
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.reader import OpenSource, read_at_rest

pytestmark = pytest.mark.anyio

SMALL, LARGE = 1000, 20 << 20


def leads_to(target: Path, path: Any, options: dict[str, Any]) -> bool:
    """Whether a call of `os` is about `target`: by its descriptor, its name in a directory, or its path."""
    if isinstance(path, int):
        return os.readlink(f"/proc/self/fd/{path}") == str(target)
    if options.get("dir_fd") is None:
        return os.fsdecode(path) == str(target)
    directory = os.readlink(f"/proc/self/fd/{options['dir_fd']}")
    return f"{directory}/{os.fsdecode(path)}" == str(target)


class Stale:
    """Makes calls of `os` about one file fail with ESTALE, a number of times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, call: str, target: Path, times: int) -> None:
        self.left, self._lock = times, threading.Lock()
        genuine: Callable[..., Any] = getattr(os, call)

        def fail(path: Any, *arguments: Any, **options: Any) -> Any:
            if leads_to(target, path, options):
                with self._lock:
                    self.left -= 1
                    if self.left >= 0:
                        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return genuine(path, *arguments, **options)

        monkeypatch.setattr(os, call, fail)


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "tree" / "file.nii"
    path.parent.mkdir()
    path.write_bytes(os.urandom(request.param))
    return path


@pytest.mark.parametrize("call", ["open", "fstat", "preadv", "stat"])
async def test_a_handle_that_is_stale_once(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    stale = Stale(monkeypatch, call, file, 1)
    (await asyncsink.export_directory(file.parent, tmp_path / "out")).raise_for_failures()
    assert stale.left < 0
    assert (tmp_path / "out" / "file.nii").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("call", ["open", "preadv"])
@pytest.mark.parametrize(
    ("file", "times"),
    [(SMALL, 1000), (LARGE, 1000), (SMALL, 2)],  # threads that read parts may both meet the first stale handle
    indirect=["file"],
)
async def test_a_handle_that_is_stale_again_is_a_failure_that_says_so(
    file: Path, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    Stale(monkeypatch, call, file, times)
    report = await asyncsink.export_directory(file.parent, tmp_path / "out")
    (failure,) = report.failures
    assert failure.error == "SourceUnreadable"
    assert times == 2 or "its file handle is stale" in failure.message
    assert not (tmp_path / "out" / "file.nii").exists()


async def test_two_threads_that_meet_one_stale_handle_open_it_once_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.nii"
    path.write_bytes(os.urandom(2000))
    with OpenSource(found(path)) as file:
        genuine, both = os.preadv, threading.Barrier(2, timeout=30)
        met: list[int] = []

        def preadv(descriptor: int, buffers: Any, offset: int) -> int:
            if len(met) < 2:
                met.append(descriptor)
                both.wait()
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return genuine(descriptor, buffers, offset)

        monkeypatch.setattr(os, "preadv", preadv)
        parts: dict[int, bytes] = {}

        def read(offset: int) -> None:
            parts[offset] = bytes(file.read_part(offset, 1000))

        threads = [threading.Thread(target=read, args=(offset,)) for offset in (0, 1000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert parts[0] + parts[1000] == path.read_bytes()


def found(path: Path) -> SourceFile:
    (file,) = DirectorySource(path.parent, symlinks="inside").scan()
    assert isinstance(file, SourceFile)
    return file


async def test_the_fresh_handle_must_be_of_the_same_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = found(file)
    seen = file.stat()
    with OpenSource(source) as opened:
        other = file.with_name("other")
        other.write_bytes(bytes(seen.st_size))
        os.utime(other, ns=(seen.st_mtime_ns, seen.st_mtime_ns))
        other.rename(file)
        genuine, left = os.preadv, [1]

        def fail(descriptor: int, *arguments: Any) -> int:
            if left and left.pop():
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            return genuine(descriptor, *arguments)

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(asyncsink.SourceChanged, match="another file took its place"):
            opened.read_all()


async def test_threads_that_meet_one_stale_handle_go_on_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tree" / "file"
    path.parent.mkdir()
    path.write_bytes(body := os.urandom(8 << 16))
    barrier, local, genuine = threading.Barrier(8), threading.local(), os.preadv

    def fail(descriptor: int, *arguments: Any) -> int:
        if not getattr(local, "failed", False):
            local.failed = True
            barrier.wait()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return genuine(descriptor, *arguments)

    parts: dict[int, bytes] = {}
    with OpenSource(found(path)) as source:
        monkeypatch.setattr(os, "preadv", fail)

        def read(number: int) -> None:
            parts[number] = bytes(source.read_part(number << 16, 1 << 16))

        threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            await anyio.to_thread.run_sync(thread.join)
        source.check_unchanged()
    assert b"".join(parts[number] for number in range(8)) == body


def test_a_small_file_is_not_opened_a_third_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f").write_bytes(b"x")
    source = found(tmp_path / "f")
    stale = Stale(monkeypatch, "preadv", tmp_path / "f", 1000)
    with pytest.raises(asyncsink.SourceUnreadable, match="stale"):
        read_at_rest(source)
    assert stale.left == 998


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_a_walk_lists_a_directory_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    for name in ("a", "sub/b", "z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    calls, genuine = [0], os.scandir

    def fail(path: Any) -> Any:
        calls[0] += 1
        if calls[0] == nth:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return genuine(path)

    monkeypatch.setattr(os, "scandir", fail)
    walked = list(DirectorySource(tmp_path, symlinks="inside").scan())
    assert [each.relative for each in walked if isinstance(each, SourceFile)] == ["a", "sub/b", "z"]
    assert len(walked) == 3


def test_a_directory_that_is_stale_twice_is_one_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "sub/b", "z"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    Stale(monkeypatch, "scandir", tmp_path / "sub", 1000)
    walked = list(DirectorySource(tmp_path, symlinks="inside").scan())
    (problem,) = [each for each in walked if isinstance(each, SourceProblem)]
    assert "its file handle is stale" in str(problem.error)
    assert problem.unreadable
    assert len(walked) == 3
