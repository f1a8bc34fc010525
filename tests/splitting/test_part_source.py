"""A part conforms to what is asked of every source."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from asyncsink.model import SourceFile, Transfer
from asyncsink.sources.base import Source
from asyncsink.splitting.cutting import ByLimits
from asyncsink.splitting.files import SplitPart, write_parts
from asyncsink.splitting.part_source import SplitPartSource
from asyncsink.testing.source_suite import TREE, SourceSuite, write_tree


def transfer(folder: Path, name: str, key: str) -> Transfer:
    path = folder / name
    found = os.stat(path)
    source = SourceFile(str(path), found.st_size, found.st_mtime_ns, ctime_ns=found.st_ctime_ns, inode=found.st_ino)
    return Transfer(source, key, key)


def part_of(folder: Path, transfers: list[Transfer]) -> Source:
    for left in folder.glob("part-*"):
        left.unlink()
    nothing = SplitPart(
        file="part-00000.jsonl", receipts="", first_key="", last_key="", objects=0, bytes=0, digest="sha256:"
    )
    (folder / nothing.file).touch()
    if transfers:
        (folder / nothing.file).unlink()
        (nothing,) = write_parts(str(folder), transfers, ByLimits(), {})
    return SplitPartSource(str(folder), nothing, prefix="p", roots={})


class TestPartConforms(SourceSuite):
    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder, tree)
        return part_of(folder, [transfer(folder, name, f"p/{name}") for name in sorted(tree)])

    def make_with_missing(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        source = self.make(folder, tree)
        (folder / min(tree)).unlink()
        return source

    def make_unusable(self, folder: Path) -> Source:
        source = self.make(folder, {"a": b""})
        (folder / "part-00000.jsonl").write_text('{"key": "p/a"}\n')
        return source

    def make_many(self, folder: Path, count: int) -> Source:
        write_tree(folder, {"one": b""})
        return part_of(folder, [transfer(folder, "one", f"p/{number:05}") for number in range(count)])

    def test_problems_are_values(self, tmp_path: Path) -> None:
        """The split has looked at every file, and a part looks at none: a missing one is met when it is opened."""
        assert len(list(self.make_with_missing(tmp_path, TREE).scan())) == len(TREE)
