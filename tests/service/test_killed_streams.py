"""A process that is killed while it streams: its uploads are in the journal, and the next run of any kind ends them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from tests.support.streams import PART_BYTES

pytestmark = pytest.mark.anyio

PROGRAM = """
import asyncio, sys
import asyncsink

async def endless():
    yield bytes(5 << 20) + b"x"
    print("begun", flush=True)
    await asyncio.Event().wait()

async def main():
    given = dict(journal=sys.argv[2], part_size_bytes=5 << 20, endpoint_url=sys.argv[3])
    async with asyncsink.AsyncSink(sys.argv[1], **given) as sink:
        await sink.put_bytes("kept", b"kept")
        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(sink.put_stream(f"stream-{number}", endless()))

asyncio.run(main())
"""


@pytest.mark.parametrize("following", ["sink", "export"])
async def test_the_next_run_ends_what_a_killed_process_has_left_open(
    seaweed: DevServer,
    bucket: str,
    s3: Any,
    stored: Callable[[], dict[str, bytes]],
    options: dict[str, Any],
    tmp_path: Path,
    following: str,
) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"file")
    journal = tmp_path / "journal.sqlite"
    words = [sys.executable, "-c", PROGRAM, f"s3://{bucket}", str(journal), seaweed.endpoint_url]
    with Popen(words, env={**os.environ, **seaweed.environment}, stdout=PIPE) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        for _ in range(3):
            assert process.stdout.readline() == b"begun\n"
        process.send_signal(signal.SIGKILL)
    uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert sorted(upload["Key"] for upload in uploads) == ["stream-0", "stream-1", "stream-2"]
    options |= {"journal": journal, "part_size_bytes": PART_BYTES}
    if following == "sink":
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            pass
        assert not sink.report.notices
    else:
        report = await asyncsink.export_directory(tmp_path / "tree", f"s3://{bucket}", **options)
        assert (report.objects_uploaded, list(report.notices)) == (1, [])
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert "kept" in stored()
