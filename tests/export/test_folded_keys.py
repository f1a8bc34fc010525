"""Servers that take two keys for one: neither of two files is lost, in one run or in two."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.destinations import existing_objects
from asyncsink.engine.planning import key_ledger
from asyncsink.routing.keys import alike
from tests.support.combinations import crossed
from tests.support.quirky_s3 import QuirkyS3, Request, StoredObject

pytestmark = pytest.mark.anyio
LANES = ("wire", "aioboto3")
lanes = pytest.mark.parametrize("transport", LANES)
SIZES = (100, 2 << 20, 9 << 20)
"""Bytes of a file of a batch, of one for a lane thread, and of one in parts."""


class FoldingS3(QuirkyS3):
    """Takes keys for one whose `fold` is equal; an object keeps the spelling it was first stored under."""

    def __init__(self, fold: Callable[[str], str], *, renames: bool = False) -> None:
        super().__init__()
        self.fold, self.renames = fold, renames

    def received(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Request:
        request = super().received(method, target, headers, body)
        if not request.key:
            return request
        if self.renames:
            return replace(request, key=self.fold(request.key))
        same = (key for key in self.objects["tryout"] if self.fold(key) == self.fold(request.key))
        return replace(request, key=next(same, request.key))


FOLDS: dict[str, tuple[Callable[[str], str], str, str]] = {
    "case": (str.lower, "sub/Readme", "sub/README"),
    "case of a folder": (str.lower, "Sub/x", "sub/x"),
    "accents": (lambda key: unicodedata.normalize("NFC", key), "café", "cafe\u0301"),
    "backslash": (lambda key: key.replace("\\", "/"), "a/b", "a\\b"),
    "dots": (lambda key: key.rstrip("."), "a", "a.."),
    "percent": (lambda key: key.replace("%20", " "), "a b", "a%20b"),
}
NAMES = {name: fold for name, fold in FOLDS.items() if "folder" not in name}
"""Those that differ in the last segment: what lies in the same folder is listed."""
folds = pytest.mark.parametrize(("fold", "one", "two"), list(FOLDS.values()), ids=list(FOLDS))


@pytest.fixture
def options(dummy_keys: None) -> dict[str, Any]:
    return {"region": "us-east-1", "journal": False}


def write(root: Path, name: str, content: bytes) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return root


async def export(s3: QuirkyS3, root: Path, options: dict[str, Any], **more: Any) -> Any:
    return await asyncsink.export_directory(root, "s3://tryout/p", endpoint_url=s3.url, **options, **more)


@folds
def test_alike_keys_are_alike(fold: Callable[[str], str], one: str, two: str) -> None:
    assert alike(one) == alike(two)
    assert alike(one) != alike(f"{one}!")


@crossed(
    "transport,kind,size",
    LANES,
    FOLDS,
    SIZES,
    usual=lambda lane, kind, size: kind == "case" or (lane, size) == ("wire", SIZES[0]),
)
async def test_of_two_files_of_one_run_one_is_refused(
    tmp_path: Path, options: dict[str, Any], transport: str, kind: str, size: int
) -> None:
    fold, one, two = FOLDS[kind]
    write(write(tmp_path / "s", one, b"1" * size), two, b"2" * size)
    s3 = FoldingS3(fold)
    try:
        report = await export(s3, tmp_path / "s", options, transport=transport)
        (receipt,) = report.receipts
        (failure,) = report.failures
        assert (failure.error, {receipt.key, failure.key}) == ("KeyCollision", {f"p/{one}", f"p/{two}"})
        assert list(s3.bodies().values()) == [Path(receipt.source).read_bytes()]
    finally:
        s3.close()


@crossed(
    "transport,kind,size,overwrite",
    LANES,
    NAMES,
    SIZES,
    ["checksum", "always"],
    usual=lambda lane, kind, size, overwrite: (
        kind == "case" or (lane, size, overwrite) == ("wire", SIZES[0], "checksum")
    ),
)
async def test_a_run_after_a_run_replaces_nothing(
    tmp_path: Path, options: dict[str, Any], transport: str, kind: str, size: int, overwrite: str
) -> None:
    fold, one, two = NAMES[kind]
    first, second = write(tmp_path / "1", one, b"1" * size), write(tmp_path / "2", two, b"2" * size)
    s3 = FoldingS3(fold)
    try:
        assert len((await export(s3, first, options, transport=transport)).receipts) == 1
        report = await export(s3, second, options, transport=transport, overwrite=overwrite)
        assert ([each.error for each in report.failures], list(report.receipts)) == (["KeyCollision"], [])
        assert s3.bodies() == {f"p/{one}": b"1" * size}
        again = await export(s3, first, options, transport=transport)
        assert (len(again.skips), list(again.failures)) == (1, [])
    finally:
        s3.close()


@folds
async def test_a_server_that_keeps_keys_apart_gets_both(
    tmp_path: Path, options: dict[str, Any], fold: Callable[[str], str], one: str, two: str
) -> None:
    """In one run and in two; nothing but a look at one of the keys is asked for besides."""
    write(write(tmp_path / "s", one, b"1"), two, b"2")
    s3 = QuirkyS3()
    try:
        for _ in range(2):
            report = await export(s3, tmp_path / "s", options)
            assert list(report.failures) == []
        assert s3.bodies() == {f"p/{one}": b"1", f"p/{two}": b"2"}
        assert len(s3.requests("HEAD")) <= 4
        write(tmp_path / "s", two, b"3")
        assert (await export(s3, tmp_path / "s", options)).failures == []
        assert s3.bodies()[f"p/{two}"] == b"3"
    finally:
        s3.close()


@crossed(
    "overwrite,age,in_memory",
    ["checksum", "always"],
    ["young", "old"],
    [25_000, 1],
    usual=lambda overwrite, age, in_memory: overwrite == "checksum" or (age, in_memory) == ("young", 25_000),
)
async def test_a_sink_is_told_of_what_it_wrote_itself_and_of_what_was_there(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, overwrite: Any, age: str, in_memory: int
) -> None:
    """Also when the listing is too old to tell what is there, and where all that is known is on disk."""
    monkeypatch.setattr(existing_objects, "LISTING_SECONDS_MAX", 60.0 if age == "young" else -1.0)
    monkeypatch.setattr(existing_objects, "IN_MEMORY_MAX", in_memory)
    names = ("a", "Readme", "b", "README", "there")
    paths = [write(tmp_path / str(number), name, name.encode()) / name for number, name in enumerate(names)]
    s3 = FoldingS3(str.lower)
    before = {"p/f/There": b"old", "p/f/other": b"old"}
    s3.objects["tryout"].update({key: StoredObject(body) for key, body in before.items()})
    try:
        async with asyncsink.AsyncSink("s3://tryout/p", endpoint_url=s3.url, overwrite=overwrite, **options) as sink:
            for path in paths:
                await sink.submit("f", path)
        refused = sorted((each.error, each.key) for each in sink.report.failures)
        assert refused == [("KeyCollision", "p/f/README"), ("KeyCollision", "p/f/there")]
        assert s3.bodies() == before | {f"p/f/{name}": name.encode() for name in ("a", "Readme", "b")}
    finally:
        s3.close()


async def test_many_keys_are_compared_on_disk(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_ledger, "ALIKE_IN_MEMORY_MAX", 3)
    monkeypatch.setattr(existing_objects, "IN_MEMORY_MAX", 3)
    root = tmp_path / "s"
    for number in range(10):
        write(root, f"f{number}", b"x")
    write(write(root, "Z", b"1"), "z", b"2")
    s3 = FoldingS3(str.lower)
    try:
        report = await export(s3, root, options)
        assert ([each.error for each in report.failures], len(report.receipts)) == (["KeyCollision"], 11)
        other = write(write(tmp_path / "t", "F1", b"other"), "new", b"new")
        report = await export(s3, other, options)
        assert ([each.key for each in report.failures], len(report.receipts)) == (["p/F1"], 1)
        assert s3.bodies()["p/f1"] == b"x"
    finally:
        s3.close()


@pytest.fixture
def seaweed_options(seaweed: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url, "journal": False}


@lanes
@pytest.mark.parametrize("size", SIZES)
async def test_seaweedfs_reads_a_backslash_as_a_slash(
    bucket: str, s3: Any, seaweed_options: dict[str, Any], tmp_path: Path, transport: str, size: int
) -> None:
    def body() -> bytes:
        return bytes(s3.get_object(Bucket=bucket, Key="a/b")["Body"].read())

    slash, backslash = write(tmp_path / "1", "a/b", b"1" * size), write(tmp_path / "2", "a\\b", b"2" * size)
    both = write(write(tmp_path / "3", "a/b", b"1" * size), "a\\b", b"2" * size)
    how = {"transport": transport, **seaweed_options}
    report = await asyncsink.export_directory(both, f"s3://{bucket}", **how)
    assert [each.error for each in report.failures] == ["KeyCollision"] * len(report.failures)
    assert report.failures
    for receipt in report.receipts:
        assert body() == Path(receipt.source).read_bytes()
    s3.delete_object(Bucket=bucket, Key="a/b")
    report = await asyncsink.export_directory(backslash, f"s3://{bucket}", **how)
    assert ([each.error for each in report.failures], list(report.receipts)) == (["KeyCollision"], [])
    assert "stored" in report.failures[0].message
    s3.delete_object(Bucket=bucket, Key="a/b")
    assert len((await asyncsink.export_directory(slash, f"s3://{bucket}", **how)).receipts) == 1
    report = await asyncsink.export_directory(backslash, f"s3://{bucket}", **how)
    assert [each.error for each in report.failures] == ["KeyCollision"]
    assert body() == b"1" * size


@lanes
async def test_parts_that_other_machines_publish(tmp_path: Path, options: dict[str, Any], transport: str) -> None:
    """Each part has one of two keys that the server takes for one, and knows the other."""
    root = write(write(tmp_path / "source", "sub/README", b"upper"), "sub/readme", b"lower")
    await asyncsink.split(root, "s3://tryout/p", tmp_path / "parts", parts=2)
    with closing(FoldingS3(str.lower)) as s3:
        reports = [
            await asyncsink.run_part(
                tmp_path / "parts", number, region="us-east-1", endpoint_url=s3.url, transport=transport
            )
            for number in range(2)
        ]
        assert [report.objects_uploaded for report in reports] == [1, 0]
        assert [failure.error for failure in reports[1].failures] == ["KeyCollision"]
        assert s3.bodies() == {"p/sub/README": b"upper"}
