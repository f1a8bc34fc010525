"""A server whose clock is far from ours: every request is corrected, on both lanes and in lane threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from asyncsink.testing.peers import Asked, Identity, refusal
from tests.support.combinations import crossed

pytestmark = pytest.mark.anyio
SKEWED = refusal(403, "RequestTimeTooSkewed")
SKEW_SECONDS_MAX = 15 * 60


@crossed("lane,minutes", ["wire", "aioboto3"], [20, -20], usual=lambda lane, minutes: (minutes > 0) == (lane == "wire"))
async def test_a_wrong_clock_is_corrected(
    lane: str, minutes: int, proxy: Any, plain_keys: Identity, all_there: Callable[[], bool], export: Any
) -> None:
    async def admit(asked: Asked) -> bytes | None:
        assert asked.signed_by(plain_keys)
        signed = datetime.strptime(asked.stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        return SKEWED if abs(way.clock() - signed) > SKEW_SECONDS_MAX else None

    async with proxy(admit, clock_offset_seconds=minutes * 60) as way:
        report = await export(way, transport=lane, concurrency=8)
    assert (report.failures, report.transport) == ([], lane)
    # Each of the two keyrings (or the one client) learns once; at most what was in flight then is refused.
    assert 1 <= len(way.refused) <= 2 * 8
    assert report.retries == len(way.refused)
    parts = [asked for asked in way.forwarded if "partNumber=" in asked.target]
    assert len(parts) == 3 * 3
    assert await asyncio.to_thread(all_there)
