"""What a reader makes of damaged, cut, throttled and replaced objects, of deadlines, of being closed and cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable
from typing import Any

import pytest

import asyncsink
from asyncsink.options.settings import KIB, MIB, RetryPolicy
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from tests.support.object_peer import ObjectPeer

pytestmark = pytest.mark.anyio
Make = Callable[..., asyncsink.S3Reader]
Harmed = Callable[..., tuple[FaultProxy, asyncsink.S3Reader]]
GET = "GetObject"
LARGE = os.urandom(6 * MIB + 5)
SMALL = os.urandom(16 * KIB)
DENIED = s.Status(403, "AccessDenied")
SLOW_DOWN = s.Status(503, "SlowDown")
QUICK = RetryPolicy(attempts=4, backoff_seconds_base=0.01, backoff_seconds_max=0.05)


async def collected(stream: asyncsink.ObjectStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def taken(stream: asyncsink.ObjectStream) -> tuple[bytes, BaseException | None]:
    """What comes before the end, and the error that is the end."""
    received = b""
    try:
        async for chunk in stream:
            received += chunk
    except asyncsink.AsyncSinkError as error:
        return received, error
    return received, None


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
async def test_damaged_bytes_are_received_again(harmed: Harmed, put: Any, size: int) -> None:
    put({"o": LARGE[:size]})
    # Of the first answer about a large object, little is received.
    proxy, reader = harmed(Rule(s.CorruptBody("downstream"), operation=GET, nth=1 if size == len(SMALL) else 2))
    async with reader:
        assert await reader.get("o") == LARGE[:size]
    assert proxy.count(s.CorruptBody) == 1


@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
async def test_damaged_bytes_are_never_given(harmed: Harmed, put: Any, size: int) -> None:
    put({"o": LARGE[:size]})
    _, reader = harmed(Rule(s.CorruptBody("downstream"), operation=GET))
    async with reader:
        with pytest.raises(asyncsink.IntegrityError, match="not those the server described") as caught:
            await reader.get("o")
        assert caught.value.expected != caught.value.actual
        received, error = await taken(reader.stream("o"))
    assert isinstance(error, asyncsink.IntegrityError)
    assert len(received) < size, "the last chunk is held back until the proof"


@pytest.mark.parametrize("fault", [t.LimitData(9_000), t.ResetPeer(9_000, "downstream"), SLOW_DOWN])
@pytest.mark.parametrize("size", [len(SMALL), len(LARGE)])
async def test_cut_and_throttled_answers(harmed: Harmed, put: Any, fault: t.Toxic, size: int) -> None:
    put({"o": LARGE[:size]})
    proxy, reader = harmed(Rule(fault, operation=GET, times=2))
    async with reader:
        assert await reader.get("o") == LARGE[:size]
    assert proxy.count(type(fault)) == 2
    proxy, reader = harmed(Rule(fault, operation=GET, times=2))
    async with reader:
        assert await collected(reader.stream("o")) == LARGE[:size]
        assert await reader.get("o", 5, 500) == LARGE[5:500]
    assert proxy.count(type(fault)) == 2


async def test_a_stream_goes_on_where_its_connection_broke(harmed: Harmed, put: Any) -> None:
    put({"o": LARGE})
    proxy, reader = harmed(Rule(t.ResetPeer(300_000, "downstream"), operation=GET, nth=2))
    async with reader:
        stream = reader.stream("o")
        assert await collected(stream) == LARGE
        assert stream.confirmed_by in ("server-checksum", "etag")
    assert proxy.count(t.ResetPeer) == 1


async def test_a_server_that_never_gives_the_whole(harmed: Harmed, put: Any) -> None:
    put({"o": SMALL})
    _, reader = harmed(Rule(t.LimitData(9_000), operation=GET))
    async with reader:
        with pytest.raises(asyncsink.ConnectionLost, match=r"GetObject of s3://.*/o failed"):
            await reader.get("o")


async def test_an_object_that_may_not_be_read(harmed: Harmed, put: Any) -> None:
    put({"o": SMALL})
    _, reader = harmed(Rule(DENIED, operation=(GET, "HeadObject", "ListObjectsV2")))
    async with reader:
        with pytest.raises(asyncsink.AccessDenied):
            await reader.get("o")
        with pytest.raises(asyncsink.AccessDenied):
            await reader.head("o")
        with pytest.raises(asyncsink.AccessDenied):
            await anext(reader.list())


async def test_a_replaced_object_is_never_mixed(harmed: Harmed, put: Any, s3: Any, bucket: str) -> None:
    """Replaced once between two ranges, it is read anew; a stream, of which a part is given already, ends."""
    put({"o": LARGE})
    other = LARGE[::-1]

    def replace(_: t.Request) -> None:
        s3.put_object(Bucket=bucket, Key="o", Body=other)

    _, reader = harmed(Rule(s.Meanwhile(replace), operation=GET, nth=2))
    async with reader:
        assert await reader.get("o") == other
    put({"o": LARGE})
    _, reader = harmed(Rule(s.Meanwhile(replace), operation=GET, nth=2))
    async with reader:
        received, error = await taken(reader.stream("o"))
    assert isinstance(error, asyncsink.PreconditionFailed)
    assert LARGE.startswith(received)


async def test_an_object_that_is_replaced_again_and_again(harmed: Harmed, put: Any, s3: Any, bucket: str) -> None:
    put({"o": LARGE})
    count = 0

    def replace(_: t.Request) -> None:
        nonlocal count
        count += 1
        s3.put_object(Bucket=bucket, Key="o", Body=LARGE + bytes(count))

    _, reader = harmed(Rule(s.Meanwhile(replace), operation=GET))
    async with reader:
        with pytest.raises(asyncsink.PreconditionFailed):
            await reader.get("o")


async def test_another_object_than_the_etag_of_a_range(reader: Make, put: Any) -> None:
    """The caller's own pair of ranges."""
    put({"o": LARGE})
    async with reader() as opened:
        first = await opened.get_object("o", 0, 100)
        put({"o": LARGE[::-1]})
        with pytest.raises(asyncsink.PreconditionFailed):
            await opened.get("o", 100, 200, etag=first.etag)


