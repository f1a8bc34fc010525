"""Many HEADs as one operation: what each answer means, and what is left to the ordinary way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from asyncsink.errors import AccessDenied, AsyncSinkError, ClockSkew, ObjectMissing, PreconditionFailed, Throttled
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import RetryPolicy, Secret
from asyncsink.s3.get_object import GetObject, GetObjects, ObjectData, ObjectsGot, ObjectToGet
from asyncsink.s3.operations import ABSENT, HeadObject, HeadObjects, HeadsDone, ObjectHead
from asyncsink.s3.pacing import Pacer
from asyncsink.testing.peers import CannedPeer
from asyncsink.testing.transport_kit import IMPATIENT, canned
from tests.support.requests import DENIED, SLOW_DOWN, Open, until

pytestmark = pytest.mark.anyio
THERE = b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "e"\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n\r\n'
NO_HEAD = b"HTTP/1.1 404 Not Found\r\nContent-Length: 120\r\nContent-Type: application/xml\r\n\r\n"


class Heads(CannedPeer):
    """Answers by key; b"" hangs up, and None is never answered."""

    def __init__(self, **answers: bytes | None) -> None:
        super().__init__(b"")
        self.answers = answers
        self.asked: Counter[str] = Counter()
        self.connections = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
        self.connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HEAD /bkt/")
            key = head.split(b" ", 2)[1].removeprefix(b"/bkt/").decode()
            self.asked[key] += 1
            self.heads.append(head)
            answer = self.answers.get(key, NO_HEAD)
            if answer is None:
                await asyncio.Event().wait()
            if not answer:
                return
            writer.write(answer)
            await writer.drain()


async def ask_heads(transport: Any, keys: list[str]) -> dict[str, Any]:
    """Results by key."""
    operation = HeadObjects(keys=keys, results=[None] * len(keys))
    answer = await transport.send(operation)
    assert isinstance(answer, HeadsDone)
    assert answer.successes == sum(isinstance(result, ObjectHead) for result in operation.results)
    return dict(zip(keys, operation.results, strict=True))


async def test_each_answer_is_its_own_keys(wire: Open) -> None:
    harmed: dict[str, bytes | None] = {
        "there": THERE,
        "denied": b"HTTP/1.1 403 Forbidden\r\n\r\n",
        "throttled": b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n",
        "dropped": b"",
        "silent": None,
        "no HTTP": b"nonsense\r\n\r\n",
        "closing": b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n",
        "folded": b"HTTP/1.1 404 Not Found\r\nX-A: b\r\n c: d\r\n\r\n",
        "two lines in one": b"HTTP/1.1 404 Not Found\r\na\nConnection: close\r\n\r\n",
        "sizeless": b'HTTP/1.1 200 OK\r\nETag: "e"\r\n\r\n',
    }
    harmed = {key.replace(" ", "-"): answer for key, answer in harmed.items()}
    patient = RetryPolicy(stall_seconds=1)  # with the other answers, on a busy machine
    async with Heads(**harmed) as server, wire(server.endpoint_url, retry=patient) as transport:
        keys = [*harmed, *(f"k{number}" for number in range(100)), "ключ"]
        found = await ask_heads(transport, keys)
    assert isinstance(found["there"], ObjectHead)
    assert (found["there"].size_bytes, found["there"].etag) == (3, "e")
    assert isinstance(found["denied"], AccessDenied)
    assert isinstance(found["closing"], ObjectMissing)
    assert {key for key, result in found.items() if result is ABSENT} == {*keys[len(harmed) :]}
    assert isinstance(found["throttled"], Throttled)
    assert [found[key] for key in ("dropped", "silent", "no-HTTP", "folded", "two-lines-in-one")] == [None] * 5
    assert not isinstance(found["sizeless"], (ObjectHead, ObjectMissing))


async def test_a_key_that_cannot_be_sent_is_left_to_the_ordinary_way(wire: Open) -> None:
    async with Heads() as server, wire(server.endpoint_url) as transport:
        assert await ask_heads(transport, ["\udcff", "k"]) == {"\udcff": None, "k": ABSENT}


async def test_what_is_asked_is_what_a_single_head_asks(wire: Open) -> None:
    async with Heads(k=THERE) as server, wire(server.endpoint_url) as transport:
        (together,) = (await ask_heads(transport, ["k"])).values()
        assert together == await transport.send(HeadObject(key="k"))


async def test_cancelled_it_ends_what_is_under_way_and_the_next_ones_are_answered(wire: Open) -> None:
    async with Heads(k7=None) as server, wire(server.endpoint_url) as transport:
        asking = asyncio.create_task(ask_heads(transport, [f"k{number}" for number in range(20)]))
        await until(lambda: len(server.asked) == 20)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await ask_heads(transport, ["a", "b"]) == {"a": ABSENT, "b": ABSENT}


async def test_what_a_refusal_teaches_the_next_ones_know(wire: Open) -> None:
    later = (datetime.now(UTC) + timedelta(hours=3)).replace(minute=30)
    skewed = f"HTTP/1.1 403 Forbidden\r\nDate: {format_datetime(later, usegmt=True)}\r\n\r\n".encode()
    async with Heads(k=skewed) as server, wire(server.endpoint_url) as transport:
        assert isinstance((await ask_heads(transport, ["k"]))["k"], ClockSkew)
        await ask_heads(transport, ["a"])
        assert f"x-amz-date: {later:%Y%m%dT%H}".encode() in server.heads[-1]


# -- Many small objects as one operation: what each answer means, and what is left to the ordinary way -----------------


Answer = bytes | tuple[bytes, ...] | None
GONE = canned(404, b"<Error><Code>NoSuchKey</Code><Message>No.</Message></Error>")
REPLACED = canned(412, b"<Error><Code>PreconditionFailed</Code><Message>No.</Message></Error>")


def body_of(key: str) -> bytes:
    """Bytes of its own for each key, of very different lengths."""
    return f"<{key}>".encode() * (len(key) * 400)


def given(key: str, *more: str, etag: str = "e", body: bytes | None = None, length: int | None = None) -> bytes:
    """The usual answer, or one that differs."""
    body = body_of(key) if body is None else body
    lines = [
        "HTTP/1.1 200 OK",
        *([f'ETag: "{etag}"'] if etag else []),
        f"x-amz-checksum-crc64nvme: {checksum_of(body, 'CRC64NVME').value}",
        "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT",
        *more,
        f"Content-Length: {len(body) if length is None else length}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode() + body


def chunked(key: str) -> bytes:
    """The object in a coding of its own."""
    body = body_of(key)
    return b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n' % (
        len(body),
        body,
    )


def in_pieces(key: str) -> tuple[bytes, ...]:
    """The usual answer, as a network brings it."""
    head, body = given(key).split(b"\r\n\r\n", 1)
    return head[:20], head[20:] + b"\r\n\r\n", body[:1], body[1:700], body[700:]


class Objects(CannedPeer):
    """Answers by key: a tuple is sent in pieces, and then b"" hangs up; None is never answered."""

    def __init__(self, **answers: Answer) -> None:
        super().__init__(b"")
        self.answers = answers
        self.asked: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request after another."""
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"GET /bkt/")
            key = head.split(b" ", 2)[1].removeprefix(b"/bkt/").decode()
            self.asked[key] += 1
            self.heads.append(head)
            answer = self.answers.get(key, given(key))
            if answer is None:
                await asyncio.Event().wait()
            for piece in answer if isinstance(answer, tuple) else (answer,):
                if not piece:
                    return
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0.005 if isinstance(answer, tuple) else 0)


