"""What servers, files and callers do to a sender thread: every part ends, and says how."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncsink.config import MIB, RetryPolicy
from asyncsink.errors import (
    AccessDenied,
    ConnectionLost,
    ServerFault,
    SourceChanged,
    Stalled,
)
from asyncsink.model import SourceFile
from asyncsink.s3.operations import ObjectStored
from asyncsink.s3.wire import sender as pool_module
from asyncsink.s3.wire import sender_connection
from asyncsink.s3.wire.sender import PartToSend, SenderPool
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.faulty_peers import ActingPeer, CannedPeer, SilentPeer
from asyncsink.testing.transport_kit import IMPATIENT, canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
PART = PartToSend(key="k", upload_id="u", part_number=3, algorithm="CRC64NVME")
SIZE = 32 * MIB
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Open = Callable[..., contextlib.AbstractAsyncContextManager[SenderPool]]


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def open_source(path: Path) -> OpenSource:
    status = path.stat()
    return OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns))


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(header(head, b"content-length")))


def header(head: bytes, name: bytes) -> bytes:
    [value] = [line[len(name) + 1 :].strip() for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return value


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in a thread, or at the other end
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("hang_up", [True, False])
@pytest.mark.parametrize("taken", [0, MIB])
async def test_a_refusal_while_the_body_is_being_sent(
    senders: Open, file: OpenSource, taken: int, hang_up: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(taken)
        writer.write(DENIED)
        await writer.drain()
        if not hang_up:
            await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        for number in (1, 2):
            with pytest.raises(AccessDenied, match="UploadPart of s3://bkt/k failed: AccessDenied"):
                await pool.send_part(file, 0, SIZE, PART)
            assert peer.connections_total == number, "a connection with half a request is not used again"


async def test_a_success_before_the_whole_body_is_none(senders: Open, file: OpenSource) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STORED)
        await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(ServerFault, match="answered 200 before it had the whole body"):
            await pool.send_part(file, 0, SIZE, PART)


@pytest.mark.parametrize("where", ["head", "body", "answer"])
async def test_a_reset(senders: Open, file: OpenSource, where: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if where == "answer":
            await read_request(reader)
        elif where == "body":
            await reader.readexactly(MIB)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(ConnectionLost, match="UploadPart of part 3 of s3://bkt/k failed") as caught:
            await pool.send_part(file, 0, SIZE, PART)
        assert caught.value.operation == "UploadPart"
        assert peer.connections_total == 1


async def test_a_server_that_says_nothing_and_hangs_up(senders: Open, file: OpenSource) -> None:
    async with CannedPeer(b"") as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(ConnectionLost, match="hung up before it answered"):
            await pool.send_part(file, 0, MIB, PART)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 300_000, ServerFault),
        (b"HTTP/1.1 500 Oh\r\nContent-Length: 3000000\r\n\r\n" + b"x" * 3_000_000, ServerFault),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", ConnectionLost),
        (b"\x16\x03\x01\x02\x00", ConnectionLost),
    ],
)
async def test_broken_and_oversized_answers(senders: Open, file: OpenSource, answer: bytes, error: Any) -> None:
    async with CannedPeer(answer, hang_up=False) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(error, match="UploadPart of part 3 of s3://bkt/k"):
            await pool.send_part(file, 0, MIB, PART)


@pytest.mark.parametrize("reading", [True, False])
async def test_a_stall(senders: Open, file: OpenSource, reading: bool) -> None:
    async with SilentPeer(reading=reading) as peer, senders(peer.endpoint_url, IMPATIENT) as pool:
        for _ in range(2):
            with pytest.raises(Stalled, match=r"no byte moved for 0\.2 s"):
                await pool.send_part(file, 0, SIZE, PART)


async def test_a_stall_in_the_middle_of_an_answer(senders: Open, file: OpenSource) -> None:
    async with CannedPeer(STORED[:20], hang_up=False) as peer, senders(peer.endpoint_url, IMPATIENT) as pool:
        with pytest.raises(Stalled):
            await pool.send_part(file, 0, MIB, PART)


async def test_slow_progress_is_no_stall(senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel takes no more for far longer than stall_seconds, since only a little leaves at a time."""

    monkeypatch.setattr(sender_connection, "NEAR_SEND_BUFFER_BYTES", 2 * MIB)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(80):
            await reader.readexactly(16384)
            await asyncio.sleep(0.02)
        await reader.readexactly(5 * MIB - 80 * 16384)
        for byte in STORED:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url, RetryPolicy(stall_seconds=1.0)) as pool:
        await pool.send_part(file, 0, 5 * MIB, PART)


