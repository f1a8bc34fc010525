"""Sender threads: what they send, what they keep, and what they learn from answers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from asyncsink.config import MIB, Secret
from asyncsink.errors import (
    ClockSkew,
    ConfigError,
    ConnectionLost,
    DestinationFull,
    ExpiredCredentials,
    IntegrityError,
    InvalidKey,
)
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Checksum, SourceFile
from asyncsink.s3.operations import ObjectAttributes, ObjectStored
from asyncsink.s3.wire import sender_thread
from asyncsink.s3.wire.sender import ObjectToSend, PartToSend, SenderPool
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.faulty_peers import ActingPeer, CannedPeer
from asyncsink.testing.transport_kit import canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
PART = PartToSend(key="k", upload_id="u", part_number=3, algorithm="CRC64NVME")
SIZE = 32 * MIB
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Open = Callable[..., contextlib.AbstractAsyncContextManager[SenderPool]]


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


def open_source(path: Path) -> OpenSource:
    status = path.stat()
    return OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns))


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    return head, await reader.readexactly(int(header(head, b"content-length")))


def header(head: bytes, name: bytes) -> bytes:
    [value] = [line[len(name) + 1 :].strip() for line in head.split(b"\r\n") if line.lower().startswith(name + b":")]
    return value


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in a thread, or at the other end
        await asyncio.sleep(0.001)


async def test_the_bytes_their_checksum_and_the_answer(senders: Open, file: OpenSource) -> None:
    requests = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            requests.append(await read_request(reader))
            writer.write(canned(200, b"", 'ETag: "e"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA="))

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        for offset, length in ((5 * MIB - 7, 5 * MIB), (0, 1), (20 * MIB, 12 * MIB), (SIZE, 0)):
            response, checksum = await pool.send_part(file, offset, length, PART)
            expected = bytes(file.read_part(offset, length))
            head, body = requests.pop()
            assert body == expected
            assert head.startswith(b"PUT /bkt/k?partNumber=3&uploadId=u HTTP/1.1\r\n")
            assert checksum == checksum_of(expected, "CRC64NVME")
            assert header(head, b"x-amz-checksum-crc64nvme").decode() == checksum.value
            assert response == ObjectStored(etag="e", checksum=Checksum("CRC64NVME", "AAAAAAAAAAA="))
        assert peer.connections_total == 1
        assert len(pool._senders) == 1, "one after another needs one thread"


@pytest.mark.parametrize("algorithm", ["CRC32C", "CRC32", "SHA256", "MD5", None])
async def test_every_algorithm(senders: Open, file: OpenSource, algorithm: Any) -> None:
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        part = PartToSend(key="k", upload_id="u", part_number=1, algorithm=algorithm)
        _, checksum = await pool.send_part(file, 0, 5 * MIB, part)
    if algorithm is None:
        assert checksum is None
        assert b"checksum" not in peer.heads[0]
    else:
        assert checksum == checksum_of(file.read_part(0, 5 * MIB), algorithm)
        assert checksum is not None
        assert checksum.value.encode() in peer.heads[0]


async def test_a_whole_object_with_its_attributes(senders: Open, file: OpenSource) -> None:
    attributes = ObjectAttributes(content_type="text/x", metadata=(("a", "b"),), storage_class="STANDARD_IA")
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        whole = ObjectToSend(key="a b", algorithm="CRC64NVME", attributes=attributes)
        await pool.send_part(file, 0, 3 * MIB, whole)
    head = peer.heads[0]
    assert head.startswith(b"PUT /bkt/a%20b HTTP/1.1\r\n")
    assert header(head, b"content-type") == b"text/x"
    assert header(head, b"x-amz-meta-a") == b"b"
    assert header(head, b"x-amz-storage-class") == b"STANDARD_IA"


async def test_a_customer_key_is_sent_and_not_shown(senders: Open, file: OpenSource) -> None:
    key = b"0123456789abcdef0123456789abcdef"
    part = PartToSend(key="k", upload_id="u", part_number=1, sse_customer_key=Secret(key))
    assert "0123456789" not in repr(part)
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        await pool.send_part(file, 0, 1, part)
        assert "secret" not in repr(pool)
        assert "secret" not in repr(pool._senders)
    head = peer.heads[0]
    assert base64.b64decode(header(head, b"x-amz-server-side-encryption-customer-key")) == key


async def test_the_local_copy_is_given_the_bytes_before_they_are_sent(senders: Open, file: OpenSource) -> None:
    seen: list[tuple[bytes, int]] = []
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:

        def local(body: memoryview) -> None:
            seen.append((bytes(body), len(peer.heads)))

        await pool.send_part(file, MIB, 2 * MIB, PART, local)
        assert seen == [(bytes(file.read_part(MIB, 2 * MIB)), 0)]

        def full(body: memoryview) -> None:
            raise DestinationFull("the disk is full")

        with pytest.raises(DestinationFull, match="the disk is full"):
            await pool.send_part(file, 0, MIB, PART, full)
        assert len(peer.heads) == 1, "nothing was sent"
        await pool.send_part(file, 0, MIB, PART)


async def test_an_answer_is_confirmed_while_the_bytes_are_at_hand(senders: Open, file: OpenSource) -> None:
    async with CannedPeer(STORED, hang_up=False) as peer, senders(peer.endpoint_url) as pool:
        seen = []

        def confirm(response: ObjectStored, body: memoryview, checksum: Checksum | None) -> None:
            seen.append((response.etag, bytes(body), checksum))
            raise IntegrityError("other bytes", expected="a", actual="b")

        with pytest.raises(IntegrityError, match="other bytes"):
            await pool.send_part(file, MIB, MIB, PART, confirm=confirm)
        body = bytes(file.read_part(MIB, MIB))
        assert seen == [("e", body, checksum_of(body, "CRC64NVME"))]
        await pool.send_part(file, 0, MIB, PART)
        assert peer.connections_total == 1


async def test_no_more_threads_and_buffers_than_allowed(senders: Open, file: OpenSource) -> None:
    under_way = most = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal under_way, most
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            under_way += 1
            most = max(most, under_way)
            await reader.readexactly(int(header(head, b"content-length")))
            under_way -= 1
            writer.write(STORED)

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url, threads=3) as pool:
        async with asyncio.TaskGroup() as group:
            for number in range(24):
                group.create_task(pool.send_part(file, number * MIB, MIB, PART))
        assert most <= 3
        assert peer.connections_total <= 3
        assert [len(sender._buffer) for sender in pool._senders] == [MIB] * len(pool._senders)
        await pool.send_part(file, 0, 2 * MIB, PART)
        assert sum(len(sender._buffer) for sender in pool._senders) == MIB * (len(pool._senders) + 1)


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nde\r\n0\r\nETag: t\r\n\r\n',
        b"HTTP/1.1 100 Continue\r\n\r\n" + STORED,
        b'HTTP/1.1 103 Early Hints\r\nETag: "wrong"\r\nLink: x\r\n\r\n' * 3 + STORED,
        b'HTTP/1.1 200 OK\r\nETAG: "e"\r\nContent-Length: 5\r\n\r\nhello',
    ],
    ids=["chunked", "continue", "early hints", "body"],
)
async def test_answers_of_all_forms_keep_the_connection(senders: Open, file: OpenSource, answer: bytes) -> None:
    async with CannedPeer(answer, hang_up=False) as peer, senders(peer.endpoint_url) as pool:
        for _ in range(3):
            response, _ = await pool.send_part(file, 0, MIB, PART)
            assert response == ObjectStored(etag="e")
        assert peer.connections_total == 1


@pytest.mark.parametrize(
    "answer",
    [
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nETag: "e"\r\n\r\nuntil the end',
        b'HTTP/1.0 200 OK\r\nETag: "e"\r\nContent-Length: 3\r\n\r\nabc',
        STORED + b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        STORED + b"garbage",
        STORED,
    ],
    ids=["close", "no length", "HTTP/1.0", "two answers", "garbage behind", "hangs up"],
)
async def test_answers_that_end_the_connection(senders: Open, file: OpenSource, answer: bytes) -> None:
    async with CannedPeer(answer, hang_up=True) as peer, senders(peer.endpoint_url) as pool:
        for _ in range(2):
            response, _ = await pool.send_part(file, 0, MIB, PART)
            assert response == ObjectStored(etag="e")
        assert peer.connections_total == 2


async def test_a_connection_that_went_stale_is_replaced_once(senders: Open, file: OpenSource) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.readexactly(1)  # the next request comes, and finds nobody

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        for number in range(1, 4):
            response, _ = await pool.send_part(file, 0, 8 * MIB, PART)
            assert response == ObjectStored(etag="e")
            assert peer.connections_total == number


async def test_a_half_answer_on_a_kept_connection_is_not_repeated(senders: Open, file: OpenSource) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await read_request(reader)
        writer.write(b"HTTP/1.1 20")
        await writer.drain()

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        await pool.send_part(file, 0, MIB, PART)
        with pytest.raises(ConnectionLost, match="middle of its answer"):
            await pool.send_part(file, 0, MIB, PART)
        assert peer.connections_total == 1


async def test_a_farewell_on_an_idle_connection_is_no_answer(senders: Open, file: OpenSource) -> None:
    parted = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await parted.wait()
        writer.write(canned(408, b""))
        parted.clear()
        await reader.read(1)

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        await pool.send_part(file, 0, MIB, PART)
        parted.set()
        await until(lambda: not parted.is_set())
        await pool.send_part(file, 0, MIB, PART)
        assert peer.connections_total == 2


async def test_idle_threads_give_connection_and_buffer_back(
    senders: Open, file: OpenSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender_thread, "KEEP_ALIVE_SECONDS", 0.05)
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(STORED)
        await reader.read(1)
        gone.set()

    async with ActingPeer(serve) as peer, senders(peer.endpoint_url) as pool:
        await pool.send_part(file, 0, MIB, PART)
        await gone.wait()
        await until(lambda: not len(pool._senders[0]._buffer))
        assert repr(pool._senders) == "[<Sender not connected, a buffer of 0 bytes>]"
        await pool.send_part(file, 0, MIB, PART)
        assert peer.connections_total == 2


async def test_keys_and_headers_that_cannot_be_sent(senders: Open, file: OpenSource) -> None:
    async with CannedPeer(STORED) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(InvalidKey):
            await pool.send_part(file, 0, 1, PartToSend(key="\udc80", upload_id="u", part_number=1))
        attributes = ObjectAttributes(metadata=(("a", "ä"),))
        with pytest.raises(ConfigError, match="metadata"):
            await pool.send_part(file, 0, 1, ObjectToSend(key="k", attributes=attributes))
        assert not peer.heads


async def test_expired_credentials_are_asked_for_again(senders: Open, file: OpenSource, keys: Any) -> None:
    asked = 0

    async def credentials() -> Any:
        nonlocal asked
        asked += 1
        return keys(access_key_id=f"AKID{asked}")

    expired = canned(400, b"<Error><Code>ExpiredToken</Code></Error>")
    async with (
        CannedPeer(expired, STORED, hang_up=False) as peer,
        senders(peer.endpoint_url, credentials=credentials) as pool,
    ):
        with pytest.raises(ExpiredCredentials):
            await pool.send_part(file, 0, 1, PART)
        await pool.send_part(file, 0, 1, PART)
        assert [b"AKID1/" in peer.heads[0], b"AKID2/" in peer.heads[1]] == [True, True]
        assert peer.connections_total == 1


async def test_a_wrong_clock_is_corrected(senders: Open, file: OpenSource) -> None:
    then = datetime.now(UTC) + timedelta(days=400)
    skewed = canned(
        403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", f"Date: {format_datetime(then, usegmt=True)}"
    )
    async with CannedPeer(skewed, STORED, hang_up=False) as peer, senders(peer.endpoint_url) as pool:
        with pytest.raises(ClockSkew):
            await pool.send_part(file, 0, 1, PART)
        await pool.send_part(file, 0, 1, PART)
        assert header(peer.heads[1], b"x-amz-date")[:6] == then.strftime("%Y%m").encode()
