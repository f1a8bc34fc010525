"""One descriptor, exact reads, and every change noticed."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import socket
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.errors import SourceChanged, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile
from asyncsink.sources.problems import translate
from asyncsink.sources.reader import OpenSource, read_at_rest

CONTENT = random.Random(7).randbytes(100_000)


def found(path: Path) -> SourceFile:
    status = path.stat()
    return SourceFile(str(path), status.st_size, status.st_mtime_ns, root=str(path))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    result = tmp_path / "file.nii"
    result.write_bytes(CONTENT)
    # An old time, so that a rewrite in the same tick of the clock moves it for certain.
    os.utime(result, ns=(10**18, 10**18))
    return result


@pytest.mark.parametrize("other", [{"ctime_ns": 1}, {"inode": 1}])
def test_a_file_whose_size_and_mtime_were_kept_is_another_one(path: Path, other: dict[str, int]) -> None:
    status = path.stat()
    as_found = replace(found(path), ctime_ns=status.st_ctime_ns, inode=status.st_ino)
    assert read_at_rest(as_found) == CONTENT
    assert read_at_rest(replace(as_found, **other)) is None
    with pytest.raises(SourceChanged, match="modified or replaced"):
        OpenSource(replace(as_found, **other))


def test_reads_whole_into_a_new_buffer(path: Path) -> None:
    with OpenSource(found(path)) as source:
        assert source.size_bytes == len(CONTENT)
        assert bytes(source.read_all()) == CONTENT
        source.check_unchanged()


@pytest.mark.parametrize("wrap", [bytearray, lambda size: memoryview(bytearray(size))])
def test_reads_whole_into_a_reused_buffer(path: Path, wrap: Any) -> None:
    buffer = wrap(len(CONTENT) + 5)
    with OpenSource(found(path)) as source:
        for _ in range(2):
            view = source.read_all(buffer)
            assert isinstance(view, memoryview)
            assert view == CONTENT
        view[0:1] = b"!"
        assert buffer[0] == ord("!")


def test_an_empty_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with OpenSource(found(tmp_path / "empty")) as source:
        assert bytes(source.read_all()) == b""
        assert bytes(source.read_all(bytearray(3))) == b""
        source.check_unchanged()


@given(st.data())
def test_parts_are_exact(data: Any) -> None:
    offset = data.draw(st.integers(0, len(CONTENT)))
    length = data.draw(st.integers(0, len(CONTENT) - offset))
    with tempfile.NamedTemporaryFile() as file:
        file.write(CONTENT)
        file.flush()
        with OpenSource(found(Path(file.name))) as source:
            assert bytes(source.read_part(offset, length)) == CONTENT[offset : offset + length]
            assert bytes(source.read_part(offset, length, bytearray(length + 1))) == CONTENT[offset : offset + length]


def test_threads_read_parts_at_once(path: Path) -> None:
    with OpenSource(found(path)) as source, ThreadPoolExecutor(4) as pool:
        offsets = range(0, len(CONTENT), 1000)
        parts = pool.map(lambda offset: source.read_part(offset, 1000), offsets)
        assert b"".join(parts) == CONTENT
        source.check_unchanged()


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, -1), (len(CONTENT), 1), (0, len(CONTENT) + 1)])
def test_parts_outside_the_file_are_refused(path: Path, offset: int, length: int) -> None:
    with OpenSource(found(path)) as source, pytest.raises(ValueError, match="not inside"):
        source.read_part(offset, length)


def test_a_buffer_that_is_too_small_is_refused(path: Path) -> None:
    with OpenSource(found(path)) as source, pytest.raises(ValueError, match="cannot hold"):
        source.read_all(bytearray(10))


def test_a_closed_source_is_refused(path: Path) -> None:
    source = OpenSource(found(path))
    source.close()
    source.close()
    for use in (source.read_all, source.check_unchanged):
        with pytest.raises(ValueError, match="closed"):
            use()


def let_the_clock_tick(path: Path) -> None:
    """Return when the file system gives out a later ctime than the file's: coarse clocks stand still for some ms."""
    probe = path.with_name("probe")
    probe.touch()
    while probe.stat().st_ctime_ns <= path.stat().st_ctime_ns:
        probe.touch()


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def truncate(path: Path) -> None:
    os.truncate(path, 10)


def edit_at_the_same_size(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"EDIT")


