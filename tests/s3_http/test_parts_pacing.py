"""Parts that lanes read are retried and paced as all other requests are."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncsink.errors import Throttled
from asyncsink.model import Checksum, SourceFile
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.s3.multipart.upload import MultipartUpload, create_upload
from asyncsink.s3.operations import CreateMultipartUpload
from asyncsink.s3.stack import S3Stack, open_stack
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import canned
from tests.support.parts_proxy import DROP, FORWARD, PartsProxy

pytestmark = pytest.mark.anyio
PART = 5 * MIB
QUICK = RetryPolicy(attempts=3, throttled_seconds=0, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
SLOW_DOWN = canned(503, b"<Error><Code>SlowDown</Code><Message>Slow.</Message></Error>")


@pytest.fixture
def source(tmp_path: Path, seaweed: Any, monkeypatch: pytest.MonkeyPatch) -> SourceFile:
    """A file of four parts, the last of one byte; and an environment that reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "large"
    path.write_bytes(os.urandom(3 * PART + 1))
    status = path.stat()
    return SourceFile(str(path), status.st_size, status.st_mtime_ns)


@contextlib.asynccontextmanager
async def an_upload(stack: S3Stack, source: SourceFile) -> AsyncIterator[MultipartUpload]:
    upload = await create_upload(
        stack.transport,
        CreateMultipartUpload(key="large", algorithm="CRC64NVME", write_token="0" * 32),
        plan=plan_parts(source.size_bytes, PART),
        retry=QUICK,
    )
    try:
        yield upload
    finally:
        assert await upload.abort() == ""


async def test_every_attempt_holds_a_token_and_counts(source: SourceFile, bucket: str, seaweed: Any) -> None:
    plan = plan_parts(source.size_bytes, PART)
    tokens: list[int] = []

    def meddle(number: int) -> bytes | None:
        tokens.append(stack.pacer.in_flight)
        return SLOW_DOWN if number == 2 else DROP if len(tokens) == 1 else FORWARD

    async with PartsProxy(seaweed.endpoint_url, meddle) as way:
        target = S3Target(bucket=bucket, endpoint_url=way.endpoint_url)
        async with open_stack(target, QUICK, Limits(concurrency=1, concurrency_start=1)) as stack:
            assert stack.senders == 1
            with OpenSource(source) as file:
                async with an_upload(stack, source) as upload:
                    stack.pacer.take_window()
                    checksum = await upload.send_part(plan.part(1), file, None)
                    assert isinstance(checksum, Checksum)
                    window = stack.pacer.take_window()
                    assert (window.requests, window.errors, window.throttled, window.bytes) == (2, 1, 0, PART)
                    assert window.saturated
                    with pytest.raises(Throttled, match="It was tried 3 times") as caught:
                        await upload.send_part(plan.part(2), file, None)
                    assert (caught.value.attempts, caught.value.operation) == (3, "UploadPart")
                    assert caught.value.elapsed_seconds > 0
                    window = stack.pacer.take_window()
                    assert (window.requests, window.errors, window.throttled, window.bytes) == (3, 0, 3, 0)
                    assert stack.retries == 3
                    assert stack.pacer.in_flight == 0
    assert set(tokens) == {1}


async def test_parts_wait_for_the_pacer(source: SourceFile, bucket: str, seaweed: Any) -> None:
    """One token: however many threads there are, one part at a time."""
    most = 0

    def meddle(number: int) -> None:
        nonlocal most
        most = max(most, stack.pacer.in_flight)

    async with PartsProxy(seaweed.endpoint_url, meddle) as way:
        target = S3Target(bucket=bucket, endpoint_url=way.endpoint_url)
        async with open_stack(target, QUICK, Limits(concurrency_start=1)) as stack:
            with OpenSource(source) as file:
                async with an_upload(stack, source) as upload, anyio.create_task_group() as group:
                    for part in plan_parts(source.size_bytes, PART):
                        group.start_soon(upload.send_part, part, file, None)
    assert most == 1
