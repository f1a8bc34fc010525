"""A service with obstore: python -m benchmarks.scripts.obstore_service DIRECTORY BUCKET PREFIX CALL PRODUCERS

CALL is bytes, path or get.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import obstore

from benchmarks.scripts.clock import Clock, content, files_below, produce
from benchmarks.scripts.obstore_put import open_store


async def main(directory: str, bucket: str, prefix: str, what: str, producers: int) -> None:
    """Producers put one object after the other, with the library's own defaults, on asyncio's own event loop."""
    store = open_store(bucket, "unsigned")

    async def put_bytes(key: str, path: str) -> None:
        await obstore.put_async(store, key, content(path))

    async def put_path(key: str, path: str) -> None:
        await obstore.put_async(store, key, Path(path))

    async def get(key: str, _path: str) -> int:
        return len(await (await obstore.get_async(store, key)).bytes_async())

    calls = {"bytes": put_bytes, "path": put_path, "get": get}
    with Clock() as clock:
        work = ((key, path) for path, key in files_below(directory, prefix))
        await produce(work, calls[what], producers, clock)


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(*sys.argv[1:5], int(sys.argv[5])))
