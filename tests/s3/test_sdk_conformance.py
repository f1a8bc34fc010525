"""The aioboto3 lane against two independent servers."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import boto3
import pytest

from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.testing.transport_kit import Capability, OpenTransport
from asyncsink.testing.transport_suite import TransportSuite
from tests.support.moto import moto_server


def opener(bucket: str, endpoint_url: str, key_id: str, secret: str, monkeypatch: pytest.MonkeyPatch) -> OpenTransport:
    """Opens transports with credentials from the environment, as most users do."""
    target_bucket, target_url = bucket, endpoint_url

    @asynccontextmanager
    async def open_transport(
        *,
        bucket: str | None = None,
        endpoint_url: str | None = None,
        secret_access_key: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> AsyncIterator[Aioboto3Transport]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_access_key or secret)
        target = S3Target(bucket=bucket or target_bucket, endpoint_url=endpoint_url or target_url)
        transport = await Aioboto3Transport.open(target, retry or RetryPolicy(), Limits())
        try:
            yield transport
        finally:
            await transport.aclose()

    return open_transport


class TestOnSeaweedFS(TransportSuite):
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            "enforces-checksums",
            "answers-checksums",
            "mpu-checksum",
            "checks-signatures",
            "sse-s3",
            "sse-c",
            "tags",
            "storage-class",
            "list-uploads",
            "if-match",
            "part-1-head",
            "unknown-upload",
            "if-none-match",
            "if-none-match-complete",
        }
    )

    @pytest.fixture
    def endpoint_url(self, seaweed: Any) -> str:
        return str(seaweed.endpoint_url)

    @pytest.fixture
    def open_transport(self, seaweed: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> OpenTransport:
        return opener(bucket, seaweed.endpoint_url, seaweed.access_key_id, seaweed.secret_access_key, monkeypatch)

    @pytest.fixture
    def independent(self, s3: Any, bucket: str) -> tuple[Any, str]:
        return s3, bucket


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    with moto_server() as url:
        yield url


class TestOnMoto(TransportSuite):
    capabilities: ClassVar[frozenset[Capability]] = frozenset(
        {
            "sse-s3",
            "tags",
            "storage-class",
            "list-uploads",
            "if-match",
            "part-1-head",
            "if-none-match",
            "if-none-match-complete",
        }
    )

    @pytest.fixture
    def endpoint_url(self, moto_url: str) -> str:
        return moto_url

    @pytest.fixture
    def independent(self, moto_url: str) -> Iterator[tuple[Any, str]]:
        name = f"test-{uuid.uuid4().hex[:20]}"
        client = boto3.client(
            "s3",
            endpoint_url=moto_url,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        client.create_bucket(Bucket=name)
        yield client, name
        client.close()

    @pytest.fixture
    def open_transport(
        self, moto_url: str, independent: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
    ) -> OpenTransport:
        return opener(independent[1], moto_url, "testing", "testing", monkeypatch)
