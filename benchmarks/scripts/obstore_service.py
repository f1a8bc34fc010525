"""A service that publishes with obstore: python -m benchmarks.scripts.obstore_service DIRECTORY BUCKET PREFIX"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import obstore
import uvloop

from benchmarks.scripts.clock import MANY, Clock, files_below
from benchmarks.scripts.lag import Lag
from benchmarks.scripts.obstore_put import open_store


async def main(directory: str, bucket: str, prefix: str) -> None:
    """256 callers put one file after the other, with the library's own defaults."""
    store = open_store(bucket, "unsigned")
    files = list(files_below(directory, prefix))
    waiting = iter(files)

    async def caller() -> None:
        for path, key in waiting:
            await obstore.put_async(store, key, Path(path))

    with Clock() as clock:
        with Lag() as lag:
            async with asyncio.TaskGroup() as group:
                for _ in range(MANY):
                    group.create_task(caller())
        clock.objects = len(files)
        clock.notes = {"lag_ms": lag.milliseconds()}


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:4]))
