"""Connections behind TLS: who is trusted, and the same ends as without it."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from asyncsink.errors import AccessDenied, ConfigError, ConnectionLost, Stalled
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.endpoint import tls_context
from asyncsink.s3.get_object import GetObjectTo, ObjectReceived
from asyncsink.s3.operations import PutObject
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import CannedPeer, SilentPeer, canned
from tests.support.requests import DENIED, STORED, Bodies, Open, Serve, part, read_request

pytestmark = pytest.mark.anyio
SIZE = 32 * MIB


class TlsPeer(CannedPeer):
    """A peer that speaks TLS for 127.0.0.1, and whose behaviour is a function."""

    def __init__(self, authority: Any, serve: Serve, version: ssl.TLSVersion | None = None) -> None:
        context = authority.server_context("127.0.0.1")
        if version is not None:
            context.minimum_version = context.maximum_version = version
        super().__init__(b"", tls=context)
        self._serve = serve

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._serve(reader, writer)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_trusted_server(wire: Open, authority: Any, bodies: Bodies, tls_proxy: Any, host: str) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer:
        server = urlsplit(peer.endpoint_url)
        context = authority.server_context(host)
        async with (
            tls_proxy(server.hostname, server.port, context, name=host) as proxy,
            wire(proxy.url, ca_bundle=authority.path) as transport,
        ):
            for length in (0, 1, 16384, 65536, 65537, 5 * MIB, 20 * MIB):
                assert (await transport.send(bodies(length))).etag == "e"
            assert peer.connections_total == 1
        assert all(b"UNSIGNED-PAYLOAD" in head for head in peer.heads[1:])


async def test_the_bytes_arrive(wire: Open, authority: Any, file: OpenSource) -> None:
    got = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            got.append((await read_request(reader))[1])
            writer.write(STORED)

    async with TlsPeer(authority, serve) as peer, wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
        for offset, length in ((5, 20 * MIB), (MIB - 1, 3)):
            expected = bytes(file.read_part(offset, length))
            stored = await transport.send(part(file, offset, length))
            assert got.pop() == expected
            assert stored.sent == checksum_of(expected, "CRC64NVME")
            await transport.send(PutObject(key="k", body=expected))
            assert got.pop() == expected


async def test_a_certificate_of_nobody_known(wire: Open, authority: Any, bodies: Bodies) -> None:
    async with CannedPeer(STORED, tls=authority.server_context("127.0.0.1")) as peer:
        async with wire(peer.endpoint_url) as transport:
            for _ in range(2):
                with pytest.raises(ConfigError, match=r"not trusted.*ca_bundle"):
                    await transport.send(bodies(MIB))
        assert not peer.heads, "nothing is sent to a server that is not trusted"
        async with wire(peer.endpoint_url, verify=False) as transport:
            assert (await transport.send(bodies(MIB))).etag == "e"


async def test_a_certificate_for_another_host(wire: Open, authority: Any, bodies: Bodies) -> None:
    async with CannedPeer(STORED, tls=authority.server_context("s3.example.org")) as peer:
        async with wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
            with pytest.raises(ConfigError, match=r"not trusted.*127\.0\.0\.1"):
                await transport.send(bodies(MIB))
        assert not peer.heads


async def test_a_server_that_speaks_no_tls(wire: Open, bodies: Bodies) -> None:
    async with CannedPeer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as peer:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        peer.serve = serve  # type: ignore[method-assign]
        async with wire(f"https://127.0.0.1:{urlsplit(peer.endpoint_url).port}") as transport:
            with pytest.raises(ConfigError, match="does not speak TLS, but plain HTTP; give the endpoint as http://"):
                await transport.send(bodies(MIB))


async def test_a_handshake_that_stalls_or_is_given_up(wire: Open, bodies: Bodies) -> None:
    async with SilentPeer() as peer:
        url = f"https://127.0.0.1:{urlsplit(peer.endpoint_url).port}"
        async with wire(url, RetryPolicy(connect_seconds=0.2)) as transport:
            with pytest.raises(ConnectionLost, match="could not be made: it did not answer in time"):
                await transport.send(bodies(MIB))
        async with wire(url) as transport:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await transport.send(bodies(MIB))


@pytest.mark.parametrize("reading", [False, True])
async def test_a_stall(wire: Open, authority: Any, bodies: Bodies, tls_proxy: Any, reading: bool) -> None:
    async with SilentPeer(reading=reading) as peer:
        server = urlsplit(peer.endpoint_url)
        context = authority.server_context("localhost")
        async with (
            tls_proxy(server.hostname, server.port, context) as proxy,
            # Long enough for a handshake on a busy machine.
            wire(proxy.url, RetryPolicy(stall_seconds=0.2), ca_bundle=authority.path) as transport,
        ):
            for length in (100, SIZE):
                with pytest.raises(Stalled):
                    await transport.send(bodies(length))


@pytest.mark.parametrize("hang_up", [False, True])
async def test_a_refusal_while_the_body_is_being_sent(
    wire: Open, authority: Any, bodies: Bodies, hang_up: bool
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(DENIED)
        await writer.drain()
        if not hang_up:
            await asyncio.Event().wait()

    async with TlsPeer(authority, serve) as peer, wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
        with pytest.raises(AccessDenied):
            await transport.send(bodies(SIZE))


async def test_a_lost_connection_and_a_stale_one(wire: Open, authority: Any, bodies: Bodies) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.readexactly(MIB)
        writer.transport.abort()

    async with TlsPeer(authority, serve) as peer, wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
        for number in range(1, 3):
            await transport.send(bodies(5 * MIB))
            assert peer.connections_total == number

    async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(MIB)
        writer.transport.abort()

    async with TlsPeer(authority, cut) as peer, wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
        with pytest.raises(ConnectionLost):
            await transport.send(bodies(SIZE))
        assert peer.connections_total == 1


async def test_slow_reading_and_large_answers(wire: Open, authority: Any, bodies: Bodies) -> None:
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

    async with TlsPeer(authority, serve) as peer, wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
        assert (await transport.send(bodies(SIZE))).etag == "e"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_bodies_and_ranges_of_both_versions(wire: Open, authority: Any, version: ssl.TLSVersion) -> None:
    """A body that fills the socket again and again arrives whole, and so do ranges of many records."""
    content = os.urandom(3 * MIB + 12_345)
    got = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await read_request(reader)
            if head.startswith(b"PUT"):
                got.append(body)
                writer.write(STORED)
                continue
            answer = canned(206, content, f"Content-Range: bytes 0-{len(content) - 1}/{len(content)}", 'ETag: "e"')
            for start in range(0, len(answer), 100_001):
                writer.write(answer[start : start + 100_001])
                await writer.drain()

    class Taken:
        def __init__(self) -> None:
            self.data = bytearray()

        def take(self, position: int, piece: memoryview) -> None:
            assert position == len(self.data)
            self.data += piece

        def end(self, answer: ObjectReceived) -> None:
            assert answer.length == len(content)

    async with (
        TlsPeer(authority, serve, version) as peer,
        wire(peer.endpoint_url, ca_bundle=authority.path) as transport,
    ):
        for _ in range(2):
            await transport.send(PutObject(key="k", body=content))
            assert got.pop() == content
            taken = Taken()
            await transport.send(GetObjectTo(key="k", offset=0, length=len(content), taker=taken, if_match="e"))
            assert taken.data == content
        assert peer.connections_total == 2, "one of each kind"


@pytest.mark.parametrize("records", [1, 3])
async def test_a_farewell_behind_tls_is_no_answer(wire: Open, authority: Any, bodies: Bodies, records: int) -> None:
    parted = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await parted.wait()
        for _ in range(records):
            writer.write(canned(408, b""))
            await writer.drain()
        parted.clear()
        await reader.read(1)

    async with TlsPeer(authority, serve) as peer, wire(peer.endpoint_url, ca_bundle=authority.path) as transport:
        await transport.send(bodies(MIB))
        parted.set()
        while parted.is_set():  # noqa: ASYNC110 - the other end clears it
            await asyncio.sleep(0)
        assert (await transport.send(bodies(MIB))).etag == "e"
        assert peer.connections_total == 2


async def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="ca_bundle"):
        tls_context(str(file))
    file.write_text("nothing")
    with pytest.raises(ConfigError, match="ca_bundle"):
        tls_context(str(file))
