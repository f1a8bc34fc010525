"""The walk meets everything a file system can hold."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ConfigError, SourceMissing, SourceUnreadable
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Policies, Symlinks
from asyncsink.sources import directory as directory_module
from asyncsink.sources.directory import DirectorySource, walk_files
from asyncsink.sources.selection import Selection
from tests.support.quirky_s3 import quirky_s3


def relatives(root: Path, symlinks: Symlinks = "follow", **options: Any) -> list[str]:
    return [found.relative for found in walk_files(str(root), symlinks, **options) if isinstance(found, SourceFile)]


def problems(root: Path, symlinks: Symlinks = "follow", **options: Any) -> list[SourceProblem]:
    return [found for found in walk_files(str(root), symlinks, **options) if isinstance(found, SourceProblem)]


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Permission checks apply: as root, this process becomes another user for the while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that other users can reach; pytest's own are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    for path, names, _ in os.walk(folder):
        for name in names:
            os.chmod(os.path.join(path, name), 0o755)
    shutil.rmtree(folder)


def test_walks_five_levels_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ["b", "a/2/x", "a/10/x", "a/1/b/c/d/e", "a-z", "Z"]:
        put(tmp_path / name)
    assert relatives(tmp_path) == ["Z", "a/1/b/c/d/e", "a/10/x", "a/2/x", "a-z", "b"]


def test_large_directories_are_sorted_in_stretches_and_walked_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "SORT_ENTRIES_MAX", 7)
    for n in range(50):
        put(tmp_path / f"{n:03}")
        put(tmp_path / "sub" / f"{n:03}")
    expected = {f"{n:03}" for n in range(50)} | {f"sub/{n:03}" for n in range(50)}
    found = relatives(tmp_path)
    assert len(found) == 100
    assert set(found) == expected
    assert relatives(tmp_path) == found


def test_an_abandoned_walk_gives_back_the_descriptors_of_large_directories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory_module, "SORT_ENTRIES_MAX", 2)
    for n in range(10):
        put(tmp_path / "sub" / "sub" / str(n))
    before = len(os.listdir("/proc/self/fd"))
    walk = walk_files(str(tmp_path), "follow")
    next(walk)
    assert len(os.listdir("/proc/self/fd")) > before
    walk.close()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("mode", "readable"), [(0o644, True), (0o444, True), (0o600, True), (0o400, True), (0o200, False), (0o044, False)]
)
def test_a_mode_tells_whether_the_file_may_be_read(tmp_path: Path, mode: int, readable: bool) -> None:
    """What its mode leaves open is asked of the system before the run begins."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "a").chmod(mode)
    (found,) = DirectorySource(tmp_path, symlinks="inside").scan()
    assert isinstance(found, SourceFile)
    assert found.readable is readable