@pytest.mark.parametrize("dropped", ["x-amz-checksum", "etag"])
async def test_servers_that_tell_less(harmed: Harmed, put: Any, dropped: str) -> None:
    put({"small": SMALL, "large": LARGE})
    _, reader = harmed(Rule(s.DropHeaders(dropped), operation=(GET, "HeadObject")))
    async with reader:
        for key, data in (("small", SMALL), ("large", LARGE)):
            content = await reader.get_object(key)
            assert content.data == data
            assert content.confirmed_by == ("etag" if dropped == "x-amz-checksum" else "server-checksum")
            assert await collected(reader.stream(key)) == data


async def test_a_server_without_ranges(lane: str, dummy_keys: None) -> None:
    def whole(method: str, key: str, first: int) -> bytes | None:
        if method != "GET":
            return None
        etag = hashlib.md5(LARGE).hexdigest()
        return f'HTTP/1.1 200 OK\r\nContent-Length: {len(LARGE)}\r\nETag: "{etag}"\r\n\r\n'.encode() + LARGE

    async with ObjectPeer({"o": LARGE}) as peer:
        peer.fault = whole
        given: dict[str, Any] = {"endpoint_url": peer.endpoint_url, "region": "x", "transport": lane, "retry": QUICK}
        async with asyncsink.S3Reader("s3://bucket", **given) as reader:
            assert await reader.get("o") == LARGE
            assert await reader.get("o", 100, 2 * MIB) == LARGE[100 : 2 * MIB]
            assert await reader.get("o", -100) == LARGE[-100:]
            with pytest.raises(asyncsink.PermanentError, match="read it in one piece"):
                await collected(reader.stream("o"))


async def test_a_deadline_ends_a_call(harmed: Harmed, put: Any) -> None:
    put({"o": SMALL, "fine": SMALL})
    _, reader = harmed(Rule(t.Stall("answer"), operation=(GET, "HeadObject"), key="o"))
    async with reader:
        for call in (
            reader.get("o", deadline_seconds=0.2),
            reader.head("o", deadline_seconds=0.2),
            anext(reader.stream("o", deadline_seconds=0.2)),
        ):
            with pytest.raises(TimeoutError, match=r"within 0\.2 seconds"):
                await call
        assert await reader.get("fine", deadline_seconds=30) == SMALL
        assert reader._reads is not None
        assert not reader._reads.budget.held_bytes


async def test_cancellation_closes_the_connection(lane: str, dummy_keys: None) -> None:
    async with ObjectPeer({"o": SMALL}) as peer:
        peer.hold = {0}
        given: dict[str, Any] = {"endpoint_url": peer.endpoint_url, "region": "x", "transport": lane}
        async with asyncsink.S3Reader("s3://bucket", **given) as reader:
            for begin in (lambda: reader.get("o"), lambda: anext(reader.stream("o"))):
                peer.held.clear()
                reading = asyncio.ensure_future(begin())
                await peer.held.wait()
                before = len(peer.requests)
                reading.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reading
                assert len(peer.requests) == before
            peer.hold = set()
            assert await reader.get("o") == SMALL


async def test_closing_ends_what_is_under_way(lane: str, dummy_keys: None) -> None:
    async with ObjectPeer({"o": SMALL}) as peer:
        peer.hold = {0}
        given: dict[str, Any] = {"endpoint_url": peer.endpoint_url, "region": "x", "transport": lane}
        reader = await asyncio.create_task(asyncsink.S3Reader("s3://bucket", **given).start())
        reading = asyncio.create_task(reader.get("o"))
        await peer.held.wait()
        await asyncio.create_task(reader.close())
        with pytest.raises(asyncsink.ConfigError, match="was closed while something was read"):
            await reading
        await reader.close()
        with pytest.raises(asyncsink.ConfigError, match="is not open"):
            await reader.get("o")
        with pytest.raises(asyncsink.ConfigError, match="make a new one"):
            await reader.start()


async def test_a_reader_belongs_to_its_loop(reader: Make, put: Any) -> None:
    put({"o": SMALL})
    unopened = reader()
    with pytest.raises(asyncsink.ConfigError, match="is not open"):
        await unopened.get("o")
    async with reader() as opened:

        def elsewhere() -> None:
            with pytest.raises(asyncsink.ConfigError, match="from another event loop"):
                asyncio.run(opened.get("o"))
            with pytest.raises(asyncsink.ConfigError, match="outside of any event loop"):
                opened.stream("o")

        await asyncio.to_thread(elsewhere)
        assert await opened.get("o") == SMALL


async def test_a_bucket_that_is_not_there(options: dict[str, Any], lane: str) -> None:
    with pytest.raises(asyncsink.BucketMissing):
        await asyncsink.S3Reader("s3://no-such-bucket-anywhere", transport=lane, **options).start()  # type: ignore[arg-type]


async def test_a_server_that_is_not_there(lane: str, dummy_keys: None) -> None:
    given: dict[str, Any] = {"endpoint_url": "http://127.0.0.1:9", "region": "x", "transport": lane, "retry": QUICK}
    with pytest.raises(asyncsink.ConnectionLost):
        await asyncsink.S3Reader("s3://bucket", **given).start()