def together(keys: list[str], **named: Any) -> GetObjects:
    """The operation."""
    objects = [ObjectToGet(key, len(body_of(key)), "e") for key in keys]
    return GetObjects(objects=objects, results=[None] * len(keys), **named)


def alone(key: str, **named: Any) -> GetObject:
    """The same for one of them."""
    return GetObject(key=key, length=len(body_of(key)), whole=True, if_match="e", **named)


async def ask(transport: Any, keys: list[str], **named: Any) -> dict[str, Any]:
    """Results by key."""
    operation = together(keys, **named)
    answer = await transport.send(operation)
    assert isinstance(answer, ObjectsGot)
    assert answer.received == sum(isinstance(result, ObjectData) for result in operation.results)
    return dict(zip(keys, operation.results, strict=True))


HOW: dict[str, Callable[[str], Answer]] = {
    "usual": given,
    "in pieces": in_pieces,
    "chunked": chunked,
    "with much more in its head": lambda key: given(key, *(f"x-amz-meta-{n}: {'v' * 80}" for n in range(60))),
    "with a version": lambda key: given(key, "x-amz-version-id: 3/L4k+J="),
    "encrypted": lambda key: given(key, "x-amz-server-side-encryption: aws:kms"),
    "of parts": lambda key: given(key, "x-amz-checksum-type: COMPOSITE"),
    "two checksums": lambda key: given(key, "x-amz-checksum-crc32: AAAAAA=="),
    "a checksum of checksums": lambda key: given(key, "x-amz-checksum-crc32: AAAAAA==-3"),
    "without an ETag": lambda key: given(key, etag=""),
    "a weak ETag": lambda key: given(key).replace(b'ETag: "e"', b'ETag: W/"e"'),
    "another ETag": lambda key: given(key, etag="f"),
    "shorter": lambda key: given(key, body=body_of(key)[1:]),
    "longer": lambda key: given(key, body=body_of(key) + b"x"),
    "cut": lambda key: (given(key)[:-5], b""),
    "stopping in the middle": lambda key: given(key)[:-5],
    "cut in its head": lambda key: (given(key)[:30], b""),
    "more than it says": lambda key: given(key, body=body_of(key) + b"x", length=len(body_of(key))),
    "followed by another": lambda key: given(key) + given(key),
    "a length twice": lambda key: given(key, f"Content-Length: {len(body_of(key))}"),
    "two lengths": lambda key: given(key, "Content-Length: 1"),
    "closing": lambda key: given(key, "Connection: close"),
    "without a length": lambda key: (b'HTTP/1.1 200 OK\r\nETag: "e"\r\n\r\n' + body_of(key), b""),
    "of HTTP/1.0": lambda key: given(key).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "folded": lambda key: given(key, "x-a: b\r\n c: d"),
    "a bare line feed": lambda key: given(key, "x-a: b\nConnection: close"),
    "after an interim one": lambda key: b"HTTP/1.1 103 Early\r\n\r\n" + given(key),
    "a range": lambda key: given(key, "Content-Range: bytes 0-9/10"),
    "gone": lambda _: GONE,
    "replaced": lambda _: REPLACED,
    "denied": lambda _: DENIED,
    "slow down": lambda _: SLOW_DOWN,
    "no HTTP": lambda _: b"nonsense\r\n\r\n",
    "hanging up": lambda _: b"",
    "silent": lambda _: None,
}


