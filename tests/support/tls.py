"""A certificate authority of the tests' own, and a proxy that adds TLS to a server without."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


def _address(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


class Authority:
    """A certificate authority of this test's own. `path` is its certificate as PEM."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(f"test CA {directory.name}")
        self.path = str(directory / "ca.pem")
        Path(self.path).write_bytes(self._signed(self._name, self._key, None, DAY))

    def certificate(self, host: str, ends: timedelta = DAY) -> str:
        """The path of a certificate for `host` (a name or an IP address), and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path = self._directory / f"{host}.pem"
        path.write_bytes(private + self._signed(_name("server"), key, host, ends))
        return str(path)

    def server_context(self, host: str, ends: timedelta = DAY) -> ssl.SSLContext:
        """A server's context with a certificate for `host`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(host, ends))
        return context

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, host: str | None, ends: timedelta) -> bytes:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + ends)
            .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        )
        if host is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([_address(host)]), critical=False)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


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
