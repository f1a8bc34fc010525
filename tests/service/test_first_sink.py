"""The first sink of a process: what it needs is loaded when it is opened, not by the first caller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from asyncsink.devserver.seaweedfs import DevServer

PROGRAM = """
import asyncio, json, sys
import asyncsink

async def main(url, path):
    async with asyncsink.AsyncSink(url, endpoint_url=sys.argv[3]) as sink:
        before = set(sys.modules)
        await sink.put("m", path)
        await sink.submit("n", path)
        await sink.put_bytes("b", b"content")
        print(json.dumps(sorted(set(sys.modules) - before)))

asyncio.run(main(*sys.argv[1:3]))
"""


def test_the_first_put_loads_nothing(seaweed: DevServer, bucket: str, tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("content")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"s3://{bucket}/p", str(path), seaweed.endpoint_url],
        env={**os.environ, **seaweed.environment, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(ended.stdout) == []
