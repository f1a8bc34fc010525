"""A service with aioboto3: python -m benchmarks.scripts.aioboto3_service DIRECTORY BUCKET PREFIX bytes PRODUCERS"""

from __future__ import annotations

import asyncio
import sys

import aioboto3
from aiobotocore.config import AioConfig

from benchmarks.scripts.clock import Clock, content, files_below, produce


async def main(directory: str, bucket: str, prefix: str, what: str, producers: int) -> None:
    """Producers put one object after the other, each over a connection of its own."""
    assert what == "bytes"
    config = AioConfig(max_pool_connections=producers, s3={"addressing_style": "path"})
    async with aioboto3.Session().client("s3", config=config) as client:

        async def put(key: str, path: str) -> None:
            await client.put_object(Bucket=bucket, Key=key, Body=content(path))

        with Clock() as clock:
            await produce(((key, path) for path, key in files_below(directory, prefix)), put, producers, clock)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(*sys.argv[1:5], int(sys.argv[5])))
