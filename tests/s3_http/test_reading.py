"""Bodies that are received where they belong, however the bytes arrive: cut anywhere, one answer after another."""

from __future__ import annotations

import asyncio
import itertools
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncsink.errors import AsyncSinkError, ServerFault
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.errors_map import ANSWER_BYTES_MAX
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.http.reading import (
    Answer,
    AnswerReader,
    ExchangeError,
    PieceReader,
    error_of_answer,
    is_error,
    response_of,
)
from asyncsink.s3.operations import (
    NO_ATTRIBUTES,
    FilesPut,
    FileToPut,
    HeadObject,
    ObjectHead,
    ObjectStored,
    PutFiles,
    PutObject,
)
from asyncsink.s3.pacing import Pacer
from asyncsink.testing.peers import CannedPeer

bodies = st.binary(max_size=300)


def framed(body: bytes, chunk: int) -> bytes:
    """An answer with its length, or in pieces of `chunk` bytes."""
    if not chunk:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


def receive(reader: AnswerReader, answer: bytes, data: st.DataObject) -> None:
    """Cut the answer anywhere, and hand it over as a connection does: into the reader's room where it has one."""
    wire = memoryview(answer)
    while wire:
        count = data.draw(st.integers(1, len(wire)))
        into = reader.room
        if into is None:
            reader.feed(wire[:count])
        else:
            count = min(count, len(into))
            into[:count] = wire[:count]
            reader.received_into_room(count)
        wire = wire[count:]


@given(st.lists(st.tuples(bodies, st.integers(0, 50)), min_size=1, max_size=4), st.data())
def test_bodies_arrive_whole_however_they_are_cut(answers: list[tuple[bytes, int]], data: st.DataObject) -> None:
    reader = AnswerReader()
    for body, chunk in answers:
        room = bytearray(b"\xee" * (len(body) + 3))
        reader.begin(bodiless=False, into=memoryview(room)[: len(body)])
        receive(reader, framed(body, chunk), data)
        assert reader.answer is not None
        assert reader.answer.data == body
        assert (bytes(room), reader.keep_alive) == (body + b"\xee" * 3, True)
        assert reader.room is None


@given(bodies, st.integers(0, 50), st.integers(1, 40), st.data())
def test_pieces_are_given_away_in_order_however_they_are_cut(
    body: bytes, chunk: int, room_bytes: int, data: st.DataObject
) -> None:
    taken = bytearray()

    def take(position: int, piece: memoryview) -> None:
        assert position == len(taken)
        taken.extend(piece)

    reader = PieceReader(len(body), memoryview(bytearray(room_bytes)), take)
    receive(reader, framed(body, chunk), data)
    assert reader.answer is not None
    assert (taken, reader.taken, reader.keep_alive) == (body, len(body), True)
    assert (reader.answer.data, reader.answer.body, reader.room) == (None, b"", None)


@given(st.binary(min_size=1, max_size=100), st.integers(0, 5))
def test_a_body_that_is_an_error_is_not_given_away(body: bytes, chunk: int) -> None:
    reader = PieceReader(1000, memoryview(bytearray(16)), lambda *_: pytest.fail("it is no part of an object"))
    reader.feed(framed(body, chunk).replace(b"200 OK", b"503 No", 1))
    assert reader.answer is not None
    assert reader.answer.body == body


# -- Arbitrary and mutated answers: read or refused, never a hang, never another exception -----------------------------


GOOD = [
    b'HTTP/1.1 200 OK\r\nETag: "e"\r\nx-amz-checksum-crc32: AAAAAA==\r\nContent-Length: 0\r\n\r\n',
    b'HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n',
    b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n<Error><Code>AccessDenied</Code></Error>",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Slow Down\r\nRetry-After: 3\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nLast-Modified: Sun, 22 Nov 2026 12:00:00 GMT\r\nx-amz-meta-a: b\r\nContent-Length: 7\r\n\r\n",
]
FRAGMENTS = [
    b"\r\n", b"\n", b"\r", b" ", b":", b"0", b"HTTP/1.1 ", b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n",
    b"Content-Length: 99999999999999999999\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"ffffffffffffffff\r\n", b"Connection: upgrade\r\nUpgrade: x\r\n", b"\x00", b"\xff", b"\r\n\r\n", b"Date: x\r\n",
    b"Last-Modified: 99\r\n", b"x-amz-mp-parts-count: x\r\n", b"x-amz-checksum-crc32: -\r\n", b"<Error>", b"&#x41;",
]  # fmt: skip


@st.composite
def mutated(draw: Any) -> bytes:
    data = draw(st.sampled_from(GOOD))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 20)))
        data = data[:start] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=5)) + data[end:]
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


ANSWERS = mutated() | st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join) | st.binary(max_size=200)
OPERATIONS = st.sampled_from([PutObject(key="k", body=b"x" * 100), HeadObject(key="k")])


