"""Bodies that lanes read: the bytes, their checksums, what the answer is compared with, and files that misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.errors import (
    AccessDenied,
    BucketMissing,
    ClockSkew,
    ConfigError,
    ConnectionLost,
    CredentialsError,
    DestinationFull,
    ExpiredCredentials,
    IntegrityError,
    InvalidKey,
    SourceChanged,
    UploadMissing,
)
from asyncsink.integrity.checksums import checksum_of, combine
from asyncsink.model import Checksum, SourceFile, Transfer
from asyncsink.options.schema import LocalTarget
from asyncsink.options.settings import MIB, ChecksumAlgorithm, Secret
from asyncsink.s3.http import lane as lane_module
from asyncsink.s3.http import lane_pool
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.multipart.parts import Part, plan_parts
from asyncsink.s3.operations import ObjectAttributes, ObjectStored, PutObject, PutObjectFrom
from asyncsink.s3.pacing import Pacer
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import ActingPeer, CannedPeer, canned
from tests.support.requests import STORED, Bodies, Open, header, part, read_request, until, whole
from tests.support.requests import part as part_of

pytestmark = pytest.mark.anyio
SIZE = 32 * MIB


def open_path(path: Path) -> OpenSource:
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
        assert len(transport._lanes.large) == 1, "one after another needs one lane"


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
        shown = repr(
            [transport, transport._lanes.large, [*transport._lanes.large[0]._connections], transport._lanes._addresses]
        )
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
        lanes = transport._lanes.large
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
        [lane] = transport._lanes.large
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
        await until(lambda: transport._lanes._shared.pacer.in_flight == 0)


async def test_closing_does_not_wait_for_ever_for_a_file_system(wire: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_pool, "JOIN_SECONDS_MAX", 0.05)
    source = SlowSource()
    async with CannedPeer(STORED) as peer, wire(peer.endpoint_url) as transport:
        sending = asyncio.create_task(transport.send(part(source, 0, MIB)))
        await asyncio.to_thread(source.entered.wait)
        [lane] = transport._lanes.large
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
        with open_path(path) as source:
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


# -- Bodies that lanes read, against a real server, with and without TLS: what arrived is compared ---------------------


KEY = "sub-01/func/a b+ä.nii"


@pytest.fixture(params=["http", "https"])
def opened(
    wire: Open, request: pytest.FixtureRequest, seaweed: Any, provider: Any, authority: Any, tls_proxy: Any
) -> Open:
    @contextlib.asynccontextmanager
    async def open_transport(
        bucket: str, *, secret: str = "", pacer: Pacer | None = None
    ) -> AsyncIterator[HttpTransport]:
        async with contextlib.AsyncExitStack() as stack:
            url, ca_bundle = seaweed.endpoint_url, ""
            if request.param == "https":
                server = urlsplit(url)
                proxy = tls_proxy(server.hostname, server.port, authority.server_context("localhost"))
                url, ca_bundle = (await stack.enter_async_context(proxy)).url, authority.path
            credentials = provider(seaweed.access_key_id, secret or seaweed.secret_access_key)
            way = wire(url, credentials=credentials, bucket=bucket, ca_bundle=ca_bundle, pacer=pacer)
            yield await stack.enter_async_context(way)

    return open_transport


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    """Three parts and a byte."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(15 * MIB + 1))
    status = path.stat()
    return SourceFile(str(path), status.st_size, status.st_mtime_ns)


