"""Bodies: sliced without copies, rewindable, and telling of progress."""

from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.s3.codec import SLICE_BYTES, SMALL_BODY_BYTES, WatchedBody, request_body


def ignore(size_bytes: int) -> None:
    """A progress callback that nobody listens to."""


@pytest.mark.anyio
@pytest.mark.parametrize("size_bytes", [0, 1, SLICE_BYTES - 1, SLICE_BYTES, SLICE_BYTES + 1, 3 * SLICE_BYTES])
async def test_slices_cover_the_body_each_time_and_report_progress(size_bytes: int) -> None:
    data = os.urandom(size_bytes)
    moved: list[int] = []
    body = WatchedBody(data, moved.append)
    for _ in range(2):
        moved.clear()
        slices = [piece async for piece in body]
        assert b"".join(slices) == data
        assert moved == [len(piece) for piece in slices]
        assert all(len(piece) <= SLICE_BYTES for piece in slices)
    assert len(body) == size_bytes
    assert bool(body)


@pytest.mark.anyio
async def test_no_progress_before_a_slice_is_taken() -> None:
    moved: list[int] = []
    slices = aiter(WatchedBody(bytes(SLICE_BYTES + 1), moved.append))
    await anext(slices)
    assert moved == []
    await anext(slices)
    assert moved == [SLICE_BYTES]


def test_slices_are_views() -> None:
    data = bytearray(b"abc")
    piece = WatchedBody(data, ignore).read()
    data[0] = ord("x")
    assert bytes(piece) == b"xbc"


@given(
    st.binary(max_size=40),
    st.lists(
        st.one_of(
            st.tuples(st.just("read"), st.integers(-1, 50)),
            st.tuples(st.just("start"), st.integers(0, 50)),
            st.tuples(st.just("end"), st.integers(-50, 0)),
        )
    ),
)
def test_it_reads_and_seeks_as_a_file_does(data: bytes, steps: list[tuple[str, int]]) -> None:
    body, model = WatchedBody(data, ignore), io.BytesIO(data)
    for step, value in steps:
        if step == "read":
            assert bytes(body.read(value)) == model.read(value)
        elif step == "start":
            assert body.seek(value) == model.seek(value)
        else:
            assert body.seek(value, os.SEEK_END) == model.seek(value, os.SEEK_END)
        assert body.tell() == model.tell()


def test_small_bodies_are_bytearrays_and_large_ones_are_not_copied() -> None:
    small = bytearray(SMALL_BODY_BYTES)
    assert request_body(small, ignore) is small
    assert request_body(bytes(3), ignore) == bytearray(3)
    assert isinstance(request_body(memoryview(b"abc"), ignore), bytearray)
    assert isinstance(request_body(bytes(SMALL_BODY_BYTES + 1), ignore), WatchedBody)
