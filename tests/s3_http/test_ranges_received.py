"""Ranges that a thread receives: the bytes come in order, and whatever servers and callers do ends and says how."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from typing import Any
from urllib.parse import urlsplit

import pytest

from asyncsink.errors import (
    AsyncSinkError,
    ConnectionLost,
    DestinationFull,
    PermanentError,
    PreconditionFailed,
    ServerFault,
    Stalled,
    Throttled,
)
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.get_object import GetObjectTo, ObjectReceived
from asyncsink.s3.http.reading import RANGE_PIECE_BYTES
from asyncsink.s3.pacing import Pacer
from asyncsink.testing.peers import ActingPeer, CannedPeer, canned
from asyncsink.testing.transport_kit import IMPATIENT
from tests.support.requests import Open, until

pytestmark = pytest.mark.anyio
# The same in every worker: pieces of it name tests.
DATA = random.Random(1).randbytes(3 * MIB + 17)


class Taken:
    """A taker that keeps what it was given, and who gave it."""

    def __init__(self, failing_at: int = -1) -> None:
        self.data = bytearray()
        self.pieces: list[int] = []
        self.ended: list[ObjectReceived] = []
        self.threads: set[str] = set()
        self._failing_at = failing_at

    def take(self, position: int, piece: memoryview) -> None:
        if not position:
            self.data.clear()
        assert position == len(self.data)
        if position >= self._failing_at >= 0:
            raise DestinationFull("no room")
        self.data += piece
        self.pieces.append(len(piece))
        self.threads.add(threading.current_thread().name)

    def end(self, answer: ObjectReceived) -> None:
        self.ended.append(answer)


def get(taker: Taken, offset: int = 0, length: int = len(DATA)) -> GetObjectTo:
    return GetObjectTo(key="k", offset=offset, length=length, taker=taker, if_match="e")


def part(data: bytes, offset: int = 0) -> bytes:
    told = f"Content-Range: bytes {offset}-{offset + len(data) - 1}/99999999"
    return canned(206, data, told, 'ETag: "e"')


async def test_bytes_are_given_away_in_order_by_a_thread(wire: Open) -> None:
    async with CannedPeer(part(DATA), part(b"12", 7), hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        first, second = Taken(), Taken()
        answer = await transport.send(get(first))
        assert (answer.length, answer.etag) == (len(DATA), "e")
        await transport.send(get(second, 7, 2))
        assert (first.data, second.data) == (DATA, b"12")
        assert [each.length for each in first.ended + second.ended] == [len(DATA), 2]
        assert max(first.pieces) <= RANGE_PIECE_BYTES
        assert all(name.startswith("asyncsink-large") for name in first.threads)
        assert peer.connections_total == 1, "the connection serves again"
        assert b"range: bytes=7-8\r\n" in peer.heads[1]
        assert b'if-match: "e"\r\n' in peer.heads[1]


async def test_a_body_in_pieces_of_the_servers(wire: Open) -> None:
    head = b'HTTP/1.1 206 Partial\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-6/9\r\nETag: "e"\r\n\r\n'
    answer = head + b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n"
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        taker = Taken()
        assert (await transport.send(get(taker, 0, 7))).length == 7
        assert taker.data == b"abcdefg"
        with pytest.raises(ServerFault, match="range from 0 was asked for"):
            await transport.send(get(Taken(), 0, 8))
        with pytest.raises(ServerFault, match="more bytes came than were asked for"):
            await transport.send(get(Taken(), 0, 6))
        assert peer.connections_total == 1


@pytest.mark.parametrize("sent", [0, 10, RANGE_PIECE_BYTES + 10])
@pytest.mark.parametrize(("hang_up", "expected"), [(True, ConnectionLost), (False, Stalled)])
async def test_a_body_that_ends_early_or_stalls(
    wire: Open, sent: int, hang_up: bool, expected: type[AsyncSinkError]
) -> None:
    begun = part(DATA)[: -len(DATA)] + DATA[:sent]
    async with CannedPeer(begun, hang_up=hang_up) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        taker = Taken()
        with pytest.raises(expected, match="GetObject of s3://bkt/k failed"):
            await transport.send(get(taker))
        assert not taker.ended
        assert DATA.startswith(taker.data)


async def test_a_server_that_says_nothing(wire: Open) -> None:
    async with CannedPeer(b"", hang_up=False) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        with pytest.raises(Stalled, match=r"no byte moved for 0\.2 s"):
            await transport.send(get(Taken()))


async def test_slow_progress_is_no_stall(wire: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = part(b"x" * 400)
        writer.write(answer[:-400])
        for _ in range(20):
            await asyncio.sleep(0.1)
            writer.write(b"x" * 20)
        await reader.read()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, RetryPolicy(stall_seconds=1.0)) as transport:
        taker = Taken()
        await transport.send(get(taker, 0, 400))
        assert taker.data == b"x" * 400


@pytest.mark.parametrize("before", [100, RANGE_PIECE_BYTES + 100])
async def test_cancelled_in_mid_body_nothing_is_given_away_any_more(wire: Open, before: int) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(part(DATA)[: -len(DATA)] + DATA[:before])
        await writer.drain()
        begun.set()
        try:
            await reader.read()
        finally:
            ended.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        taker = Taken()
        receiving = asyncio.create_task(transport.send(get(taker)))
        await begun.wait()
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        there = len(taker.data)
        await ended.wait()
        assert len(taker.data) == there
        assert not taker.ended


async def test_a_taker_is_not_let_go_of_while_it_writes(wire: Open) -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(Taken):
        def take(self, position: int, piece: memoryview) -> None:
            entered.set()
            release.wait()
            super().take(position, piece)

    async with CannedPeer(part(DATA)) as peer, wire(peer.endpoint_url) as transport:
        taker = Slow()
        receiving = asyncio.create_task(transport.send(get(taker)))
        await asyncio.to_thread(entered.wait)
        for _ in range(3):
            receiving.cancel()
            await asyncio.sleep(0.01)
            assert not receiving.done()
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert len(taker.pieces) == 1, "no further piece is written"


@pytest.mark.parametrize("failing_at", [0, RANGE_PIECE_BYTES])
async def test_a_disk_that_is_full_ends_it(wire: Open, failing_at: int) -> None:
    async with CannedPeer(part(DATA), hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(DestinationFull, match="no room"):
            await transport.send(get(Taken(failing_at)))
        taker = Taken()
        await transport.send(get(taker))
        assert taker.data == DATA
        assert peer.connections_total == 2, "a connection with half an answer is not used again"


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (canned(200, DATA, 'ETag: "e"'), PermanentError, "whole object instead of the range"),
        (part(DATA[:10], 6), ServerFault, "range from 5 was asked for"),
        (canned(412, b"<Error><Code>PreconditionFailed</Code></Error>"), PreconditionFailed, "k"),
        (canned(503, b"<Error><Code>SlowDown</Code></Error>"), Throttled, "k"),
        (b"HTTP/1.1 503 Oh\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000), ServerFault, "longer than"),
        (b"\x16\x03\x01\x02\x00", ConnectionLost, "no HTTP answer"),
    ],
)
async def test_answers_that_are_not_the_range(
    wire: Open, answer: bytes, error: type[AsyncSinkError], message: str
) -> None:
    async with CannedPeer(answer) as peer, wire(peer.endpoint_url) as transport:
        taker = Taken()
        with pytest.raises(error, match=message):
            await transport.send(get(taker, 5, 10))
        assert not taker.ended


async def test_a_kept_connection_that_was_closed_is_replaced(wire: Open) -> None:
    async with CannedPeer(part(b"12")) as peer, wire(peer.endpoint_url) as transport:
        for number in (1, 2):
            taker = Taken()
            await transport.send(get(taker, 0, 2))
            assert (taker.data, peer.connections_total) == (b"12", number)


async def test_a_connection_that_the_server_is_about_to_close_is_not_used_again(wire: Open) -> None:
    closing = part(b"12").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    async with CannedPeer(closing, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for number in (1, 2):
            await transport.send(get(Taken(), 0, 2))
            assert peer.connections_total == number


async def test_closing_ends_what_is_under_way(wire: Open) -> None:
    async with CannedPeer(b"", hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        receiving = asyncio.create_task(transport.send(get(Taken())))
        await until(lambda: bool(peer.heads))
        await transport.aclose()
        with pytest.raises(ConnectionLost, match="the transport was closed"):
            await receiving


@pytest.mark.parametrize("kind", ["http", "https"])
async def test_ranges_of_a_real_server(
    wire: Open, s3: Any, bucket: str, seaweed: Any, provider: Any, authority: Any, tls_proxy: Any, kind: str
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=DATA)
    etag = s3.head_object(Bucket=bucket, Key="k")["ETag"].strip('"')
    async with contextlib.AsyncExitStack() as stack:
        url, ca_bundle = seaweed.endpoint_url, ""
        if kind == "https":
            server = urlsplit(url)
            proxy = tls_proxy(server.hostname, server.port, authority.server_context("localhost"))
            url, ca_bundle = (await stack.enter_async_context(proxy)).url, authority.path
        credentials = provider(seaweed.access_key_id, seaweed.secret_access_key)
        opened = wire(url, credentials=credentials, bucket=bucket, ca_bundle=ca_bundle, pacer=Pacer(3))
        transport = await stack.enter_async_context(opened)

        async def received(offset: int, length: int) -> bool:
            taker = Taken()
            wanted = GetObjectTo(key="k", offset=offset, length=length, taker=taker, if_match=etag)
            answer = await transport.send(wanted)
            return answer.etag == etag and taker.data == DATA[offset : offset + length]

        places = [(0, MIB), (MIB - 3, 2 * MIB + 5), (len(DATA) - 1, 1), (0, len(DATA))]
        assert all(await asyncio.gather(*(received(*each) for each in places)))
        with pytest.raises(PreconditionFailed):
            await transport.send(GetObjectTo(key="k", offset=0, length=1, taker=Taken(), if_match="0" * 32))
