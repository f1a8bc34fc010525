"""What servers do to connections, whatever is sent: every request ends, and says how."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import anyio
import pytest

from asyncsink.errors import (
    AccessDenied,
    ConfigError,
    ConnectionLost,
    EntityTooLarge,
    PermanentError,
    ServerFault,
    Stalled,
)
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import KIB, MIB, RetryPolicy
from asyncsink.s3.http import connection as connection_module
from asyncsink.s3.http import lane as lane_module
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CompletedPart,
    CompleteMultipartUpload,
    DeleteObject,
    Done,
    HeadObject,
    ObjectStored,
    PutObject,
)
from asyncsink.s3.pacing import Pacer
from asyncsink.testing.peers import ActingPeer, CannedPeer, SilentPeer, canned
from asyncsink.testing.transport_kit import IMPATIENT
from tests.support.requests import DENIED, STORED, Bodies, Open, read_request, until

pytestmark = pytest.mark.anyio
PUT = PutObject(key="k", body=b"x" * 1000)
LARGE = 32 * MIB
PART = CompletedPart(part_number=1, etag="0" * 32)
COMPLETE = CompleteMultipartUpload(key="k", upload_id="u", parts=(PART,), size_bytes=1)


async def test_connections_are_kept(wire: Open, bodies: Bodies) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(5):
            assert (await transport.send(bodies(1000))).etag == "e"
        assert peer.connections_total == 1


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n'
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nETag: t\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + STORED,
        b'HTTP/1.1 103 Early Hints\r\nETag: "wrong"\r\nLink: x\r\n\r\n' * 3 + STORED,
        b'HTTP/1.1 204 No Content\r\netag:"e"\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nETAG: "e"\r\nContent-Length: 5\r\n\r\nhello',
        b'HTTP/1.1 200 OK\r\nEmpty:\r\nETag: "e"\r\nContent-Length: 0\r\n\r\n',
    ],
    ids=["chunked", "continue", "early hints", "no content", "body", "empty header"],
)
async def test_answers_of_all_forms_keep_the_connection(wire: Open, bodies: Bodies, answer: bytes) -> None:
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(3):
            assert (await transport.send(bodies(1000))).etag == "e"
        assert peer.connections_total == 1


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\n\r\nuntil the end',
        b'HTTP/1.0 200 OK\r\nETag: "e"\r\nContent-Length: 3\r\n\r\nabc',
        STORED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        STORED + b"garbage",
    ],
    ids=["close", "no length", "HTTP/1.0", "two answers", "garbage behind"],
)
@pytest.mark.parametrize("hang_up", [True, False])
async def test_answers_that_end_the_connection(wire: Open, bodies: Bodies, answer: bytes, hang_up: bool) -> None:
    hang_up = hang_up or b"until the end" in answer
    async with CannedPeer(answer, hang_up=hang_up) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(2):
            assert (await transport.send(bodies(1000))).etag == "e"
        assert peer.connections_total == 2


async def test_a_head_has_no_body(wire: Open) -> None:
    answer = b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nETag: "e"\r\n\r\n'
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(3):
            assert (await transport.send(HeadObject(key="k"))).size_bytes == 1000
        assert peer.connections_total == 1
    async with CannedPeer(answer + b"a body", hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        for _ in range(3):
            assert (await transport.send(HeadObject(key="k"))).size_bytes == 1000
        assert peer.connections_total == 3


async def test_a_connection_that_went_stale_is_replaced_once(wire: Open, bodies: Bodies) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.readexactly(1)  # the second request comes, and finds nobody

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        for number in range(1, 4):
            assert (await transport.send(bodies(1000))).etag == "e"
            assert peer.connections_total == number


async def test_a_half_answer_on_a_kept_connection_is_not_repeated(wire: Open, bodies: Bodies) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await read_request(reader)
        writer.write(b"HTTP/1.1 20")
        await writer.drain()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(bodies(1000))
        with pytest.raises(ConnectionLost, match="middle of its answer"):
            await transport.send(bodies(1000))
        assert peer.connections_total == 1


async def test_idle_connections_are_dropped(wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "KEEP_ALIVE_SECONDS", 0.05)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.read(1)
        gone.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        await transport.send(bodies(1000))
        await gone.wait()
        await transport.send(bodies(1000))
        assert peer.connections_total == 2


async def test_a_farewell_on_an_idle_connection_is_no_answer(wire: Open, bodies: Bodies) -> None:
    said = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(canned(408, b""))
        await writer.drain()
        try:
            await reader.read(1)  # the client closes, or resets what it did not read
        finally:
            said.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(bodies(1000))
        await said.wait()
        await transport.send(bodies(1000))
        assert peer.connections_total == 2


@pytest.mark.parametrize("reset", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("read_first_bytes", [1, 3 * MIB])
async def test_an_early_refusal_is_read(wire: Open, bodies: Bodies, reset: bool, read_first_bytes: int) -> None:
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        await reader.readuntil(b"\r\n\r\n")
        taken += len(await reader.readexactly(read_first_bytes))
        writer.write(DENIED)
        await writer.drain()
        if reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        while data := await reader.read(65536):
            taken += len(data)

    # What the kernel takes for the peer counts as sent: on some machines that is as much as the whole body.
    async with ActingPeer(serve, receive_bytes=MIB) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(AccessDenied):
            await transport.send(bodies(LARGE))
        if reset:
            return
        await transport.aclose()
    assert taken < LARGE // 2


async def test_success_before_the_whole_body_is_none(wire: Open, bodies: Bodies) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(STORED)
        await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ServerFault, match="before it had the whole body"):
            await transport.send(bodies(LARGE))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, ServerFault),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, ServerFault),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 40, ServerFault),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + bytes(3_000_000), ServerFault),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 300_000, ServerFault),
        (b"HTTP/1.1 500 Oh\r\n\r\n" + b"x" * 2_000_000, ServerFault),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nBad Header: x\r\n\r\n", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", ConnectionLost),
        (b"\x16\x03\x01\x02\x00", ConnectionLost),
        (b"HTTP/2 200\r\n\r\n", ConnectionLost),
    ],
)
async def test_broken_and_oversized_answers(wire: Open, bodies: Bodies, answer: bytes, error: type[Exception]) -> None:
    async with CannedPeer(answer, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(error, match=bodies.where):
            await transport.send(bodies(1000))


@pytest.mark.parametrize("length", [1000, LARGE])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", STORED[:20], STORED[:-2]])
async def test_a_stall_in_every_phase(wire: Open, bodies: Bodies, length: int, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        with pytest.raises(Stalled, match=r"no byte moved for 0\.2 s"):
            await transport.send(bodies(length))


async def test_slow_progress_is_no_stall(wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the kernel takes no more for far longer than stall_seconds, since only a little leaves at a time."""
    monkeypatch.setattr(connection_module, "NEAR_SEND_BUFFER_BYTES", 2 * MIB)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        await reader.readuntil(b"\r\n\r\n")
        for _ in range(80):
            await reader.readexactly(16 * KIB)
            await asyncio.sleep(0.02)
        await reader.readexactly(5 * MIB - 80 * 16 * KIB)
        # More than the least rate of an answer, also where a busy machine sleeps longer.
        for start in range(0, len(STORED), 8):
            writer.write(STORED[start : start + 8])
            await asyncio.sleep(0.01)

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, RetryPolicy(stall_seconds=1.0)) as transport:
        assert (await transport.send(bodies(5 * MIB))).etag == "e"


