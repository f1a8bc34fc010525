"""A caller's own destination and source, given to exports and sinks; bad ones are refused."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.destinations.memory import MemoryDestination
from asyncsink.extending import ByteBody, Checksum, Destination, SourceFile, SourceProblem, Stored, Transfer

pytestmark = pytest.mark.anyio
MIB = 1 << 20


class Shelf(MemoryDestination):
    """Memory that keeps the names of what is called."""

    def __init__(self, **refused: Exception) -> None:
        super().__init__(url="shelf:")
        self.calls: list[str] = []
        self.refused = refused

    async def prepare(self, forecast: Any) -> None:
        self.calls.append("prepare")
        await super().prepare(forecast)

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        self.calls.append("put")
        if (error := self.refused.get(transfer.key.rpartition("/")[2].partition(".")[0])) is not None:
            raise error
        return await super().put(transfer, body, checksum)

    async def aclose(self) -> None:
        self.calls.append("aclose")
        await super().aclose()


async def test_an_export_prepares_fills_and_closes_it(tree: Path, many: Path, tmp_path: Path) -> None:
    shelf = Shelf()
    manifest, copy = tmp_path / "manifest.jsonl", tmp_path / "copy"
    report = await asyncsink.export_directory(tree, destination=shelf, manifest=manifest, local_copy=copy)
    assert (report.ok, report.objects_uploaded, report.destination) == (True, 5, "shelf:")
    assert shelf.calls == ["prepare", "put", "put", "put", "put", "aclose"]
    expected = {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    assert shelf.objects == expected
    assert {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == expected
    assert {receipt.url for receipt in report.receipts} == {f"shelf:/{key}" for key in expected}
    assert '"destination":"shelf:"' in manifest.read_text().replace('": ', '":')
    again = await asyncsink.export_directory(tree, destination=shelf)
    assert (again.objects_uploaded, again.objects_skipped) == (0, 5)
    other = await asyncsink.export({"y": many}, destination=shelf, container="sub001", overwrite="always")
    assert other.objects_uploaded == 300
    assert len([key for key in shelf.objects if key.startswith("sub001/y/many/sub-")]) == 300
    assert not shelf.open_writers


async def test_a_sink_to_it(tree: Path) -> None:
    shelf = Shelf()
    async with asyncsink.AsyncSink(destination=shelf) as sink:
        receipt = await sink.put("x", tree / "a.txt")
        await sink.submit("x.@y", tree / "sub")
        same = await sink.put("x", tree / "a.txt")
    assert isinstance(receipt, asyncsink.Receipt)
    assert (receipt.url, receipt.confirmed_by) == ("shelf:/x/a.txt", "server-checksum")
    assert isinstance(same, asyncsink.Skip)
    assert sorted(shelf.objects) == ["x/a.txt", "x/sub/b c+%.json", "x/sub/deep/é✓.tsv", "x/sub/large.nii.gz"]
    assert shelf.calls[-1] == "aclose"


async def test_its_errors_fail_single_files(tree: Path) -> None:
    gone = asyncsink.PermanentError("The shelf takes no a.txt.", operation="put")
    shelf = Shelf(a=gone)
    report = await asyncsink.export_directory(tree, destination=shelf)
    (failure,) = report.failures
    assert (failure.key, report.objects_uploaded) == ("a.txt", 4)
    assert "The shelf takes no a.txt." in failure.message
    async with asyncsink.AsyncSink(destination=shelf) as sink:
        with pytest.raises(asyncsink.PutFailed, match=r"takes no a\.txt"):
            await sink.put("x", tree / "a.txt")
    assert shelf.calls[-1] == "aclose"


async def test_it_is_closed_after_a_bug_of_its_own(tree: Path) -> None:
    shelf = Shelf(a=LookupError("a bug"))
    with pytest.raises(LookupError, match="a bug"):
        await asyncsink.export_directory(tree, destination=shelf)
    assert shelf.calls[-1] == "aclose"
    assert not shelf.open_writers


async def test_cancelled_nothing_is_left_open(tree: Path) -> None:
    class Slow(Shelf):
        async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError

    begun, shelf = anyio.Event(), Slow()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: asyncsink.export_directory(tree, destination=shelf))
        await begun.wait()
        group.cancel_scope.cancel()
    assert shelf.calls[-1] == "aclose"
    assert not shelf.open_writers
    assert "a.txt" not in shelf.objects


def test_from_synchronous_code(tree: Path) -> None:
    shelf = Shelf()
    report = asyncsink.export_sync({"x": tree}, destination=shelf)
    assert (report.ok, len(shelf.objects)) == (True, 5)


class Incomplete(Destination):
    """Abstract: Python makes no object of it."""


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"destination": {}}, "destination is dict; expected an object of a class that inherits from asyncsink.ext"),
        ({"destination": Shelf}, "destination is the class Shelf; expected an object"),
        ({"destination": "s3://bucket"}, "destination is str; expected an object"),
        ({"destination": Shelf(), "base_directory": "s3://bucket"}, "both name a destination; give one"),
        ({}, "The destination is empty; expected s3://bucket/prefix or a directory"),
        ({"destination": Shelf(), "journal": "j"}, "journal is given, but the destination shelf: is no bucket"),
        ({"destination": Shelf(), "bucket": "b"}, "bucket is given, but the destination shelf: is no bucket"),
        (
            {"destination": Shelf(), "transport": lambda inner: inner},
            "nothing is sent to S3: the destination is shelf:",
        ),
        ({"destination": Shelf(), "exlcude": ["x"]}, "Did you mean 'exclude'"),
    ],
)
async def test_what_is_no_destination_is_refused(given: dict[str, Any], words: str, tree: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match=words):
        await asyncsink.export_directory(tree, **given)
    with pytest.raises(asyncsink.ConfigError, match=words):
        await asyncsink.export({"x": tree}, **given)
    with pytest.raises(asyncsink.ConfigError, match=words):
        asyncsink.AsyncSink(**given)


async def test_a_name_that_is_none_is_refused(tree: Path) -> None:
    class Nameless(Shelf):
        @property
        def name(self) -> str:
            return ""

    with pytest.raises(asyncsink.ConfigError, match="The name of destination is ''"):
        await asyncsink.export_directory(tree, destination=Nameless())
    with pytest.raises(TypeError, match="abstract"):
        Incomplete()  # type: ignore[abstract]


class Pages:
    """A source of single files."""

    replayable = True
    injective = False
    entries = None

    def __init__(self, *paths: Path) -> None:
        self.paths = paths

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        for number, path in enumerate(self.paths):
            status = os.stat(path)
            yield SourceFile(str(path), status.st_size, status.st_mtime_ns, entry=number, root=str(path), key=path.name)


async def test_a_source_by_its_option(tree: Path) -> None:
    shelf = Shelf()
    report = await asyncsink.export(source=Pages(tree / "a.txt", tree / "sub/large.nii.gz"), destination=shelf)
    assert (report.ok, sorted(shelf.objects)) == (True, ["a.txt", "large.nii.gz"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"source": ["a.txt"]}, r"source is list; expected an object with replayable, injective, entries and scan\(\)"),
        ({"source": Pages}, "source is the class Pages; expected an object"),
        ({}, "An export has no source; expected outputs"),
        ({"source": Pages(), "outputs": {}}, "outputs and source both name what is published"),
    ],
)
async def test_what_is_no_source_is_refused(given: dict[str, Any], words: str) -> None:
    shelf = Shelf()
    with pytest.raises(asyncsink.ConfigError, match=words):
        await asyncsink.export(destination=shelf, **given)
    assert shelf.calls == []
