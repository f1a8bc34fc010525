"""What servers do to connections, on asyncio's own loop and on uvloop: every request ends, and says how."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import pytest

from asyncsink.config import MIB, RetryPolicy, S3Target
from asyncsink.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    EntityTooLarge,
    PermanentError,
    ServerFault,
    Stalled,
)
from asyncsink.s3.operations import DeleteObject, HeadObject, ObjectStored, PutObject
from asyncsink.s3.wire import pool as pool_module
from asyncsink.s3.wire.transport import WireTransport
from asyncsink.testing.faulty_peers import ActingPeer, CannedPeer, SilentPeer
from asyncsink.testing.transport_kit import IMPATIENT, canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
PUT = PutObject(key="k", body=b"x" * 1000)
LARGE = PutObject(key="k", body=bytes(32 * MIB))
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Open = Callable[..., contextlib.AbstractAsyncContextManager[WireTransport]]


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def wire(provider: Any) -> Open:
    @contextlib.asynccontextmanager
    async def open_wire(url: str, retry: RetryPolicy | None = None) -> AsyncIterator[WireTransport]:
        transport = await WireTransport.open(
            S3Target(bucket="bkt", endpoint_url=url),
            retry or RetryPolicy(),
            region="us-east-1",
            credentials=provider("AKID", "secret"),
        )
        try:
            yield transport
        finally:
            await transport.aclose()

    return open_wire


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            await reader.readexactly(int(line[15:]))
    return head


async def test_connections_are_kept(wire: Open) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(5):
            assert await transport.send(PUT) == ObjectStored(etag="e")
        assert peer.connections_total == 1


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n'
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nETag: t\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + STORED,
        b'HTTP/1.1 103 Early Hints\r\nETag: "wrong"\r\nLink: x\r\n\r\n' * 3 + STORED,
        b'HTTP/1.1 204 No Content\r\netag:"e"\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nETAG: "e"\r\nContent-Length: 5\r\n\r\nhello',
        b'HTTP/1.1 200 OK\r\nEmpty:\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n',
    ],
    ids=["chunked", "continue", "early hints", "no content", "body", "empty header"],
)
async def test_answers_of_all_forms_keep_the_connection(wire: Open, answer: bytes) -> None:
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(3):
            assert await transport.send(PUT) == ObjectStored(etag="e")
        assert peer.connections_total == 1


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\n\r\nuntil the end',
        b'HTTP/1.0 200 OK\r\nETag: "e"\r\nContent-Length: 3\r\n\r\nabc',
        STORED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        STORED + b"garbage",
    ],
    ids=["close", "no length", "HTTP/1.0", "two answers", "garbage behind"],
)
@pytest.mark.parametrize("hang_up", [True, False])
async def test_answers_that_end_the_connection(wire: Open, answer: bytes, hang_up: bool) -> None:
    hang_up = hang_up or b"until the end" in answer
    async with CannedPeer(answer, hang_up=hang_up) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(2):
            assert await transport.send(PUT) == ObjectStored(etag="e")
        assert peer.connections_total == 2


async def test_a_head_has_no_body(wire: Open) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "e"\r\n\r\n'
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(3):
            assert (await transport.send(HeadObject(key="k"))).size_bytes == 1000
        assert peer.connections_total == 1
    async with CannedPeer(answer + b"a body", hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(3):
            assert (await transport.send(HeadObject(key="k"))).size_bytes == 1000
        assert peer.connections_total == 3


async def test_a_connection_that_went_stale_is_replaced_once(wire: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.readexactly(1)  # the second request comes, and finds nobody

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        for number in range(1, 4):
            assert await transport.send(PUT) == ObjectStored(etag="e")
            assert peer.connections_total == number


async def test_a_half_answer_on_a_kept_connection_is_not_repeated(wire: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await read_request(reader)
        writer.write(b"HTTP/1.1 20")
        await writer.drain()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(PUT)
        with pytest.raises(ConnectionLost, match="middle of its answer"):
            await transport.send(PUT)
        assert peer.connections_total == 1


async def test_idle_connections_are_dropped(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "KEEP_ALIVE_SECONDS", 0.05)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.read(1)
        gone.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        await transport.send(PUT)
        await gone.wait()
        await transport.send(PUT)
        assert peer.connections_total == 2


async def test_a_farewell_on_an_idle_connection_is_no_answer(wire: Open) -> None:
    said = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(canned(408, b""))
        await writer.drain()
        await reader.read(1)  # the client closes
        said.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(PUT)
        await said.wait()
        await transport.send(PUT)
        assert peer.connections_total == 2


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("read_first_bytes", [1, 3 * MIB])
async def test_an_early_refusal_is_read(wire: Open, reset: bool, read_first_bytes: int) -> None:
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        taken += len(await reader.readexactly(read_first_bytes))
        writer.write(DENIED)
        await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        while data := await reader.read(65536):
            taken += len(data)

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(AccessDenied):
            await transport.send(LARGE)
        if reset:
            return
        await transport.aclose()
    assert taken < len(LARGE.body) // 2


async def test_success_before_the_whole_body_is_none(wire: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STORED)
        await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ServerFault, match="before it had the whole body"):
            await transport.send(LARGE)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, ServerFault),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, ServerFault),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 40, ServerFault),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000), ServerFault),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300_000, ServerFault),
        (b"HTTP/1.1 500 Oh\r\n\r\n" + b"x" * 2_000_000, ServerFault),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ConnectionLost),
        (b"\x16\x03\x01\x02\x00", ConnectionLost),
        (b"HTTP/2 200\r\n\r\n", ConnectionLost),
    ],
)
async def test_broken_and_oversized_answers(wire: Open, answer: bytes, error: type[Exception]) -> None:
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(error, match="PutObject of s3://bkt/k"):
            await transport.send(PUT)


@pytest.mark.parametrize("operation", [PUT, LARGE])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", STORED[:20], STORED[:-2]])
async def test_a_stall_in_every_phase(wire: Open, operation: PutObject, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        with pytest.raises(Stalled, match=r"no byte moved for 0\.2 s"):
            await transport.send(operation)


async def test_slow_progress_is_no_stall(wire: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for byte in STORED:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, RetryPolicy(stall_seconds=0.5)) as transport:
        await transport.send(PUT)


async def test_a_cancelled_request_leaves_nothing_behind(wire: Open) -> None:
    held, ended = asyncio.Event(), asyncio.Event()
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        try:
            await reader.readuntil(b"\r\n\r\n")
            held.set()
            await asyncio.sleep(0)
            while data := await reader.read(65536):
                taken += len(data)
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(LARGE))
        await held.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await ended.wait()
        assert taken < len(LARGE.body)
        assert not transport._pool._open


async def test_cancelled_while_connecting_and_while_waiting_for_the_answer(wire: Open) -> None:
    async with SilentPeer() as peer, wire(peer.endpoint_url) as transport:
        sending = [asyncio.create_task(transport.send(PUT)) for _ in range(12)]
        await asyncio.sleep(0)
        sending[0].cancel()
        await asyncio.sleep(0.05)
        for task in sending:
            task.cancel()
        assert {type(each) for each in await asyncio.gather(*sending, return_exceptions=True)} == {
            asyncio.CancelledError
        }


async def test_closing_ends_what_is_under_way(wire: Open) -> None:
    async with SilentPeer(reading=True) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(LARGE))
        await asyncio.sleep(0.05)
        await transport.aclose()
        with pytest.raises(ConnectionLost, match="closed"):
            await sending
        with pytest.raises(ConnectionLost, match="closed"):
            await transport.send(PUT)


async def test_other_operations_are_refused(wire: Open) -> None:
    async with wire("http://127.0.0.1:1") as transport:
        with pytest.raises(TypeError, match="DeleteObject"):
            await transport.send(DeleteObject(key="k"))


async def test_names_with_several_addresses(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[str] = []
    lookups = 0

    left = asyncio.Semaphore(0)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.append(writer.get_extra_info("sockname")[0])
        try:
            await read_request(reader)
            writer.write(STORED)
            await reader.read(1)
        finally:
            writer.transport.abort()
            left.release()

    server = await asyncio.start_server(serve, "0.0.0.0", 0)
    port = server.sockets[0].getsockname()[1]

    def lookup(host: str, port: int, **_: Any) -> list[Any]:
        nonlocal lookups
        lookups += 1
        assert host == "s3.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (2, 3, 4)]

    monkeypatch.setattr(pool_module.socket, "getaddrinfo", lookup)
    async with wire(f"http://s3.test:{port}") as transport:
        await asyncio.gather(*(transport.send(PUT) for _ in range(6)))
        assert sorted(reached) == ["127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.3", "127.0.0.4", "127.0.0.4"]
        assert lookups == 6
    for _ in reached:
        await left.acquire()
    server.close()
    await server.wait_closed()


async def test_an_address_that_refuses_is_passed_over(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (3, 2, 1)]
        monkeypatch.setattr(pool_module.socket, "getaddrinfo", lambda *_, **__: found)
        async with wire(f"http://s3.test:{port}") as transport:
            for _ in range(3):
                await transport.send(PUT)
            assert set(transport._pool._failed_at) == {("127.0.0.3", port), ("127.0.0.2", port)}


async def test_a_name_that_nobody_knows(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(pool_module.socket, "getaddrinfo", lookup)
    async with wire("http://s3.test") as transport:
        with pytest.raises(ConnectionLost, match=r"'s3\.test' cannot be resolved: Name or service"):
            await transport.send(PUT)


async def test_the_payload_is_signed_over_plain_http_to_others(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    async with CannedPeer(STORED) as peer:
        port = int(peer.endpoint_url.rsplit(":", 1)[1])
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]
        monkeypatch.setattr(pool_module.socket, "getaddrinfo", lambda *_, **__: found)
        async with wire(f"http://s3.test:{port}") as transport:
            await transport.send(PutObject(key="k", body=b"x"))
            await transport.send(PutObject(key="k", body=memoryview(b"x" * MIB)))
            await transport.send(PutObject(key="k", body=b""))
            await transport.aclose()
            for size in (1, MIB):
                with pytest.raises(ConnectionLost, match="closed"):
                    await transport.send(PutObject(key="k", body=bytes(size)))
    shown = [line for head in peer.heads for line in head.split(b"\r\n") if line.startswith(b"x-amz-content-sha256")]
    hashes = [hashlib.sha256(body).hexdigest().encode() for body in (b"x", b"x" * MIB, b"")]
    assert shown == [b"x-amz-content-sha256: " + each for each in hashes]


async def test_a_size_that_is_refused(wire: Open) -> None:
    async with CannedPeer(canned(413, b"<html>")) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(EntityTooLarge):
            await transport.send(PUT)


async def test_a_redirect_names_the_region(wire: Open) -> None:
    answer = canned(301, b"", "x-amz-bucket-region: eu-west-3")
    async with CannedPeer(answer) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ConfigError, match="region='eu-west-3'"):
            await transport.send(HeadObject(key="k"))


async def test_an_unknown_refusal_is_permanent(wire: Open) -> None:
    date = format_datetime(datetime.now(UTC), usegmt=True)
    async with CannedPeer(canned(400, b"", f"Date: {date}")) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(PermanentError, match="HTTP 400"):
            await transport.send(HeadObject(key="k"))
