"""aioboto3's upload_file: python -m benchmarks.scripts.aioboto3_upload DIRECTORY BUCKET PREFIX"""

from __future__ import annotations

import asyncio
import sys

import aioboto3
import uvloop
from aiobotocore.config import AioConfig
from boto3.s3.transfer import TransferConfig

from benchmarks.scripts.clock import CONCURRENCY, PART_SIZE_BYTES, PARTS_PER_FILE, Clock, files_below


async def main(directory: str, bucket: str, prefix: str) -> None:
    """32 files at once."""
    config = AioConfig(max_pool_connections=CONCURRENCY, s3={"addressing_style": "path"})
    transfer = TransferConfig(
        multipart_threshold=PART_SIZE_BYTES, multipart_chunksize=PART_SIZE_BYTES, max_concurrency=PARTS_PER_FILE
    )
    async with aioboto3.Session().client("s3", config=config) as client:
        with Clock() as clock:
            files = files_below(directory, prefix)

            async def work() -> None:
                for path, key in files:
                    await client.upload_file(path, bucket, key, Config=transfer)
                    clock.objects += 1

            async with asyncio.TaskGroup() as group:
                for _ in range(CONCURRENCY):
                    group.create_task(work())


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
