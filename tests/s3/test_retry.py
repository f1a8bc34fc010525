"""The one layer of retries: how often, how long, and what the last error tells."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import anyio.lowlevel
import pytest

from asyncsink.errors import (
    AccessDenied,
    ClockSkew,
    ConnectionLost,
    ExpiredCredentials,
    PermanentError,
    Stalled,
    Throttled,
)
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.operations import Done, HeadObject, ObjectHead, PutObject
from asyncsink.s3.pacing import PacedTransport, Pacer
from asyncsink.s3.retry import PREPARE_THROTTLED_SECONDS_MAX, RetryingTransport
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.testing.peers import CannedPeer, SilentPeer, canned
from asyncsink.testing.transport_kit import IMPATIENT

pytestmark = pytest.mark.anyio


class Scripted:
    """A transport that answers from a list."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.sent = 0

    async def send(self, operation: Any) -> Any:
        self.sent += 1
        answer = self.answers.pop(0) if self.answers else Done()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def aclose(self) -> None:
        pass


class Sleeps:
    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.now = 0.0

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.now += seconds

    def clock(self) -> float:
        return self.now


def layer(inner: Scripted, **policy: Any) -> tuple[RetryingTransport, Sleeps]:
    sleeps = Sleeps()
    return RetryingTransport(inner, RetryPolicy(**policy), sleep=sleeps, clock=sleeps.clock), sleeps


def throttled(after: float | None = None) -> Throttled:
    error = Throttled("slow down.", operation="HeadObject")
    error.retry_after_seconds = after
    return error


HEAD = HeadObject(key="k")


async def test_an_answer_at_once_costs_one_attempt_and_no_sleep() -> None:
    inner = Scripted(ObjectHead(size_bytes=1))
    transport, sleeps = layer(inner)
    assert (await transport.send(HEAD)).attempts == 1
    assert (inner.sent, sleeps.seconds, transport.retries) == (1, [], 0)


async def test_retries_until_it_succeeds_and_says_how_often() -> None:
    inner = Scripted(ConnectionLost("lost."), throttled(), ObjectHead(size_bytes=1))
    transport, sleeps = layer(inner)
    assert (await transport.send(HEAD)).attempts == 3
    assert transport.retries == 2
    assert len(sleeps.seconds) == 2


async def test_gives_up_and_tells_the_story() -> None:
    inner = Scripted(*[ConnectionLost("The connection was lost.") for _ in range(5)])
    transport, _ = layer(inner, attempts=3)
    with pytest.raises(ConnectionLost, match=r"The connection was lost\. It was tried 3 times in") as caught:
        await transport.send(HEAD)
    assert caught.value.attempts == 3
    assert inner.sent == 3


async def test_a_permanent_error_is_not_repeated() -> None:
    inner = Scripted(AccessDenied("no."))
    transport, sleeps = layer(inner)
    with pytest.raises(AccessDenied, match=r"^no\.$"):
        await transport.send(HEAD)
    assert (inner.sent, sleeps.seconds) == (1, [])


def mute(status: int = 400, code: str = "") -> PermanentError:
    return PermanentError("refused.", operation="HeadObject", status=status, code=code)


@pytest.mark.parametrize("before", [[], [throttled()]])
async def test_a_bare_400_of_a_head_may_have_been_a_timeout(before: list[Exception]) -> None:
    inner = Scripted(*before, mute(), ObjectHead(etag="e", size_bytes=1))
    transport, _ = layer(inner)
    assert (await transport.send(HeadObject(key="k"))).attempts == len(before) + 2
    assert transport.retries == len(before) + 1


async def test_a_bare_400_that_is_said_twice_is_believed() -> None:
    inner = Scripted(mute(), mute(), ObjectHead(etag="e", size_bytes=1))
    transport, _ = layer(inner)
    with pytest.raises(PermanentError, match=r"It was tried 2 times") as caught:
        await transport.send(HeadObject(key="k"))
    assert (caught.value.attempts, inner.sent) == (2, 2)


@pytest.mark.parametrize("error", [mute(403), mute(code="InvalidRequest")])
async def test_what_a_head_says_with_other_words_is_believed_at_once(error: PermanentError) -> None:
    inner = Scripted(error)
    with pytest.raises(PermanentError):
        await layer(inner)[0].send(HeadObject(key="k"))
    assert inner.sent == 1


