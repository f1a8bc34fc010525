"""Credentials that end, clocks that differ, and providers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from asyncsink.errors import AccessDenied, ClockSkew, ConfigError, CredentialsError, ExpiredCredentials
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import RetryPolicy, Secret
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.http.keyring import ASK_AGAIN_SECONDS, RENEW_BEFORE_SECONDS, CredentialsProvider, Keyring
from asyncsink.s3.http.signing import endpoint_of
from asyncsink.s3.operations import HeadObject, PutObject
from asyncsink.s3.pacing import Pacer
from asyncsink.testing.peers import CannedPeer, canned

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
PUT = PutObject(key="k", body=b"x")
ENDPOINT = endpoint_of(S3Target(bucket="bkt", endpoint_url="http://127.0.0.1:1"), "x")
EPOCH = datetime.fromtimestamp(0, UTC)


class Provider:
    """Gives KEY1, KEY2, … with the given lifetimes in seconds since the epoch."""

    def __init__(self, keys: Any, *expire_at: float | None) -> None:
        self._keys = keys
        self._expire_at = list(expire_at)
        self.asked = 0

    async def __call__(self) -> Any:
        self.asked += 1
        await asyncio.sleep(0)
        end = self._expire_at.pop(0) if self._expire_at else None
        return self._keys(
            access_key_id=f"KEY{self.asked}",
            secret_access_key=Secret(b"secret"),
            session_token=Secret(f"token{self.asked}".encode()),
            expires_at=None if end is None else EPOCH + timedelta(seconds=end),
        )


class Clock:
    """A clock that is set by hand."""

    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def open_wire(url: str, credentials: CredentialsProvider | None, **target: bool) -> AsyncIterator[HttpTransport]:
    transport = await HttpTransport.open(
        S3Target(bucket="bkt", endpoint_url=url, **target),  # type: ignore[arg-type]
        RetryPolicy(),
        region="us-east-1",
        credentials=credentials,
        pacer=Pacer(4),
    )
    try:
        yield transport
    finally:
        await transport.aclose()


async def test_credentials_are_renewed_before_they_expire(keys: Any) -> None:
    clock = Clock()
    provider = Provider(keys, clock.now + 3600, clock.now + 100, None)
    ring = Keyring(ENDPOINT, "x", provider, clock=clock)
    assert ring.ready() is None
    first, *others = await asyncio.gather(*(ring.renewed() for _ in range(5)))
    assert provider.asked == 1
    assert {*others} == {first}
    clock.now += 3600 - RENEW_BEFORE_SECONDS - 1
    assert ring.ready() is first
    clock.now += 1
    assert ring.ready() is None
    second = await ring.renewed()
    # Its life is shorter than the margin: the provider is not asked for every request.
    assert ring.ready() is second
    clock.now += ASK_AGAIN_SECONDS
    assert ring.ready() is None
    third = await ring.renewed()
    clock.now += 1e9
    assert ring.ready() is third
    ring.expire(second)
    assert ring.ready() is third
    ring.expire(third)
    assert ring.ready() is None


async def test_credentials_are_used_to_their_end_where_there_are_no_newer_ones(keys: Any) -> None:
    """A provider that fails minutes before they end costs nothing: it is asked again."""
    clock = Clock()
    good = Provider(keys, clock.now + 3600, clock.now + 7200)
    fails = False

    async def provide() -> Any:
        if fails:
            raise CredentialsError("The service is away.")
        return await good()

    ring = Keyring(ENDPOINT, "x", provide, clock=clock)
    first = await ring.renewed()
    fails = True
    clock.now += 3600 - RENEW_BEFORE_SECONDS
    assert ring.ready() is None
    assert await ring.renewed() is first
    assert ring.ready() is first
    clock.now += ASK_AGAIN_SECONDS
    assert ring.ready() is None
    fails = False
    second = await ring.renewed()
    assert second is not first
    fails = True
    clock.now += 3600 + RENEW_BEFORE_SECONDS
    with pytest.raises(CredentialsError, match="away"):
        await ring.renewed()


async def test_refused_credentials_are_not_used_where_there_are_no_newer_ones(keys: Any) -> None:
    clock = Clock()
    answers: list[Any] = [await Provider(keys, clock.now + 3600)()]

    async def provide() -> Any:
        if not answers:
            raise CredentialsError("The service is away.")
        return answers.pop()

    ring = Keyring(ENDPOINT, "x", provide, clock=clock)
    ring.expire(await ring.renewed())
    with pytest.raises(CredentialsError, match="away"):
        await ring.renewed()


async def test_expired_credentials_are_asked_for_again(keys: Any) -> None:
    provider = Provider(keys)
    expired = canned(400, b"<Error><Code>ExpiredToken</Code></Error>")
    async with CannedPeer(expired, STORED) as peer, open_wire(peer.endpoint_url, provider) as transport:
        with pytest.raises(ExpiredCredentials):
            await transport.send(PUT)
        await transport.send(PUT)
        await transport.send(PUT)
    assert [re.findall(rb"Credential=(\w+)/", head) for head in peer.heads] == [[b"KEY1"], [b"KEY2"], [b"KEY2"]]
    assert b"x-amz-security-token: token2\r\n" in peer.heads[1]


@pytest.mark.parametrize("operation", [PUT, HeadObject(key="k")])
@pytest.mark.parametrize("hours", [-50, 50])
async def test_the_servers_clock_is_taken_over(keys: Any, operation: Any, hours: int) -> None:
    server_time = datetime.now(UTC) + timedelta(hours=hours)
    date = f"Date: {format_datetime(server_time, usegmt=True)}"
    body = b"" if isinstance(operation, HeadObject) else b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
    answers = canned(403, body, date), STORED.replace(b"ETag", date.encode() + b"\r\nETag")
    async with CannedPeer(*answers) as peer, open_wire(peer.endpoint_url, Provider(keys)) as transport:
        with pytest.raises(ClockSkew):
            await transport.send(operation)
        await transport.send(operation)
    stamps = [re.findall(rb"x-amz-date: (\w+)", head)[0].decode() for head in peer.heads]
    signed = datetime.strptime(stamps[1] + "+0000", "%Y%m%dT%H%M%SZ%z")
    assert abs(signed - server_time) < timedelta(minutes=5)
    assert f"/{stamps[1][:8]}/us-east-1/s3/aws4_request".encode() in peer.heads[1]


async def test_an_unreadable_date_changes_nothing(keys: Any) -> None:
    skewed = canned(403, b"<Error><Code>RequestTimeTooSkewed</Code></Error>", "Date: yesterday")
    async with CannedPeer(skewed) as peer, open_wire(peer.endpoint_url, Provider(keys)) as transport:
        with pytest.raises(ClockSkew):
            await transport.send(PUT)
        assert transport._keyring.offset_seconds == 0


async def test_a_provider_that_fails_shows_no_secret() -> None:
    async def broken() -> Any:
        raise ValueError("the process printed s3cr3t")

    async def refusing() -> Any:
        raise CredentialsError("Log in again.")

    async with open_wire("http://127.0.0.1:1", broken) as transport:
        with pytest.raises(CredentialsError, match="ValueError") as caught:
            await transport.send(PUT)
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None
    async with open_wire("http://127.0.0.1:1", refusing) as transport:
        with pytest.raises(CredentialsError, match="Log in again"):
            await transport.send(PUT)


async def test_a_malformed_key_id_is_refused(keys: Any) -> None:
    async def provide() -> Any:
        return keys(access_key_id="AKID\r\n")

    async with open_wire("http://127.0.0.1:1", provide) as transport:
        with pytest.raises(CredentialsError, match="malformed"):
            await transport.send(PUT)


async def test_anonymous_requests(keys: Any) -> None:
    provider = Provider(keys)
    async with CannedPeer(STORED, canned(403, b"")) as peer:
        async with open_wire(peer.endpoint_url, provider, anonymous=True, request_payer=True) as transport:
            await transport.send(PUT)
            with pytest.raises(AccessDenied):
                await transport.send(HeadObject(key="k"))
    assert provider.asked == 0
    for head in peer.heads:
        assert b"authorization" not in head.lower()
        assert b"x-amz-date" not in head.lower()
        assert b"x-amz-request-payer: requester" in head


async def test_no_credentials_are_refused_at_once() -> None:
    with pytest.raises(ConfigError, match="credentials"):
        async with open_wire("http://127.0.0.1:1", None):
            pass


async def test_nothing_secret_shows(keys: Any) -> None:
    async with open_wire("http://127.0.0.1:1", Provider(keys)) as transport:
        ring = transport._keyring
        await ring.renewed()
        shown = repr((transport, ring, transport._lanes._shared, transport._lanes._addresses))
    assert "secret" not in shown
    assert "token1" not in shown
