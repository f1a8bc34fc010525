"""Bodies that are received where they belong, however the bytes arrive: cut anywhere, one answer after another."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.s3.http.reading import AnswerReader, PieceReader

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
