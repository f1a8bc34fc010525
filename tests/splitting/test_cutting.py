"""Where parts end: properties of the two cutters."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asyncsink.splitting.cutting import ByLimits, Cutter, IntoParts, spread

SIZES = st.lists(st.one_of(st.just(0), st.integers(0, 1000), st.integers(0, 1 << 40)), max_size=60)


def cut(sizes: list[int], cutter: Cutter) -> list[list[int]]:
    parts: list[list[int]] = []
    for size in sizes:
        if cutter.begins(size):
            parts.append([])
        parts[-1].append(size)
    return parts


@given(st.integers(0, 300))
def test_ranges_are_numbered_once_and_the_first_numbers_are_spread_over_all_keys(count: int) -> None:
    places = spread(count)
    assert sorted(places) == list(range(count))
    for first in (2, 4, 8, 16):
        if count >= 2 * first:
            # Each of so many equal stretches of the keys has one or two of the first parts.
            shares = [place * first // count for place in places[:first]]
            assert len(set(shares)) > first // 2
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]


@given(SIZES, st.integers(1, 1 << 41), st.integers(1, 20))
def test_parts_by_limits_are_the_whole_and_no_part_could_take_the_next_file(
    sizes: list[int], bytes_max: int, objects_max: int
) -> None:
    parts = cut(sizes, ByLimits(bytes_max, objects_max))
    assert [size for part in parts for size in part] == sizes
    assert all(len(part) <= objects_max and (sum(part) <= bytes_max or len(part) == 1) for part in parts)
    for part, after in pairwise(parts):
        assert len(part) == objects_max or sum(part) + after[0] > bytes_max


@given(SIZES, st.integers(1, 70))
def test_a_number_of_parts_is_met_and_no_part_is_far_above_the_mean(sizes: list[int], wanted: int) -> None:
    total = sum(sizes)
    parts = cut(sizes, IntoParts(wanted, objects_total=len(sizes), bytes_total=total))
    assert [size for part in parts for size in part] == sizes
    assert len(parts) == min(wanted, len(sizes))
    if not sizes:
        return

    def work(part: list[int]) -> int:
        return sum(part) * len(sizes) + len(part) * total if total else len(part)

    largest = max(work([size]) for size in sizes)
    assert all(work(part) * len(parts) <= work(sizes) + largest * len(parts) for part in parts)


@given(st.integers(1, 500), st.integers(1, 50), st.integers(0, 5))
def test_equal_files_make_equal_parts(objects: int, wanted: int, size: int) -> None:
    lengths = [
        len(part)
        for part in cut([size] * objects, IntoParts(wanted, objects_total=objects, bytes_total=size * objects))
    ]
    assert max(lengths) - min(lengths) <= 1


def test_a_huge_file_is_a_part_of_its_own() -> None:
    sizes = [1, 1, 100, 1, 1]
    assert cut(sizes, ByLimits(10, 10)) == [[1, 1], [100], [1, 1]]
    assert cut(sizes, IntoParts(3, objects_total=5, bytes_total=104)) == [[1, 1], [100], [1, 1]]
