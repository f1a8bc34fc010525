"""A server that throttles for a while: everything is published in the end, and the concurrency comes back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.model import Finished, LimitChanged
from asyncsink.options.settings import RetryPolicy
from asyncsink.testing.peers import Asked, Identity, refusal
from tests.support.combinations import crossed

pytestmark = pytest.mark.anyio
HURRIED = RetryPolicy(attempts=2, backoff_seconds_base=0.05, backoff_seconds_max=0.5)
LATENCY_SECONDS = 0.03
"""Of each request, so that more of them at a time get more done."""
LOW = 2
ROUNDS_AHEAD = 20
"""Of a folder's files: more than are ever in flight, and few to publish when everything has been seen."""


class Storm:
    """Admits `rate` requests a second, and answers SlowDown to the others, until `refusals` were answered so."""

    def __init__(self, identity: Identity, *, rate: float, refusals: int, retry_after: str = "") -> None:
        self._identity = identity
        self._answer = refusal(503, "SlowDown", *([f"Retry-After: {retry_after}"] if retry_after else []))
        self._rate = rate
        self._admitted_at = float("-inf")
        self.left = refusals
        self.latency_seconds = 0.0

    async def admit(self, asked: Asked) -> bytes | None:
        assert asked.signed_by(self._identity)
        now = asyncio.get_running_loop().time()
        if self.left and now - self._admitted_at < 1 / self._rate:
            self.left -= 1
            return self._answer
        self._admitted_at = now
        await asyncio.sleep(self.latency_seconds)
        return None


@crossed(
    "lane,retry_after",
    ["wire", "aioboto3"],
    ["", "1"],
    usual=lambda lane, retry_after: bool(retry_after) == (lane == "aioboto3"),
)
async def test_everything_is_published_through_a_storm(
    lane: str, retry_after: str, proxy: Any, plain_keys: Identity, all_there: Callable[[], bool], export: Any
) -> None:
    """Two attempts would not be enough: those that were throttled do not count."""
    storm = Storm(plain_keys, rate=20, refusals=200, retry_after=retry_after)
    async with proxy(storm.admit) as way:
        report = await export(way, transport=lane, overwrite="always", retry=HURRIED)
    assert (report.failures, report.transport) == ([], lane)
    assert report.retries == len(way.refused) == 200 - storm.left
    assert max(Counter((asked.method, asked.target) for asked in way.refused).values()) >= HURRIED.attempts
    assert await asyncio.to_thread(all_there)


async def test_where_throttled_attempts_count_a_storm_costs_files(
    proxy: Any, plain_keys: Identity, tree: Path, bucket: str
) -> None:
    storm = Storm(plain_keys, rate=20, refusals=400)
    policy = RetryPolicy(attempts=2, throttled_seconds=0, backoff_seconds_base=0.05, backoff_seconds_max=0.5)
    async with proxy(storm.admit) as way:
        report = await asyncsink.export_directory(
            tree / "sub-00", f"s3://{bucket}", endpoint_url=way.endpoint_url, overwrite="always", retry=policy
        )
    assert {failure.error for failure in report.failures} == {"Throttled"}
    assert "It was tried 2 times" in report.failures[0].message


@pytest.mark.parametrize("retry_after", ["", pytest.param("1", marks=pytest.mark.long)])
async def test_the_concurrency_is_halved_and_comes_back(
    retry_after: str, proxy: Any, plain_keys: Identity, tree: Path, bucket: str
) -> None:
    """The storm lasts until hardly anything is in flight, and the run until more is again."""
    storm = Storm(plain_keys, rate=20, refusals=1_000_000, retry_after=retry_after)
    files = sorted((tree / "sub-00").iterdir())
    changes: list[LimitChanged] = []
    back, rounds_ahead, finished = asyncio.Event(), asyncio.Semaphore(ROUNDS_AHEAD), 0

    async def watch(sink: asyncsink.AsyncSink) -> None:
        nonlocal finished
        async for event in sink.events():
            if isinstance(event, Finished):
                finished += 1
                if finished % len(files) == 0:
                    rounds_ahead.release()
            if not isinstance(event, LimitChanged):
                continue
            changes.append(event)
            if event.after <= LOW:
                storm.left = 0
            elif not storm.left and event.after > 2 * LOW:
                # What is queued still may go as fast as it can.
                storm.latency_seconds = 0.0
                back.set()

    storm.latency_seconds = LATENCY_SECONDS
    async with proxy(storm.admit) as way, anyio.create_task_group() as group:
        async with asyncsink.AsyncSink(
            f"s3://{bucket}", endpoint_url=way.endpoint_url, overwrite="always", retry=HURRIED
        ) as sink:
            group.start_soon(watch, sink)
            number = 0
            while not back.is_set():
                await rounds_ahead.acquire()
                number += 1
                await sink.submit(f"round-{number}", files)
    assert sink.report.failures == []
    assert len(sink.report.receipts) == number * len(files)
    halvings = [change for change in changes if change.reason == "the server throttles"]
    assert halvings[0].before >= 32
    assert len(halvings) >= 4
    assert all(change.after == max(1, change.before // 2) for change in halvings)
