"""Several sinks of one process under `ulimit -n 256`: nothing fails for want of a descriptor, and none lies idle."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.support.combinations import crossed
from tests.support.processes import run
from tests.support.quirky_s3 import Answer, Request, quirky_s3

MIB = 1 << 20
MOST = 256
SINKS = """
import asyncio, sys, asyncsink
bucket, sinks, how, lane, large, *small = sys.argv[1:]

async def one(number, begun, half):
    await begun.wait()
    async with asyncsink.AsyncSink(f"s3://{bucket}/{number}", journal=False, transport=lane) as sink:
        async def put(path, count):
            await sink.put("outputs", path)
            if how == "at once" or count > len(small) // 2:
                half.set()
        async with asyncio.TaskGroup() as group:
            group.create_task(put(large, 0))
            for count, path in enumerate(small):
                group.create_task(put(path, count))
    return sink.report

async def main():
    begun = [asyncio.Event() for _ in range(int(sinks) + 1)]
    for event in begun if how == "at once" else begun[:1]:
        event.set()
    reports = await asyncio.gather(*(one(n, begun[n], begun[n + 1]) for n in range(int(sinks))))
    print(sum(len(report.receipts) for report in reports), sum(len(report.failures) for report in reports))

asyncio.run(main())
"""


def limited(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (MOST, MOST))

    return run(list(map(str, arguments)), env=environment, preexec_fn=lower, timeout=200)


@crossed(
    "lane, how",
    ["wire", "aioboto3"],
    ["at once", "one after another"],
    usual=lambda lane, how: (lane == "aioboto3") == (how == "at once"),
)
@pytest.mark.parametrize(
    ("sinks", "puts", "size_bytes"),
    [(3, 100, 40 * MIB), (6, 60, 20 * MIB), pytest.param(3, 700, 200 * MIB, marks=pytest.mark.long)],
)
def test_nothing_fails(
    sinks: int, puts: int, size_bytes: int, how: str, lane: str, tmp_path: Path, seaweed: Any, bucket: str
) -> None:
    small = [tmp_path / f"{number}.bin" for number in range(puts)]
    for path in small:
        path.write_bytes(bytes(16 * 1024))
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(size_bytes)
    environment = {**os.environ, **seaweed.environment}
    ended = limited(environment, sys.executable, "-c", SINKS, bucket, sinks, how, lane, large, *small)
    assert (ended.stdout, ended.returncode) == (f"{sinks * (puts + 1)} 0\n", 0), ended.stderr[-2000:]


ONE_OF_SIX = """
import asyncio, contextlib, sys, asyncsink
paths = sys.argv[1:]

async def main():
    async with contextlib.AsyncExitStack() as exits:
        sinks = [asyncsink.AsyncSink(f"s3://tryout/{number}", journal=False) for number in range(6)]
        for sink in sinks:
            await exits.enter_async_context(sink)
        await asyncio.gather(*(sink.put("outputs", paths[0]) for sink in sinks))
        await asyncio.gather(*(sinks[0].put("outputs", path) for path in paths[1:]))
    print(*(len(sink.report.receipts) for sink in sinks))

asyncio.run(main())
"""


def test_a_sink_has_what_idle_ones_do_not_use(tmp_path: Path) -> None:
    puts, evenly, now, most = 200, 2, 0, 0
    counting = threading.Lock()

    def late(request: Request) -> Answer | None:
        nonlocal now, most
        if request.method == "PUT" and request.key.startswith("0/"):
            with counting:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.05)
            with counting:
                now -= 1
        return None

    paths = [tmp_path / f"{number}.bin" for number in range(puts)]
    for path in paths:
        path.write_bytes(bytes(1000))
    with quirky_s3(late) as server:
        ended = limited(server.environment(tmp_path), sys.executable, "-c", ONE_OF_SIX, *paths)
    assert (ended.stdout, ended.returncode) == (f"{puts} 1 1 1 1 1\n", 0), ended.stderr[-2000:]
    assert most > 2 * evenly, "six even parts of 256 descriptors are for two requests at a time each"
