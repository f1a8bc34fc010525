"""asyncsink from Python: python -m benchmarks.scripts.asyncsink_grab DIRECTORY BUCKET PREFIX"""

from __future__ import annotations

import asyncio
import os
import sys

# As in asyncsink_export: what is imported at the first use comes before the clock.
import anyio._backends._asyncio  # noqa: F401
import awscrt.checksums  # noqa: F401

import asyncsink.s3.stack  # noqa: F401
from asyncsink.grabber import grab
from benchmarks.scripts.clock import Clock, at_once


async def main(directory: str, bucket: str, prefix: str) -> None:
    """Grab with everything on that is on by default."""
    with Clock() as clock:
        report = await grab(
            f"s3://{bucket}/{prefix}",
            directory,
            endpoint_url=os.environ["AWS_ENDPOINT_URL"],
            ca_bundle=os.environ.get("AWS_CA_BUNDLE"),
            concurrency=at_once() or None,
        )
        report.raise_for_failures()
        clock.objects = report.objects_fetched
        clock.notes = {
            "transport": report.transport,
            "requests": report.requests,
            "retries": report.retries,
            "confirmed_by": report.as_dict()["confirmed_by"],
        }


if __name__ == "__main__":
    with asyncio.Runner() as runner:
        runner.run(main(*sys.argv[1:4]))
