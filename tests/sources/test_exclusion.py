"""Patterns of what is left out of directories: gitignore's meaning, and every entry that is left out is reported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.base import Exclusion
from asyncsink.sources.directory import DirectorySource
from tests.support.quirky_s3 import quirky_s3


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
    exclude = Exclusion(patterns) if patterns else None
    walked = list(DirectorySource(tree, symlinks="inside", exclude=exclude).scan())
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
    with pytest.raises(asyncsink.ConfigError, match="exclude "):
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