async def test_full_jitter_stays_between_zero_and_the_doubling_bound() -> None:
    inner = Scripted(*[ConnectionLost("lost.") for _ in range(9)])
    transport, sleeps = layer(inner, attempts=9, backoff_seconds_base=0.2, backoff_seconds_max=3.0)
    with pytest.raises(ConnectionLost):
        await transport.send(HEAD)
    for number, seconds in enumerate(sleeps.seconds):
        assert 0 <= seconds <= min(3.0, 0.2 * 2**number)
    assert len(set(sleeps.seconds)) > 1


@pytest.mark.parametrize(
    ("asked", "expected"), [(7.0, lambda s: 7.0 <= s <= 7.2), (1000.0, lambda s: 120.0 <= s <= 120.2)]
)
async def test_retry_after_is_honoured_up_to_its_limit(asked: float, expected: Callable[[float], bool]) -> None:
    transport, sleeps = layer(Scripted(throttled(asked), ObjectHead(size_bytes=1)))
    await transport.send(HEAD)
    assert expected(sleeps.seconds[0])


async def test_what_is_throttled_is_tried_for_so_long_whatever_the_attempts_are() -> None:
    inner = Scripted(*[throttled() for _ in range(300)])
    transport, sleeps = layer(inner, attempts=3, throttled_seconds=60.0, backoff_seconds_max=1.0)
    with pytest.raises(Throttled, match=r"It was tried \d+ times in 6\d\.\d s") as caught:
        await transport.send(HEAD)
    assert inner.sent == caught.value.attempts > 60
    assert 60.0 <= sleeps.now <= 61.0
    assert transport.retries == inner.sent - 1


async def test_throttled_attempts_are_none_of_the_others() -> None:
    """Two faults of three are allowed, however many answers asked to slow down."""
    answers = [*[throttled() for _ in range(20)], ConnectionLost("lost."), throttled(), ConnectionLost("lost.")]
    transport, _ = layer(Scripted(*answers, ObjectHead(size_bytes=1)), attempts=3)
    assert (await transport.send(HEAD)).attempts == 24
    transport, _ = layer(Scripted(*answers, ConnectionLost("lost."), ObjectHead(size_bytes=1)), attempts=3)
    with pytest.raises(ConnectionLost, match="tried 24 times"):
        await transport.send(HEAD)


async def test_throttled_attempts_count_where_no_time_is_given() -> None:
    transport, _ = layer(Scripted(*[throttled() for _ in range(9)]), attempts=3, throttled_seconds=0)
    with pytest.raises(Throttled, match="tried 3 times"):
        await transport.send(HEAD)


async def test_a_run_does_not_wait_long_to_begin() -> None:
    """A 503 may come from a proxy whose server is down."""
    inner = Scripted(*[throttled() for _ in range(3000)])
    transport, sleeps = layer(inner)
    with transport.fewer_attempts(4), pytest.raises(Throttled):
        await transport.send(HEAD)
    assert PREPARE_THROTTLED_SECONDS_MAX <= sleeps.now <= PREPARE_THROTTLED_SECONDS_MAX + 20
    with pytest.raises(Throttled):
        await transport.send(HEAD)
    assert sleeps.now > 300


async def test_fewer_attempts_within_a_block() -> None:
    inner = Scripted(*[ConnectionLost("lost.") for _ in range(20)])
    transport, _ = layer(inner)
    with transport.fewer_attempts(2), pytest.raises(ConnectionLost):
        await transport.send(HEAD)
    assert inner.sent == 2
    with pytest.raises(ConnectionLost):
        await transport.send(HEAD)
    assert inner.sent == 2 + 8


async def test_the_pacer_counts_every_attempt_and_holds_no_token_between_them() -> None:
    pacer = Pacer(1)
    inner = Scripted(throttled(), ConnectionLost("lost."), ObjectHead(size_bytes=1))
    seen: list[int] = []

    async def sleep(seconds: float) -> None:
        seen.append(pacer.in_flight)

    transport = RetryingTransport(PacedTransport(inner, pacer), RetryPolicy(), sleep=sleep)
    await transport.send(HEAD)
    assert seen == [0, 0]
    window = pacer.take_window()
    assert (window.requests, window.throttled, window.errors, window.saturated) == (3, 1, 1, True)
    assert pacer.traffic.requests == 3
    assert repr(pacer) == "<Pacer 0 of 1 in flight, 0 waiting>"


# -- The attempt after RequestTimeTooSkewed and after ExpiredToken is signed anew --------------------------------------


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
