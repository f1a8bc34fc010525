"""A service with asyncsink: python -m benchmarks.scripts.asyncsink_service DIRECTORY BUCKET PREFIX CALL PRODUCERS

CALL is put, put_bytes, submit, export_directory or get.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

# As in asyncsink_export: what is imported at the first use comes before the clock.
import anyio._backends._asyncio  # noqa: F401
import awscrt.checksums  # noqa: F401

import asyncsink.s3.stack  # noqa: F401
from asyncsink.reader import S3Reader
from asyncsink.sink import AsyncSink, export_directory
from benchmarks.scripts.clock import Clock, Lag, content, files_below, produce


async def main(directory: str, bucket: str, prefix: str, call: str, producers: int) -> None:
    """Producers put one object after the other, each when the one before is published; or one task submits all, and
    closes the sink; or the directory is exported, which is what calls are compared with.

    The folder is the attribute, so that keys are those of every other contender.
    """
    options: Any = {"endpoint_url": os.environ["AWS_ENDPOINT_URL"], "ca_bundle": os.environ.get("AWS_CA_BUNDLE")}
    target = f"s3://{bucket}/{prefix}"
    if call == "export_directory":
        with Clock() as clock:
            with Lag() as lag:
                report = await export_directory(directory, target, **options)
            report.raise_for_failures()
            clock.objects, clock.notes = report.objects_uploaded, {"lag_ms": lag.milliseconds()}
        return
    if call == "get":
        async with S3Reader(target, **options) as reader:

            async def get(key: str, _path: str) -> int:
                return len(await reader.get(key))

            with Clock() as clock:
                keys = ((key.removeprefix(f"{prefix}/"), path) for path, key in files_below(directory, prefix))
                await produce(keys, get, producers, clock)
        return
    async with AsyncExitStack() as stack:
        sink: Any = await stack.enter_async_context(AsyncSink(target, **options))

        async def put_bytes(key: str, path: str) -> None:
            await sink.put_bytes(key, content(path))

        with Clock() as clock:
            if call == "submit":
                with Lag() as lag:
                    for attribute, path in by_attribute(directory, prefix):
                        await sink.submit(attribute, path)
                        clock.objects += 1
                    await stack.aclose()  # returns when everything is published
                clock.notes = {"lag_ms": lag.milliseconds()}
            elif call == "put":
                await produce(by_attribute(directory, prefix), sink.put, producers, clock)
            else:
                keys = ((key.removeprefix(f"{prefix}/"), path) for path, key in files_below(directory, prefix))
                await produce(keys, put_bytes, producers, clock)
    sink.report.raise_for_failures()


def by_attribute(directory: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(attribute, path) of every file."""
    return ((os.path.basename(os.path.dirname(path)), path) for path, _ in files_below(directory, prefix))


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(*sys.argv[1:5], int(sys.argv[5])))
