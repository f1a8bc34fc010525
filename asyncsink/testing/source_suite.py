"""Conformance of a source: a test subclasses `SourceSuite` and implements its methods `make…`."""

from __future__ import annotations

import abc
import gc
import os
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from asyncsink.errors import AsyncSinkError, ConfigError, SourceError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.base import Source

TREE: Mapping[str, bytes] = {
    "empty": b"",
    "sub-01/anat/T1w.nii.gz": b"x" * 1000,
    "sub-01/func/a b.nii": b"xy",
    "sub-01/func/ünï.tsv": b"xyz",
    "sub-02/1/2/3/4/deep.txt": b"deep",
}
"""A small tree: relative path to content. It has an empty file, five levels, a space, and letters beyond ASCII."""

_MTIME_NS = 1_700_000_000_123_456_789
_SMALL, _LARGE = 500, 5_000
_FILES_PER_DIRECTORY = 50
_GROWTH_BYTES_MAX = 60_000
"""Most bytes by which the peak may grow for ten times the files: far below one object for each of 4,500 files."""


def write_tree(folder: Path, tree: Mapping[str, bytes]) -> None:
    """Write a tree's files below `folder`, all with one modification time, so that two calls give the same."""
    for parent in {os.path.dirname(folder / relative) for relative in tree}:
        os.makedirs(parent, exist_ok=True)
    for relative, content in tree.items():
        with open(folder / relative, "wb", buffering=0) as file:
            file.write(content)
            os.utime(file.fileno(), ns=(_MTIME_NS, _MTIME_NS))


def _unstamped(found: SourceFile | SourceProblem) -> SourceFile | SourceProblem:
    """Without the values that differ when a tree is written again."""
    return replace(found, ctime_ns=0, inode=0) if isinstance(found, SourceFile) else found


class SourceSuite(abc.ABC):
    """The conformance suite. `folder` is an existing, empty directory of the test."""

    @abc.abstractmethod
    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        """A source that finds exactly the files of `tree`; `write_tree` makes them. A second call with the same folder
        and tree must give an equal source."""

    @abc.abstractmethod
    def make_with_missing(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        """A source that finds the files of `tree`, and one entry that cannot be published."""

    @abc.abstractmethod
    def make_unusable(self, folder: Path) -> Source:
        """A source that is unusable as a whole: `scan` raises ConfigError."""

    def make_many(self, folder: Path, count: int) -> Source:
        """A source that finds `count` files, in directories of 50; to be overridden where a source takes no files."""
        step = _FILES_PER_DIRECTORY
        tree = {f"{n // (20 * step)}/{n // step}/{n}.nii": b"" for n in range(count)}
        return self.make(folder, tree)

    def test_finds_every_file_with_its_size_and_time(self, tmp_path: Path) -> None:
        """Sizes, times and absolute paths are right, and no other file is found."""
        found = _files(self.make(tmp_path, TREE))
        assert sorted(file.size_bytes for file in found) == sorted(map(len, TREE.values()))
        for file in found:
            status = os.stat(file.path)
            assert os.path.isabs(file.path)
            assert (file.size_bytes, file.mtime_ns) == (status.st_size, status.st_mtime_ns)

    def test_root_and_relative_make_the_path(self, tmp_path: Path) -> None:
        """`root` and `relative` give the file's path below its top-level source."""
        for file in _files(self.make(tmp_path, TREE)):
            assert os.path.join(file.root, file.relative) == file.path if file.relative else file.root == file.path
            assert not file.relative.startswith("/")

    def test_order_is_deterministic(self, tmp_path: Path) -> None:
        """Two sources over one tree give equal results in equal order."""
        first, second = ([_unstamped(found) for found in self.make(tmp_path, TREE).scan()] for _ in range(2))
        assert first == second

    def test_scans_replay(self, tmp_path: Path) -> None:
        """A replayable source yields the same twice; any other refuses a second scan."""
        source = self.make(tmp_path, TREE)
        first = list(source.scan())
        if source.replayable:
            assert list(source.scan()) == first
        else:
            with pytest.raises(ConfigError):
                list(source.scan())

    def test_problems_are_values(self, tmp_path: Path) -> None:
        """One bad entry is one problem with a sentence; every good file is still found."""
        results = list(self.make_with_missing(tmp_path, TREE).scan())
        problems = [result for result in results if isinstance(result, SourceProblem)]
        assert len(problems) == 1
        assert len(results) == len(TREE) + 1
        assert problems[0].path
        assert isinstance(problems[0].error, SourceError)
        assert str(problems[0].error).endswith(".")

    def test_entries_are_in_range(self, tmp_path: Path) -> None:
        """`entry` points into `entries`, or counts from 0, and never goes back."""
        source = self.make(tmp_path, TREE)
        ordinals = [file.entry for file in _files(source)]
        assert ordinals == sorted(ordinals)
        assert min(ordinals) == 0
        if source.entries is not None:
            assert max(ordinals) < len(source.entries)
            assert all(os.path.isabs(entry.path) and not entry.path.endswith("/") for entry in source.entries)

    def test_injective_sources_repeat_no_key(self, tmp_path: Path) -> None:
        """With `injective`, no two files share a relative key."""
        source = self.make(tmp_path, TREE)
        if source.injective:
            keys = [file.key or file.relative for file in _files(source)]
            assert all(keys)
            assert len(set(keys)) == len(keys)

    def test_unusable_source_is_a_config_error(self, tmp_path: Path) -> None:
        """`scan` of an unusable source raises a ConfigError of one sentence."""
        with pytest.raises(ConfigError, match=r"\.$"):
            list(self.make_unusable(tmp_path).scan())

    def test_empty_source_finds_nothing(self, tmp_path: Path) -> None:
        """A source without files is no error."""
        assert list(self.make(tmp_path, {}).scan()) == []

    @pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
    def test_descriptors_are_given_back(self, tmp_path: Path) -> None:
        """No descriptor stays open after a whole scan, an abandoned one, and a failed one."""
        (tmp_path / "good").mkdir()
        (tmp_path / "bad").mkdir()
        before = _descriptors()
        list(self.make(tmp_path / "good", TREE).scan())
        assert _descriptors() == before
        abandoned = self.make(tmp_path / "good", TREE).scan()
        next(abandoned)
        del abandoned
        gc.collect()
        assert _descriptors() == before
        with pytest.raises(AsyncSinkError):
            list(self.make_unusable(tmp_path / "bad").scan())
        assert _descriptors() == before

    def test_memory_does_not_grow_with_the_files(self, tmp_path: Path) -> None:
        """Ten times the files need about the same memory at the peak."""
        peaks = []
        for count in (_SMALL, _LARGE):
            folder = tmp_path / str(count)
            folder.mkdir()
            peaks.append(_peak_bytes(self.make_many(folder, count).scan(), count))
        assert peaks[1] - peaks[0] < _GROWTH_BYTES_MAX


def _files(source: Source) -> list[SourceFile]:
    results = list(source.scan())
    files = [result for result in results if isinstance(result, SourceFile)]
    assert files == results
    return files


def _descriptors() -> set[str]:
    # The listing's own descriptor is closed by the time its name is examined.
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def _peak_bytes(scan: Iterator[SourceFile | SourceProblem], count: int) -> int:
    tracemalloc.start()
    try:
        assert sum(1 for _ in scan) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
