"""Bodies that are received where they belong, however the bytes arrive: cut anywhere, one answer after another."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncsink.s3.wire.reading import AnswerReader

bodies = st.binary(max_size=300)


def framed(body: bytes, chunk: int) -> bytes:
    """An answer with its length, or in pieces of `chunk` bytes."""
    if not chunk:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    pieces = [body[start : start + chunk] for start in range(0, len(body), chunk)]
    coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + coded + b"0\r\n\r\n"


@given(st.lists(st.tuples(bodies, st.integers(0, 50)), min_size=1, max_size=4), st.data())
def test_bodies_arrive_whole_however_they_are_cut(answers: list[tuple[bytes, int]], data: st.DataObject) -> None:
    reader = AnswerReader()
    for body, chunk in answers:
        room = bytearray(b"\xee" * (len(body) + 3))
        reader.begin(bodiless=False, into=memoryview(room)[: len(body)])
        wire = memoryview(framed(body, chunk))
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
        assert reader.answer is not None
        assert reader.answer.data == body
        assert (bytes(room), reader.keep_alive) == (body + b"\xee" * 3, True)
        assert reader.room is None
