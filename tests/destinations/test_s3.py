"""The S3 destination against a real server: the conformance suite, and what it learns before anything is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import boto3
import pytest
from anyio import CapacityLimiter
from botocore.config import Config

from asyncsink.destinations.base import RunForecast
from asyncsink.destinations.existing_objects import ExistingObjects
from asyncsink.destinations.s3 import S3Destination
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import BucketMissing, CredentialsError
from asyncsink.options.schema import Limits, ObjectOptions, S3Target, Settings
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.stack import S3Stack, open_stack
from asyncsink.testing.destination_suite import DestinationSuite, transfer_of

pytestmark = pytest.mark.anyio

RETRY = RetryPolicy(attempts=2, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
FORECAST = RunForecast(objects_total=None, common_prefix="", sample_key="")


class Bench:
    """A destination over a bucket, and the stack under it."""

    def __init__(self, server: DevServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.target = S3Target(bucket=bucket, url=f"s3://{bucket}", endpoint_url=server.endpoint_url)
        self.notices: list[str] = []
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)

    @asynccontextmanager
    async def open(self, **objects: Any) -> AsyncIterator[tuple[S3Destination, S3Stack]]:
        async with open_stack(self.target, RETRY, Limits()) as stack:
            settings = Settings(target=self.target, objects=ObjectOptions(**objects), retry=RETRY)
            existing = ExistingObjects(stack, settings, threads=CapacityLimiter(4), notice=self.notices.append)
            destination = S3Destination(stack, settings, existing, notice=self.notices.append)
            try:
                yield destination, stack
            finally:
                await destination.aclose()


@pytest.fixture
def bench(seaweed: DevServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(seaweed, bucket, monkeypatch)


class TestS3Destination(DestinationSuite):
    part_size_bytes = 5 * 1024 * 1024
    empty_parts = False
    refuses_wrong_parts = False
    objects: ClassVar[dict[str, Any]] = {}

    @pytest.fixture(autouse=True)
    def _server(self, bench: Bench, bucket: str, s3: Any) -> None:
        self.bench, self.bucket, self.s3 = bench, bucket, s3

    @asynccontextmanager
    async def destination(self) -> AsyncIterator[S3Destination]:
        async with self.bench.open(**self.objects) as (destination, _):
            yield destination

    async def read_back(self, key: str) -> bytes | None:
        try:
            return bytes(self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read())
        except self.s3.exceptions.NoSuchKey:
            return None

    async def leftovers(self) -> Sequence[str]:
        return [upload["Key"] for upload in self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]


class TestEncryptedS3Destination(TestS3Destination):
    objects: ClassVar[dict[str, Any]] = {"sse": "AES256"}


async def test_a_fresh_prefix_costs_one_list_and_no_heads(bench: Bench) -> None:
    async with bench.open() as (destination, stack):
        await destination.prepare(RunForecast(objects_total=1000, common_prefix="p/", sample_key="p/a"))
        for number in range(50):
            assert await destination.look(transfer_of(f"p/{number}", b"x"), closely=False) is None
        assert stack.requests == 1


async def test_a_listing_is_followed_as_far_as_the_run_is_large(bench: Bench, bucket: str, s3: Any) -> None:
    for number in range(3):
        s3.put_object(Bucket=bucket, Key=f"p/{number}", Body=b"x")
    async with bench.open() as (destination, stack):
        await destination.prepare(RunForecast(objects_total=3, common_prefix="p/", sample_key="p/0"))
        assert stack.requests == 1
        existing = await destination.look(transfer_of("p/1", b"x"), closely=False)
        assert existing is not None
        assert (existing.size_bytes, existing.looked_closely) == (1, False)
        # A key outside the listed prefix is asked for.
        assert await destination.look(transfer_of("q/1", b"x"), closely=False) is None
        assert stack.requests == 2


async def test_a_missing_bucket_is_told_before_anything_is_sent(bench: Bench) -> None:
    bench.target = S3Target(bucket="no-such-bucket-here", endpoint_url=bench.target.endpoint_url)
    async with bench.open() as (destination, _):
        with pytest.raises(BucketMissing, match="no-such-bucket-here"):
            await destination.prepare(FORECAST)


async def test_a_wrong_secret_is_told_before_anything_is_sent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-wrong-wrong-wrong")
    async with bench.open() as (destination, _):
        with pytest.raises(CredentialsError) as caught:
            await destination.prepare(FORECAST)
        assert "wrong-wrong" not in str(caught.value)


async def test_the_part_size_of_a_foreign_upload_is_asked_for(bench: Bench, bucket: str, s3: Any) -> None:
    plain = boto3.Session().client(
        "s3",
        endpoint_url=bench.target.endpoint_url,
        config=Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"}),
    )
    size = 6 * 1024 * 1024 + 12345
    upload = plain.create_multipart_upload(Bucket=bucket, Key="odd")["UploadId"]
    parts = []
    for number, length in ((1, size), (2, 10)):
        answer = plain.upload_part(Bucket=bucket, Key="odd", UploadId=upload, PartNumber=number, Body=b"x" * length)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    plain.complete_multipart_upload(Bucket=bucket, Key="odd", UploadId=upload, MultipartUpload={"Parts": parts})
    plain.close()
    async with bench.open() as (destination, _):
        existing = await destination.look(transfer_of("odd", b""), closely=True)
    assert existing is not None
    assert existing.part_size_bytes == size