def test_empty_directories_publish_nothing(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert list(DirectorySource(tmp_path, symlinks="follow").scan()) == []


def test_attribute_entry_and_root_are_copied(tmp_path: Path) -> None:
    put(tmp_path / "sub" / "f")
    (found,) = walk_files(str(tmp_path), "follow", attribute="contrasts.@con", entry=3)
    assert isinstance(found, SourceFile)
    assert (found.attribute, found.entry, found.root, found.relative) == ("contrasts.@con", 3, str(tmp_path), "sub/f")


def test_special_files_that_are_met_are_left_out_and_never_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link-to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        found = problems(tmp_path)
    assert [os.path.basename(problem.path) for problem in found] == ["fifo", "link-to-fifo", "socket"]
    assert all(isinstance(problem.error, SourceUnreadable) and problem.skippable for problem in found)
    assert [(problem.skipped, problem.reason) for problem in found] == [
        (True, "a FIFO (named pipe), not a file"),
        (True, "a FIFO (named pipe), not a file"),
        (True, "a socket, not a file"),
    ]
    assert ["FIFO" in str(problem.error) for problem in found] == [True, True, False]
    assert "socket" in str(found[2].error)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes device nodes")
def test_devices_are_unreadable_problems(tmp_path: Path) -> None:
    try:
        os.mknod(tmp_path / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes are not allowed here")
    (problem,) = problems(tmp_path)
    assert "character device" in str(problem.error)


def test_file_and_directory_links_are_followed(tmp_path: Path) -> None:
    put(tmp_path / "outside" / "f", "abc")
    root = tmp_path / "root"
    root.mkdir()
    (root / "dir").symlink_to("../outside")
    (root / "file").symlink_to("../outside/f")
    found: list[Any] = list(walk_files(str(root), "follow"))
    assert [file.relative for file in found] == ["dir/f", "file"]
    assert [file.path for file in found] == [str(root / "dir" / "f"), str(root / "file")]
    assert [file.size_bytes for file in found] == [3, 3]


def test_one_directory_linked_twice_is_published_twice(tmp_path: Path) -> None:
    put(tmp_path / "root" / "a" / "f")
    (tmp_path / "root" / "b").symlink_to("a")
    (tmp_path / "root" / "c").symlink_to("a")
    assert relatives(tmp_path / "root") == ["a/f", "b/f", "c/f"]


@pytest.mark.parametrize("target", [".", "..", "../..", "/", "a"])
def test_links_to_a_directory_that_holds_them_are_loops(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    put(root / "a" / "f")
    link = root / "a" / "loop"
    link.symlink_to(target if target != "a" else root / "a")
    (problem,) = problems(root)
    assert relatives(root) == ["a/f"]
    assert problem.path == str(link)
    assert isinstance(problem.error, SourceUnreadable)
    assert "is a symbolic link loop" in str(problem.error)


def test_loops_by_way_of_a_second_tree_end(tmp_path: Path) -> None:
    put(tmp_path / "root" / "f")
    put(tmp_path / "other" / "in" / "g")
    (tmp_path / "root" / "to-in").symlink_to(tmp_path / "other" / "in")
    (tmp_path / "other" / "in" / "up").symlink_to(tmp_path / "other")
    assert relatives(tmp_path / "root") == ["f", "to-in/g"]
    (problem,) = problems(tmp_path / "root")
    assert problem.path == str(tmp_path / "root" / "to-in" / "up" / "in")
    assert "loop" in str(problem.error)


def test_a_link_to_itself_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "self").symlink_to("self")
    (problem,) = problems(tmp_path)
    assert isinstance(problem.error, SourceUnreadable)
    assert "symbolic link loop" in str(problem.error)


def test_broken_links_are_missing(tmp_path: Path) -> None:
    (tmp_path / "gone").symlink_to("nowhere")
    put(tmp_path / "file")
    (tmp_path / "through-a-file").symlink_to("file/below")
    found = problems(tmp_path)
    assert [type(problem.error) for problem in found] == [SourceMissing, SourceMissing]
    assert "symbolic link" in str(found[0].error)


@pytest.mark.parametrize(("symlinks", "skipped"), [("skip", True), ("error", False)])
def test_links_are_refused_by_policy(tmp_path: Path, symlinks: Symlinks, skipped: bool) -> None:
    put(tmp_path / "outside" / "f")
    root = tmp_path / "root"
    put(root / "real")
    for name, target in [("broken", "nowhere"), ("dir", "../outside"), ("file", "real"), ("self", "self")]:
        (root / name).symlink_to(target)
    found = problems(root, symlinks)
    assert [os.path.basename(problem.path) for problem in found] == ["broken", "dir", "file", "self"]
    assert all(problem.skipped is skipped and problem.skippable is skipped for problem in found)
    assert relatives(root, symlinks) == ["real"]


def test_nipype_follows_links_to_files_only(tmp_path: Path) -> None:
    put(tmp_path / "outside" / "f")
    root = tmp_path / "root"
    put(root / "real")
    (root / "dir").symlink_to("../outside")
    (root / "file").symlink_to("real")
    assert relatives(root, compat="nipype") == ["file", "real"]
    (problem,) = problems(root, compat="nipype")
    assert problem.skipped


def test_the_top_directory_may_be_a_link(tmp_path: Path) -> None:
    put(tmp_path / "real" / "f")
    (tmp_path / "link").symlink_to("real")
    for symlinks in ("follow", "skip", "error"):
        found: Any
        (found,) = DirectorySource(tmp_path / "link", symlinks=symlinks).scan()
        assert found.path == str(tmp_path / "link" / "f")


def test_names_that_are_no_utf8_are_found(tmp_path: Path) -> None:
    name = b"caf\xe9.nii"
    try:
        (tmp_path / os.fsdecode(name)).write_bytes(b"abc")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    found: Any = next(walk_files(str(tmp_path), "follow"))
    assert isinstance(found, SourceFile)
    assert os.fsencode(found.relative) == name
    assert found.size_bytes == 3
    os.unlink(found.path)
    os.symlink("nowhere", found.path)
    (problem,) = problems(tmp_path)
    str(problem.error).encode("utf-8")


def test_files_that_vanish_during_the_walk_are_missing(tmp_path: Path) -> None:
    for name in ("a", "b/inside", "c"):
        put(tmp_path / name)
    walk = walk_files(str(tmp_path), "follow")
    next(walk)
    (tmp_path / "b" / "inside").unlink()
    (tmp_path / "b").rmdir()
    vanished, last = walk
    assert isinstance(vanished, SourceProblem)
    assert isinstance(vanished.error, SourceMissing)
    assert isinstance(last, SourceFile)


@pytest.mark.parametrize("becomes", ["nothing", "a file"])
def test_directories_that_vanish_during_the_walk_are_missing(tmp_path: Path, becomes: str) -> None:
    put(tmp_path / "a")
    put(tmp_path / "sub" / "f")
    put(tmp_path / "z")
    walk = walk_files(str(tmp_path), "follow")
    next(walk)
    shutil.rmtree(tmp_path / "sub")
    if becomes == "a file":
        put(tmp_path / "sub")
    vanished, last = walk
    assert isinstance(vanished, SourceProblem)
    assert isinstance(vanished.error, SourceMissing)
    assert isinstance(last, SourceFile)
    assert last.relative == "z"


def test_unreadable_directories_are_problems(open_folder: Path) -> None:
    put(open_folder / "a")
    put(open_folder / "closed" / "f")
    put(open_folder / "z")
    (open_folder / "closed").chmod(0)
    with ordinary_user():
        found: list[Any] = list(walk_files(str(open_folder), "follow"))
    assert [type(result) for result in found] == [SourceFile, SourceProblem, SourceFile]
    assert isinstance(found[1].error, SourceUnreadable)
    assert "Permission denied" in str(found[1].error)
    assert "expected read permission" in str(found[1].error)
    assert not found[1].skippable, "a whole subtree would be left out"


def test_files_in_a_directory_without_search_permission_are_problems(open_folder: Path) -> None:
    put(open_folder / "listed" / "f")
    (open_folder / "listed").chmod(0o444)
    with ordinary_user():
        problem: Any = next(walk_files(str(open_folder), "follow"))
    assert isinstance(problem.error, SourceUnreadable)
    assert problem.path.endswith("/listed/f")
    assert not problem.skippable


def test_an_unreadable_top_directory_is_a_config_error(open_folder: Path) -> None:
    (open_folder / "closed").mkdir()
    (open_folder / "closed").chmod(0)
    with ordinary_user(), pytest.raises(ConfigError, match="cannot be listed"):
        list(DirectorySource(open_folder / "closed", symlinks="follow").scan())


@pytest.mark.parametrize("name", ["nowhere", "file", "\0"])
def test_a_top_that_is_no_directory_is_a_config_error(tmp_path: Path, name: str) -> None:
    put(tmp_path / "file")
    with pytest.raises(ConfigError):
        list(DirectorySource(f"{tmp_path}/{name}", symlinks="follow").scan())


def test_an_empty_directory_name_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"'\.'"):
        DirectorySource("", symlinks="follow")


def test_relative_directories_count_from_the_current_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "sub" / "f")
    monkeypatch.chdir(tmp_path)
    source = DirectorySource("sub/", symlinks="follow")
    monkeypatch.chdir("/")
    (found,) = source.scan()
    assert found.path == str(tmp_path / "sub" / "f")


