"""A run that is cancelled ends within its bounds, also where the server answers nothing any more."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

import asyncsink
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.options.settings import RetryPolicy
from asyncsink.testing.peers import ActingPeer
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
MIB = 1 << 20
RETRY = RetryPolicy(abort_seconds=0.5)


class FallingSilent:
    """Passes requests on to a server, until the first body of a part comes: from then on nobody is answered."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self.silent = asyncio.Event()
        self.aborts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._server)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.aborts += head.startswith(b"DELETE")
                if b"partNumber=" in head:
                    self.silent.set()
                if self.silent.is_set():
                    await asyncio.Event().wait()
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
                there_writer.write(head + await reader.readexactly(int(length[1]) if length else 0))
                answer = await there_reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)\r\ncontent-length: (\d+)", answer)
                body = await there_reader.readexactly(int(length[1])) if length and head[:4] != b"HEAD" else b""
                writer.write(answer + body)
                await writer.drain()
        finally:
            there_writer.transport.abort()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "parts.bin").write_bytes(os.urandom(17 * MIB))
    return folder


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_an_abort_that_is_not_answered_is_given_up(
    lane: str, root: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    way = FallingSilent(options["endpoint_url"])
    notices: list[str] = []
    copies = tmp_path / "copies"
    async with ActingPeer(way.serve) as peer:
        given = {**options, "endpoint_url": peer.endpoint_url, "transport": lane, "retry": RETRY, "journal": False}
        sink = asyncsink.AsyncSink(f"s3://{bucket}", local_copy=copies, **given)

        async def run() -> None:
            async with sink:
                await sink.submit("x", root / "parts.bin")

        running = asyncio.ensure_future(run())
        with anyio.fail_after(60):
            await way.silent.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
        notices = list(sink.report.notices)
    assert way.aborts >= 1
    assert any("may still be open (the server did not answer within 0.5 s)" in notice for notice in notices)
    assert content_of(copies) == {}


@pytest.mark.parametrize("numbers", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM], [signal.SIGHUP, signal.SIGTERM]])
def test_signals_end_the_command_within_its_bounds(
    numbers: list[signal.Signals], root: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    """The second Ctrl-C does not cut the clean-up short, and the clean-up has an end without it."""
    copies = tmp_path / "copies"

    async def main() -> None:
        way = FallingSilent(options["endpoint_url"])
        async with ActingPeer(way.serve) as peer, asyncio.TaskGroup() as group:

            async def interrupt() -> None:
                await way.silent.wait()
                for number in numbers:
                    os.kill(os.getpid(), number)
                    await asyncio.sleep(0)

            group.create_task(interrupt())
            given = {**options, "endpoint_url": peer.endpoint_url, "retry": RETRY, "local_copy": copies}
            await asyncsink.export_directory(root, f"s3://{bucket}", **given)

    held = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(Interrupted) as caught:
            run_until_signalled(main)
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)
    assert caught.value.exit_code == 128 + numbers[0]
    assert content_of(copies) == {}