@pytest.mark.parametrize("how", HOW)
async def test_what_an_answer_means_is_what_it_means_to_a_single_get(wire: Open, how: str) -> None:
    answer = HOW[how]("k")
    async with Objects(k=answer) as server, wire(server.endpoint_url, retry=IMPATIENT) as transport:
        # Answers that are laid out in the usual way come first.
        assert all(isinstance(each, ObjectData) for each in (await ask(transport, ["a", "b"])).values())
        found = (await ask(transport, ["k"]))["k"]
        expected: Any
        try:
            expected = await transport.send(alone("k"))
        except AsyncSinkError as error:
            expected = error
        after = await ask(transport, ["a", "bb"])
    if isinstance(expected, AsyncSinkError):
        assert (type(found), str(found)) == (type(expected), str(expected))
    else:
        assert bytes(found.data) == bytes(expected.data) == body_of("k")
        found.data = expected.data = b""
        assert found == expected
    # Nothing of it is taken for what comes next.
    assert {key: bytes(result.data) for key, result in after.items()} == {key: body_of(key) for key in ("a", "bb")}


async def test_a_thousand_objects_over_few_connections(wire: Open) -> None:
    keys, pacer = [f"{number}" for number in range(999)], Pacer(64)
    odd = {keys[number]: in_pieces(keys[number]) for number in range(0, 999, 50)}
    async with Objects(**odd) as server, wire(server.endpoint_url, pacer=pacer) as transport:
        found = await ask(transport, [*keys, ""])
        assert server.connections_total <= 64
        window = pacer.take_window()
    assert {key: bytes(result.data) for key, result in found.items()} == {key: body_of(key) for key in [*keys, ""]}
    assert server.asked == Counter([*keys, ""])
    assert (window.requests, window.errors, window.throttled) == (1000, 0, 0)
    assert window.bytes == sum(len(body_of(key)) for key in keys)
    assert (pacer.traffic.requests, pacer.traffic.retries) == (1000, 0)


