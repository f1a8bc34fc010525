"""A link in a tree does not publish what lies outside of the tree, unless that is asked for."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import SourceUnreadable
from asyncsink.options.schema import Symlinks
from asyncsink.sources.directory import DirectorySource

pytestmark = pytest.mark.anyio


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with links that stay inside; beside it, what nobody asked to publish."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "key").write_text("private")
    (tmp_path / "tree-of-another").mkdir()
    (tmp_path / "tree-of-another" / "key").write_text("private")
    root = tmp_path / "tree"
    (root / "sub").mkdir(parents=True)
    (root / "sub" / "file").write_text("data")
    (root / "relative").symlink_to("sub/file")
    (root / "absolute").symlink_to(root / "sub" / "file")
    (root / "folder").symlink_to("sub")
    return root


LINKS = {
    "absolute": lambda root: root.parent / "private" / "key",
    "relative": lambda root: Path("../private/key"),
    "folder": lambda root: Path("../private"),
    "by way of a folder": lambda root: Path("sub/../../private/key"),
    "a name that begins alike": lambda root: Path("../tree-of-another/key"),
    "a link to a link": lambda root: Path("hop"),
}


def paths(root: Path, symlinks: Symlinks) -> set[str]:
    found = DirectorySource(root, symlinks=symlinks).scan()
    return {os.path.relpath(each.path, root) for each in found if not hasattr(each, "error")}


INSIDE = {"sub/file", "relative", "absolute", "folder/file"}


@pytest.mark.parametrize("kind", list(LINKS))
@pytest.mark.parametrize("on_missing", ["error", "skip"])
async def test_a_link_that_leads_out_refuses_the_run(tree: Path, tmp_path: Path, kind: str, on_missing: Any) -> None:
    if kind == "a link to a link":
        (tmp_path / "middle").symlink_to(tmp_path / "private" / "key")
        (tree / "hop").symlink_to(tmp_path / "middle")
    (tree / "out").symlink_to(LINKS[kind](tree))
    with pytest.raises(SourceUnreadable, match=r"leads out of .*symlinks='follow'.*symlinks='skip'"):
        await asyncsink.export_directory(tree, tmp_path / "published", on_missing=on_missing)
    assert not [path for path in (tmp_path / "published").rglob("*") if path.is_file()]
    assert paths(tree, "inside") == INSIDE
    report = await asyncsink.export_directory(tree, tmp_path / "published", symlinks="follow")
    assert not report.failures
    assert any(path.read_text() == "private" for path in (tmp_path / "published").rglob("*") if path.is_file())


async def test_links_that_stay_inside_are_followed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "named").symlink_to(tree)
    report = await asyncsink.export_directory(tmp_path / "named", tmp_path / "published")
    report.raise_for_failures()
    found = {str(path.relative_to(tmp_path / "published")) for path in (tmp_path / "published").rglob("*")}
    assert found - {"sub", "folder"} == INSIDE


async def test_a_link_that_was_named_was_asked_for(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tree / "sub" / "file")
    report = await asyncsink.export({"x": str(tmp_path / "link")}, tmp_path / "published")
    report.raise_for_failures()
    assert (tmp_path / "published/x/link").read_text() == "data"


async def test_below_a_named_directory_the_directory_is_the_tree(tree: Path, tmp_path: Path) -> None:
    (tree / "sub" / "out").symlink_to("../../private/key")
    with pytest.raises(SourceUnreadable, match="leads out of"):
        await asyncsink.export({"x": str(tree)}, tmp_path / "published")
    report = await asyncsink.export({"x": str(tree)}, tmp_path / "as-nipype", compat="nipype")
    report.raise_for_failures()
    assert (tmp_path / "as-nipype/x/tree/sub/out").read_text() == "private"
