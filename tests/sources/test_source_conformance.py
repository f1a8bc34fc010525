"""Every source passes the one conformance suite."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from asyncsink.sources.base import Source
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.outputs import OutputsSource, load_outputs_file
from asyncsink.sources.records import ManifestSource, StreamSource
from asyncsink.testing.source_suite import SourceSuite, write_tree


class TestDirectorySourceConforms(SourceSuite):
    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder, tree)
        return DirectorySource(folder, symlinks="follow")

    def make_with_missing(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        source = self.make(folder, tree)
        (folder / "gone").symlink_to(folder / "nowhere")
        return source

    def make_unusable(self, folder: Path) -> Source:
        return DirectorySource(folder / "nowhere", symlinks="follow")


def write_many(folder: Path, count: int) -> None:
    """A tree that is walked as `count` files, quick to make: links lead to one directory of 50 files."""
    write_tree(folder.parent, {f"{folder.name}-fifty/{n}.nii": b"" for n in range(50)})
    for n in range(count // 50):
        (folder / str(n // 20)).mkdir(parents=True, exist_ok=True)
        (folder / str(n // 20) / str(n)).symlink_to(folder.with_name(f"{folder.name}-fifty"))


class TestOutputsSourceConforms(SourceSuite):
    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder, tree)
        tops = sorted({relative.split("/")[0] for relative in tree})
        return OutputsSource({"all": [folder / top for top in tops]}, symlinks="follow")

    def make_with_missing(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder, tree)
        tops = sorted({relative.split("/")[0] for relative in tree})
        return OutputsSource({"all": [[folder / top for top in tops], None]}, symlinks="follow")

    def make_many(self, folder: Path, count: int) -> Source:
        write_many(folder / "tree", count)
        return OutputsSource({"all": folder / "tree"}, symlinks="follow")

    def make_unusable(self, folder: Path) -> Source:
        return _RefusedWhenMade()


class _RefusedWhenMade:
    """Outputs that are wrong are refused when the source is made, which is before its scan."""

    replayable = True
    injective = False
    entries = None

    def scan(self) -> Any:
        return OutputsSource({"all": b"bytes"}, symlinks="follow").scan()


class TestOutputsFileConforms(TestOutputsSourceConforms):
    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder / "tree", tree)
        file = folder / "outputs.json"
        file.write_text(json.dumps({relative: f"tree/{relative}" for relative in tree}))
        return OutputsSource(load_outputs_file(file), symlinks="follow")

    def make_many(self, folder: Path, count: int) -> Source:
        write_many(folder / "tree", count)
        (folder / "outputs.yaml").write_text("all: tree\n")
        return OutputsSource(load_outputs_file(folder / "outputs.yaml"), symlinks="follow")


class TestCsvManifestConforms(SourceSuite):
    suffix = ".csv"

    def rows(self, pairs: list[tuple[str, str]]) -> str:
        return "source,key\n" + "".join(f'"{source}","{key}"\n' for source, key in pairs)

    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder / "tree", tree)
        return self.write(folder, [(f"tree/{relative}", f"raw/{relative}") for relative in tree])

    def make_with_missing(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder / "tree", tree)
        return self.write(folder, [*((f"tree/{relative}", relative) for relative in tree), ("gone", "gone")])

    def make_unusable(self, folder: Path) -> Source:
        return ManifestSource(folder / f"nowhere{self.suffix}")

    def make_many(self, folder: Path, count: int) -> Source:
        write_tree(folder, {"one": b""})
        return self.write(folder, [("one", f"key-{n}") for n in range(count)])

    def write(self, folder: Path, pairs: list[tuple[str, str]]) -> Source:
        path = folder / f"manifest{self.suffix}"
        path.write_text(self.rows(pairs), encoding="utf-8")
        return ManifestSource(path)


class TestTsvManifestConforms(TestCsvManifestConforms):
    suffix = ".tsv"

    def rows(self, pairs: list[tuple[str, str]]) -> str:
        return "\ufeffkey\tnote\tsource\r\n" + "".join(f"{key}\tignored\t{source}\r\n" for source, key in pairs)


class TestJsonLinesManifestConforms(TestCsvManifestConforms):
    suffix = ".jsonl"

    def rows(self, pairs: list[tuple[str, str]]) -> str:
        return "".join(json.dumps({"source": source, "key": key}) + "\n" for source, key in pairs)


class TestBinaryStreamConforms(SourceSuite):
    def stream(self, lines: list[dict[str, str]]) -> Source:
        return StreamSource(io.BytesIO(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))

    def make(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder, tree)
        return self.stream([{"source": str(folder / relative), "key": relative} for relative in tree])

    def make_with_missing(self, folder: Path, tree: Mapping[str, bytes]) -> Source:
        write_tree(folder, tree)
        return self.stream([{"source": str(folder / relative)} for relative in [*tree, "gone"]])

    def make_unusable(self, folder: Path) -> Source:
        source = self.stream([])
        assert list(source.scan()) == []
        return source

    def make_many(self, folder: Path, count: int) -> Source:
        write_tree(folder, {"one": b""})
        return self.stream([{"source": str(folder / "one"), "key": f"key-{n}"} for n in range(count)])


class TestTextStreamConforms(TestBinaryStreamConforms):
    def stream(self, lines: list[dict[str, str]]) -> Source:
        return StreamSource(io.StringIO("\ufeff" + "".join(json.dumps(line) + "\n" for line in lines)))
