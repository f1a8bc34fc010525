"""The aioboto3 lane against two independent servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.testing.transport_kit import OpenTransport
from tests.support.servers import OnMoto, OnSeaweedFS


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


class TestOnSeaweedFS(OnSeaweedFS):
    @pytest.fixture
    def open_transport(self, seaweed: Any, bucket: str, monkeypatch: pytest.MonkeyPatch) -> OpenTransport:
        return opener(bucket, seaweed.endpoint_url, seaweed.access_key_id, seaweed.secret_access_key, monkeypatch)


class TestOnMoto(OnMoto):
    @pytest.fixture
    def open_transport(
        self, endpoint_url: str, independent: tuple[Any, str], monkeypatch: pytest.MonkeyPatch
    ) -> OpenTransport:
        return opener(independent[1], endpoint_url, "testing", "testing", monkeypatch)
