"""Sender threads against a real server, over plain HTTP and through a proxy that ends TLS: what arrived is compared."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest

from asyncsink.config import MIB, LocalTarget, RetryPolicy, S3Target, Secret
from asyncsink.destinations.local import LocalDestination
from asyncsink.errors import AccessDenied, BucketMissing, CredentialsError, UploadMissing
from asyncsink.integrity.checksums import checksum_of, combine
from asyncsink.model import Checksum, SourceFile, Transfer
from asyncsink.s3.operations import ObjectAttributes
from asyncsink.s3.part_plan import Part, plan_parts
from asyncsink.s3.wire.endpoint import endpoint_of
from asyncsink.s3.wire.keyring import Keyring
from asyncsink.s3.wire.sender import ObjectToSend, PartToSend, SenderPool
from asyncsink.s3.wire.transport import tls_context
from asyncsink.sources.reader import OpenSource

pytestmark = pytest.mark.anyio
KEY = "sub-01/func/a b+ä.nii"
Open = Callable[..., contextlib.AbstractAsyncContextManager[SenderPool]]


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(params=["http", "https"])
def senders(request: pytest.FixtureRequest, seaweed: Any, provider: Any, authority: Any, tls_proxy: Any) -> Open:
    @contextlib.asynccontextmanager
    async def open_pool(bucket: str, *, secret: str = "", threads: int = 4) -> AsyncIterator[SenderPool]:
        async with contextlib.AsyncExitStack() as stack:
            url, context = seaweed.endpoint_url, None
            if request.param == "https":
                server = urlsplit(url)
                proxy = tls_proxy(server.hostname, server.port, authority.server_context("localhost"))
                url, context = (await stack.enter_async_context(proxy)).url, tls_context(authority.path)
            endpoint = endpoint_of(S3Target(bucket=bucket, endpoint_url=url), "us-east-1")
            credentials = provider(seaweed.access_key_id, secret or seaweed.secret_access_key)
            keyring = Keyring(endpoint, "us-east-1", credentials)
            pool = SenderPool(bucket, endpoint, keyring, RetryPolicy(), context, threads=threads)
            stack.push_async_callback(pool.aclose)
            yield pool

    return open_pool


@pytest.fixture
def source(tmp_path: Path) -> SourceFile:
    """Three parts and a byte."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(15 * MIB + 1))
    status = path.stat()
    return SourceFile(str(path), status.st_size, status.st_mtime_ns)


async def test_an_object_in_parts_beside_its_local_copy(
    senders: Open, s3: Any, bucket: str, source: SourceFile, tmp_path: Path
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

    async with senders(bucket) as pool:
        with OpenSource(source) as file:

            async def send(part: Part) -> None:
                number = part.part_number
                response, checksum = await pool.send_part(
                    file,
                    part.offset,
                    part.length,
                    PartToSend(key=KEY, upload_id=upload_id, part_number=number, algorithm="CRC64NVME"),
                    lambda body: copy.write_part_now(number, part.offset, body),
                )
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


async def test_a_whole_object(senders: Open, s3: Any, bucket: str, source: SourceFile) -> None:
    attributes = ObjectAttributes(content_type="text/x", metadata=(("run", "7  of 8"),), sse="AES256")
    async with senders(bucket) as pool:
        with OpenSource(source) as file:
            for algorithm in ("CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", None):
                what = ObjectToSend(key=KEY, algorithm=algorithm, attributes=attributes)
                response, checksum = await pool.send_part(file, 3, 2 * MIB, what)
                body = bytes(file.read_part(3, 2 * MIB))
                assert checksum == (checksum_of(body, what.algorithm) if what.algorithm else None)
                found = s3.get_object(Bucket=bucket, Key=KEY)
                assert found["Body"].read() == body
                assert (found["ContentType"], found["Metadata"]) == ("text/x", {"run": "7  of 8"})
                assert found["ETag"].strip('"') == response.etag
                assert response.sse == "AES256"


async def test_customer_keys(senders: Open, s3: Any, bucket: str, source: SourceFile) -> None:
    key = os.urandom(32)
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=KEY, **customer)["UploadId"]
    async with senders(bucket) as pool:
        with OpenSource(source) as file:
            part = PartToSend(
                key=KEY, upload_id=upload_id, part_number=1, algorithm="CRC32C", sse_customer_key=Secret(key)
            )
            response, _ = await pool.send_part(file, 0, MIB, part)
    s3.complete_multipart_upload(
        Bucket=bucket,
        Key=KEY,
        UploadId=upload_id,
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": response.etag}]},
        **customer,
    )
    stored = s3.get_object(Bucket=bucket, Key=KEY, **customer)["Body"].read()
    assert stored == Path(source.path).read_bytes()[:MIB]


async def test_what_the_server_refuses(senders: Open, bucket: str, source: SourceFile) -> None:
    with OpenSource(source) as file:
        async with senders(bucket) as pool:
            for _ in range(2):
                with pytest.raises(UploadMissing):
                    await pool.send_part(file, 0, 5 * MIB, PartToSend(key=KEY, upload_id="none", part_number=1))
        async with senders("no-such-bucket") as pool:
            with pytest.raises((BucketMissing, AccessDenied)):
                await pool.send_part(file, 0, 5 * MIB, ObjectToSend(key=KEY))
        async with senders(bucket, secret="wrong") as pool:
            with pytest.raises((CredentialsError, AccessDenied)):
                await pool.send_part(file, 0, 5 * MIB, ObjectToSend(key=KEY))


async def test_a_cancelled_part_is_not_stored(senders: Open, s3: Any, bucket: str, source: SourceFile) -> None:
    upload_id = s3.create_multipart_upload(Bucket=bucket, Key=KEY)["UploadId"]
    async with senders(bucket, threads=1) as pool:
        with OpenSource(source) as file:
            reached = asyncio.Event()
            loop = asyncio.get_running_loop()

            def local(body: memoryview) -> None:
                # The part is read, and cancelled before its first byte is sent.
                asyncio.run_coroutine_threadsafe(cancel(), loop).result()

            async def cancel() -> None:
                reached.set()
                sending.cancel()
                while not any(one.given_up for one in pool._under_way.values()):  # noqa: ASYNC110 - no event tells it
                    await asyncio.sleep(0)

            part = PartToSend(key=KEY, upload_id=upload_id, part_number=1)
            sending = asyncio.ensure_future(pool.send_part(file, 0, 8 * MIB, part, local))
            with pytest.raises(asyncio.CancelledError):
                await sending
            assert reached.is_set()
            assert not s3.list_parts(Bucket=bucket, Key=KEY, UploadId=upload_id).get("Parts")
            await pool.send_part(file, 0, 8 * MIB, part)
            assert len(s3.list_parts(Bucket=bucket, Key=KEY, UploadId=upload_id)["Parts"]) == 1
    s3.abort_multipart_upload(Bucket=bucket, Key=KEY, UploadId=upload_id)
