"""Bodies that lanes read, against a real server, with and without TLS: what arrived is compared."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from asyncsink.destinations.local.destination import LocalDestination
from asyncsink.errors import AccessDenied, BucketMissing, CredentialsError, UploadMissing
from asyncsink.integrity.checksums import checksum_of, combine
from asyncsink.model import Checksum, ChecksumAlgorithm, SourceFile, Transfer
from asyncsink.options.schema import LocalTarget
from asyncsink.options.settings import MIB, Secret
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.multipart.parts import Part, plan_parts
from asyncsink.s3.operations import ObjectAttributes
from asyncsink.s3.pacing import Pacer
from asyncsink.sources.reader import OpenSource
from tests.support.requests import Open, whole
from tests.support.requests import part as part_of

pytestmark = pytest.mark.anyio
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
                parts[number] = {
                    "PartNumber": number,
                    "ETag": response.etag,
                    "ChecksumCRC64NVME": checksum.value,
                }

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
                [lane] = transport._large
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
