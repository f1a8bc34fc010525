"""Bodies that lanes read: the bytes, their checksums, what the answer is compared with, and files that misbehave."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from asyncsink.errors import (
    ClockSkew,
    ConfigError,
    ConnectionLost,
    DestinationFull,
    ExpiredCredentials,
    IntegrityError,
    InvalidKey,
    SourceChanged,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Checksum, SourceFile
from asyncsink.options.settings import MIB, Secret
from asyncsink.s3.http import client as client_module
from asyncsink.s3.http import lane as lane_module
from asyncsink.s3.operations import ObjectAttributes, ObjectStored, PutObject, PutObjectFrom
from asyncsink.s3.pacing import Pacer
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import ActingPeer, CannedPeer, canned
from tests.support.requests import STORED, Bodies, Open, header, part, read_request, until, whole

pytestmark = pytest.mark.anyio
SIZE = 32 * MIB


def opened(path: Path) -> OpenSource:
    status = path.stat()
    return OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns))


async def test_the_bytes_their_checksum_and_the_answer(wire: Open, file: OpenSource) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            requests.append(await read_request(reader))
            writer.write(canned(200, b"", 'ETag: "e"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA="))

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        for offset, length in ((5 * MIB - 7, 5 * MIB), (0, 1), (20 * MIB, 12 * MIB), (SIZE, 0)):
            stored = await transport.send(part(file, offset, length))
            expected = bytes(file.read_part(offset, length))
            head, body = requests.pop()
            assert body == expected
            assert head.startswith(b"PUT /bkt/k?partNumber=3&uploadId=u HTTP/1.1\r\n")
            assert stored.sent == checksum_of(expected, "CRC64NVME")
            assert header(head, b"x-amz-checksum-crc64nvme").decode() == stored.sent.value
            assert (stored.etag, stored.checksum) == ("e", Checksum("CRC64NVME", "AAAAAAAAAAA="))
        assert peer.connections_total == 1
        assert len(transport._large) == 1, "one after another needs one lane"


@pytest.mark.parametrize("algorithm", ["CRC32C", "CRC32", "SHA256", "MD5", None])
async def test_every_algorithm(wire: Open, file: OpenSource, algorithm: Any) -> None:
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        stored = await transport.send(part(file, 0, 5 * MIB, algorithm=algorithm))
    if algorithm is None:
        assert stored.sent is None
        assert b"checksum" not in peer.heads[0]
    else:
        assert stored.sent == checksum_of(file.read_part(0, 5 * MIB), algorithm)
        assert stored.sent.value.encode() in peer.heads[0]


@pytest.mark.parametrize("make", [part, whole])
async def test_md5_in_the_header_and_another_checksum_in_the_answer(wire: Open, file: OpenSource, make: Any) -> None:
    request = part(file, 0, MIB, md5_instead=True) if make is part else whole(file, MIB, md5_instead=True)
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        stored = await transport.send(request)
    body = file.read_part(0, MIB)
    assert stored.sent == checksum_of(body, "CRC64NVME")
    assert header(peer.heads[0], b"content-md5").decode() == checksum_of(body, "MD5").value
    assert b"x-amz-checksum" not in peer.heads[0]


async def test_a_whole_object_with_its_attributes(wire: Open, file: OpenSource) -> None:
    attributes = ObjectAttributes(content_type="text/x", metadata=(("a", "b"),), storage_class="STANDARD_IA")
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(whole(file, 3 * MIB, key="a b", attributes=attributes, only_new=True, write_token="t"))
    head = peer.heads[0]
    assert head.startswith(b"PUT /bkt/a%20b HTTP/1.1\r\n")
    assert header(head, b"content-type") == b"text/x"
    assert header(head, b"x-amz-meta-a") == b"b"
    assert header(head, b"x-amz-storage-class") == b"STANDARD_IA"
    assert header(head, b"if-none-match") == b"*"


async def test_a_customer_key_is_sent_and_not_shown(wire: Open, file: OpenSource) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    request = part(file, 0, 1, sse_customer_key=Secret(key))
    assert "0123456789" not in repr(request)
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(request)
        shown = repr([transport, transport._large, [*transport._large[0]._connections], transport._addresses])
    assert "secret" not in shown
    assert base64.b64decode(header(peer.heads[0], b"x-amz-server-side-encryption-customer-key")) == key


async def test_the_local_copy_is_given_the_bytes_before_they_are_sent(wire: Open, file: OpenSource) -> None:
    seen: list[tuple[bytes, int]] = []
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:

        def local(body: memoryview) -> None:
            seen.append((bytes(body), len(peer.heads)))

        await transport.send(part(file, MIB, 2 * MIB, local=local))
        assert seen == [(bytes(file.read_part(MIB, 2 * MIB)), 0)]

        def full(body: memoryview) -> None:
            raise DestinationFull("the disk is full")

        with pytest.raises(DestinationFull, match="the disk is full"):
            await transport.send(part(file, 0, MIB, local=full))
        assert len(peer.heads) == 1, "nothing was sent"
        await transport.send(part(file, 0, MIB))


async def test_an_answer_is_confirmed_while_the_bytes_are_at_hand(wire: Open, file: OpenSource) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        seen = []

        def confirm(stored: ObjectStored, body: memoryview, checksum: Checksum | None) -> None:
            seen.append((stored.etag, bytes(body), checksum))
            raise IntegrityError("other bytes", expected="a", actual="b")

        with pytest.raises(IntegrityError, match="other bytes"):
            await transport.send(part(file, MIB, MIB, confirm=confirm))
        body = bytes(file.read_part(MIB, MIB))
        assert seen == [("e", body, checksum_of(body, "CRC64NVME"))]
        await transport.send(part(file, 0, MIB))
        assert peer.connections_total == 1


async def test_buffers_are_bounded_and_used_again(wire: Open, file: OpenSource) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url, pacer=Pacer(3)) as transport:
        async with asyncio.TaskGroup() as group:
            for number in range(24):
                group.create_task(transport.send(part(file, number * MIB, MIB)))
        lanes = transport._large
        kept = [buffer for lane in lanes for buffer in lane._buffers]
        assert {len(buffer) for buffer in kept} == {MIB}
        assert len(kept) <= 3 * len(lanes)
        for _ in range(5):
            await transport.send(part(file, 0, 2 * MIB))
        assert sum(len(buffer) for lane in lanes for buffer in lane._buffers) <= 3 * len(lanes) * MIB + 2 * MIB


async def test_idle_lanes_give_connections_and_buffers_back(
    wire: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lane_module, "KEEP_ALIVE_SECONDS", 0.05)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.read(1)
        gone.set()

    async with ActingPeer(serve) as peer, wire(peer.endpoint_url) as transport:
        await transport.send(part(file, 0, MIB))
        await gone.wait()
        [lane] = transport._large
        await until(lambda: not lane._buffers)
        assert repr(lane) == "<Lane asyncsink-large-0: 0 under way, 0 connections>"
        await transport.send(part(file, 0, MIB))
        assert peer.connections_total == 2


async def test_keys_and_headers_that_cannot_be_sent(wire: Open, bodies: Bodies, file: OpenSource) -> None:
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        request: Any
        for request in (part(file, 0, 1, key="\udc80"), PutObject(key="\udc80", body=b"x")):
            with pytest.raises(InvalidKey):
                await transport.send(request)
        attributes = ObjectAttributes(metadata=(("a", "ä"),))
        for request in (whole(file, 1, attributes=attributes), PutObject(key="k", body=b"x", attributes=attributes)):
            with pytest.raises(ConfigError, match="metadata"):
                await transport.send(request)
        assert not peer.heads
        await transport.send(bodies(1))


async def test_expired_credentials_are_asked_for_again(wire: Open, bodies: Bodies, keys: Any) -> None:
    asked = 0

    async def credentials() -> Any:
        nonlocal asked
        asked += 1
        return keys(access_key_id=f"AKID{asked}")

    expired = canned(400, b"<Error><Code>ExpiredToken</Code></Error>")
    async with (
        CannedPeer(expired, STORED, hang_up=False) as peer,
        wire(peer.endpoint_url, credentials=credentials) as transport,
    ):
        with pytest.raises(ExpiredCredentials):
            await transport.send(bodies(1))
        await transport.send(bodies(1))
        assert [b"AKID1/" in peer.heads[0], b"AKID2/" in peer.heads[1]] == [True, True]
        assert peer.connections_total == 1


async def test_a_wrong_clock_is_corrected(wire: Open, bodies: Bodies) -> None:
    then = datetime.now(UTC) + timedelta(days=400)
    skewed = canned(
        403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", f"Date: {format_datetime(then, usegmt=True)}"
    )
    async with CannedPeer(skewed, STORED, hang_up=False) as peer, wire(peer.endpoint_url) as transport:
        with pytest.raises(ClockSkew):
            await transport.send(bodies(1))
        await transport.send(bodies(1))
        assert header(peer.heads[1], b"x-amz-date")[:6] == then.strftime("%Y%m").encode()


# -- files that misbehave -------------------------------------------------------------------------------------------


class SlowSource:
    """A source whose reads take until `release` is set."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()
        self.reads = 0
        self.reading = False

    def read_part(self, offset: int, length: int, into: Any = None) -> None:
        """Wait."""
        self.reads += 1
        self.reading = True
        self.entered.set()
        assert self.release.wait(60)
        self.reading = False


