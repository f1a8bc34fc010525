"""The attempt after RequestTimeTooSkewed and after ExpiredToken is signed anew."""

from __future__ import annotations

import datetime
import os
import re
from email.utils import format_datetime
from pathlib import Path

import anyio.lowlevel
import pytest

from asyncsink.errors import ClockSkew, ExpiredCredentials, Stalled
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.operations import PutObject
from asyncsink.s3.retry import RetryingTransport
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.testing.peers import CannedPeer, SilentPeer, canned
from asyncsink.testing.transport_kit import IMPATIENT

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')
EXPIRED = canned(400, b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>")
SKEWED = b"<Error><Code>RequestTimeTooSkewed</Code><Message>The difference is too large.</Message></Error>"


async def no_pause(seconds: float) -> None:
    """Retries in tests do not wait."""


def write_profile(file: Path, number: int) -> None:
    file.write_text(
        f"[default]\naws_access_key_id=KEY{number}\naws_secret_access_key=s{number}\naws_session_token=token{number}\n"
    )


@pytest.fixture
def profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    file = tmp_path / "credentials"
    write_profile(file, 1)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    return file


@pytest.mark.usefixtures("profile")
async def test_the_servers_clock_is_taken_over() -> None:
    server_time = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    skewed = canned(403, SKEWED, f"Date: {format_datetime(server_time, usegmt=True)}")
    async with CannedPeer(skewed, STORED) as peer:
        target = S3Target(bucket="tst", endpoint_url=peer.endpoint_url)
        transport = await Aioboto3Transport.open(target, RetryPolicy(), Limits())
        with pytest.raises(ClockSkew):
            await transport.send(PutObject(key="k", body=b"x"))
        await transport.send(PutObject(key="k", body=b"x"))
        await transport.aclose()
    stamps = [re.search(rb"(?i)x-amz-date: (\w+)", head) for head in peer.heads]
    signed = [datetime.datetime.strptime(stamp[1].decode() + "+0000", "%Y%m%dT%H%M%SZ%z") for stamp in stamps if stamp]
    assert signed[0] - server_time > datetime.timedelta(days=1)
    assert abs(signed[1] - server_time) < datetime.timedelta(minutes=5)
    assert f"/{signed[1]:%Y%m%d}/us-east-1/s3/aws4_request".encode() in peer.heads[1]


async def test_a_corrected_signature_is_accepted_by_a_real_server(
    seaweed: object, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key_id)  # type: ignore[attr-defined]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_access_key)  # type: ignore[attr-defined]
    target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url)  # type: ignore[attr-defined]
    transport = await Aioboto3Transport.open(target, RetryPolicy(), Limits())
    transport._resigner.learn_clock(format_datetime(datetime.datetime.now(datetime.UTC), usegmt=True))
    assert transport._resigner.offset
    for body in (b"x", bytes(MIB)):
        await transport.send(PutObject(key="odd é+/~ key", body=body))
    await transport.aclose()


async def test_expired_credentials_are_looked_up_again_once(profile: Path) -> None:
    async with CannedPeer(EXPIRED, STORED) as peer:
        target = S3Target(bucket="tst", endpoint_url=peer.endpoint_url)
        inner = await Aioboto3Transport.open(target, RetryPolicy(), Limits())
        transport = RetryingTransport(inner, RetryPolicy(attempts=3), sleep=no_pause)
        write_profile(profile, 2)
        stored = await transport.send(PutObject(key="k", body=b"x"))
        assert stored.attempts == 2
        await transport.send(PutObject(key="k", body=b"x"))
        await transport.aclose()
    assert [re.search(rb"Credential=(\w+)/", head)[1] for head in peer.heads] == [b"KEY1", b"KEY2", b"KEY2"]  # type: ignore[index]
    assert b"token2" in peer.heads[1]
    assert inner._resigner.renewals == 1


@pytest.mark.usefixtures("profile")
async def test_credentials_that_stay_expired_end_the_attempts() -> None:
    async with CannedPeer(EXPIRED) as peer:
        target = S3Target(bucket="tst", endpoint_url=peer.endpoint_url)
        inner = await Aioboto3Transport.open(target, RetryPolicy(), Limits())
        transport = RetryingTransport(inner, RetryPolicy(attempts=3), sleep=no_pause)
        with pytest.raises(ExpiredCredentials, match="tried 3 times"):
            await transport.send(PutObject(key="k", body=b"x"))
        await transport.aclose()
        assert len(peer.heads) == 3


async def test_credentials_that_are_gone_say_so(profile: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with CannedPeer(EXPIRED) as peer:
        target = S3Target(bucket="tst", endpoint_url=peer.endpoint_url)
        transport = await Aioboto3Transport.open(target, RetryPolicy(), Limits())
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", f"{profile}-gone")
        with pytest.raises(ExpiredCredentials, match="no credentials"):
            await transport.send(PutObject(key="k", body=b"x"))
        await transport.aclose()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc")
@pytest.mark.usefixtures("profile")
async def test_a_stalled_connection_is_not_left_behind() -> None:
    async with SilentPeer() as peer:
        target = S3Target(bucket="tst", endpoint_url=peer.endpoint_url)
        transport = await Aioboto3Transport.open(target, IMPATIENT, Limits())
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(Stalled):
            await transport.send(PutObject(key="k", body=bytes(16 * MIB)))
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        # The peer's own side of the connection is what remains.
        assert len(os.listdir("/proc/self/fd")) == before + 1
        await transport.aclose()
