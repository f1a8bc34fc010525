"""Every line with a mark has a mistake, which both type checkers refuse; they refuse no other line."""

from __future__ import annotations

from io import BytesIO

import asyncsink
from asyncsink import AsyncSink
from asyncsink import AsynkSink  # refused
from asyncsink import exprot  # refused

asyncsink.exprot_sync({}, "s3://bucket")  # refused
asyncsink.export_sync({"a": 5}, "s3://bucket")  # refused
asyncsink.export_sync({"a": b"path"}, "s3://bucket")  # refused
asyncsink.export_sync({"a": ["path"]}, 5)  # refused
asyncsink.export_sync({}, "s3://bucket", overwrite="checksums")  # refused
asyncsink.export_sync({}, "s3://bucket", concurency=4)  # refused
asyncsink.export_sync({}, "s3://bucket", local_copy=True)  # refused
asyncsink.export_sync({}, "s3://bucket", observe="print")  # refused
asyncsink.plan_sync(5, "s3://bucket")  # refused
asyncsink.plan_sync({"a": 5}, "s3://bucket")  # refused
asyncsink.explain(b"a", "tree", "s3://bucket")  # refused
sink = AsyncSink(None)  # refused


async def main(failure: asyncsink.Failure, error: asyncsink.ExportFailed) -> None:
    await sink.put("a", 5)  # refused
    await sink.put("a", b"data")  # refused
    await sink.put("a", BytesIO(b"data"))  # refused
    await sink.put("a", ["path"])  # refused
    await sink.put("a", "path", key=b"k")  # refused
    await sink.put("a", "path", overwrite="sometimes")  # refused
    await sink.put("a", "path", metadata={"a": 1})  # refused
    await sink.put("a", "path", metdata={"a": "b"})  # refused
    await sink.submit("a", "path", key="k")  # refused
    await sink.submit("a", 5)  # refused
    await sink.putt("a", "path")  # refused
    outcome = await sink.put("a", "path")
    outcome.etga  # refused
    outcome.attempts.upper()  # refused
    failure.message = "other"  # refused
    error.report.ok  # refused
    count: str = await sink.submit("a", "path")  # refused
    await sink.put_bytes("a", "text")  # refused
    await sink.put_bytes("a", b"data", content_tipe="text/plain")  # refused
    await sink.put_stream("a", 5)  # refused
    await sink.put("a", "path", key=5)  # refused
    await sink.put("a", "path", on_cancel="forget")  # refused
    await sink.close(deadline_seconds="20s")  # refused
    sink.stats().queud  # refused
    asyncsink.S3Reader(5)  # refused
    await asyncsink.export_directory(5, "s3://bucket")  # refused
    await asyncsink.grab("s3://bucket", 5)  # refused
    await asyncsink.verify_manifest(5)  # refused
    asyncsink.read_manifest(5)  # refused
    [receipt.sise_bytes for receipt in asyncsink.read_manifest("m").receipts]  # refused
    await asyncsink.merge_manifests(["a.jsonl"], 5)  # refused
    asyncsink.S3Grabber("s3://bucket")  # refused
    print(count)
    try:
        pass
    except asyncsink.Throttld:  # refused
        pass