def edit_and_restore_mtime(path: Path) -> None:
    status = path.stat()
    edit_at_the_same_size(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_an_equal_file(path: Path) -> None:
    # shutil.copy2 keeps size and mtime: only the inode tells.
    shutil.copy2(path, path.with_name("twin"))
    os.replace(path.with_name("twin"), path)


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


CHANGES = [
    grow,
    truncate,
    edit_at_the_same_size,
    edit_and_restore_mtime,
    replace_by_an_equal_file,
    replace_by_a_directory,
    Path.unlink,
    lambda path: path.rename(path.with_name("elsewhere")),
    lambda path: path.parent.rename(path.parent.with_name("moved")),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changes_while_it_is_open_are_noticed(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    os.utime(path, ns=(10**18, 10**18))
    let_the_clock_tick(path)
    with OpenSource(found(path)) as source:
        source.read_part(0, 10)
        source.check_unchanged()
        change(path)
        with pytest.raises(SourceChanged, match="changed while it was being published") as caught:
            source.check_unchanged()
    assert repr(str(path)) in str(caught.value)


@pytest.mark.parametrize("change", [grow, truncate, edit_at_the_same_size])
def test_changes_between_finding_and_opening_are_noticed(path: Path, change: Any) -> None:
    source = found(path)
    before = os.listdir("/proc/self/fd")
    change(path)
    with pytest.raises(SourceChanged):
        OpenSource(source)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_truncation_in_the_middle_of_reading_is_noticed(path: Path) -> None:
    with OpenSource(found(path)) as source:
        truncate(path)
        with pytest.raises(SourceChanged, match="found only 10"):
            source.read_all()
        with pytest.raises(SourceChanged, match="found only 0"):
            source.read_part(50_000, 1000)


def test_links_to_an_unchanged_file_are_read(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    with OpenSource(replace(found(link), real_path=str(path))) as source:
        assert bytes(source.read_all()) == CONTENT
        source.check_unchanged()
        link.unlink()
        link.symlink_to("/dev/null")
        with pytest.raises(SourceChanged, match="another inode"):
            source.check_unchanged()


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        OpenSource(SourceFile(str(tmp_path / "gone"), 1, 1))
    with pytest.raises(SourceMissing):
        OpenSource(SourceFile("a\0b", 1, 1))


def test_what_is_no_regular_file_is_unreadable_and_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("fifo", "directory", "socket"):
            with pytest.raises(SourceUnreadable, match=name):
                OpenSource(SourceFile(str(tmp_path / name), 0, 0))
    with pytest.raises(SourceUnreadable, match="character device"):
        OpenSource(SourceFile("/dev/null", 0, 0))


def test_eacces_is_unreadable() -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        path = folder / "private"
        path.write_bytes(b"x")
        path.chmod(0)
        source = found(path)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            with pytest.raises(SourceUnreadable, match="expected read permission"):
                OpenSource(source)
        finally:
            if root:
                os.seteuid(0)
    finally:
        shutil.rmtree(folder)


def test_too_many_open_files_says_what_to_do(path: Path) -> None:
    source = found(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(SourceUnreadable) as caught:
            OpenSource(source)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in str(caught.value)


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_becomes_one_sentence(number: int) -> None:
    error = translate("/data/f", OSError(number, os.strerror(number)))
    missing = number in (errno.ENOENT, errno.ENOTDIR)
    assert type(error) is (SourceMissing if missing else SourceUnreadable)
    assert "'/data/f'" in str(error)
    assert "expected" in str(error) or "raise" in str(error)
    assert str(error).endswith(".")


def test_repr_shows_path_and_size(path: Path) -> None:
    with OpenSource(found(path)) as source:
        assert repr(source) == f"<OpenSource {str(path)!r}, {len(CONTENT)} bytes>"


def test_at_rest_a_small_file_is_read_whole(path: Path, tmp_path: Path) -> None:
    assert read_at_rest(found(path)) == CONTENT
    (tmp_path / "empty").touch()
    assert read_at_rest(found(tmp_path / "empty")) == b""


def _replaced(path: Path) -> None:
    path.rename(path.with_name("old"))
    path.write_bytes(CONTENT)
    os.utime(path, ns=(10**18, 10**18))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_replaced, "another file took its place"),
        (lambda path: os.truncate(path, 5), "found 5"),
        (lambda path: os.utime(path, ns=(1, 1)), "written to"),
        (lambda path: path.chmod(0o600), "ctime moved"),
        # What is gone, or has only got another name, is left to those who look more closely.
        (os.unlink, None),
        (lambda path: os.link(path, path.with_name("other")), None),
    ],
)
def test_nothing_is_read_of_a_file_that_changes_meanwhile(path: Path, change: Any, told: Any, monkeypatch: Any) -> None:
    """Between the first look through the descriptor and the last one through the path."""
    before, preadv = found(path), os.preadv

    def read(descriptor: int, buffers: Any, offset: int) -> int:
        count = preadv(descriptor, buffers, offset)
        change(path)
        return count

    monkeypatch.setattr(os, "preadv", read)
    if told is None:
        assert read_at_rest(before) is None
        return
    with pytest.raises(SourceChanged, match=told):
        read_at_rest(before)


@pytest.mark.parametrize("change", [os.unlink, lambda path: os.truncate(path, 5), os.utime])
def test_nothing_is_read_of_a_file_that_is_not_what_was_found(path: Path, change: Any) -> None:
    before = found(path)
    change(path)
    assert read_at_rest(before) is None


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert read_at_rest(found(tmp_path / "fifo")) is None
    assert read_at_rest(SourceFile("a\0b", 1, 1)) is None
