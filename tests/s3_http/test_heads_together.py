"""Many HEADs as one operation: what each answer means, and what is left to the ordinary way."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from asyncsink.errors import AccessDenied, ClockSkew, ObjectMissing, Throttled
from asyncsink.s3.operations import ABSENT, HeadObject, HeadObjects, HeadsDone, ObjectHead
from asyncsink.testing.peers import CannedPeer
from asyncsink.testing.transport_kit import IMPATIENT
from tests.support.requests import Open, until

pytestmark = pytest.mark.anyio
THERE = b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\nETag: "e"\r\nx-amz-checksum-crc64nvme: AAAAAAAAAAA=\r\n\r\n'
GONE = b"HTTP/1.1 404 Not Found\r\nContent-Length: 120\r\nContent-Type: application/xml\r\n\r\n"


class Objects(CannedPeer):
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
            answer = self.answers.get(key, GONE)
            if answer is None:
                await asyncio.Event().wait()
            if not answer:
                return
            writer.write(answer)
            await writer.drain()


async def ask(transport: Any, keys: list[str]) -> dict[str, Any]:
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
    async with Objects(**harmed) as server, wire(server.endpoint_url, retry=IMPATIENT) as transport:
        keys = [*harmed, *(f"k{number}" for number in range(100)), "ключ"]
        found = await ask(transport, keys)
    assert isinstance(found["there"], ObjectHead)
    assert (found["there"].size_bytes, found["there"].etag) == (3, "e")
    assert isinstance(found["denied"], AccessDenied)
    assert isinstance(found["closing"], ObjectMissing)
    assert {key for key, result in found.items() if result is ABSENT} == {*keys[len(harmed) :]}
    assert isinstance(found["throttled"], Throttled)
    assert [found[key] for key in ("dropped", "silent", "no-HTTP", "folded", "two-lines-in-one")] == [None] * 5
    assert not isinstance(found["sizeless"], (ObjectHead, ObjectMissing))


async def test_a_key_that_cannot_be_sent_is_left_to_the_ordinary_way(wire: Open) -> None:
    async with Objects() as server, wire(server.endpoint_url) as transport:
        assert await ask(transport, ["\udcff", "k"]) == {"\udcff": None, "k": ABSENT}


async def test_what_is_asked_is_what_a_single_head_asks(wire: Open) -> None:
    async with Objects(k=THERE) as server, wire(server.endpoint_url) as transport:
        (together,) = (await ask(transport, ["k"])).values()
        assert together == await transport.send(HeadObject(key="k"))


async def test_cancelled_it_ends_what_is_under_way_and_the_next_ones_are_answered(wire: Open) -> None:
    async with Objects(k7=None) as server, wire(server.endpoint_url) as transport:
        asking = asyncio.create_task(ask(transport, [f"k{number}" for number in range(20)]))
        await until(lambda: len(server.asked) == 20)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await ask(transport, ["a", "b"]) == {"a": ABSENT, "b": ABSENT}


async def test_what_a_refusal_teaches_the_next_ones_know(wire: Open) -> None:
    later = (datetime.now(UTC) + timedelta(hours=3)).replace(minute=30)
    skewed = f"HTTP/1.1 403 Forbidden\r\nDate: {format_datetime(later, usegmt=True)}\r\n\r\n".encode()
    async with Objects(k=skewed) as server, wire(server.endpoint_url) as transport:
        assert isinstance((await ask(transport, ["k"]))["k"], ClockSkew)
        await ask(transport, ["a"])
        assert f"x-amz-date: {later:%Y%m%dT%H}".encode() in server.heads[-1]
