"""A program that imports asyncsink and publishes with it loads nothing of the command's libraries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from asyncsink.devserver.seaweedfs import DevServer

COMMANDS = ("click", "typer", "rich", "pygments", "pydantic", "shellingham", "markdown_it")
PROGRAM = f"""
import asyncio, json, sys

for name in {COMMANDS}:
    sys.modules[name] = None  # an import of it fails

import asyncsink


async def main(source, destination):
    report = await asyncsink.export({{"@x": source}}, destination, manifest="manifest.jsonl")
    report.raise_for_failures()
    async with asyncsink.AsyncSink(destination, container="sink") as sink:
        await sink.put("x", source + "/a.txt")
        await sink.submit("y", source)
    sink.report.raise_for_failures()
    back = await asyncsink.grab(destination, "back")
    verified = await asyncsink.verify_manifest("manifest.jsonl")
    print(report.summary())
    return report.objects_uploaded, sink.report.objects_uploaded, back.objects_fetched, verified.ok


told = asyncio.run(main(*sys.argv[1:]))
print(json.dumps([told, sorted(name for name in {COMMANDS} if sys.modules.get(name) is not None)]))
"""


def test_runs_of_a_program_need_nothing_of_the_command(
    seaweed: DevServer, bucket: str, tree: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tree), f"s3://{bucket}/p"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | seaweed.environment,
        cwd=tmp_path,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[5, 6, 11, True], []]
