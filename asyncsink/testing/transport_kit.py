"""Shared parts of the transport suite: capabilities, opening a transport, uploads in parts, conditions, and faults."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from tempfile import NamedTemporaryFile
from typing import Literal, Protocol
from urllib.parse import urlsplit

import pytest

from asyncsink.errors import ConnectionLost, ObjectMissing, PreconditionFailed, ServerFault, Stalled, Throttled
from asyncsink.integrity.checksums import checksum_of, combine
from asyncsink.model import Checksum
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.operations import (
    NO_ATTRIBUTES,
    AbortMultipartUpload,
    CompletedPart,
    CompleteMultipartUpload,
    CreateMultipartUpload,
    HeadObject,
    ListObjects,
    ObjectAttributes,
    ObjectStored,
    PutObject,
    UploadPart,
)
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.stack import open_lanes
from asyncsink.s3.transport import Transport, Wrap, wrapped
from asyncsink.testing.peers import CannedPeer, Gate, SilentPeer, canned

Capability = Literal[
    "enforces-checksums",  # a wrong checksum header is refused
    "answers-checksums",  # HEAD returns the checksum that was sent
    "mpu-checksum",  # a multipart object keeps a full-object checksum
    "checks-signatures",  # a wrong secret is refused
    "sse-s3",
    "sse-c",
    "tags",
    "storage-class",
    "part-1-head",  # HEAD with a part number returns the part's size
    "list-parts-checksums",
    "list-uploads",
    "if-match",  # GET with another ETag is refused
    "if-none-match",  # a PUT that must not replace an object is refused where one exists
    "if-none-match-complete",  # likewise a CompleteMultipartUpload
    "unknown-upload",  # a part of an unknown upload is answered with NoSuchUpload
]

IMPATIENT = RetryPolicy(stall_seconds=0.2, complete_seconds=0.2)
"""Of a server that accepts connections and falls silent: a busy machine may take a second to connect."""


class OpenTransport(Protocol):
    """Opens a transport to the suite's empty bucket, with the given deviations."""

    def __call__(
        self,
        *,
        bucket: str | None = None,
        endpoint_url: str | None = None,
        secret_access_key: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> AbstractAsyncContextManager[Transport]:
        """Leaving the block closes the transport."""
        ...


def around_lanes(
    wrap: Wrap, *, endpoint_url: str, bucket: str, access_key_id: str, secret_access_key: str
) -> OpenTransport:
    """Opens the transport that `wrap` makes, around lanes to an empty bucket, as a run has it, but without retries."""
    own_bucket, own_endpoint_url, own_secret = bucket, endpoint_url, secret_access_key

    @asynccontextmanager
    async def open_transport(
        *,
        bucket: str | None = None,
        endpoint_url: str | None = None,
        secret_access_key: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> AsyncIterator[Transport]:
        with NamedTemporaryFile("w", suffix=".csv") as file:
            file.write(f"AWSAccessKeyId={access_key_id}\nAWSSecretKey={secret_access_key or own_secret}\n")
            file.flush()
            target = S3Target(
                bucket=bucket or own_bucket,
                endpoint_url=endpoint_url or own_endpoint_url,
                region="us-east-1",
                creds_path=file.name,
            )
            limits = Limits()
            pacer = Pacer(limits.concurrency_start)
            lanes = await open_lanes(target, retry or RetryPolicy(), limits, pacer, choice="auto")
            transport = lanes.transport
            try:
                transport = wrapped(wrap, transport)
                yield transport
            finally:
                await transport.aclose()

    return open_transport


def crc64(data: bytes | bytearray | memoryview) -> Checksum:
    """The default checksum."""
    return checksum_of(data, "CRC64NVME")


async def upload_in_parts(
    transport: Transport,
    key: str,
    data: bytes,
    *,
    attributes: ObjectAttributes = NO_ATTRIBUTES,
    total: Checksum | None = None,
) -> ObjectStored:
    """Upload `data` in parts of 5 MiB, completing with `total` (the right checksum where None)."""
    created = await transport.send(CreateMultipartUpload(key=key, algorithm="CRC64NVME", attributes=attributes))
    parts: list[CompletedPart] = []
    lengths: list[tuple[Checksum, int]] = []
    for number, start in enumerate(range(0, len(data), 5 * MIB), 1):
        body = memoryview(data)[start : start + 5 * MIB]
        part = UploadPart(
            key=key,
            upload_id=created.upload_id,
            part_number=number,
            body=body,
            checksum=crc64(body),
            sse_customer_key=attributes.sse_customer_key,
        )
        stored = await transport.send(part)
        parts.append(CompletedPart(part_number=number, etag=stored.etag, checksum=crc64(body)))
        lengths.append((crc64(body), len(body)))
    return await transport.send(
        CompleteMultipartUpload(
            key=key,
            upload_id=created.upload_id,
            parts=tuple(parts),
            size_bytes=len(data),
            checksum=total or combine("CRC64NVME", lengths),
            sse_customer_key=attributes.sse_customer_key,
        )
    )


# -- Conditional writes and write tokens -------------------------------------------------------------------------------

TOKEN = "0123456789abcdef" * 2


@pytest.mark.anyio
class TransportConditionSuite:
    """Tests against a real server; part of `TransportSuite`."""

    def need(self, *capabilities: Capability) -> None:
        """Skip the test where the server lacks one of `capabilities`."""
        raise NotImplementedError

    async def test_a_put_that_is_to_replace_nothing(self, open_transport: OpenTransport) -> None:
        self.need("if-none-match")
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"first", only_new=True, write_token=TOKEN))
            with pytest.raises(PreconditionFailed, match="PutObject of s3://"):
                await transport.send(PutObject(key="k", body=b"other", checksum=crc64(b"other"), only_new=True))
            head = await transport.send(HeadObject(key="k"))
            assert head.size_bytes == 5
            assert head.metadata["asyncsink-write"] == TOKEN

    async def test_an_upload_that_is_to_replace_nothing(self, open_transport: OpenTransport) -> None:
        self.need("if-none-match-complete")
        async with open_transport() as transport:
            upload_id, complete = await _upload(transport, os.urandom(1000))
            await transport.send(PutObject(key="k", body=b"first"))
            with pytest.raises(PreconditionFailed, match="CompleteMultipartUpload of s3://"):
                await transport.send(complete)
            assert (await transport.send(HeadObject(key="k"))).size_bytes == 5
            await transport.send(AbortMultipartUpload(key="k", upload_id=upload_id))

    async def test_the_write_token_of_an_upload(self, open_transport: OpenTransport) -> None:
        data = os.urandom(5 * MIB)
        async with open_transport() as transport:
            _, complete = await _upload(transport, data)
            await transport.send(complete)
            assert (await transport.send(HeadObject(key="k"))).metadata["asyncsink-write"] == TOKEN


async def _upload(transport: Transport, data: bytes) -> tuple[str, CompleteMultipartUpload]:
    """An upload of one part, and the operation that completes it where no object exists."""
    created = await transport.send(CreateMultipartUpload(key="k", algorithm="CRC64NVME", write_token=TOKEN))
    stored = await transport.send(
        UploadPart(key="k", upload_id=created.upload_id, part_number=1, body=data, checksum=crc64(data))
    )
    part = CompletedPart(part_number=1, etag=stored.etag, checksum=crc64(data))
    return created.upload_id, CompleteMultipartUpload(
        key="k", upload_id=created.upload_id, parts=(part,), size_bytes=len(data), checksum=crc64(data), only_new=True
    )


# -- Faults of the server and of the connection to it ------------------------------------------------------------------


@pytest.mark.anyio
class TransportFaultSuite:
    """Part of `TransportSuite`, whose fixtures it uses."""

    async def test_cancelled_in_mid_body(self, open_transport: OpenTransport, endpoint_url: str) -> None:
        server = urlsplit(endpoint_url)
        # Several times the kernel's buffers of a connection, on both sides.
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