def test_a_walk_from_a_missing_root_is_one_problem(tmp_path: Path) -> None:
    (problem,) = walk_files(str(tmp_path / "nowhere"), "follow", attribute="a", entry=2)
    assert isinstance(problem, SourceProblem)
    assert isinstance(problem.error, SourceMissing)
    assert (problem.attribute, problem.entry) == ("a", 2)


# -- Patterns of what is left out of directories -----------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for name in (".git/config", "a.tmp", "a.nii", "sub/a.tmp", "sub/keep.tmp", "sub/work/b.nii", "work.nii"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    return root


@pytest.mark.parametrize(
    ("patterns", "left", "out"),
    [
        ([], [".git/config", "a.nii", "a.tmp", "sub/a.tmp", "sub/keep.tmp", "sub/work/b.nii", "work.nii"], []),
        ([".git/", "*.tmp"], ["a.nii", "sub/work/b.nii", "work.nii"], [".git", "a.tmp", "sub/a.tmp", "sub/keep.tmp"]),
        (["*.tmp", "!keep.tmp"], [".git/config", "a.nii", "sub/keep.tmp", "sub/work/b.nii", "work.nii"], None),
        (["/a.*"], [".git/config", "sub/a.tmp", "sub/keep.tmp", "sub/work/b.nii", "work.nii"], ["a.nii", "a.tmp"]),
        (["work/", ".git"], ["a.nii", "a.tmp", "sub/a.tmp", "sub/keep.tmp", "work.nii"], [".git", "sub/work"]),
        (["**"], [], [".git", "a.nii", "a.tmp", "sub", "work.nii"]),
    ],
)
def test_what_is_left_out(tree: Path, patterns: list[str], left: list[str], out: list[str] | None) -> None:
    selection = Selection(Policies(exclude=tuple(patterns)))
    walked = list(DirectorySource(tree, symlinks="inside", selection=selection).scan())
    assert [each.relative for each in walked if isinstance(each, SourceFile)] == left
    problems = [each for each in walked if isinstance(each, SourceProblem)]
    assert out is None or [str(Path(each.path).relative_to(tree)) for each in problems] == out
    assert all(each.skipped and each.reason.startswith("excluded by '") for each in problems)


