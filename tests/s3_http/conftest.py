"""What the wire lane's tests need beside `asyncsink.testing`: credentials, a certificate authority, a TLS proxy.

Test modules cannot import this file, so that the classes come to them as fixtures.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from asyncsink.model import SourceFile
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import MIB, RetryPolicy, Secret
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.pacing import Bandwidth, Pacer
from asyncsink.sources.reader import OpenSource
from tests.support.requests import Bodies, Open


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Credentials as a provider gives them."""

    access_key_id: str = "AKIDEXAMPLE"
    secret_access_key: Secret = Secret(b"example-secret")  # noqa: RUF009 - frozen
    session_token: Secret | None = None
    expires_at: datetime | None = None


Provider = Callable[[], Awaitable[Keys]]


def static_credentials(key_id: str, secret: str) -> Provider:
    """A provider of credentials that never change."""

    async def provide() -> Keys:
        return Keys(access_key_id=key_id, secret_access_key=Secret(secret.encode()))

    return provide


class Authority:
    """A certificate authority of this test's own. `path` is its certificate as PEM."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"test CA {directory.name}")])
        certificate = self._build(self._name, self._key, None)
        self.path = str(directory / "ca.pem")
        Path(self.path).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def server_context(self, host: str) -> ssl.SSLContext:
        """A server's context with a certificate for `host` (a name or an IP address)."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        certificate = self._build(name, key, host)
        path = self._directory / f"{host}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _build(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, host: str | None) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            try:
                alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                alternative = x509.DNSName(host)
            builder = builder.add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        return builder.sign(self._key, hashes.SHA256())


class TlsProxy:
    """Accepts TLS on loopback and forwards the plain bytes to a server, until the block is left."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext, name: str = "localhost") -> None:
        self._target = (host, port)
        self._context = context
        self._name = name
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """https://localhost:port."""
        return f"https://{self._name}:{self._server.sockets[0].getsockname()[1]}"

    async def __aenter__(self) -> Self:
        # Small buffers: what a client gave up must not be on its way by megabytes.
        self._server = await asyncio.start_server(self._accept, sock=_small(socket.socket()), ssl=self._context)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            there = _small(socket.socket())
            try:
                there.settimeout(0)
                await asyncio.get_running_loop().sock_connect(there, self._target)
                there_reader, there_writer = await asyncio.open_connection(sock=there)
            except BaseException:
                there.close()
                raise
            back = asyncio.create_task(_copy(there_reader, writer))
            try:
                await _copy(reader, there_writer)
            finally:
                there_writer.transport.abort()
                back.cancel()
                await asyncio.gather(back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass  # either side went away, or the block was left: both end the connection
        finally:
            writer.transport.abort()
            self._tasks.discard(task)


def _small(one: socket.socket) -> socket.socket:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    one.bind(("127.0.0.1", 0))
    return one


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


@pytest.fixture(scope="session")
def keys() -> type[Keys]:
    """Makes credentials."""
    return Keys


@pytest.fixture(scope="session")
def provider() -> Callable[[str, str], Provider]:
    """Makes a provider of credentials that never change."""
    return static_credentials


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that no machine trusts."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def tls_proxy() -> type[TlsProxy]:
    """Makes a TLS proxy."""
    return TlsProxy


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Lanes have threads and sockets of their own, on whatever loop; the conformance suite runs on uvloop too."""
    return "asyncio"


@pytest.fixture(scope="session")
def wire(provider: Any) -> Open:
    """Opens a transport, and looks that nothing of it stays."""

    @contextlib.asynccontextmanager
    async def open_wire(
        url: str,
        retry: RetryPolicy | None = None,
        *,
        credentials: Any = None,
        pacer: Pacer | None = None,
        bandwidth: Bandwidth | None = None,
        verify: bool = True,
        bucket: str = "bkt",
        **target: Any,
    ) -> AsyncIterator[HttpTransport]:
        before = {thread.ident for thread in threading.enumerate()}
        pacer = pacer or Pacer(64)
        transport = await HttpTransport.open(
            S3Target(bucket=bucket, endpoint_url=url, **target),
            retry or RetryPolicy(),
            region="us-east-1",
            credentials=credentials or provider("AKID", "secret"),
            pacer=pacer,
            bandwidth=bandwidth,
            verify=verify,
        )
        try:
            yield transport
        finally:
            lanes = [*transport._small, *transport._large]
            await transport.aclose()
            for thread in threading.enumerate():
                if thread.ident not in before and thread.name.startswith(("asyncsink-small", "asyncsink-large")):
                    thread.join(30)
                    assert not thread.is_alive()
            assert not any(lane._connections or lane._busy or lane._lent for lane in lanes)
            assert pacer.in_flight == 0, "a token was lost"

    return open_wire


@pytest.fixture(params=["memory", "part", "whole"])
def bodies(request: pytest.FixtureRequest, file: OpenSource) -> Bodies:
    """Requests with a body that is in memory, or is read as a part or as a whole file."""
    return Bodies(request.param, file)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSource]:
    """32 MiB, of which no two MiB are alike."""
    path = tmp_path_factory.mktemp("source") / "file"
    path.write_bytes(b"".join(bytes([number]) * MIB for number in range(32)))
    status = path.stat()
    with OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns)) as source:
        yield source
