"""A service with aioboto3: python -m benchmarks.scripts.aioboto3_service DIRECTORY BUCKET PREFIX bytes|get PRODUCERS"""

from __future__ import annotations

import asyncio
import sys

import aioboto3
from aiobotocore.config import AioConfig

from benchmarks.scripts.clock import Clock, content, files_below, produce


async def main(directory: str, bucket: str, prefix: str, what: str, producers: int) -> None:
    """Producers put one object after the other, each over a connection of its own."""
    config = AioConfig(max_pool_connections=producers, s3={"addressing_style": "path"})
    async with aioboto3.Session().client("s3", config=config) as client:

        async def put(key: str, path: str) -> None:
            await client.put_object(Bucket=bucket, Key=key, Body=content(path))

        async def get(key: str, _path: str) -> int:
            answer = await client.get_object(Bucket=bucket, Key=key)
            return len(await answer["Body"].read())

        calls = {"bytes": put, "get": get}
        with Clock() as clock:
            work = ((key, path) for path, key in files_below(directory, prefix))
            await produce(work, calls[what], producers, clock)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(*sys.argv[1:5], int(sys.argv[5])))
