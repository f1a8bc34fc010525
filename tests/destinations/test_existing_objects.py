"""What was listed is known again, in memory and on disk alike."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from asyncsink.destinations import existing_objects
from asyncsink.destinations.existing_objects import Inventory
from asyncsink.s3.operations import ListedObject


@pytest.mark.parametrize("pages", [1, 5])
def test_what_was_listed_is_known(pages: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing_objects, "IN_MEMORY_MAX", 250)
    listed = [
        ListedObject(f"p/ä{number:04}", number, f"e{number}", datetime.fromtimestamp(number + 0.5, UTC))
        for number in range(100 * pages)
    ]
    inventory = Inventory("p/")
    for page in range(pages):
        inventory.add_page(listed[100 * page : 100 * page + 100], last=page == pages - 1)
    assert inventory.in_memory is (pages == 1)
    assert (inventory.count, inventory.complete) == (len(listed), True)
    keys = [each.key for each in listed]
    assert inventory.get_many([*keys, "absent"]) == dict(zip(keys, listed, strict=True))
    assert inventory.get("absent") is None
    inventory.close()


@pytest.mark.parametrize("memory", [0, 3, 100])
def test_what_was_written_since_is_known(memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(existing_objects, "IN_MEMORY_MAX", memory)
    inventory = Inventory("p/")
    assert inventory.forgotten(["p/a", "p/b"]) == frozenset()
    assert inventory.forget(["p/a", "p/b"]) == {}
    assert inventory.forget(["p/a"]) == {}
    assert inventory.forget(["p/A", "p/c"]) == {"p/A": "p/a"}
    assert inventory.forget(["p/a", "p/d"]) == {"p/a": "p/A"}
    assert inventory.forgotten(["p/a", "p/A", "p/d", "p/e"]) == {"p/a", "p/A", "p/d"}
    assert inventory.forgets_in_memory(1) is (memory == 100)
    inventory.close()