async def test_cancelling_resets_the_connection(senders: Open, file: OpenSource) -> None:
    held, ended = asyncio.Event(), asyncio.Event()
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        if ended.is_set():
            await read_request(reader)
            writer.write(STORED)
            await reader.read(1)
            return
        try:
            await reader.readuntil(b"\r\n\r\n")
            held.set()
            while data := await reader.read(65536):
                taken += len(data)
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url, threads=1) as pool:
        sending = asyncio.create_task(pool.send_part(file, 0, SIZE, PART))
        await held.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await ended.wait()
        assert taken < SIZE
        assert not pool._under_way
        response, _ = await pool.send_part(file, 0, MIB, PART)
        assert response == ObjectStored(etag="e")


@pytest.mark.parametrize("reading", [True, False])
async def test_cancelling_by_a_scope_and_by_a_timeout(senders: Open, file: OpenSource, reading: bool) -> None:
    async with SilentPeer(reading=reading) as peer, senders(peer.endpoint_url, threads=2) as pool:
        with anyio.move_on_after(0.05) as scope:
            await pool.send_part(file, 0, SIZE, PART)
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await pool.send_part(file, 0, SIZE, PART)
        assert not pool._under_way


class SlowSource:
    """A source whose reads take until `release` is set."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.reads = 0
        self.reading = False

    def read_part(self, offset: int, length: int, into: Any = None) -> None:
        self.reads += 1
        self.reading = True
        self.entered.set()
        self.release.wait()
        self.reading = False


async def test_a_source_is_not_let_go_of_while_it_is_read(senders: Open) -> None:
    source = SlowSource()
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        sending = asyncio.create_task(pool.send_part(source, 0, 20 * MIB, PART))
        await asyncio.to_thread(source.entered.wait)
        for _ in range(3):
            sending.cancel()
            await asyncio.sleep(0.01)
            assert not sending.done()
        source.release.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not source.reading
        assert source.reads == 1, "the other pieces are not read any more"
        assert not peer.heads


async def test_waiting_for_a_thread_can_be_cancelled(senders: Open, file: OpenSource) -> None:
    async with SilentPeer() as peer, senders(peer.endpoint_url, threads=1) as pool:
        sending = [asyncio.create_task(pool.send_part(file, 0, SIZE, PART)) for _ in range(3)]
        await until(lambda: peer.connections_total > 0)
        for task in reversed(sending):
            task.cancel()
        ends = await asyncio.gather(*sending, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 3
        assert peer.connections_total == 1


async def test_closing_ends_what_is_under_way(senders: Open, file: OpenSource) -> None:
    async with SilentPeer(reading=True) as peer, senders(peer.endpoint_url, threads=1) as pool:
        sending = [asyncio.create_task(pool.send_part(file, 0, SIZE, PART)) for _ in range(2)]
        await until(lambda: peer.connections_total > 0)
        await pool.aclose()
        for task in sending:
            with pytest.raises(ConnectionLost, match="the pool was closed"):
                await task
        with pytest.raises(ConnectionLost, match="the pool was closed"):
            await pool.send_part(file, 0, MIB, PART)
        await pool.aclose()


async def test_closing_does_not_wait_for_ever_for_a_file_system(senders: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "JOIN_SECONDS_MAX", 0.05)
    source = SlowSource()
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        sending = asyncio.create_task(pool.send_part(source, 0, MIB, PART))
        await asyncio.to_thread(source.entered.wait)
        [sender] = pool._senders
        await pool.aclose()
        assert sender.thread.is_alive()
        source.release.set()
        with pytest.raises(ConnectionLost, match="the pool was closed"):
            await sending
        await asyncio.wait([sender.ended])
        sender.thread.join()


async def test_a_source_that_was_cut_while_it_was_read(senders: Open, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * MIB))
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        with open_source(path) as source:
            os.truncate(path, 9 * MIB)
            with pytest.raises(SourceChanged, match="truncated"):
                await pool.send_part(source, 0, 20 * MIB, PART)
            assert not peer.heads
            await pool.send_part(source, 0, MIB, PART)
