"""Sender threads behind TLS: who is trusted, and the same ends as without it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from asyncsink.config import MIB, RetryPolicy, S3Target
from asyncsink.errors import AccessDenied, ConfigError, ConnectionLost, Stalled
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import SourceFile
from asyncsink.s3.operations import ObjectStored
from asyncsink.s3.wire.endpoint import endpoint_of
from asyncsink.s3.wire.keyring import Keyring
from asyncsink.s3.wire.sender import PartToSend, SenderPool
from asyncsink.s3.wire.transport import tls_context
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.faulty_peers import CannedPeer, SilentPeer
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


@pytest.fixture
def senders(provider: Any, authority: Any) -> Open:
    @contextlib.asynccontextmanager
    async def open_pool(
        url: str, retry: RetryPolicy | None = None, *, ca_bundle: str = authority.path, verify: bool = True
    ) -> AsyncIterator[SenderPool]:
        endpoint = endpoint_of(S3Target(bucket="bkt", endpoint_url=url), "x")
        keyring = Keyring(endpoint, "x", provider("AKID", "secret"))
        pool = SenderPool("bkt", endpoint, keyring, retry or RetryPolicy(), tls_context(ca_bundle, verify), threads=2)
        try:
            yield pool
        finally:
            await pool.aclose()

    return open_pool


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSource]:
    path = tmp_path_factory.mktemp("source") / "file"
    path.write_bytes(b"".join(bytes([number]) * MIB for number in range(32)))
    status = path.stat()
    with OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns)) as source:
        yield source


class TlsPeer(CannedPeer):
    """A peer that speaks TLS for 127.0.0.1, and whose behaviour is a function."""

    def __init__(self, authority: Any, serve: Serve) -> None:
        super().__init__(b"", tls=authority.server_context("127.0.0.1"))
        self._serve = serve

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer)


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    [length] = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return await reader.readexactly(length)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_trusted_server(senders: Open, authority: Any, file: OpenSource, tls_proxy: Any, host: str) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer:
        server = urlsplit(peer.endpoint_url)
        context = authority.server_context(host)
        async with tls_proxy(server.hostname, server.port, context, name=host) as proxy, senders(proxy.url) as pool:
            for length in (0, 1, 16384, 5 * MIB, 20 * MIB):
                response, _ = await pool.send_part(file, 0, length, PART)
                assert response == ObjectStored(etag="e")
            assert peer.connections_total == 1
        assert all(b"UNSIGNED-PAYLOAD" in head for head in peer.heads[1:])


async def test_the_bytes_arrive(senders: Open, authority: Any, file: OpenSource) -> None:
    bodies = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            bodies.append(await read_request(reader))
            writer.write(STORED)

    async with TlsPeer(authority, serve) as peer, senders(peer.endpoint_url) as pool:
        for offset, length in ((5, 20 * MIB), (MIB - 1, 3)):
            _, checksum = await pool.send_part(file, offset, length, PART)
            assert bodies.pop() == bytes(file.read_part(offset, length))
            assert checksum == checksum_of(file.read_part(offset, length), "CRC64NVME")


async def test_a_certificate_of_nobody_known(senders: Open, authority: Any, file: OpenSource) -> None:
    async with CannedPeer(STORED, tls=authority.server_context("127.0.0.1")) as peer:
        async with senders(peer.endpoint_url, ca_bundle="") as pool:
            for _ in range(2):
                with pytest.raises(ConfigError, match=r"not trusted.*ca_bundle"):
                    await pool.send_part(file, 0, MIB, PART)
        assert not peer.heads, "nothing is sent to a server that is not trusted"
        async with senders(peer.endpoint_url, ca_bundle="", verify=False) as pool:
            response, _ = await pool.send_part(file, 0, MIB, PART)
            assert response == ObjectStored(etag="e")


async def test_a_certificate_for_another_host(senders: Open, authority: Any, file: OpenSource) -> None:
    async with CannedPeer(STORED, tls=authority.server_context("s3.example.org")) as peer:
        async with senders(peer.endpoint_url) as pool:
            with pytest.raises(ConfigError, match=r"not trusted.*127\.0\.0\.1"):
                await pool.send_part(file, 0, MIB, PART)
        assert not peer.heads


async def test_a_server_that_speaks_no_tls(senders: Open, file: OpenSource) -> None:
    async with CannedPeer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as peer:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        peer.serve = serve  # type: ignore[method-assign]
        async with senders(f"https://127.0.0.1:{urlsplit(peer.endpoint_url).port}") as pool:
            with pytest.raises(ConnectionLost, match="could not be made"):
                await pool.send_part(file, 0, MIB, PART)


async def test_a_handshake_that_stalls_or_is_given_up(senders: Open, file: OpenSource) -> None:
    async with SilentPeer() as peer:
        url = f"https://127.0.0.1:{urlsplit(peer.endpoint_url).port}"
        async with senders(url, IMPATIENT) as pool:
            with pytest.raises(ConnectionLost, match="could not be made: it did not answer in time"):
                await pool.send_part(file, 0, MIB, PART)
        async with senders(url) as pool:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await pool.send_part(file, 0, MIB, PART)


@pytest.mark.parametrize("reading", [False, True])
async def test_a_stall(senders: Open, authority: Any, file: OpenSource, tls_proxy: Any, reading: bool) -> None:
    async with SilentPeer(reading=reading) as peer:
        server = urlsplit(peer.endpoint_url)
        context = authority.server_context("localhost")
        async with (
            tls_proxy(server.hostname, server.port, context) as proxy,
            # Long enough for a handshake on a busy machine.
            senders(proxy.url, RetryPolicy(stall_seconds=0.2)) as pool,
        ):
            for length in (100, SIZE):
                with pytest.raises(Stalled):
                    await pool.send_part(file, 0, length, PART)


@pytest.mark.parametrize("hang_up", [False, True])
async def test_a_refusal_while_the_body_is_being_sent(
    senders: Open, authority: Any, file: OpenSource, hang_up: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(DENIED)
        await writer.drain()
        if not hang_up:
            await asyncio.Event().wait()

    async with TlsPeer(authority, serve) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(AccessDenied):
            await pool.send_part(file, 0, SIZE, PART)


async def test_a_lost_connection_and_a_stale_one(senders: Open, authority: Any, file: OpenSource) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.readexactly(MIB)
        writer.transport.abort()

    async with TlsPeer(authority, serve) as peer, senders(peer.endpoint_url) as pool:
        for number in range(1, 3):
            await pool.send_part(file, 0, 5 * MIB, PART)
            assert peer.connections_total == number

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(MIB)
        writer.transport.abort()

    async with TlsPeer(authority, cut) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(ConnectionLost):
            await pool.send_part(file, 0, SIZE, PART)
        assert peer.connections_total == 1


async def test_slow_reading_and_large_answers(senders: Open, authority: Any, file: OpenSource) -> None:
    """The socket is full again and again, and an answer comes in more than one record."""
    body = b"<!-- " + b"x" * 200_000 + b" -->"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(320):
            await reader.readexactly(SIZE // 320 // 2)
            await asyncio.sleep(0)
        await reader.readexactly(SIZE - 320 * (SIZE // 320 // 2))
        writer.write(canned(200, body, 'ETag: "e"'))
        await reader.read(1)

    async with TlsPeer(authority, serve) as peer, senders(peer.endpoint_url) as pool:
        response, _ = await pool.send_part(file, 0, SIZE, PART)
        assert response == ObjectStored(etag="e")