class OneByte:
    """Reads files of one byte."""

    def read(self, source: Any, room: memoryview) -> bool:
        room[0] = source
        return True

    def close(self) -> None:
        pass


def small() -> PutFiles:
    files = [FileToPut("k", 1, NO_ATTRIBUTES, number) for number in range(3)]
    return PutFiles(files=files, algorithm="CRC32", reader=OneByte(), results=[None] * 3)


def understood(operation: Any, answer: Answer) -> None:
    if is_error(answer):
        assert isinstance(error_of_answer(operation, "bkt", answer, 0.0), AsyncSinkError)
        return
    if isinstance(operation, HeadObject):
        sizeless = not answer.headers.get(b"content-length", b"").strip().isdigit()
        named = answer.headers.get(b"etag", b"").strip(b' "')
        told = ""
        try:
            response_of(operation, answer)
        except ServerFault as refused:
            told = str(refused)
        assert not told or re.search(r"describes no object|size", told)
        assert bool(told) == (sizeless or (bool(told) and not named))
        return
    assert isinstance(response_of(operation, answer), (ObjectStored, ObjectHead))


@given(data=ANSWERS, cuts=st.lists(st.integers(0, 300), max_size=5), operation=OPERATIONS, again=st.booleans())
@settings(max_examples=500)
def test_any_bytes_in_any_portions(data: bytes, cuts: list[int], operation: Any, again: bool) -> None:
    reader = AnswerReader()
    edges = [0, *sorted(cuts), len(data)]
    try:
        for _ in range(1 + again):
            reader.begin(bodiless=isinstance(operation, HeadObject))
            for start, end in itertools.pairwise(edges):
                if reader.answer is None and start < end:
                    reader.feed(data[start:end])
            if reader.answer is None:
                reader.end("it ended")
            assert reader.answer is not None
            assert 200 <= reader.answer.status <= 999
            understood(operation, reader.answer)
            if not reader.keep_alive:
                break
    except ExchangeError as error:
        refused = error
        assert refused.reason
    reader.close()


@given(
    portions=st.lists(st.sampled_from([1, 1000, 65536, 262144]), min_size=1, max_size=3), kind=st.sampled_from("hbc")
)
@settings(max_examples=30)
def test_no_answer_is_without_end(portions: list[int], kind: str) -> None:
    reader = AnswerReader()
    reader.begin(bodiless=False)
    endless = {"h": b"X: y\r\n", "b": b"body", "c": b"1\r\nx\r\n"}[kind]
    start = {"h": b"HTTP/1.1 200 OK\r\n", "b": b"HTTP/1.1 200 OK\r\n\r\n"}.get(
        kind, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    reader.feed(start)
    pieces = [endless * -(-portion // len(endless)) for portion in portions]

    def feed_for_ever() -> None:
        for piece in itertools.cycle(pieces):
            reader.feed(piece)

    with pytest.raises(ExchangeError, match="longer"):
        feed_for_ever()
    assert reader.received <= ANSWER_BYTES_MAX + 2 * 262144


class FuzzPeer(CannedPeer):
    """Answers with bytes cut anywhere, then closes, resets or stalls."""

    def __init__(self, pieces: list[bytes], ending: str, before: int) -> None:
        super().__init__(b"")
        self._pieces = pieces
        self._ending = ending
        self._before = before

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._before:
            await reader.readexactly(self._before)
        for piece in self._pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if self._ending == "stall":
            await asyncio.Event().wait()
        if self._ending == "close":
            writer.close()
            await reader.read()


@given(
    data=ANSWERS,
    cut=st.integers(0, 200),
    ending=st.sampled_from(["close", "close", "close", "reset", "reset", "stall"]),
    before=st.sampled_from([0, 1, 150]),
    operation=OPERATIONS | st.just(PutObject(key="k", body=bytes(300_000))) | st.builds(small),
    again=st.booleans(),
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.anyio
async def test_every_request_ends(
    provider: Any, data: bytes, cut: int, ending: str, before: int, operation: Any, again: bool
) -> None:
    quick = RetryPolicy(stall_seconds=0.03, connect_seconds=5)
    async with FuzzPeer([data[:cut], data[cut:]], ending, before) as peer:
        target = S3Target(bucket="bkt", endpoint_url=peer.endpoint_url)
        pacer = Pacer(4)
        transport = await HttpTransport.open(
            target, quick, region="x", credentials=provider("AKID", "secret"), pacer=pacer
        )
        try:
            for _ in range(1 + again):
                async with asyncio.timeout(20):
                    response = await transport.send(operation)
                assert isinstance(response, (ObjectStored, ObjectHead, FilesPut))
        except AsyncSinkError as error:
            refused = str(error)
            assert "s3://bkt/k" in refused or "HeadObject of k" in refused
        finally:
            await transport.aclose()
            assert pacer.in_flight == 0