@pytest.mark.parametrize("length", [1, 20 * MIB])
@pytest.mark.parametrize("make", ["part", "whole"])
async def test_a_source_is_not_let_go_of_while_it_is_read(wire: Open, make: str, length: int) -> None:
    source = SlowSource()
    request = part(source, 0, length) if make == "part" else whole(source, length)
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(request))
        await asyncio.to_thread(source.entered.wait)
        for _ in range(3):
            sending.cancel()
            await asyncio.sleep(0.01)
            assert not sending.done()
        source.release.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert not source.reading
        assert source.reads == 1, "the other pieces are not read any more"
        assert not peer.heads


async def test_a_source_that_hangs_holds_up_its_own_lane_only(wire: Open, file: OpenSource) -> None:
    """Even where every token that there is was taken by parts of that lane."""
    source = SlowSource()
    async with CannedPeer(STORED, hang_up=False) as peer, wire(peer.endpoint_url, pacer=Pacer(2)) as transport:
        hanging = [asyncio.create_task(transport.send(part(source, 0, MIB))) for _ in range(2)]
        await asyncio.to_thread(source.entered.wait)
        async with asyncio.timeout(30):
            others = [part(file, number * MIB, MIB) for number in range(4)]
            await asyncio.gather(*(transport.send(each) for each in others), transport.send(whole(file, MIB)))
        assert not any(task.done() for task in hanging)
        source.release.set()
        await asyncio.gather(*hanging)
        await until(lambda: transport._shared.pacer.in_flight == 0)