@pytest.mark.parametrize("fault", ["slow down", "denied", "hanging up", "cut", "stopping in the middle", "no HTTP"])
async def test_the_first_fault_ends_the_batch_for_those_that_have_not_begun(wire: Open, fault: str) -> None:
    pacer = Pacer(1)
    odd: dict[str, Answer] = {"c": HOW[fault]("c")}
    async with Objects(**odd) as server, wire(server.endpoint_url, retry=IMPATIENT, pacer=pacer) as transport:
        found = await ask(transport, ["a", "b", "c", "d", "e"])
        assert {*server.asked} == {"a", "b", "c"}
        assert [isinstance(found[key], ObjectData) for key in "abc"] == [True, True, False]
        assert isinstance(found["c"], AsyncSinkError)
        assert (found["d"], found["e"]) == (None, None)
        window = pacer.take_window()
    slow = isinstance(found["c"], Throttled)
    assert (window.throttled, window.errors) == (int(slow), int(not slow and fault != "denied"))


async def test_what_concerns_one_object_does_not_end_the_batch(wire: Open) -> None:
    odd: dict[str, Answer] = {"a": GONE, "b": REPLACED, "c": given("c", etag="f"), "d": given("d", body=b"short")}
    async with Objects(**odd) as server, wire(server.endpoint_url, pacer=Pacer(1)) as transport:
        found = await ask(transport, ["a", "b", "c", "d", "e"])
    assert [type(found[key]) for key in "abcde"] == [ObjectMissing, *[PreconditionFailed] * 3, ObjectData]


async def test_what_is_asked_is_what_a_single_get_asks(wire: Open) -> None:
    async with Objects() as server, wire(server.endpoint_url) as transport:
        key = "a b+ü/%"
        for named in ({}, {"ask_checksum": False}):
            operation = GetObjects(objects=[ObjectToGet(key, 1, "e")], results=[None], **named)
            await transport.send(operation)
            with pytest.raises(PreconditionFailed):
                await transport.send(GetObject(key=key, length=1, whole=True, if_match="e", **named))
    one, other = ([line for line in head.split(b"\r\n") if not _of_its_time(line)] for head in server.heads[:2])
    assert one == other
    assert b"x-amz-checksum-mode: ENABLED" in one
    assert b"x-amz-checksum-mode: ENABLED" not in server.heads[2]


def _of_its_time(line: bytes) -> bool:
    return line.lower().startswith((b"authorization", b"x-amz-date"))


async def test_the_customers_key_goes_with_each(wire: Open) -> None:
    secret = Secret(b"0123456789abcdef0123456789abcdef")
    async with Objects() as server, wire(server.endpoint_url) as transport:
        await ask(transport, ["a", "b"], sse_customer_key=secret)
    assert all(b"x-amz-server-side-encryption-customer-key: MDEy" in head for head in server.heads)


async def test_cancelled_in_the_middle_nothing_more_is_asked_and_the_next_ones_are_answered(wire: Open) -> None:
    async with Objects(k3=None) as server, wire(server.endpoint_url, pacer=Pacer(1)) as transport:
        operation = together([f"k{number}" for number in range(20)])
        asking = asyncio.create_task(transport.send(operation))
        await until(lambda: server.asked["k3"] == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert [isinstance(each, ObjectData) for each in operation.results] == [True] * 3 + [False] * 17
        assert all(isinstance(each, ObjectData) for each in (await ask(transport, ["a", "b"])).values())
    assert {*server.asked} == {"k0", "k1", "k2", "k3", "a", "b"}


async def test_nobody_there_fails_each_and_is_not_asked_for_all(wire: Open) -> None:
    async with Objects() as server:
        url = server.endpoint_url
    async with wire(url, pacer=Pacer(1)) as transport:
        found = await ask(transport, ["a", "b", "c"])
    assert isinstance(found["a"], AsyncSinkError)
    assert (found["b"], found["c"]) == (None, None)
