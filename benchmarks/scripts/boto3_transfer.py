"""boto3's TransferManager: python -m benchmarks.scripts.boto3_transfer DIRECTORY BUCKET PREFIX"""

from __future__ import annotations

import sys

import boto3
from botocore.config import Config
from s3transfer.manager import TransferConfig, TransferManager

from benchmarks.scripts.clock import CONCURRENCY, PART_SIZE_BYTES, Clock, files_below


def main(directory: str, bucket: str, prefix: str) -> None:
    """32 requests at once, in threads."""
    client = boto3.client("s3", config=Config(max_pool_connections=CONCURRENCY, s3={"addressing_style": "path"}))
    config = TransferConfig(
        max_request_concurrency=CONCURRENCY,
        multipart_threshold=PART_SIZE_BYTES,
        multipart_chunksize=PART_SIZE_BYTES,
    )
    with Clock() as clock, TransferManager(client, config) as manager:
        futures = [manager.upload(path, bucket, key) for path, key in files_below(directory, prefix)]
        for future in futures:
            future.result()
        clock.objects = len(futures)


if __name__ == "__main__":
    main(*sys.argv[1:4])
