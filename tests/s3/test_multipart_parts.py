"""Parts cover an object exactly, within S3's limits, for every size S3 can hold."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import example, given, settings

from asyncsink.errors import IntegrityError
from asyncsink.options.settings import GIB, MIB
from asyncsink.s3.multipart.parts import PartPlan, StreamPlan, UploadProof, plan_parts, stream_part_size
from asyncsink.s3.operations import (
    OBJECT_SIZE_BYTES_MAX,
    PART_SIZE_BYTES_MAX,
    PART_SIZE_BYTES_MIN,
    PARTS_MAX,
    ObjectHead,
)


@given(size=st.integers(1, OBJECT_SIZE_BYTES_MAX), wanted=st.integers(1, 6 * GIB))
@example(size=OBJECT_SIZE_BYTES_MAX, wanted=8 * MIB)
@example(size=PARTS_MAX * 8 * MIB, wanted=8 * MIB)
@example(size=PARTS_MAX * 8 * MIB + 1, wanted=8 * MIB)
@example(size=8 * MIB, wanted=8 * MIB)
@example(size=8 * MIB + 1, wanted=8 * MIB)
def test_every_plan_is_legal_and_exact(size: int, wanted: int) -> None:
    plan = plan_parts(size, wanted)
    assert 1 <= plan.count <= PARTS_MAX
    assert PART_SIZE_BYTES_MIN <= plan.part_size_bytes <= PART_SIZE_BYTES_MAX
    first, last = plan.part(1), plan.part(plan.count)
    assert first.offset == 0
    assert last.offset + last.length == size
    assert 1 <= last.length <= plan.part_size_bytes
    if plan.count > 1:
        middle = plan.part(plan.count - 1)
        assert middle.length == plan.part_size_bytes
        assert middle.offset + middle.length == last.offset


def test_exactly_ten_thousand_parts_keep_the_wanted_size() -> None:
    assert plan_parts(PARTS_MAX * 8 * MIB, 8 * MIB).part_size_bytes == 8 * MIB


def test_one_byte_more_grows_the_parts() -> None:
    plan = plan_parts(PARTS_MAX * 8 * MIB + 1, 8 * MIB)
    assert plan.part_size_bytes == 9 * MIB
    assert plan.count <= PARTS_MAX


def test_the_last_part_may_be_one_byte() -> None:
    parts = list(plan_parts(16 * MIB + 1, 8 * MIB))
    assert [part.length for part in parts] == [8 * MIB, 8 * MIB, 1]
    assert [part.part_number for part in parts] == [1, 2, 3]


@pytest.mark.parametrize("size", [0, -1, OBJECT_SIZE_BYTES_MAX + 1])
def test_sizes_that_cannot_be_sent_in_parts(size: int) -> None:
    with pytest.raises(ValueError, match="cannot be sent in parts"):
        plan_parts(size, 8 * MIB)


@pytest.mark.parametrize("size", [9, 11])
def test_an_object_of_another_size_is_not_what_was_sent(size: int) -> None:
    proof = UploadProof("k", PartPlan(10, 10), None, True, parts={}, confirmed=set())
    with pytest.raises(IntegrityError, match=f"{size} bytes instead of 10 bytes"):
        proof.of_object(ObjectHead(size_bytes=size), None)


# -- Streams of unknown length -----------------------------------------------------------------------------------------


def full_parts(wanted: int, most: int, size: int) -> int:
    """How many parts a stream of `size` bytes has."""
    offset, count = 0, 0
    while offset < size:
        offset += stream_part_size(offset, wanted, most)
        count += 1
    return count


@given(size=st.integers(1, OBJECT_SIZE_BYTES_MAX), wanted=st.integers(PART_SIZE_BYTES_MIN, PART_SIZE_BYTES_MAX))
@example(size=OBJECT_SIZE_BYTES_MAX, wanted=PART_SIZE_BYTES_MIN)
@example(size=OBJECT_SIZE_BYTES_MAX, wanted=8 * MIB)
@example(size=OBJECT_SIZE_BYTES_MAX, wanted=PART_SIZE_BYTES_MAX)
@settings(max_examples=30)
def test_a_stream_of_any_length_fits_into_the_parts_that_s3_takes(size: int, wanted: int) -> None:
    assert full_parts(wanted, PART_SIZE_BYTES_MAX, size) <= PARTS_MAX


@given(
    offset=st.integers(0, OBJECT_SIZE_BYTES_MAX),
    wanted=st.integers(PART_SIZE_BYTES_MIN, PART_SIZE_BYTES_MAX),
    more=st.integers(0, PART_SIZE_BYTES_MAX),
)
def test_the_parts_of_a_stream_begin_as_wanted_grow_and_stay_in_their_bounds(
    offset: int, wanted: int, more: int
) -> None:
    most = min(wanted + more, PART_SIZE_BYTES_MAX)
    assert stream_part_size(0, wanted, most) == wanted
    size = stream_part_size(offset, wanted, most)
    assert wanted <= size <= most
    assert size <= stream_part_size(offset + size, wanted, most)
    assert size == wanted or offset >= 64 * (wanted - MIB)


def test_with_little_memory_a_stream_of_half_a_terabyte_fits() -> None:
    assert full_parts(8 * MIB, 128 * MIB, 1 << 40) <= PARTS_MAX
    assert full_parts(8 * MIB, 640 * MIB, 5 << 40) <= PARTS_MAX


def test_the_plan_of_a_stream_is_as_it_was_filled() -> None:
    plan = StreamPlan(5 * MIB, 5 * MIB)
    assert (plan.count, plan.size_bytes, plan.part_size_bytes) == (0, 0, 5 * MIB)
    parts = [plan.add(plan.next_size), plan.add(plan.next_size), plan.add(1)]
    assert [(part.part_number, part.offset, part.length) for part in parts] == [
        (1, 0, 5 * MIB),
        (2, 5 * MIB, 5 * MIB),
        (3, 10 * MIB, 1),
    ]
    assert (plan.count, plan.size_bytes) == (3, 10 * MIB + 1)
    assert [plan.part(number) for number in (1, 2, 3)] == parts == list(plan)
    assert repr(plan) == "<StreamPlan 3 parts, 10485761 bytes>"


def test_the_plan_of_a_stream_ends_where_s3_takes_no_more() -> None:
    plan = StreamPlan(5 * MIB, 5 * MIB)
    for _ in range(PARTS_MAX):
        plan.add(plan.next_size)
    assert plan.next_size == 0
