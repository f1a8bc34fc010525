"""obstore: python -m benchmarks.scripts.obstore_get DIRECTORY BUCKET PREFIX"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from functools import partial

import obstore
import uvloop

from benchmarks.scripts.clock import MANY, PART_SIZE_BYTES, Clock, at_once
from benchmarks.scripts.obstore_put import open_store


async def main(directory: str, bucket: str, prefix: str) -> None:
    """Gets: whole objects, or ranges of 8 MiB into a file that has its size already."""
    store = open_store(bucket, "unsigned")
    made: set[str] = set()

    def path_of(key: str) -> str:
        path = os.path.join(directory, key.removeprefix(f"{prefix}/"))
        folder = os.path.dirname(path)
        if folder not in made:
            os.makedirs(folder, exist_ok=True)
            made.add(folder)
        return path

    async def whole(key: str) -> None:
        answer = await obstore.get_async(store, key)
        content = await answer.bytes_async()
        # In the loop: a write of this size into the page cache takes less than a hop to a thread.
        with open(path_of(key), "wb") as file:  # noqa: ASYNC230
            file.write(content)

    async def part(key: str, file: int, start: int, end: int) -> None:
        content = await obstore.get_range_async(store, key, start=start, end=end)
        await asyncio.to_thread(os.pwrite, file, content, start)

    files: list[int] = []

    async def pieces() -> AsyncIterator[partial[asyncio.Future[None]]]:
        async for page in obstore.list(store, prefix=f"{prefix}/"):
            for meta in page:
                key, size = meta["path"], meta["size"]
                if size <= PART_SIZE_BYTES:
                    yield partial(whole, key)
                    continue
                file = os.open(path_of(key), os.O_WRONLY | os.O_CREAT, 0o644)
                files.append(file)
                os.ftruncate(file, size)
                for start in range(0, size, PART_SIZE_BYTES):
                    yield partial(part, key, file, start, min(start + PART_SIZE_BYTES, size))

    with Clock() as clock:
        queue: asyncio.Queue[partial[asyncio.Future[None]] | None] = asyncio.Queue(1000)

        async def work() -> None:
            while (piece := await queue.get()) is not None:
                await piece()
                clock.objects += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once() or MANY):
                group.create_task(work())
            async for piece in pieces():
                await queue.put(piece)
            for _ in range(at_once() or MANY):
                await queue.put(None)
        for file in files:
            os.close(file)


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
