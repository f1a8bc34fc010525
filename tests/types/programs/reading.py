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


def receipts(path: str) -> dict[str, int]:
    manifest = asyncsink.read_manifest(path)
    if manifest.complete and manifest.end is not None:
        print(manifest.header.destination, manifest.end.receipts)
    for record in manifest:
        print(record.key, record.url)
    for failure in manifest.failures:
        print(failure.error, failure.message)
    checksums = [skip.checksum.value for skip in manifest.skips if skip.checksum is not None]
    sizes = {receipt.key: receipt.size_bytes for receipt in manifest.receipts}
    return sizes if checksums else {}