async def test_an_object_in_parts_beside_its_local_copy(
    opened: Open, s3: Any, bucket: str, source: SourceFile, tmp_path: Path
) -> None:
    plan = plan_parts(source.size_bytes, 5 * MIB)
    upload_id = s3.create_multipart_upload(
        Bucket=bucket, Key=KEY, ChecksumAlgorithm="CRC64NVME", ChecksumType="FULL_OBJECT"
    )["UploadId"]
    target = LocalTarget(directory=str(tmp_path / "copies"))
    copies = LocalDestination(target, limiter=anyio.CapacityLimiter(2), use_local_key=True)
    copy = await copies.start(Transfer(source, KEY, "copy.nii"), plan, None)
    parts: dict[int, dict[str, Any]] = {}
    checksums: dict[int, tuple[Checksum, int]] = {}

    async with opened(bucket) as transport:
        with OpenSource(source) as file:

            async def send(part: Part) -> None:
                number = part.part_number
                response = await transport.send(
                    part_of(
                        file,
                        part.offset,
                        part.length,
                        key=KEY,
                        upload_id=upload_id,
                        part_number=number,
                        local=lambda body: copy.write_part_now(number, part.offset, body),
                    )
                )
                checksum = response.sent
                assert checksum is not None
                assert response.checksum in (checksum, None)
                checksums[number] = (checksum, part.length)
                parts[number] = {"PartNumber": number, "ETag": response.etag, "ChecksumCRC64NVME": checksum.value}

            async with asyncio.TaskGroup() as group:
                for part in plan:
                    group.create_task(send(part))
            await asyncio.to_thread(file.check_unchanged)
    await copy.complete(None)
    await copies.aclose()
    whole = combine("CRC64NVME", [checksums[number] for number in sorted(checksums)])
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key=KEY,
        UploadId=upload_id,
        MultipartUpload={"Parts": [parts[number] for number in sorted(parts)]},
        ChecksumCRC64NVME=whole.value,
        ChecksumType="FULL_OBJECT",
    )
    data = Path(source.path).read_bytes()
    assert s3.get_object(Bucket=bucket, Key=KEY)["Body"].read() == data
    assert s3.head_object(Bucket=bucket, Key=KEY, ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == whole.value
    assert whole == checksum_of(data, "CRC64NVME")
    assert (tmp_path / "copies" / "copy.nii").read_bytes() == data


async def test_a_whole_object(opened: Open, s3: Any, bucket: str, source: SourceFile) -> None:
    attributes = ObjectAttributes(content_type="text/x", metadata=(("run", "7  of 8"),), sse="AES256")
    async with opened(bucket) as transport:
        with OpenSource(source) as file:
            algorithms: tuple[ChecksumAlgorithm | None, ...] = ("CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", None)
            for algorithm in algorithms:
                what = whole(file, 2 * MIB, key=KEY, algorithm=algorithm, attributes=attributes)
                response = await transport.send(what)
                body = bytes(file.read_part(0, 2 * MIB))
                assert response.sent == (checksum_of(body, algorithm) if algorithm else None)
                found = s3.get_object(Bucket=bucket, Key=KEY)
                assert found["Body"].read() == body
                assert (found["ContentType"], found["Metadata"]) == ("text/x", {"run": "7  of 8"})
                assert found["ETag"].strip('"') == response.etag
                assert response.sse == "AES256"


async def test_customer_keys(opened: Open, s3: Any, bucket: str, source: SourceFile) -> None:
    key = os.urandom(32)
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=KEY, **customer)["UploadId"]
    async with opened(bucket) as transport:
        with OpenSource(source) as file:
            named = {"key": KEY, "upload_id": upload_id, "part_number": 1, "sse_customer_key": Secret(key)}
            response = await transport.send(part_of(file, 0, MIB, algorithm="CRC32C", **named))
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key=KEY,
        UploadId=upload_id,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": response.etag}]},
        **customer,
    )
    stored = s3.get_object(Bucket=bucket, Key=KEY, **customer)["Body"].read()
    assert stored == Path(source.path).read_bytes()[:MIB]


async def test_what_the_server_refuses(opened: Open, bucket: str, source: SourceFile) -> None:
    with OpenSource(source) as file:
        async with opened(bucket) as transport:
            for _ in range(2):
                with pytest.raises(UploadMissing):
                    await transport.send(part_of(file, 0, 5 * MIB, key=KEY, upload_id="none", part_number=1))
        async with opened("no-such-bucket") as transport:
            with pytest.raises((BucketMissing, AccessDenied)):
                await transport.send(whole(file, 5 * MIB, key=KEY))
        async with opened(bucket, secret="wrong") as transport:
            with pytest.raises((CredentialsError, AccessDenied)):
                await transport.send(whole(file, 5 * MIB, key=KEY))


async def test_a_cancelled_part_is_not_stored(opened: Open, s3: Any, bucket: str, source: SourceFile) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=KEY)["UploadId"]
    async with opened(bucket) as transport:
        with OpenSource(source) as file:
            reached = asyncio.Event()
            loop = asyncio.get_running_loop()

            def local(body: memoryview) -> None:
                # The part is read, and cancelled before its first byte is sent.
                asyncio.run_coroutine_threadsafe(cancel(), loop).result()

            async def cancel() -> None:
                reached.set()
                sending.cancel()
                [lane] = transport._lanes.large
                while not any(exchange.given_up for exchange in lane._busy):  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0)

            part = part_of(file, 0, 8 * MIB, key=KEY, upload_id=upload_id, part_number=1)
            sending = asyncio.ensure_future(transport.send(replace(part, local=local)))
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert reached.is_set()
            assert not s3.list_parts(Bucket=bucket, Key=KEY, UploadId=upload_id).get("Parts")
            await transport.send(part)
            assert len(s3.list_parts(Bucket=bucket, Key=KEY, UploadId=upload_id)["Parts"]) == 1
    s3.abort_multipart_upload(Bucket=bucket, Key=KEY, UploadId=upload_id)
