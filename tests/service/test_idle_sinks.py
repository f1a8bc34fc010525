"""A sink that publishes nothing now: a few tasks, a few threads, and nothing that wakes the event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.limits.memory import SMALL_BYTES
from tests.support.requests import until

pytestmark = pytest.mark.anyio
TASKS_MAX = 8


def timers() -> list[asyncio.TimerHandle]:
    """What is due later on the running loop; its timeouts of minutes are the tests' own."""
    loop: Any = asyncio.get_running_loop()
    return [each for each in loop._scheduled if not each.cancelled() and each.when() < loop.time() + 30]


@pytest.fixture
def soon_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asyncsink.engine.limits.controller.IDLE_AFTER_SECONDS", 0.05)
    monkeypatch.setattr("asyncsink.s3.http.lane_pool.IDLE_SECONDS", 0.05)


@pytest.mark.parametrize("journal", [False, True])
async def test_an_idle_sink_is_a_few_tasks_and_sleeps(
    tmp_path: Path, bucket: str, options: dict[str, Any], soon_idle: None, journal: bool
) -> None:
    paths = [tmp_path / f"{number:04}" for number in range(200)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (SMALL_BYTES + 1 if number < 30 else 100))
    options |= {"journal": str(tmp_path / "journal") if journal else False}
    before = len(asyncio.all_tasks())
    async with asyncio.timeout(90), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        opened = len(asyncio.all_tasks()) - before
        assert opened <= TASKS_MAX
        for _ in range(2):
            await asyncio.gather(*[sink.put("m", path) for path in paths])
            for path in paths:
                await sink.submit("n", path)
            await sink.flush()
            await until(lambda: len(asyncio.all_tasks()) - before <= opened)
            await until(lambda: not timers())
        # Lanes for large bodies have ended; threads that read files wait for the next ones.
        own = {each.name for each in threading.enumerate() if each.name.startswith("asyncsink-")}
        awake = sorted(name for name in own if not name.startswith("asyncsink-reader"))
        assert awake == ["asyncsink-intake", *(["asyncsink-journal"] if journal else []), "asyncsink-small-0"]
    assert sink.report.objects_failed == 0
