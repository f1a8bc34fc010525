"""A service with AsyncSink: python -m benchmarks.scripts.asyncsink_service DIRECTORY BUCKET PREFIX put|submit"""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack

# As in asyncsink_export: what is imported at the first use comes before the clock.
import anyio._backends._asyncio  # noqa: F401
import awscrt.checksums  # noqa: F401

import asyncsink.s3.stack  # noqa: F401
from asyncsink.sink import AsyncSink
from benchmarks.scripts.clock import MANY, Clock, files_below
from benchmarks.scripts.lag import Lag


async def main(directory: str, bucket: str, prefix: str, call: str) -> None:
    """256 callers put one file after the other, until each is published; or one submits all, and closes the sink.

    The folder is the attribute, so that keys are those of every other contender.
    """
    files = [(os.path.basename(os.path.dirname(path)), path) for path, _ in files_below(directory, prefix)]
    waiting = iter(files)
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(
            AsyncSink(
                f"s3://{bucket}/{prefix}",
                endpoint_url=os.environ["AWS_ENDPOINT_URL"],
                ca_bundle=os.environ.get("AWS_CA_BUNDLE"),
            )
        )

        async def caller() -> None:
            for attribute, path in waiting:
                await sink.put(attribute, path)

        with Clock() as clock:
            with Lag() as lag:
                if call == "put":
                    async with asyncio.TaskGroup() as group:
                        for _ in range(MANY):
                            group.create_task(caller())
                else:
                    for attribute, path in waiting:
                        await sink.submit(attribute, path)
                    await stack.aclose()  # returns when everything is published
            clock.objects = len(files)
            clock.notes = {"lag_ms": lag.milliseconds()}
    sink.report.raise_for_failures()


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(*sys.argv[1:5]))
