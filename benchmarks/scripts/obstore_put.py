"""obstore: python -m benchmarks.scripts.obstore_put DIRECTORY BUCKET PREFIX default|unsigned"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import uvloop
from obstore.store import S3Store

from benchmarks.scripts.clock import MANY, PART_SIZE_BYTES, PARTS_PER_FILE, Clock, at_once, files_below

if TYPE_CHECKING:
    from obstore.store import ClientConfig  # exists for type checkers only


def open_store(bucket: str, mode: str) -> S3Store:
    """The bucket, with or without the payload's SHA-256 in the signature."""
    client: ClientConfig = {"allow_http": True, "timeout": "10m"}
    if ca_bundle := os.environ.get("AWS_CA_BUNDLE"):
        client["root_certificate"] = Path(ca_bundle).read_text()
    return S3Store(
        bucket,
        endpoint=os.environ["AWS_ENDPOINT_URL"],
        virtual_hosted_style_request=False,
        unsigned_payload=mode == "unsigned",
        client_options=client,
    )


async def main(directory: str, bucket: str, prefix: str, mode: str) -> None:
    """Puts from paths, which obstore reads in its own threads."""
    store = open_store(bucket, mode)
    parts = {"chunk_size": PART_SIZE_BYTES, "max_concurrency": PARTS_PER_FILE} if at_once() else {}
    with Clock() as clock:
        files = files_below(directory, prefix)

        async def work() -> None:
            # Workers that share the walk, not a task per file: 200,000 tasks would cost 400 MB.
            for path, key in files:
                await obstore.put_async(store, key, Path(path), **parts)
                clock.objects += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once() or MANY):
                group.create_task(work())


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:5]))
