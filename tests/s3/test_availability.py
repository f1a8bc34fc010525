"""When a server counts as gone, how long it is waited for, and what ends a run: policy, by injected clocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from asyncsink.errors import (
    AccessDenied,
    AsyncSinkError,
    BucketMissing,
    ClockSkew,
    ConnectionLost,
    CredentialsError,
    EntityTooLarge,
    ObjectMissing,
    PermanentError,
    RetryableError,
    ServerFault,
    Stalled,
    Throttled,
)
from asyncsink.model import Event, GaveUp, Paused, Resumed, Retried
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.availability import EQUAL_ERRORS, Availability, Watch, says_gone, trouble_of
from asyncsink.s3.operations import HeadObject, ObjectHead, ObjectPage, ObjectStored, PutObject
from asyncsink.s3.retry import RetryingTransport
from asyncsink.s3.transport import Traffic

pytestmark = pytest.mark.anyio
GIVE_UP = 600.0


class Server:
    """A server that is gone between two moments of a clock that only sleeping moves."""

    def __init__(self, gone: Callable[[float], AsyncSinkError | None], give_up: float = GIVE_UP, **policy: Any) -> None:
        self.now, self._gone = 0.0, gone
        self.sent: list[tuple[float, str]] = []
        self.events: list[Event] = []
        self.stopped: list[str] = []
        watch = Watch(give_up_after_seconds=give_up, tell=self._tell, stop=self.stopped.append)
        self.traffic = Traffic()
        times: Any = {"sleep": self.sleep, "clock": self.clock, "traffic": self.traffic}
        self.health = Availability("here:9", watch, self.probe, stall_seconds=30, **times)
        self.transport = RetryingTransport(self, RetryPolicy(**policy), availability=self.health, **times)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await anyio.lowlevel.checkpoint()

    async def probe(self) -> ObjectPage:
        await self._answer("probe")
        return ObjectPage()

    async def send(self, operation: Any) -> Any:
        await self._answer(operation.key)
        return ObjectHead(size_bytes=1, etag="e") if isinstance(operation, HeadObject) else ObjectStored(etag="e")

    async def _answer(self, what: str) -> None:
        self.sent.append((self.now, what))
        if (error := self._gone(self.now)) is not None:
            raise error

    async def aclose(self) -> None:
        pass

    def _tell(self, event: Event) -> None:
        if not isinstance(event, Retried):  # each repeated request is an event too
            self.events.append(event)

    @property
    def told(self) -> list[type]:
        return [type(event) for event in self.events]


HEAD = HeadObject(key="k")


def refused() -> ConnectionLost:
    error = ConnectionLost("The connection was lost.")
    error.__cause__ = ConnectionRefusedError()
    return error


def away(first: float, last: float, kind: Callable[[], AsyncSinkError] = refused) -> Callable[[float], Any]:
    return lambda now: kind() if first <= now < last else None


async def reached(server: Server) -> None:
    """One success, and then some seconds."""
    await server.transport.send(HEAD)
    server.now = 10.0


@settings(max_examples=25, deadline=None)
@given(seconds=st.floats(0.1, 560.0), attempts=st.integers(1, 8))
def test_no_request_fails_while_the_server_may_come_back(seconds: float, attempts: int) -> None:
    async def run() -> None:
        server = Server(away(10.0, 10.0 + seconds), attempts=attempts)
        await reached(server)
        assert (await server.transport.send(HEAD)).size_bytes == 1
        assert server.now - 10.0 <= seconds + 30 + RetryPolicy().backoff_seconds_max
        assert server.told in ([], [Paused, Resumed]) or set(server.told) == {Paused, Resumed}
        assert not server.health.paused

    anyio.run(run)


@settings(max_examples=12, deadline=None)
@given(give_up=st.floats(1.0, 900.0), requests=st.integers(1, 20))
def test_a_server_that_stays_away_is_given_up_in_time_by_all(give_up: float, requests: int) -> None:
    async def run() -> None:
        server = Server(away(10.0, float("inf")), give_up)
        await reached(server)
        failed: list[RetryableError] = []

        async def one(number: int) -> None:
            try:
                await server.transport.send(HeadObject(key=f"k{number}"))
            except ConnectionLost as error:
                failed.append(error)

        async with anyio.create_task_group() as group:
            for number in range(requests):
                group.start_soon(one, number)
        assert len(failed) == requests
        assert len(server.stopped) >= 1
        assert "here:9 refuses connections for" in server.stopped[0]
        # Attempts before the pause move the clock of all; nothing waits beyond that and the limit.
        assert server.now - 10.0 <= give_up + 5.0 + 30.0 * requests

    anyio.run(run)


async def test_the_pause_is_told_with_its_cause_its_files_and_its_end() -> None:
    server = Server(away(10.0, 200.0))
    await reached(server)
    async with anyio.create_task_group() as group:
        for number in range(3):
            group.start_soon(server.transport.send, HeadObject(key=f"k{number}"))
    first, last = server.events[0], server.events[-1]
    assert isinstance(first, Paused)
    assert (first.cause, first.endpoint) == ("refuses connections", "here:9")
    assert 0 < first.seconds_left < GIVE_UP
    assert str(Paused("127.0.0.1:9000", "refuses connections", 14, 16, 586)) == (
        "127.0.0.1:9000 refuses connections for 14 s; 16 files wait; gives up in 9:46"
    )
    assert isinstance(last, Resumed)
    # Every half minute, and not with each probe.
    assert 3 <= len([event for event in server.events if isinstance(event, Paused)]) <= 8
    probes = [when for when, what in server.sent if what == "probe"]
    assert len(probes) < 20


async def test_while_it_waits_only_the_probe_is_sent() -> None:
    server = Server(away(10.0, 300.0))
    await reached(server)
    await server.transport.send(HEAD)
    late = [what for when, what in server.sent if 30.0 < when < 290.0]
    assert late
    assert set(late) == {"probe"}


async def test_a_request_that_fails_alone_uses_up_its_attempts() -> None:
    """The server is there, whatever becomes of this one."""
    server = Server(lambda _: None, attempts=4)
    await reached(server)
    sent = 0

    async def send(_: Any) -> Any:
        nonlocal sent
        sent += 1
        raise refused()

    server.send = send  # type: ignore[method-assign]
    with pytest.raises(ConnectionLost, match="It was tried 4 times"):
        await server.transport.send(HEAD)
    assert (sent, server.events, server.stopped) == (4, [], [])


async def test_a_server_that_was_never_reached_is_told_at_once() -> None:
    server = Server(away(0.0, float("inf")), attempts=4)
    with pytest.raises(ConnectionLost, match="It was tried 4 times"):
        await server.transport.send(HEAD)
    assert server.events == []


async def test_throttling_that_the_server_says_itself_is_no_outage() -> None:
    def slow() -> Throttled:
        return Throttled("Slow down.", code="SlowDown", status=503)

    server = Server(away(10.0, 200.0, slow))
    await reached(server)
    await server.transport.send(HEAD)
    assert server.events == []


async def test_cancelled_while_it_is_paused_it_ends_at_once() -> None:
    server = Server(away(10.0, float("inf")))
    await reached(server)
    entered = anyio.Event()

    async def never(seconds: float) -> None:
        if server.health.paused:
            entered.set()
            await anyio.sleep_forever()
        server.now += seconds

    server.health._sleep = never
    async with anyio.create_task_group() as group:
        group.start_soon(server.transport.send, HEAD)
        group.start_soon(server.transport.send, HeadObject(key="other"))
        await entered.wait()
        group.cancel_scope.cancel()
    assert server.stopped == []


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (refused(), True),
        (Stalled("nothing moved."), True),
        (ServerFault("x", status=502), True),
        (ServerFault("x", code="504", status=504), True),
        (ServerFault("x", code="InternalError", status=500), True),
        (Throttled("x", status=503), True),
        (Throttled("x", code="503", status=503), True),
        (Throttled("x", code="SlowDown", status=503), False),
        (ServerFault("x", code="OperationAborted", status=409), False),
        (ConnectionLost("x", code="IncompleteBody", status=400), False),
        (ClockSkew("x", status=403), False),
        (AccessDenied("x", status=403), False),
    ],
)
def test_what_is_said_where_no_server_is(error: AsyncSinkError, gone: bool) -> None:
    assert says_gone(error) is gone


def test_causes_are_worded() -> None:
    assert trouble_of(refused()) == "refuses connections"
    assert trouble_of(Stalled("x")) == "does not answer"
    assert trouble_of(ServerFault("x", status=502)) == "answers everything with HTTP 502"
    assert trouble_of(ConnectionLost("it (Connection refused).")) == "refuses connections"


# -- what every request gets ------------------------------------------------------------------------------------------


async def put(server: Server, number: int, error: AsyncSinkError | None) -> None:
    async def send(_: Any) -> Any:
        if error is not None:
            raise error
        return ObjectStored(etag="e")

    server.send = send  # type: ignore[method-assign]
    try:
        await server.transport.send(PutObject(key=f"k{number}", body=b""))
    except AsyncSinkError as raised:
        assert raised is error  # noqa: PT017 - what is raised is what was answered


def wrong_class() -> PermanentError:
    return PermanentError("The storage class is not known.", code="InvalidStorageClass", status=400)


async def test_ten_equal_errors_about_an_option_stop_the_run() -> None:
    server = Server(lambda _: None)
    for number in range(EQUAL_ERRORS):
        assert server.stopped == []
        await put(server, number, wrong_class())
    assert len(server.stopped) == 1
    assert "The storage class is not known." in server.stopped[0]


@pytest.mark.parametrize(
    "error", [ObjectMissing("x", code="NoSuchKey", status=404), EntityTooLarge("x", code="EntityTooLarge", status=400)]
)
async def test_errors_of_single_objects_stop_nothing(error: AsyncSinkError) -> None:
    server = Server(lambda _: None)
    for number in range(5 * EQUAL_ERRORS):
        await put(server, number, error)
    assert server.stopped == []


async def test_one_success_between_them_says_that_it_is_not_all() -> None:
    server = Server(lambda _: None)
    for number in range(5 * EQUAL_ERRORS):
        await put(server, number, None if number % EQUAL_ERRORS == 0 else wrong_class())
    assert server.stopped == []


async def test_the_same_object_again_and_again_is_one() -> None:
    server = Server(lambda _: None)
    for _ in range(5 * EQUAL_ERRORS):
        await put(server, 1, wrong_class())
    assert server.stopped == []


@pytest.mark.parametrize(
    ("error", "stops"),
    [
        (BucketMissing("gone", code="NoSuchBucket", status=404), True),
        (CredentialsError("revoked"), True),
        (AccessDenied("not this folder", code="AccessDenied", status=403), False),
        (wrong_class(), False),
    ],
)
async def test_after_successes_only_what_concerns_everything_stops_the_run(error: AsyncSinkError, stops: bool) -> None:
    """A folder that may not be written to must not stop the other 60,000 files."""
    server = Server(lambda _: None)
    await put(server, 0, None)
    for number in range(1, 3 * EQUAL_ERRORS):
        await put(server, number, error)
    assert bool(server.stopped) is stops


async def test_rights_that_were_taken_from_the_whole_bucket_stop_it() -> None:
    denied = AccessDenied("denied", code="AccessDenied", status=403)
    server = Server(lambda now: denied if now else None)
    server.traffic.successes["ListObjectsV2"] += 1
    await put(server, 0, None)
    server.now = 1.0
    for number in range(1, 1 + EQUAL_ERRORS):
        await put(server, number, denied)
    assert len(server.stopped) == 1


async def test_whoever_may_only_write_is_not_stopped_by_looks_that_are_denied() -> None:
    denied = AccessDenied("denied", status=403)
    server = Server(lambda _: denied)
    for number in range(3 * EQUAL_ERRORS):
        with pytest.raises(AccessDenied):
            await server.transport.send(HeadObject(key=f"k{number}"))
    assert server.stopped == []


async def test_giving_up_is_told() -> None:
    server = Server(away(10.0, float("inf")), give_up=30.0)
    await reached(server)
    with pytest.raises(ConnectionLost):
        await server.transport.send(HEAD)
    assert isinstance(server.events[-1], GaveUp)
    assert server.told.count(GaveUp) == 1
