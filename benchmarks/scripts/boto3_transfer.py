"""boto3's TransferManager: python -m benchmarks.scripts.boto3_transfer DIRECTORY BUCKET PREFIX [grab]"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import boto3
from botocore.config import Config
from s3transfer.manager import TransferConfig, TransferManager

from benchmarks.scripts.clock import CONCURRENCY, PART_SIZE_BYTES, Clock, files_below


def main(directory: str, bucket: str, prefix: str, way: str = "publish") -> None:
    """32 requests at once, in threads."""
    client = boto3.client("s3", config=Config(max_pool_connections=CONCURRENCY, s3={"addressing_style": "path"}))
    config = TransferConfig(
        max_request_concurrency=CONCURRENCY,
        multipart_threshold=PART_SIZE_BYTES,
        multipart_chunksize=PART_SIZE_BYTES,
    )
    with Clock() as clock, TransferManager(client, config) as manager:
        if way == "grab":
            futures = [manager.download(bucket, key, path) for key, path in _objects(client, directory, bucket, prefix)]
        else:
            futures = [manager.upload(path, bucket, key) for path, key in files_below(directory, prefix)]
        for future in futures:
            future.result()
        clock.objects = len(futures)


def _objects(client: Any, directory: str, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(key, path) of every object; its folder is there."""
    made: set[str] = set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/"):
        for entry in page.get("Contents", ()):
            path = os.path.join(directory, entry["Key"].removeprefix(f"{prefix}/"))
            folder = os.path.dirname(path)
            if folder not in made:
                os.makedirs(folder, exist_ok=True)
                made.add(folder)
            yield entry["Key"], path


if __name__ == "__main__":
    main(*sys.argv[1:5])
