"""Content without files: bytes, streams and a writer, with the options of one object."""

from __future__ import annotations

import array
from collections.abc import AsyncIterator
from pathlib import Path

import asyncsink


async def pieces() -> AsyncIterator[bytes]:
    yield b"one"
    yield b"two"


class Request:
    async def stream(self) -> AsyncIterator[bytes]:
        yield b"body"


async def publish(sink: asyncsink.AsyncSink, request: Request, path: Path) -> list[str]:
    options: asyncsink.PutOptions = {
        "content_type": "application/json",
        "metadata": {"by": "us"},
        "overwrite": "always",
    }
    first = await sink.put_bytes("qc/summary.json", b"{}", **options)
    second = await sink.put_bytes("qc/numbers", array.array("d", [1.0, 2.0]), tags={"kind": "numbers"})
    third = await sink.put_stream("raw/scan.dcm", request.stream(), storage_class="STANDARD_IA")
    proof = asyncsink.Checksum("SHA256", "…")
    fourth = await sink.put_stream("raw/pieces", pieces(), size_bytes=6, checksum=proof)
    with path.open("rb") as file:
        fifth = await sink.put_stream("raw/file", file)
    async with sink.open("log.txt", content_type="text/plain") as writer:
        await writer.write(b"a line\n")
        await writer.write(memoryview(b"another\n"))
    print(writer.receipt)
    named = await sink.put("motion", path, key="exact/key.nii", deadline_seconds=30, on_cancel="detach", **options)
    outcomes: list[asyncsink.Receipt | asyncsink.Skip] = [first, second, third, fourth, fifth, named]
    return [outcome.key for outcome in outcomes]


async def life(limits: asyncsink.SharedLimits) -> asyncsink.Report:
    sink = await asyncsink.AsyncSink("s3://bucket/prefix", limits=limits, observe=print).start()
    stats: asyncsink.SinkStats = sink.stats()
    counts = await sink.flush()
    print(stats.queued + stats.in_flight, stats.oldest_seconds, counts.objects_uploaded)
    report = await sink.close(deadline_seconds=20)
    for left in report.unfinished:
        print(left.key, left.source, left.attribute)
    return report
