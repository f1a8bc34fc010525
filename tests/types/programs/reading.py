"""Objects are read: whole, in ranges, as streams; listed; and looked at."""

from __future__ import annotations

import asyncsink


async def read(reader: asyncsink.S3Reader) -> int:
    data: bytes = await reader.get("qc/summary.json")
    part = await reader.get("raw/scan.dcm", start=10, end=20)
    size = 0
    async for chunk in reader.stream("raw/scan.dcm"):
        size += len(chunk)
    async for entry in reader.list("sub-01/", match="**/*.nii.gz"):
        print(entry.key, entry.size_bytes)
    head = await reader.head("qc/summary.json")
    try:
        await reader.get("nothing")
    except asyncsink.ObjectMissing as error:
        print(error.status, error.operation)
    return len(data) + len(part) + size + head.size_bytes


async def main() -> int:
    async with asyncsink.S3Reader("s3://bucket/prefix", observe=print) as reader:
        return await read(reader)
