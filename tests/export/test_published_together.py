"""The index and the completion marker: written last, where everything succeeded; the marker claims nothing else."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import Status

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
DENIED = Status(403, "AccessDenied")
CHANGES = ("PutObject", "CreateMultipartUpload", "DeleteObject")


def named(suffix: str = ".csv") -> dict[str, Any]:
    return {"index": f"index{suffix}", "complete_marker": "_SUCCESS"}


async def export(tree: Path, bucket: str, options: dict[str, Any], **given: Any) -> asyncsink.Report:
    return await asyncsink.export_directory(tree, f"s3://{bucket}/p", **{**options, **given})


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl"])
async def test_the_index_lists_what_is_there(
    suffix: str, tree: Path, bucket: str, options: dict[str, Any], stored: Stored, tmp_path: Path
) -> None:
    (tree / 'a "quoted", name.txt').write_bytes(b"q")
    manifest = tmp_path / "m.jsonl"
    report = await export(tree, bucket, options, manifest=manifest, **named(suffix))
    report.raise_for_failures()
    found = stored()
    text = found.pop(f"p/index{suffix}").decode()
    marker = json.loads(found.pop("p/_SUCCESS"))
    rows = {
        ".csv": lambda: list(csv.DictReader(text.splitlines())),
        ".json": lambda: json.loads(text),
        ".jsonl": lambda: [json.loads(line) for line in text.splitlines()],
    }[suffix]()
    receipts = {receipt.key: receipt for receipt in report.receipts}
    assert [row["key"] for row in rows] == sorted(found)
    assert {(row["key"], int(row["size_bytes"]), row["checksum"], row["etag"]) for row in rows} == {
        (key, len(data), str(receipts[key].checksum), receipts[key].etag) for key, data in found.items()
    }
    assert (marker["objects"], marker["size_bytes"]) == (len(found), sum(map(len, found.values())))
    assert marker["index"]["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert report.closing.index is not None
    assert report.closing.index.url == f"s3://{bucket}/p/index{suffix}"
    assert report.as_dict()["complete_marker"] == f"s3://{bucket}/p/_SUCCESS"
    assert report.objects_total == len(found)
    assert f"p/index{suffix} lists {len(found)} objects." in report.summary()
    listed = {receipt.key: receipt.source for receipt in asyncsink.read_manifest(manifest).receipts}
    assert listed[f"p/index{suffix}"] == "index"
    assert (await asyncsink.verify_manifest(manifest, options=options)).ok


async def test_the_marker_is_removed_before_the_first_change_and_written_last(
    tree: Path, bucket: str, options: dict[str, Any], stored: Stored, tmp_path: Path
) -> None:
    manifest, given = tmp_path / "m.jsonl", named()
    await export(tree, bucket, options, manifest=manifest, **given)
    before = stored()
    again = await export(tree, bucket, options, manifest=manifest, **given)
    assert stored() == before  # nothing has changed, the time in the marker included
    assert again.closing.complete_marker == f"s3://{bucket}/p/_SUCCESS"
    assert [path.name for path in tmp_path.glob("m.jsonl*")] == ["m.jsonl"]
    for name in ("a.txt", "sub/large.nii.gz"):
        path = tree / name
        path.write_bytes(b"changed" + path.read_bytes())
    with FaultProxy(options["endpoint_url"]) as proxy:
        await export(tree, bucket, {"endpoint_url": proxy.endpoint_url}, **given)
    changes = [(request.operation, request.key) for request in proxy.requests if request.operation in CHANGES]
    assert changes[0] == ("DeleteObject", "p/_SUCCESS")
    assert changes[-2:] == [("PutObject", "p/index.csv"), ("PutObject", "p/_SUCCESS")]
    assert changes.count(("DeleteObject", "p/_SUCCESS")) == 1
    (tree / "a.txt").unlink()  # nothing is sent, and the index is another one
    await export(tree, bucket, options, **given)
    found = stored()
    assert b"p/a.txt" not in found["p/index.csv"]
    assert json.loads(found["p/_SUCCESS"])["objects"] == 4


async def test_a_run_that_does_not_succeed_leaves_no_marker(
    tree: Path, bucket: str, options: dict[str, Any], stored: Stored
) -> None:
    given = named()
    await export(tree, bucket, options, **given)
    before = stored()
    for name in ("a.txt", "empty"):
        (tree / name).write_bytes(b"changed")
    with FaultProxy(options["endpoint_url"], Rule(DENIED, operation="PutObject", key="p/empty")) as proxy:
        report = await export(tree, bucket, {"endpoint_url": proxy.endpoint_url}, **given)
    found = stored()
    assert found["p/a.txt"] == b"changed"
    assert "p/_SUCCESS" not in found
    assert found["p/index.csv"] == before["p/index.csv"]
    assert (report.closing.index, report.closing.complete_marker) == (None, "")
    assert "The index and completion marker cannot be published: 1 file failed." in report.notices
    assert (await export(tree, bucket, options, **given)).ok
    assert "p/_SUCCESS" in stored()


async def test_where_the_marker_cannot_be_removed_nothing_changes(
    tree: Path, bucket: str, options: dict[str, Any], stored: Stored
) -> None:
    given = named()
    await export(tree, bucket, options, **given)
    before = stored()
    (tree / "a.txt").write_bytes(b"changed")
    with FaultProxy(options["endpoint_url"], Rule(DENIED, operation="DeleteObject")) as proxy:
        report = await export(tree, bucket, {"endpoint_url": proxy.endpoint_url}, **given)
    assert stored() == before
    assert report.failures[0].message.startswith(f"The completion marker s3://{bucket}/p/_SUCCESS cannot be removed")
    with FaultProxy(options["endpoint_url"], Rule(DENIED, operation="PutObject", key="p/index.csv")) as proxy:
        report = await export(tree, bucket, {"endpoint_url": proxy.endpoint_url}, **given)
    assert [failure.source for failure in report.failures] != []
    assert "p/_SUCCESS" not in stored()


async def test_what_cannot_have_them_is_refused_before_anything_is_sent(
    tree: Path, bucket: str, options: dict[str, Any], stored: Stored, tmp_path: Path
) -> None:
    (tree / "taken.csv").write_bytes(b"data")
    for given, told in (
        ({"index": "taken.csv"}, "would have the key 'p/taken.csv', where the run publishes its index"),
        ({"index": "index.txt"}, "expected a name that ends with .csv, .json or .jsonl"),
        ({"index": "a//b.csv"}, "has an empty segment"),
        ({"index": "i.csv", "complete_marker": "i.csv"}, "both name 'i.csv'"),
        ({"complete_marker": "done", "shard": "0/2"}, "complete_marker is about everything, and shard=0/2"),
    ):
        with pytest.raises(asyncsink.ConfigError, match=told.replace("(", r"\(")):
            await export(tree, bucket, options, **given)
    with pytest.raises(asyncsink.ConfigError, match="is no bucket; expected s3://bucket/prefix"):
        await asyncsink.export_directory(tree, tmp_path / "to", index="index.csv")
    with pytest.raises(asyncsink.ConfigError, match="index is for the end of one export that has published everything"):
        asyncsink.AsyncSink(f"s3://{bucket}/p", index="index.csv", **options)
    assert stored() == {}