async def test_closing_does_not_wait_for_ever_for_a_file_system(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "JOIN_SECONDS_MAX", 0.05)
    source = SlowSource()
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(part(source, 0, MIB)))
        await asyncio.to_thread(source.entered.wait)
        [lane] = transport._large
        await transport.aclose()
        assert lane.thread.is_alive()
        source.release.set()
        with pytest.raises(ConnectionLost, match="the transport was closed"):
            await sending
        await asyncio.to_thread(lane.thread.join, 30)
        assert not peer.heads


async def test_a_source_that_was_cut_while_it_was_read(wire: Open, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 * MIB))
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        with opened(path) as source:
            os.truncate(path, 9 * MIB)
            with pytest.raises(SourceChanged, match="truncated"):
                await transport.send(part(source, 0, 20 * MIB))
            assert not peer.heads
            await transport.send(part(source, 0, MIB))


async def test_a_whole_file_that_changed_since_it_was_found_is_not_sent(wire: Open, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(MIB))
    status = path.stat()
    found = SourceFile(str(path), status.st_size, status.st_mtime_ns)
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        put = PutObjectFrom(key="k", source=partial(OpenSource, found), length=MIB, algorithm="CRC64NVME")
        await transport.send(put)
        os.utime(path, ns=(1, 1))
        with pytest.raises(SourceChanged):
            await transport.send(put)
    assert len(peer.heads) == 1
