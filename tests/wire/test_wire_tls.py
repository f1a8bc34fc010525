"""Certificates: who is trusted, who is not, and that checking is only off where it was asked for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from asyncsink.config import MIB, RetryPolicy, S3Target
from asyncsink.errors import ConfigError, ConnectionLost, Stalled
from asyncsink.s3.operations import ObjectStored, PutObject
from asyncsink.s3.wire.transport import WireTransport, tls_context
from asyncsink.testing.faulty_peers import CannedPeer, SilentPeer
from asyncsink.testing.transport_kit import IMPATIENT, canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
PUT = PutObject(key="k", body=b"x" * 1000)


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


Open = Callable[..., contextlib.AbstractAsyncContextManager[WireTransport]]


@pytest.fixture
def wire(provider: Any) -> Open:
    @contextlib.asynccontextmanager
    async def open_wire(
        url: str, ca_bundle: str = "", retry: RetryPolicy | None = None, *, verify: bool = True
    ) -> AsyncIterator[WireTransport]:
        target = S3Target(bucket="bkt", endpoint_url=url, ca_bundle=ca_bundle)
        credentials = provider("AKID", "secret")
        transport = await WireTransport.open(
            target, retry or RetryPolicy(), region="x", credentials=credentials, verify=verify
        )
        try:
            yield transport
        finally:
            await transport.aclose()

    return open_wire


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_a_trusted_server(wire: Open, authority: Any, tls_proxy: Any, host: str) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer:
        server = urlsplit(peer.endpoint_url)
        context = authority.server_context(host)
        async with (
            tls_proxy(server.hostname, server.port, context, name=host) as proxy,
            wire(proxy.url, authority.path) as transport,
        ):
            for size in (0, 1000, 65536, 65537, 5 * MIB):
                assert await transport.send(PutObject(key="k", body=bytes(size))) == ObjectStored(etag="e")
            assert peer.connections_total == 1


async def test_a_certificate_of_nobody_known(wire: Open, authority: Any, tls_proxy: Any) -> None:
    async with CannedPeer(STORED) as peer:
        server = urlsplit(peer.endpoint_url)
        async with tls_proxy(server.hostname, server.port, authority.server_context("localhost")) as proxy:
            async with wire(proxy.url) as transport:
                with pytest.raises(ConfigError, match=r"not trusted.*ca_bundle"):
                    await transport.send(PUT)
            async with wire(proxy.url, verify=False) as transport:
                assert await transport.send(PUT) == ObjectStored(etag="e")
        assert len(peer.heads) == 1, "nothing is sent to a server that is not trusted"


async def test_a_certificate_for_another_host(wire: Open, authority: Any, tls_proxy: Any) -> None:
    async with CannedPeer(STORED) as peer:
        server = urlsplit(peer.endpoint_url)
        context = authority.server_context("s3.example.org")
        async with (
            tls_proxy(server.hostname, server.port, context) as proxy,
            wire(proxy.url, authority.path) as transport,
        ):
            with pytest.raises(ConfigError, match=r"not trusted.*localhost"):
                await transport.send(PUT)
        assert not peer.heads


async def test_a_server_that_speaks_no_tls(wire: Open, authority: Any) -> None:
    async with CannedPeer(b"HTTP/1.1 400 Bad Request\r\n\r\n") as peer:
        port = urlsplit(peer.endpoint_url).port

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        peer.serve = serve  # type: ignore[method-assign]
        async with wire(f"https://127.0.0.1:{port}", authority.path) as transport:
            with pytest.raises(ConnectionLost, match="could not be made"):
                await transport.send(PUT)


async def test_a_handshake_that_stalls(wire: Open, authority: Any) -> None:
    async with SilentPeer() as peer:
        port = urlsplit(peer.endpoint_url).port
        async with wire(f"https://127.0.0.1:{port}", authority.path, IMPATIENT) as transport:
            with pytest.raises(ConnectionLost, match=r"could not be made|no connection within"):
                await transport.send(PUT)


@pytest.mark.parametrize("reading", [False, True])
async def test_a_stall_behind_tls(wire: Open, authority: Any, tls_proxy: Any, reading: bool) -> None:
    async with SilentPeer(reading=reading) as peer:
        server = urlsplit(peer.endpoint_url)
        async with (
            tls_proxy(server.hostname, server.port, authority.server_context("localhost")) as proxy,
            wire(proxy.url, authority.path, IMPATIENT) as transport,
        ):
            for size in (100, 32 * MIB):
                with pytest.raises(Stalled):
                    await transport.send(PutObject(key="k", body=bytes(size)))


async def test_a_bundle_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(ConfigError, match="ca_bundle"):
        tls_context(str(file))
    file.write_text("nothing")
    with pytest.raises(ConfigError, match="ca_bundle"):
        tls_context(str(file))
