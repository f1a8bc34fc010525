"""What every Transport must do when the way to the server, or the server, fails."""

from __future__ import annotations

import asyncio
import socket
from urllib.parse import urlsplit

import pytest

from asyncsink.config import MIB
from asyncsink.errors import ConnectionLost, ObjectMissing, ServerFault, Stalled, Throttled
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.operations import CompletedPart, CompleteMultipartUpload, HeadObject, ListObjects, PutObject
from asyncsink.testing.faulty_peers import CannedPeer, Gate, SilentPeer
from asyncsink.testing.transport_kit import IMPATIENT, OpenTransport, canned, crc64


@pytest.mark.anyio
class TransportFaultSuite:
    """Part of `TransportSuite`, whose fixtures it uses."""

    async def test_cancelled_in_mid_body(self, open_transport: OpenTransport, endpoint_url: str) -> None:
        server = urlsplit(endpoint_url)
        # Several times what the kernel holds of a connection on its way, on both sides.
        data = bytes(64 * MIB)
        async with (
            Gate(server.hostname or "", server.port or 80) as gate,
            open_transport(endpoint_url=gate.endpoint_url) as transport,
        ):
            await transport.send(PutObject(key="before", body=b"x"))
            gate.hold_after_bytes = MIB
            sending = asyncio.create_task(transport.send(PutObject(key="k", body=data, checksum=crc64(data))))
            await gate.held.wait()
            sending.cancel()
            with pytest.raises(asyncio.CancelledError):
                await sending
            gate.release.set()
            await gate.ended.wait()
            assert gate.late_bytes < len(data) // 2
            gate.hold_after_bytes = None
            with pytest.raises(ObjectMissing):
                await transport.send(HeadObject(key="k"))
            await transport.send(PutObject(key="k", body=data, checksum=crc64(data)))
            assert (await transport.send(HeadObject(key="k"))).size_bytes == len(data)

    @pytest.mark.parametrize("reading", [False, True])
    @pytest.mark.parametrize("size_bytes", [100, 16 * MIB])
    async def test_a_stalled_server(self, open_transport: OpenTransport, reading: bool, size_bytes: int) -> None:
        async with (
            SilentPeer(reading=reading) as peer,
            open_transport(endpoint_url=peer.endpoint_url, retry=IMPATIENT) as transport,
        ):
            with pytest.raises(Stalled, match="PutObject of s3://"):
                await transport.send(PutObject(key="k", body=bytes(size_bytes)))
            with pytest.raises(Stalled):
                await transport.send(ListObjects())

    async def test_an_answer_that_stalls(self, open_transport: OpenTransport) -> None:
        head = b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "e"\r\n\r\n'
        async with (
            CannedPeer(head + b"x" * 10, hang_up=False) as peer,
            open_transport(endpoint_url=peer.endpoint_url, retry=IMPATIENT) as transport,
        ):
            with pytest.raises(Stalled, match="GetObject"):
                await transport.send(GetObject(key="k", length=100))

    async def test_a_refused_connection(self, open_transport: OpenTransport) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            async with open_transport(endpoint_url=url) as transport:
                with pytest.raises(ConnectionLost, match=url):
                    await transport.send(PutObject(key="k", body=b"x"))

    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Le",
            b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nETag: "e"\r\n\r\n' + b"x" * 10,
            b"nonsense\r\n\r\n",
        ],
        ids=["nothing", "half a head", "half a body", "nonsense"],
    )
    async def test_a_connection_closed_in_mid_answer(self, open_transport: OpenTransport, answer: bytes) -> None:
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(ConnectionLost, match="GetObject"):
                await transport.send(GetObject(key="k", length=100))
            with pytest.raises(ConnectionLost, match="PutObject"):
                await transport.send(PutObject(key="k", body=bytes(MIB)))

    async def test_slow_down(self, open_transport: OpenTransport) -> None:
        body = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
        answer = canned(503, body, "Retry-After: 7")
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(Throttled) as caught:
                await transport.send(PutObject(key="k", body=bytes(MIB)))
            assert (caught.value.retry_after_seconds, caught.value.code) == (7.0, "SlowDown")
            assert (caught.value.status, caught.value.operation) == (503, "PutObject")
            assert len(peer.heads) == 1, "a transport sends once"
            assert b"expect" not in peer.heads[0].lower()
            assert b"aws-chunked" not in peer.heads[0].lower()

    @pytest.mark.parametrize(
        "body",
        [b"<Error><Code>InternalError</Code><Message>We lost it.</Message></Error>", b"   ", b"", b"<Complete"],
        ids=["error", "only whitespace", "nothing", "half"],
    )
    async def test_complete_that_failed_with_200(self, open_transport: OpenTransport, body: bytes) -> None:
        answer = canned(200, body, "Content-Type: application/xml")
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            part = CompletedPart(part_number=1, etag="0" * 32)
            with pytest.raises(ServerFault, match="CompleteMultipartUpload"):
                await transport.send(CompleteMultipartUpload(key="k", upload_id="u", parts=(part,), size_bytes=10))
            assert len(peer.heads) == 1

    async def test_closing_twice(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            await transport.aclose()
            await transport.aclose()
