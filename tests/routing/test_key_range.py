"""The range of a part's keys covers them in both orders in which servers list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncsink.routing.key_range import KeyRange, ListingOrder, RangeFinder, before, by_folder

NAMES = st.text("a0-./_bZé1 ~", min_size=1, max_size=4).filter(lambda name: "/" not in name)
KEYS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


def range_of(keys: list[str]) -> KeyRange:
    finder = RangeFinder()
    for key in keys:
        finder.add(key)
    return finder.found({})


@given(st.lists(KEYS, min_size=1, max_size=20, unique=True))
def test_a_range_starts_before_and_ends_behind_all_keys_in_both_orders(keys: list[str]) -> None:
    found = range_of(keys)
    for key in keys:
        assert key.startswith(found.prefix)
        assert not found.is_passed(key)
        if found.start_after:
            assert found.start_after < key
            assert by_folder(found.start_after) < by_folder(key)
            # A server of folders leaves out what lies in a folder after whose name it starts.
            assert not key.startswith(f"{found.start_after}/")


@given(st.lists(KEYS, min_size=1, max_size=20, unique=True), KEYS)
def test_behind_a_key_that_passes_the_range_no_order_has_another_one(keys: list[str], other: str) -> None:
    if range_of(keys).is_passed(other):
        assert all(key < other and by_folder(key) < by_folder(other) for key in keys)


@given(KEYS)
def test_what_comes_before_a_key_is_before_all_that_begin_with_it(key: str) -> None:
    start = before(key)
    for longer in (key, f"{key}/x", f"{key}.x", f"{key}x"):
        assert start < longer
        assert by_folder(start) < by_folder(longer)


def test_a_range_is_tight() -> None:
    found = range_of(["p/sub-04.html", "p/sub-04/a", "p/sub-05/z"])
    assert (found.prefix, found.start_after) == ("p/sub-0", "p/sub-03~")
    assert range_of(["p/a/1", "p/a/1"]).start_after == ""
    assert found.is_passed("p/sub-05/zz")
    assert not found.is_passed("p/sub-05.html")


def test_an_order_that_is_neither_is_noticed() -> None:
    for pages, known in (
        ([["a.txt", "a/b"], ["b"]], True),
        ([["a/b", "a.txt"], ["b"]], True),
        ([["a/b"], ["a.txt", "a/c"]], False),
        ([["a.txt", "a/b"], ["b/c", "b.txt"]], False),
        ([["a", "a"]], False),
    ):
        order = ListingOrder()
        for page in pages:
            order.add(page)
        assert order.is_known is known
