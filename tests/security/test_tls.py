"""Certificates on every way that a body can take: who is not trusted gets neither a header nor a byte of the file."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from asyncsink.errors import ConfigError
from asyncsink.testing.peers import CannedPeer, canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
DAY = timedelta(days=1)
PEM = serialization.Encoding.PEM
Server = Callable[..., ssl.SSLContext]


def signed(
    name: str, key: Any, issuer: x509.Name, issuer_key: Any, *, address: str = "", ends: timedelta = DAY
) -> x509.Certificate:
    """A certificate that began two days ago; of an authority where it has no address."""
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * DAY)
        .not_valid_after(now + ends)
        .add_extension(x509.BasicConstraints(ca=not address, path_length=None), critical=True)
    )
    if address:
        names = [x509.IPAddress(ipaddress.ip_address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> tuple[str, Server]:
    """The path of an authority's certificate, and what makes a server's context of it."""
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    issuer_key = ec.generate_private_key(ec.SECP256R1())
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(signed("test CA", issuer_key, issuer, issuer_key).public_bytes(PEM))

    def server(address: str = "127.0.0.1", ends: timedelta = DAY) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = signed("server", key, issuer, issuer_key, address=address, ends=ends)
        path = tmp_path / "server.pem"
        private = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(private + certificate.public_bytes(PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    return str(bundle), server


async def test_a_trusted_server_is_sent_to(put_once: Any, authority: tuple[str, Server]) -> None:
    bundle, server = authority
    async with CannedPeer(STORED, tls=server()) as peer:
        stored = await put_once(peer.endpoint_url, ca_bundle=bundle)
        assert stored.etag == "e"
        assert len(peer.heads) == 1


@pytest.mark.parametrize(
    ("certificate", "trusted", "reason"),
    [
        ({}, False, "unable to get local issuer|self.signed|verify failed"),
        ({"address": "127.0.0.2"}, True, "not valid for|mismatch"),
        ({"ends": -DAY}, True, "expired"),
    ],
    ids=["of nobody known", "for another host", "expired"],
)
async def test_who_is_not_trusted_is_sent_nothing(
    put_once: Any, authority: tuple[str, Server], certificate: dict[str, Any], trusted: bool, reason: str
) -> None:
    bundle, server = authority
    async with CannedPeer(STORED, tls=server(**certificate)) as peer:
        with pytest.raises(ConfigError, match=rf"not trusted.*({reason})"):
            await put_once(peer.endpoint_url, **({"ca_bundle": bundle} if trusted else {}))
        assert peer.heads == []
