"""The example of the guide's page about measuring."""

from __future__ import annotations

import pytest

from asyncsink.testing import memory_sink
from asyncsink.testing.synthetic import Bodies
from tests.support.guide import example


@pytest.mark.anyio
async def test_bodies_of_a_harness_of_ones_own() -> None:
    page = example("bench.md", "In Python")
    async with memory_sink() as sink:
        receipts = await page.write_some(sink, 3)
    assert [receipt.key for receipt in receipts] == ["object-0", "object-1", "object-2"]
    bodies = Bodies("lognormal:16KiB:1.2", seed=1)
    assert {key: bytes(value) for key, value in sink.objects.items()} == {
        f"object-{number}": bodies.body(number) for number in range(3)
    }
