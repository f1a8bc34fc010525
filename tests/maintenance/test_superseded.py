"""A service's manifest has several records of a key that was written again; the last one is about its object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.maintenance import superseded

pytestmark = pytest.mark.anyio


async def rewritten(bucket: str, manifest: Path, options: dict[str, Any], keys: int = 1, times: int = 4) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", manifest=manifest, journal=False, **options) as sink:
        for number in range(times):
            for key in range(keys):
                await sink.put_bytes(f"key-{key}", b"%d" % number * (number + 1))
        await sink.put_bytes("once", b"once")


async def test_records_of_a_key_that_was_written_again_are_no_fault(
    bucket: str, tmp_path: Path, options: dict[str, Any]
) -> None:
    manifest = tmp_path / "m.jsonl"
    await rewritten(bucket, manifest, options, keys=3)
    report = await asyncsink.verify_manifest(manifest, options=options)
    assert report.ok, report.summary()
    assert (report.checked, report.superseded, report.problems_total) == (13, 9, 0)
    assert "9 earlier records of objects that were written again: only the last one counts." in report.summary()
    assert report.as_dict()["objects_superseded"] == 9


@pytest.mark.parametrize("damage", ["replaced", "deleted"])
async def test_what_became_of_the_last_record_is_told_once(
    s3: Any, bucket: str, tmp_path: Path, options: dict[str, Any], damage: str
) -> None:
    manifest = tmp_path / "m.jsonl"
    await rewritten(bucket, manifest, options)
    if damage == "replaced":
        s3.put_object(Bucket=bucket, Key="key-0", Body=b"0")  # what an earlier record says
    else:
        s3.delete_object(Bucket=bucket, Key="key-0")
    report = await asyncsink.verify_manifest(manifest, options=options)
    assert not report.ok
    assert report.problems_total == 1
    assert report.problems[0][1] == f"s3://{bucket}/key-0"
    assert report.superseded == (2 if damage == "replaced" else 3)


async def test_memory_holds_a_bounded_number_of_keys(
    s3: Any, bucket: str, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(superseded, "KEYS_MAX", 2)
    manifest = tmp_path / "m.jsonl"
    await rewritten(bucket, manifest, options, keys=4, times=1)
    for key in range(4):
        s3.delete_object(Bucket=bucket, Key=f"key-{key}")
    report = await asyncsink.verify_manifest(manifest, options=options)
    assert (report.problems_total, report.superseded) == (4, 0)
