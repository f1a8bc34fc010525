"""The real engine behind a proxy that answers SlowDown above a rate, beside the same world in the model.

As many processes as machines publish a part each, from one machine: the proxy's rate is low, so that processes on busy
cores can exceed it. What a proxy measures of a real run are requests accepted and refused, and the time between the
first and the last one.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import asyncsink
from asyncsink.options.settings import KIB
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN
from asyncsink.testing.toxics import Latency, Passage, Request, Toxic
from benchmarks.lineup.commands import beside_python
from benchmarks.scale.fluid import Course, simulate
from benchmarks.scale.requests import simulate_requests
from benchmarks.scale.world import Bucket, Machines, Parts
from benchmarks.servers.running import running_server

PER_SECOND = 300.0
OBJECTS = 6000
PROCESSES = (1, 2, 4)
LATENCY_SECONDS = 0.02
LIMIT_SECONDS = 300.0
SEEDS = (1, 2, 3)


class LateSlowDown(Toxic):
    """SlowDown, as late as every other answer."""

    async def play(self, passage: Passage) -> None:
        """See Toxic."""
        await asyncio.sleep(LATENCY_SECONDS)
        await SLOW_DOWN.play(passage)


class Throttle(Rule):
    """Refuses PutObjects above a rate, as a partition does, all answers are late.

    Attributes:
        accepted, refused: the moments of each.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._refusal = LateSlowDown()
        super().__init__(self._refusal, operation="PutObject")
        self._bucket = bucket
        self._late = Latency(LATENCY_SECONDS)
        self._tokens, self._at = bucket.per_second * bucket.burst_seconds, time.monotonic()
        self.accepted: list[float] = []
        self.refused: list[float] = []

    def choose(self, request: Request, dice: random.Random) -> Toxic | None:
        """The toxic of a request: late, or refused."""
        if super().choose(request, dice) is None:
            return None
        now, bucket = time.monotonic(), self._bucket
        saved = self._tokens + (now - self._at) * bucket.per_second
        self._tokens, self._at = min(bucket.per_second * bucket.burst_seconds, saved), now
        if self._tokens < 1.0:
            self.refused.append(now)
            return self._refusal
        self._tokens -= 1.0
        self.accepted.append(now)
        return self._late


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run was, as a proxy or a model sees it."""

    seconds: float
    accepted: int
    refused: int

    @property
    def row(self) -> dict[str, float]:
        """For the result file."""
        return {
            "seconds": round(self.seconds, 1),
            "objects_per_second": round(self.accepted / self.seconds, 1),
            "refused_per_request": round(self.refused / self.accepted, 3),
        }


def published(processes: int, objects: int, bucket: Bucket) -> Seen:
    """Publish so many small files from so many processes at once, and count at the proxy. Blocking.

    Raises:
        RuntimeError: a process failed.
    """
    with tempfile.TemporaryDirectory(prefix="asyncsink-scale-") as scratch:
        tree, parts = Path(scratch, "tree"), Path(scratch, "parts")
        tree.mkdir()
        for number in range(objects):
            (tree / f"{number:06}.bin").write_bytes(bytes(16 * KIB))
        asyncio.run(asyncsink.split(tree, "s3://bucket/study", parts, parts=processes))
        throttle = Throttle(bucket)
        with running_server("null", Path(scratch)) as server, FaultProxy(server.url, throttle) as proxy:
            environment = {**os.environ, **server.environment, "HOME": scratch}
            command = [beside_python("asyncsink"), "run", str(parts), "--endpoint-url", proxy.endpoint_url, "--quiet"]
            running = [
                subprocess.Popen([*command, "--part", str(number)], env=environment) for number in range(processes)
            ]
            try:
                codes = [each.wait(LIMIT_SECONDS) for each in running]
            finally:
                for each in running:
                    each.kill()
    if any(codes):
        raise RuntimeError(f"processes ended with {codes}; their messages are above.")
    moments = throttle.accepted + throttle.refused
    return Seen(max(moments) - min(moments), len(throttle.accepted), len(throttle.refused))


def beside_the_model(*, processes: tuple[int, ...] = PROCESSES, objects: int = OBJECTS) -> list[dict[str, Any]]:
    """Measured, and both models, for each number of processes. Blocking."""
    bucket = Bucket(per_second=PER_SECOND, split_seconds=1e9)
    rows = []
    for count in processes:
        each = np.full(count, objects / count)
        parts = Parts(each, each, each * 16 * KIB)
        machines = Machines(count=count, latency_seconds=LATENCY_SECONDS)
        single = [simulate_requests(bucket, machines, parts, seed=seed) for seed in SEEDS]
        rows.append(
            {
                "processes": count,
                "measured": published(count, objects, bucket).row,
                "request by request": _mean(single).row,
                "fluid": _mean([simulate(bucket, machines, parts)]).row,
            }
        )
    return rows


def _mean(courses: list[Course]) -> Seen:
    seconds, accepted, refused = (
        statistics.fmean(getattr(course, name) for course in courses) for name in ("seconds", "requests", "refused")
    )
    return Seen(seconds, round(accepted), round(refused))
