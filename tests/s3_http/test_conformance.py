"""The wire lane against two independent servers, over plain HTTP, and over HTTPS through a terminating proxy."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.http.client import HOT
from asyncsink.s3.http.client import HttpTransport as WireTransport
from asyncsink.s3.operations import HeadObject, ObjectAttributes, Operation, PutObject, Response
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.testing.transport_kit import OpenTransport, crc64
from tests.support.servers import OnMoto, OnSeaweedFS

R = TypeVar("R", bound=Response)


class BothLanes:
    """Hot operations over the wire, all others through aioboto3, which is opened by the first of them."""

    def __init__(self, wire: WireTransport, target: S3Target, policy: RetryPolicy) -> None:
        self.wire = wire
        self._target = target
        self._policy = policy
        self._other: Aioboto3Transport | None = None

    async def other(self) -> Aioboto3Transport:
        """The lane of what is not hot."""
        if self._other is None:
            self._other = await Aioboto3Transport.open(self._target, self._policy, Limits())
        return self._other

    async def send(self, operation: Operation[R]) -> R:
        """Send through the lane that the operation belongs to."""
        return await (self.wire if isinstance(operation, HOT) else await self.other()).send(operation)

    async def aclose(self) -> None:
        """Close both."""
        await self.wire.aclose()
        if self._other is not None:
            await self._other.aclose()


Opener = Callable[..., OpenTransport]


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch, provider: Any) -> Opener:
    return partial(open_lanes, monkeypatch, provider)


def open_lanes(
    monkeypatch: pytest.MonkeyPatch,
    provider: Any,
    bucket: str,
    endpoint_url: str,
    key_id: str,
    secret: str,
    ca_bundle: str = "",
) -> OpenTransport:
    target_bucket, target_url = bucket, endpoint_url

    @asynccontextmanager
    async def open_transport(
        *,
        bucket: str | None = None,
        endpoint_url: str | None = None,
        secret_access_key: str | None = None,
        retry: RetryPolicy | None = None,
    ) -> AsyncIterator[BothLanes]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_access_key or secret)
        url = endpoint_url or target_url
        target = S3Target(
            bucket=bucket or target_bucket, endpoint_url=url, ca_bundle=ca_bundle if url.startswith("https:") else ""
        )
        policy = retry or RetryPolicy()
        credentials = provider(key_id, secret_access_key or secret)
        wire = await WireTransport.open(target, policy, region="us-east-1", credentials=credentials, pacer=Pacer(64))
        transport = BothLanes(wire, target, policy)
        try:
            yield transport
        finally:
            await transport.aclose()

    return open_transport


class TestWireOnSeaweedFS(OnSeaweedFS):
    """On asyncio's loop; over TLS the same runs on uvloop. The sockets belong to the lane's threads on either."""

    @pytest.fixture
    def open_transport(self, seaweed: Any, bucket: str, opener: Opener) -> OpenTransport:
        return opener(bucket, seaweed.endpoint_url, seaweed.access_key_id, seaweed.secret_access_key)

    @pytest.mark.anyio
    async def test_spaces_inside_values_survive_signing(
        self, open_transport: OpenTransport, s3: Any, bucket: str
    ) -> None:
        attributes = ObjectAttributes(
            content_type="text/csv;  charset=utf-8", metadata=(("Run-Id", "7  and   8"),), acl="private"
        )
        async with open_transport() as transport:
            await transport.send(PutObject(key="one", body=b"x", checksum=crc64(b"x"), attributes=attributes))
        head = s3.head_object(Bucket=bucket, Key="one")
        assert head["ContentType"] == "text/csv;  charset=utf-8"
        assert head["Metadata"] == {"run-id": "7  and   8"}

    @pytest.mark.anyio
    async def test_both_lanes_read_the_same(self, open_transport: OpenTransport) -> None:
        attributes = ObjectAttributes(content_type="text/x", metadata=(("a", "b"),), storage_class="STANDARD_IA")
        async with open_transport() as transport:
            assert isinstance(transport, BothLanes)
            put = PutObject(key="k", body=b"abc", checksum=crc64(b"abc"), attributes=attributes)
            other = await transport.other()
            assert await transport.wire.send(put) == await other.send(put)
            ours, theirs = [await lane.send(HeadObject(key="k")) for lane in (transport.wire, other)]
            assert ours == theirs
            assert isinstance(ours.last_modified, datetime)

    @pytest.mark.anyio
    async def test_many_at_once_share_few_connections(self, open_transport: OpenTransport) -> None:
        async with open_transport() as transport, asyncio.TaskGroup() as group:
            for number in range(200):
                body = os.urandom(1000 + number)
                group.create_task(transport.send(PutObject(key=f"many/{number}", body=body, checksum=crc64(body))))


class TestWireOverTls(OnSeaweedFS):
    """The suite's gate forwards to `endpoint_url`, the server behind the proxy, without TLS."""

    @pytest.fixture
    def anyio_backend(self) -> tuple[str, dict[str, bool]]:
        return "asyncio", {"use_uvloop": True}

    @pytest.fixture
    def open_transport(
        self, seaweed: Any, bucket: str, opener: Opener, authority: Any, tls_proxy: Any
    ) -> OpenTransport:
        parts = urlsplit(seaweed.endpoint_url)

        @asynccontextmanager
        async def open_transport(*, endpoint_url: str | None = None, **changes: Any) -> AsyncIterator[Any]:
            async with AsyncExitStack() as stack:
                # The server checks the Host header that was signed, so the proxy's own port is no harm.
                server = urlsplit(endpoint_url) if endpoint_url else parts
                proxy = await stack.enter_async_context(
                    tls_proxy(server.hostname or "", server.port or 80, authority.server_context("localhost"))
                )
                opened = opener(bucket, proxy.url, seaweed.access_key_id, seaweed.secret_access_key, authority.path)
                yield await stack.enter_async_context(opened(**changes))

        return open_transport

    @pytest.mark.anyio
    async def test_a_refused_connection(self, open_transport: OpenTransport) -> None:
        pytest.skip("the proxy accepts before the server refuses")


class TestWireOnMoto(OnMoto):
    @pytest.fixture
    def open_transport(self, endpoint_url: str, opener: Opener, independent: tuple[Any, str]) -> OpenTransport:
        return opener(independent[1], endpoint_url, "testing", "testing")