async def test_one_connection_sends_a_bounded_number_of_bytes_in_a_turn(
    wire: Open, bodies: Bodies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much the kernel takes: between two turns an early answer is read, and other connections send."""
    bound = 64 * KIB
    for name in ("PUSH_BYTES_MAX", "PLAIN_SLICE_BYTES"):
        monkeypatch.setattr(connection_module, name, bound)
    push, sent = connection_module.Connection._push, list[int]()

    def counted(self: Any) -> None:
        before = sum(map(len, self._out))
        push(self)
        sent.append(before - sum(map(len, self._out)))

    monkeypatch.setattr(connection_module.Connection, "_push", counted)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        assert (await transport.send(bodies(4 * MIB))).etag == "e"
    assert max(sent) <= bound
    # The first bytes leave with the head, outside of `_push`.
    assert 4 * MIB - bound <= sum(sent) <= 4 * MIB + 2 * KIB


@pytest.mark.parametrize("patient", [False, True])
async def test_an_answer_that_trickles_for_ever_is_a_stall(wire: Open, patient: bool) -> None:
    """A byte now and then keeps no request alive, but for the one that S3 itself keeps alive so."""
    trickle = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 20
    ending = b"<R><ETag>e</ETag></R>"
    trickle += b"%x\r\n%s\r\n0\r\n\r\n" % (len(ending), ending)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        for position in range(0, len(trickle), 2):
            writer.write(trickle[position : position + 2])
            await asyncio.sleep(0.04)

    policy = RetryPolicy(stall_seconds=0.5, complete_seconds=5)
    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, policy) as transport:
        if patient:
            assert await transport.send(COMPLETE) == ObjectStored(etag="e")
        else:
            with pytest.raises(Stalled, match="bytes a second"):
                await transport.send(PUT)


async def test_a_cancelled_request_leaves_nothing_behind(wire: Open, bodies: Bodies) -> None:
    held, ended = asyncio.Event(), asyncio.Event()
    taken = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        try:
            await reader.readuntil(b"\r\n\r\n")
            held.set()
            await asyncio.sleep(0)
            while data := await reader.read(65536):
                taken += len(data)
                await asyncio.sleep(0.001)
        finally:
            ended.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(bodies(LARGE)))
        await held.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await ended.wait()
        assert taken < LARGE


async def test_cancelled_while_connecting_and_while_waiting_for_the_answer(wire: Open) -> None:
    async with SilentPeer() as peer, wire(peer.endpoint_url) as transport:
        sending = [asyncio.create_task(transport.send(PUT)) for _ in range(12)]
        await asyncio.sleep(0)
        sending[0].cancel()
        await asyncio.sleep(0.05)
        for task in sending:
            task.cancel()
        assert {type(each) for each in await asyncio.gather(*sending, return_exceptions=True)} == {
            asyncio.CancelledError
        }


async def test_closing_ends_what_is_under_way(wire: Open, bodies: Bodies) -> None:
    async with SilentPeer(reading=True) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(bodies(LARGE)))
        await asyncio.sleep(0.05)
        await transport.aclose()
        with pytest.raises(ConnectionLost, match="closed"):
            await sending
        with pytest.raises(ConnectionLost, match="closed"):
            await transport.send(bodies(1000))


async def test_other_operations_are_refused(wire: Open) -> None:
    async with wire("http://127.0.0.1:1") as transport:
        with pytest.raises(TypeError, match="DeleteObject"):
            await transport.send(DeleteObject(key="k"))


async def test_a_size_that_is_refused(wire: Open) -> None:
    async with CannedPeer(canned(413, b"<html>")) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(EntityTooLarge):
            await transport.send(PUT)


async def test_a_redirect_names_the_region(wire: Open) -> None:
    answer = canned(301, b"", "x-amz-bucket-region: eu-west-3")
    async with CannedPeer(answer) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ConfigError, match="region='eu-west-3'"):
            await transport.send(HeadObject(key="k"))


async def test_an_unknown_refusal_is_permanent(wire: Open) -> None:
    date = format_datetime(datetime.now(UTC), usegmt=True)
    async with CannedPeer(canned(400, b"", f"Date: {date}")) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(PermanentError, match="HTTP 400"):
            await transport.send(HeadObject(key="k"))


@pytest.mark.parametrize("where", ["head", "body", "answer"])
async def test_a_reset(wire: Open, bodies: Bodies, where: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if where == "answer":
            await read_request(reader)
        elif where == "body":
            await reader.readexactly(MIB)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ConnectionLost, match=f"{bodies.where} failed") as caught:
            await transport.send(bodies(LARGE))
        assert caught.value.operation in ("UploadPart", "PutObject")
        assert peer.connections_total == 1


async def test_a_server_that_says_nothing_and_hangs_up(wire: Open, bodies: Bodies) -> None:
    async with CannedPeer(b"") as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ConnectionLost, match="hung up before it answered"):
            await transport.send(bodies(MIB))
        assert peer.connections_total == 1


@pytest.mark.parametrize("reading", [True, False])
async def test_a_server_that_never_answers(wire: Open, bodies: Bodies, reading: bool) -> None:
    async with SilentPeer(reading=reading) as peer, wire(peer.endpoint_url, IMPATIENT) as transport:
        for _ in range(2):
            with pytest.raises(Stalled, match=r"no byte moved for 0\.2 s"):
                await transport.send(bodies(LARGE))


@pytest.mark.parametrize("hang_up", [True, False])
async def test_a_connection_with_half_a_request_is_not_used_again(wire: Open, bodies: Bodies, hang_up: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(DENIED)
        await writer.drain()
        if not hang_up:
            await asyncio.Event().wait()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        for number in (1, 2):
            with pytest.raises(AccessDenied):
                await transport.send(bodies(LARGE))
            assert peer.connections_total == number


async def test_a_late_second_answer_is_not_taken_for_the_next_one(wire: Open) -> None:
    """It may come at any moment after the first, also when the next request is about to begin."""
    waiting, spoken = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(canned(404, b""))
        await waiting.wait()
        if not spoken.is_set():
            writer.write(canned(200, b"", "Content-Length: 5")[:-2].replace(b"Content-Length: 0\r\n", b"") + b"\r\n")
            await writer.drain()
            spoken.set()
        await reader.read()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(PermanentError):
            await transport.send(HeadObject(key="k"))
        # The lane is held up: it looks at its connections and at what it is to send in the same moment.
        [lane] = transport._lanes.small
        held, release = threading.Event(), threading.Event()

        def hold() -> None:
            held.set()
            assert release.wait(30)

        lane.call(hold)
        await asyncio.to_thread(held.wait, 30)
        waiting.set()
        await spoken.wait()
        sending = asyncio.create_task(transport.send(HeadObject(key="k")))
        await asyncio.sleep(0)
        release.set()
        with pytest.raises(PermanentError):
            await sending
        assert peer.connections_total == 2


async def test_cancelling_by_a_scope_and_by_a_timeout(wire: Open, bodies: Bodies) -> None:
    async with SilentPeer(reading=True) as peer, wire(peer.endpoint_url) as transport:
        with anyio.move_on_after(0.05) as scope:
            await transport.send(bodies(LARGE))
        assert scope.cancelled_caught
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await transport.send(bodies(LARGE))


async def test_what_waits_for_its_turn_can_be_cancelled_and_is_never_sent(wire: Open, bodies: Bodies) -> None:
    pacer = Pacer(1)
    async with SilentPeer() as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        first = asyncio.create_task(transport.send(bodies(LARGE)))
        # Lanes ask for tokens in their own threads: the first has its one before there are others.
        await until(lambda: peer.connections_total > 0)
        second, third = [asyncio.create_task(transport.send(bodies(LARGE))) for _ in range(2)]
        await until(lambda: bool(pacer._waiting))
        second.cancel()
        await asyncio.wait([second], timeout=30)
        assert second.cancelled(), "it waits for the one before it"
        for task in (third, first):
            task.cancel()
        ends = await asyncio.gather(first, third, return_exceptions=True)
        assert [type(end) for end in ends] == [asyncio.CancelledError] * 2
        assert peer.connections_total == 1


async def test_an_abort_waits_for_no_token(wire: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, _ = await read_request(reader)
        if head.startswith(b"DELETE"):
            writer.write(canned(204, b""))
        await reader.read()

    pacer = Pacer(1)
    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, pacer=pacer) as transport:
        putting = asyncio.create_task(transport.send(PUT))
        await until(lambda: pacer.in_flight == 1)
        assert await transport.send(AbortMultipartUpload(key="k", upload_id="u")) == Done()
        putting.cancel()
        await asyncio.wait([putting])
        assert pacer.traffic.requests == 2


async def test_closing_ends_what_waits_too(wire: Open, bodies: Bodies) -> None:
    async with SilentPeer(reading=True) as peer, wire(peer.endpoint_url, pacer=Pacer(1)) as transport:
        sending = [asyncio.create_task(transport.send(bodies(LARGE))) for _ in range(3)]
        await until(lambda: peer.connections_total > 0)
        await transport.aclose()
        for task in sending:
            with pytest.raises(ConnectionLost, match="the transport was closed"):
                await task
        await transport.aclose()


async def test_no_more_connections_than_requests_in_flight(wire: Open, bodies: Bodies) -> None:
    under_way = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while True:
            await reader.readuntil(b"\r\n\r\n")
            under_way += 1
            most = max(most, under_way)
            await reader.readexactly(MIB)
            under_way -= 1
            writer.write(STORED)

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, pacer=Pacer(3)) as transport:
        async with asyncio.TaskGroup() as group:
            for _ in range(24):
                group.create_task(transport.send(bodies(MIB)))
        assert 2 <= most <= 3
        assert peer.connections_total <= 3 * max(1, len(transport._lanes.large))


@pytest.mark.parametrize("kept", [1, 4])
async def test_connections_that_rest_are_closed_down_to_a_bound(wire: Open, bodies: Bodies, kept: int) -> None:
    """However many lanes there are: descriptors are counted over all of them."""
    open_now = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal open_now
        open_now += 1
        try:
            while True:
                await read_request(reader)
                await asyncio.sleep(0.01)
                writer.write(STORED)
        finally:
            open_now -= 1

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url, pacer=Pacer(24)) as transport:

        async def many() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(48):
                    group.create_task(transport.send(bodies(10)))

        await many()
        assert open_now >= 8
        transport.bound(kept)
        await until(lambda: open_now <= max(kept, len(transport._lanes.large)))
        await many()
        await until(lambda: open_now <= max(kept, len(transport._lanes.large)))
        assert repr(transport).endswith(" lanes>")


async def test_lanes_end_with_the_thread_of_their_event_loop(
    bodies: Bodies, provider: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a loop that ended without closing its transport, no thread stays."""
    monkeypatch.setattr(lane_module, "KEEP_ALIVE_SECONDS", 0.05)
    lanes: list[Any] = []
    async with CannedPeer(STORED, hang_up=False) as peer:

        async def careless() -> None:
            transport = await HttpTransport.open(
                S3Target(bucket="bkt", endpoint_url=peer.endpoint_url),
                RetryPolicy(),
                region="x",
                credentials=provider("AKID", "secret"),
                pacer=Pacer(4),
            )
            await transport.send(bodies(10))
            lanes.extend([*transport._lanes.small, *transport._lanes.large])

        thread = threading.Thread(target=lambda: asyncio.run(careless()))
        thread.start()
        await asyncio.to_thread(thread.join)
        await asyncio.to_thread(lanes[-1].thread.join, 30)
        assert not lanes[-1].thread.is_alive()