@pytest.mark.anyio
async def test_outputs_and_the_report(tree: Path, tmp_path: Path) -> None:
    outputs = {"@": [str(tree), str(tree / "a.tmp")]}
    report = await asyncsink.export(outputs, tmp_path / "out", exclude=["*.tmp", ".git"])
    report.raise_for_failures()
    assert sorted(Path(receipt.source).name for receipt in report.receipts) == ["a.nii", "a.tmp", "b.nii", "work.nii"]
    assert {skip.reason for skip in report.skips} == {"excluded by '*.tmp'", "excluded by '.git'"}
    assert any("Left out (excluded by '*.tmp')" in notice and "2 others" in notice for notice in report.notices)


@pytest.mark.anyio
@pytest.mark.parametrize("exclude", ["*.tmp", 3, [b"x"], ["!"]])
async def test_patterns_that_are_none(tree: Path, tmp_path: Path, exclude: Any) -> None:
    with pytest.raises(asyncsink.ConfigError, match="exclude"):
        await asyncsink.export_directory(tree, tmp_path / "out", exclude=exclude)


def test_an_unreadable_folder_that_is_excluded_is_no_problem(tree: Path, tmp_path: Path, run_inside: Any) -> None:
    (tree / "lost+found").mkdir(mode=0)
    (tree / "a\nb").write_text("x")
    with quirky_s3() as server:
        words = ("export", tree, "s3://tryout/p", "--exclude", "lost+found/", "--exclude", "a?b", "--exclude", "*.tmp")
        done = run_inside(*words, env=server.environment(tmp_path))
        assert done.returncode == 0, done.stderr.decode()
        assert sorted(server.bodies()) == ["p/.git/config", "p/a.nii", "p/sub/work/b.nii", "p/work.nii"]
    (tree / "lost+found").chmod(0o700)
