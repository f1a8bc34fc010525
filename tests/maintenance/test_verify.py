"""How far a verification is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.recording.events import Progress

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("read_back", [False, True])
async def test_how_much_there_is_to_verify_is_known(
    tree: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], read_back: bool
) -> None:
    """What is proven is done, what is not has failed; bytes are told where they are read."""
    manifest = tmp_path / "m.jsonl"
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", manifest=manifest, **options)
    s3.delete_object(Bucket=bucket, Key="p/a.txt")
    progress = Progress()
    await asyncsink.verify_manifest(manifest, read_back=read_back, progress=progress)
    total = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) if read_back else 0
    assert (progress.objects_total, progress.bytes_total) == (5, total)
    assert (progress.objects_done, progress.counts.objects_failed, progress.objects_left) == (4, 1, 0)
    failed = 5 if read_back else 0
    assert (progress.bytes_done, progress.bytes_failed, progress.bytes_under_way) == (total - failed, failed, 0)
    assert progress.bytes_moved == progress.bytes_done


async def test_how_much_several_manifests_hold_is_known(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    places, manifests = (f"s3://{bucket}/p", f"s3://{bucket}/q", tmp_path / "out"), []
    for number, place in enumerate(places):
        manifests.append(tmp_path / f"{number}.jsonl")
        await asyncsink.export_directory(tree, place, manifest=manifests[-1], **options)
    progress = Progress()
    assert (await asyncsink.verify_manifest(manifests, progress=progress)).ok
    assert (progress.objects_total, progress.objects_done) == (15, 15)
