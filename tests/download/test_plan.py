"""What templates found is on disk: memory does not grow with the number of keys."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime

import pytest

from asyncsink.download.plan import Matches
from asyncsink.s3.operations import ListedObject

KEYS = 50_000
PAGE = 1000


@pytest.mark.long
def test_memory_is_flat_over_many_keys() -> None:
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    tracemalloc.start()
    try:
        matches = Matches()
        for first in range(0, KEYS, PAGE):
            numbers = range(first, first + PAGE)
            matches.add(
                [(ListedObject(f"study/sub-{n:07}/bold.nii", n, f"{n:032x}", moment), [n % 2]) for n in numbers]
            )
        seen, after = 0, 0
        while True:
            objects, after = matches.page(after)
            if not objects:
                break
            seen += len(objects)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (seen, matches.totals()) == (KEYS, (KEYS, sum(range(KEYS))))
    assert peak < 8 << 20, "less than half of what the keys themselves would take"


def test_a_key_that_is_found_again_is_one_object() -> None:
    matches = Matches()
    for size in (1, 2):
        matches.add([(ListedObject("a", size, "", None), [0, 1])])
    assert matches.totals() == (1, 2)
    assert matches.page(0)[0] == [ListedObject("a", 2, "", None)]
    assert (matches.has(0), matches.has(1), matches.has(2)) == (True, True, False)
