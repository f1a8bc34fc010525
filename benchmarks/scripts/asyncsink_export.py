"""asyncsink from Python: python -m benchmarks.scripts.asyncsink_export DIRECTORY BUCKET PREFIX MANIFEST [uvloop]

`uvloop` runs it on that event loop instead of asyncio's own.
"""

from __future__ import annotations

import asyncio
import os
import sys

# What the engine imports at its first use comes before the clock, as it does in a long-lived service. How many modules
# were imported in the clock all the same stands in the record ("modules_imported_meanwhile").
import anyio._backends._asyncio  # noqa: F401
import awscrt.checksums  # noqa: F401
import uvloop

import asyncsink.s3.stack  # noqa: F401
from asyncsink.sink import export_directory
from benchmarks.scripts.clock import Clock, at_once


async def main(directory: str, bucket: str, prefix: str, manifest: str) -> None:
    """Publish with everything on that is on by default, and a manifest."""
    with Clock() as clock:
        report = await export_directory(
            directory,
            f"s3://{bucket}/{prefix}",
            endpoint_url=os.environ["AWS_ENDPOINT_URL"],
            ca_bundle=os.environ.get("AWS_CA_BUNDLE"),
            concurrency=at_once() or None,
            manifest=manifest,
        )
        report.raise_for_failures()
        clock.objects = len(report.receipts) + len(report.skips)
        clock.notes = {"transport": report.transport, "requests": report.requests, "retries": report.retries}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if "uvloop" in sys.argv[5:] else None) as runner:
        runner.run(main(*sys.argv[1:5]))
