"""Conformance of a Transport in GetObject: ranges, whole objects, the caller's buffer, and false answers."""

from __future__ import annotations

import asyncio
import os
from typing import ClassVar

import pytest

from asyncsink.errors import (
    ConnectionLost,
    ObjectMissing,
    PermanentError,
    PreconditionFailed,
    ServerFault,
    Stalled,
    Throttled,
)
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.get_object import GetObject
from asyncsink.s3.operations import PutObject
from asyncsink.testing.peers import ActingPeer, CannedPeer, canned
from asyncsink.testing.transport_kit import IMPATIENT, Capability, OpenTransport, crc64, upload_in_parts

UNTOUCHED = 0xEE


def room(length: int) -> tuple[bytearray, memoryview]:
    """A buffer with a marked byte after the room that a request may fill."""
    buffer = bytearray([UNTOUCHED]) * (length + 1)
    return buffer, memoryview(buffer)[:length]


@pytest.mark.anyio
class GetSuite:
    """Part of `TransportSuite`, whose fixtures it uses."""

    capabilities: ClassVar[frozenset[Capability]]

    async def test_get_into_a_buffer(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            for size_bytes in (1, 100, 16_000, 16_384, 65_537, 5 * MIB + 1):
                data = os.urandom(size_bytes)
                stored = await transport.send(PutObject(key="k", body=data, checksum=crc64(data)))
                for whole in (True, False):
                    buffer, into = room(size_bytes)
                    got = await transport.send(GetObject(key="k", length=size_bytes, whole=whole, into=into))
                    assert bytes(buffer) == data + bytes([UNTOUCHED])
                    assert (got.data == data, got.etag, got.composite) == (True, stored.etag, False)
                    if whole and "answers-checksums" in self.capabilities:
                        assert got.checksums["CRC64NVME"] == crc64(data).value

    async def test_get_of_an_empty_object(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b""))
            assert (await transport.send(GetObject(key="k", length=0, whole=True))).data == b""

    async def test_get_of_an_object_of_unknown_size(self, open_transport: OpenTransport) -> None:
        """All of a smaller one comes, and the beginning of a larger one, with what describes the whole."""
        async with open_transport() as transport:
            for size_bytes, length in ((0, 10), (10, 10), (16_384, 65_536), (70_000, 65_536), (3 * MIB, MIB)):
                data = os.urandom(size_bytes)
                stored = await transport.send(PutObject(key="k", body=data, checksum=crc64(data)))
                for given in (True, False):
                    buffer, into = room(length)
                    asked = GetObject(
                        key="k", length=length, whole=True, size_known=False, into=into if given else None
                    )
                    got = await transport.send(asked)
                    assert (got.data == data[:length], got.object_bytes, got.etag) == (True, size_bytes, stored.etag)
                    assert buffer[-1] == UNTOUCHED
                    if "answers-checksums" in self.capabilities and size_bytes:
                        assert got.checksums["CRC64NVME"] == crc64(data).value

    async def test_pieces_of_an_object_of_unknown_size(self, open_transport: OpenTransport) -> None:
        """Without a length only the end of a smaller one tells the size."""
        head = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "e"\r\n\r\n'
        pieces = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        async with CannedPeer(head + pieces) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            for length, expected in ((7, b"abcdefg"), (9, b"abcdefg"), (5, b"abcde")):
                buffer, into = room(length)
                asked = GetObject(key="k", length=length, whole=True, size_known=False, into=into)
                got = await transport.send(asked)
                assert (got.data, got.object_bytes, buffer[-1]) == (expected, None, UNTOUCHED)

    async def test_ranges_of_a_multipart_object(self, open_transport: OpenTransport) -> None:
        data = os.urandom(11 * MIB)
        async with open_transport() as transport:
            stored = await upload_in_parts(transport, "big", data)

            async def get(offset: int, length: int) -> bool:
                buffer, into = room(length)
                operation = GetObject(key="big", offset=offset, length=length, into=into, if_match=stored.etag)
                got = await transport.send(operation)
                return got.data == data[offset : offset + length] and buffer[-1] == UNTOUCHED

            ranges = [(0, 5 * MIB), (5 * MIB - 7, 100), (6 * MIB, 5 * MIB), (11 * MIB - 1, 1)]
            assert all(await asyncio.gather(*(get(*each) for each in ranges)))

    async def test_a_whole_object_of_another_size(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"twelve bytes"))
            for length in (11, 13):
                buffer, into = room(length)
                with pytest.raises(PreconditionFailed, match=rf"has 12 bytes; {length} were expected"):
                    await transport.send(GetObject(key="k", length=length, whole=True, into=into))
                assert buffer[-1] == UNTOUCHED

    async def test_a_range_beyond_the_end(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=b"12"))
            with pytest.raises(PermanentError, match="k"):
                await transport.send(GetObject(key="k", offset=2, length=5))

    @pytest.mark.parametrize("data", [b"<Error><Code>SlowDown</Code></Error>", b"  <Error>"])
    async def test_content_that_looks_like_an_error(self, open_transport: OpenTransport, data: bytes) -> None:
        async with open_transport() as transport:
            await transport.send(PutObject(key="k", body=data))
            assert (await transport.send(GetObject(key="k", length=len(data), whole=True))).data == data

    async def test_a_refused_get_leaves_the_buffer_alone(self, open_transport: OpenTransport) -> None:
        buffer, into = room(10)
        async with open_transport() as transport:
            with pytest.raises(ObjectMissing):
                await transport.send(GetObject(key="none", length=10, into=into))
        slow = canned(503, b"<Error><Code>SlowDown</Code></Error>", "Retry-After: 3")
        async with CannedPeer(slow) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(Throttled) as caught:
                await transport.send(GetObject(key="k", length=10, into=into))
        assert caught.value.retry_after_seconds == 3
        assert buffer == bytes([UNTOUCHED]) * 11

    async def test_a_server_without_ranges(self, open_transport: OpenTransport) -> None:
        answer = canned(200, bytes(100), 'ETag: "e"')
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            for offset, length in ((0, 50), (10, 100)):
                with pytest.raises(PermanentError, match="whole object instead of the range"):
                    await transport.send(GetObject(key="k", offset=offset, length=length))
            assert (await transport.send(GetObject(key="k", length=200))).data == bytes(100)

    @pytest.mark.parametrize("told", ["bytes 10-14/100", "bytes 0-9/100", "bytes 5-3/100", "nonsense"])
    async def test_a_server_that_answers_another_range(self, open_transport: OpenTransport, told: str) -> None:
        answer = canned(206, b"12345", f"Content-Range: {told}", 'ETag: "e"')
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(ServerFault, match="range from 5 was asked for"):
                await transport.send(GetObject(key="k", offset=5, length=5))

    @pytest.mark.parametrize("told", ["bytes 5-8/100", "bytes 5-9/8"])
    async def test_fewer_bytes_than_were_asked_for_although_there_are_more(
        self, open_transport: OpenTransport, told: str
    ) -> None:
        answer = canned(206, b"1234", f"Content-Range: {told}", 'ETag: "e"')
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(ServerFault, match="range from 5 was asked for"):
                await transport.send(GetObject(key="k", offset=5, length=5))

    async def test_a_range_whose_body_is_shorter_than_the_range(self, open_transport: OpenTransport) -> None:
        head = b'HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\nETag: "e"\r\n'
        answer = head + b"Content-Range: bytes 5-9/100\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(ServerFault, match="5 bytes from 5 were announced, and 3 came"):
                await transport.send(GetObject(key="k", offset=5, length=5))

    @pytest.mark.parametrize("whole", [True, False])
    async def test_another_object_than_the_one_that_was_asked_for(
        self, open_transport: OpenTransport, whole: bool
    ) -> None:
        """From a server without If-Match."""
        answer = canned(200, b"12345", 'ETag: "other"')
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(PreconditionFailed, match="has the ETag other; mine was expected"):
                await transport.send(GetObject(key="k", length=5, whole=whole, if_match="mine"))

    async def test_an_answer_that_describes_no_object(self, open_transport: OpenTransport) -> None:
        answer = canned(200, b"<html>", "Content-Type: text/html")
        async with CannedPeer(answer) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            with pytest.raises(ServerFault, match="describes no object"):
                await transport.send(GetObject(key="k", length=6, if_match="mine"))

    async def test_a_body_in_pieces_without_a_length(self, open_transport: OpenTransport) -> None:
        head = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "e"\r\n\r\n'
        pieces = b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
        async with CannedPeer(head + pieces) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            buffer, into = room(7)
            assert (await transport.send(GetObject(key="k", length=7, whole=True, into=into))).data == b"abcdefg"
            assert buffer[-1] == UNTOUCHED
            with pytest.raises(ServerFault, match="7 bytes; 8 were expected"):
                await transport.send(GetObject(key="k", length=8, whole=True))

    async def test_bodies_one_after_another_share_a_connection(self, open_transport: OpenTransport) -> None:
        answers = [canned(200, bytes([number]) * 70_000, 'ETag: "e"') for number in range(4)]
        async with (
            CannedPeer(*answers, hang_up=False) as peer,
            open_transport(endpoint_url=peer.endpoint_url) as transport,
        ):
            for number in range(4):
                got = await transport.send(GetObject(key="k", length=70_000, whole=True))
                assert got.data == bytes([number]) * 70_000
            assert peer.connections_total == 1

    @pytest.mark.parametrize("sent", [0, 10, 40_000])
    async def test_a_body_that_ends_early_or_stalls(self, open_transport: OpenTransport, sent: int) -> None:
        begun = b'HTTP/1.1 200 OK\r\nContent-Length: 70000\r\nETag: "e"\r\n\r\n' + bytes(sent)
        # A busy machine may be slow to hang up, which must not count as a stall.
        for hang_up, expected, retry in ((True, ConnectionLost, RetryPolicy()), (False, Stalled, IMPATIENT)):
            async with (
                CannedPeer(begun, hang_up=hang_up) as peer,
                open_transport(endpoint_url=peer.endpoint_url, retry=retry) as transport,
            ):
                buffer, into = room(70_000)
                with pytest.raises(expected, match="GetObject"):
                    await transport.send(GetObject(key="k", length=70_000, whole=True, into=into))
                assert buffer[sent:] == bytes([UNTOUCHED]) * (70_001 - sent)

    async def test_cancelled_in_mid_body_nothing_is_received_any_more(self, open_transport: OpenTransport) -> None:
        begun, go_on, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 70000\r\nETag: "e"\r\n\r\n' + bytes(100))
            await writer.drain()
            begun.set()
            await go_on.wait()
            try:
                if not writer.is_closing():  # uvloop refuses to write to a connection that the peer has reset
                    writer.write(bytes(69_900))
                await reader.read()
            finally:
                ended.set()

        async with ActingPeer(serve) as peer, open_transport(endpoint_url=peer.endpoint_url) as transport:
            buffer, into = room(70_000)
            getting = asyncio.create_task(transport.send(GetObject(key="k", length=70_000, whole=True, into=into)))
            await begun.wait()
            getting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting
            go_on.set()
            await ended.wait()
            assert buffer[100:] == bytes([UNTOUCHED]) * 69_901
