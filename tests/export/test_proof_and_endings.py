"""Endings that used to lie: lost answers, cancelled runs, partial listings, callers that nobody answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.destinations.existing_objects import Inventory
from asyncsink.engine.export import run_source
from asyncsink.errors import ConfigError, ExportFailed, ServerFault, UploadMissing
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Receipt
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.http.connection import Connection
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.s3.multipart.upload import create_upload
from asyncsink.s3.operations import (
    CompleteMultipartUpload,
    CreateMultipartUpload,
    ListedObject,
    Operation,
)
from asyncsink.s3.stack import S3Stack, open_stack
from asyncsink.sources.directory import DirectorySource
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
SIZE = 6 * MIB


class CompleteFails:
    """Before real S3: CompleteMultipartUpload fails, before or after the server did it; all else goes through."""

    def __init__(self, stack: S3Stack, *, done: bool) -> None:
        self._stack = stack
        self._done = done

    async def send(self, operation: Operation[Any]) -> Any:
        if isinstance(operation, CompleteMultipartUpload):
            if self._done:
                await self._stack.transport.send(operation)
            raise ServerFault("Internal error.", operation=operation.name)
        return await self._stack.transport.send(operation)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("algorithm", ["CRC64NVME", "SHA256", None])
async def test_a_lost_answer_is_resolved_by_proof_and_never_by_size(
    bucket: str, s3: Any, options: dict[str, Any], done: bool, algorithm: Any
) -> None:
    """An older object of the same size is under the key; the upload did, or did not, take its place."""
    s3.put_object(Bucket=bucket, Key="k", Body=b"old" * (SIZE // 3))
    body = b"new" * (SIZE // 3)
    target = S3Target(bucket=bucket, endpoint_url=options["endpoint_url"])
    checksum = checksum_of(body, algorithm) if algorithm else None
    async with open_stack(target, RetryPolicy(), Limits()) as stack:
        upload = await create_upload(
            CompleteFails(stack, done=done),
            CreateMultipartUpload(key="k", algorithm=algorithm, write_token="0" * 32),
            plan=plan_parts(SIZE, 8 * MIB),
            retry=RetryPolicy(),
        )
        await upload.write_part(1, body, checksum)
        try:
            await upload.complete(checksum)
            claimed = True
        except (ServerFault, UploadMissing):
            claimed = False
            await upload.abort()
    stored = s3.get_object(Bucket=bucket, Key="k")["Body"].read()
    assert (stored == body) is done
    assert claimed is done
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


@pytest.mark.parametrize("how", ["task.cancel", "cancel scope"])
async def test_a_cancelled_run_records_everything_that_it_published(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, manifest = tmp_path / "t", tmp_path / "m"
    root.mkdir()
    for number in range(1000):
        (root / f"{number:05}").write_bytes(b"%d" % number)
    scope = anyio.CancelScope()
    seen = unanswered = 0
    genuine = Connection.give_up

    def give_up(connection: Connection, error: BaseException) -> None:
        nonlocal unanswered
        unanswered += connection.exchange is not None
        genuine(connection, error)

    monkeypatch.setattr(Connection, "give_up", give_up)

    async def run() -> None:
        def observe(event: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == 400:
                task.cancel() if how == "task.cancel" else scope.cancel()

        settings = parse_options(f"s3://{bucket}", {**options, "manifest": manifest, "concurrency": 64})
        with scope:
            await run_source(settings, DirectorySource(root, symlinks="follow"), observe=observe)

    task = asyncio.ensure_future(run())
    await asyncio.wait([task])
    assert task.cancelled() or scope.cancelled_caught
    records = [json.loads(line) for line in manifest.with_name("m.partial").read_text().splitlines()]
    receipts = {record["key"] for record in records if record["record"] == "receipt"}
    assert records[-1]["interrupted"] is True
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    published = {item["Key"] for page in pages for item in page.get("Contents", [])}
    assert receipts <= published
    # What was on the wire when its batch was cancelled may have arrived without an answer; nothing else is missing.
    # Batches are cancelled one after another, and what the first gives back the others use meanwhile.
    assert len(published - receipts) <= unanswered
    assert len(receipts) >= 390


async def test_a_listing_in_part_proves_presence_only() -> None:
    inventory = Inventory("p/")
    inventory.add_page([ListedObject("p/b", 1, "e", datetime.now(UTC))], last=False)
    assert inventory.get("p/b") is not None
    assert not inventory.complete
    assert "in part" in repr(inventory)
    inventory.close()


async def test_keys_that_a_server_lists_out_of_order_are_not_taken_for_missing(
    tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    """SeaweedFS lists "a/…" before "a.txt"; the first page of a long listing does not have it."""
    many = tmp_path / "many"
    many.mkdir()
    for number in range(1005):
        (many / f"{number:05}").write_bytes(b"x")
    (await asyncsink.export_directory(many, f"s3://{bucket}/p/a", **options)).raise_for_failures()
    s3.put_object(Bucket=bucket, Key="p/a.txt", Body=b"precious")
    (tmp_path / "a.txt").write_bytes(b"other!!!")
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="never", **options) as sink:
        assert not isinstance(await sink.put("p", tmp_path / "a.txt"), Receipt)
    assert s3.get_object(Bucket=bucket, Key="p/a.txt")["Body"].read() == b"precious"


async def test_encryption_that_is_asked_for_is_compared(
    tree: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    await asyncsink.export_directory(tree, f"s3://{bucket}", **options)
    report = await asyncsink.export_directory(tree, f"s3://{bucket}", encrypt_bucket_keys=True, **options)
    assert report.objects_uploaded == 5
    for name in content_of(tree):
        assert s3.head_object(Bucket=bucket, Key=name)["ServerSideEncryption"] == "AES256"
    again = await asyncsink.export_directory(tree, f"s3://{bucket}", encrypt_bucket_keys=True, **options)
    assert (again.objects_uploaded, again.notices) == (0, ())


async def test_another_customer_key_does_not_overwrite(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    await asyncsink.export_directory(tree, f"s3://{bucket}", sse=bytes(range(32)), **options)
    report = await asyncsink.export_directory(tree, f"s3://{bucket}", sse=bytes(32), **options)
    assert report.objects_uploaded == 0
    assert report.objects_failed == 5
    assert "customer key" in report.failures[0].message


async def test_put_is_answered_when_the_sink_breaks(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    failed = anyio.Event()

    async def producer(sink: asyncsink.AsyncSink) -> None:
        with pytest.raises((ExportFailed, ConfigError)):  # noqa: PT012 - until it is told
            while True:
                await sink.put("m", tree / "sub" / "large.nii.gz")
                (tree / "sub" / "large.nii.gz").touch()
        failed.set()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
                async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="always", **options) as sink:
                    group.start_soon(producer, sink)
                    await sink.put("m", tree / "a.txt")
                    _ = 1 / 0
            await failed.wait()
    assert sink.report.objects_uploaded >= 1
    with pytest.raises(ConfigError, match="is closed"):
        await sink.submit("m", tree / "a.txt")


async def test_a_subscriber_that_lost_interest_does_not_hold_the_sink(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncsink.engine.recording.events.QUEUE_EVENTS", 3)
    monkeypatch.setattr("asyncsink.engine.recording.events.CLOSING_SECONDS", 0.1)
    for number in range(20):
        (tmp_path / f"{number}").write_bytes(b"x")
    with anyio.fail_after(30):
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            events = sink.events()
            await sink.submit("m", [tmp_path / f"{number}" for number in range(20)])
            async for _ in events:
                break
    assert sink.report.objects_uploaded == 20
    assert [event async for event in sink.events()] == []


async def test_the_last_source_of_a_key_wins_in_a_sink_too(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    for name in ("one/f", "two/f"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    async with asyncsink.AsyncSink(f"s3://{bucket}", on_collision="last", **options) as sink:
        await sink.put("m", tmp_path / "one/f")
        await sink.put("m", tmp_path / "two/f")
    assert stored() == {"m/f": b"two/f"}


async def test_a_dry_run_leaves_the_manifest_alone(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    manifest = tmp_path / "m"
    await asyncsink.export_directory(tree, f"s3://{bucket}", manifest=manifest, **options)
    before = manifest.read_bytes()
    settings = parse_options(f"s3://{bucket}", {**options, "manifest": manifest})
    await run_source(settings, DirectorySource(tree, symlinks="follow"), dry_run=True)
    assert manifest.read_bytes() == before


@pytest.mark.parametrize("place", ["local_copy", "destination"])
async def test_a_directory_is_not_published_into_itself(tree: Path, tmp_path: Path, place: str) -> None:
    outside, inside = tmp_path / "out", tree / "sub" / "out"
    destination, copy = (outside, inside) if place == "local_copy" else (inside, outside)
    with pytest.raises(ConfigError, match="lies inside the source"):
        await asyncsink.export_directory(tree, destination, local_copy=copy)


async def test_remove_dest_dir_never_removes_another_source(tmp_path: Path) -> None:
    (tmp_path / "src/A").mkdir(parents=True)
    (tmp_path / "src/A/f").write_bytes(b"f")
    keep = tmp_path / "out/x/A/keep"
    keep.parent.mkdir(parents=True)
    keep.write_bytes(b"the only one")
    with pytest.raises(ConfigError, match="keep"):
        await asyncsink.export({"x": tmp_path / "src/A", "y": keep}, tmp_path / "out", remove_dest_dir=True)
    assert keep.read_bytes() == b"the only one"


async def test_nothing_to_publish_is_said(tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    (tmp_path / "empty").mkdir()
    report = await asyncsink.export_directory(tmp_path / "empty", f"s3://{bucket}/p", **options)
    assert report.objects_total == 0
    assert any("holds no files" in notice for notice in report.notices)
