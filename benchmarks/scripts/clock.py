"""What contenders measure of themselves: the engine's own clock, from the call that publishes to its return, without
the interpreter's start and imports; of a service, the latency of its calls and the lag of its event loop."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

CONCURRENCY = 32
"""Requests in flight at once, where no scenario says otherwise."""
AT_ONCE = "BENCHMARKS_AT_ONCE"
"""The environment variable in which contenders find how many requests they may have in flight; 0: their own default."""
PART_SIZE_BYTES = 8 * 1024 * 1024
PARTS_PER_FILE = 4
"""At once, for contenders that limit files and parts apart: 8 large files are 32 requests."""
MANY = 256
"""What is at once where a library has no default of its own; it is s5cmd's default."""
BEAT_SECONDS = 0.001


@dataclass(slots=True)
class Clock:
    """Measures a block and tells the harness on stdout, as one JSON object in the last line.

    Attributes:
        objects: what the library says it published.
        notes: further facts for the record.
    """

    objects: int = 0
    notes: dict[str, object] = field(default_factory=dict)
    _started: float = 0.0
    _cpu: float = 0.0
    _modules: int = 0

    def __enter__(self) -> Clock:
        self._modules = len(sys.modules)
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        seconds = time.perf_counter() - self._started
        if error is not None:
            return
        told = {
            "seconds": seconds,
            "cpu_seconds": _cpu_seconds() - self._cpu,
            "objects": self.objects,
            "modules_imported_meanwhile": len(sys.modules) - self._modules,
            **self.notes,
        }
        sys.stdout.write(f"\n{json.dumps(told)}\n")


def at_once() -> int:
    """How many requests this contender may have in flight; 0: its own default."""
    return int(os.environ.get(AT_ONCE, CONCURRENCY))


def files_below(directory: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(path, key) of every file; the walk is inside the clock, as in the tools that walk by themselves."""
    stack = [directory]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    yield entry.path, prefix + entry.path[len(directory) :]


def _cpu_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


class Lag:
    """The lag of the running loop during a block: how late callbacks run that are due every millisecond.

    A loop that is held for long misses beats; each of these counts, as late as it would have been, so that a percentile
    is of moments and not of callbacks ("coordinated omission"). uvloop's timers have whole milliseconds: up to one of
    the lag is theirs.
    """

    def __init__(self) -> None:
        self._late: list[float] = []

    def __enter__(self) -> Lag:
        self._loop = asyncio.get_running_loop()
        self._begin()
        return self

    def __exit__(self, *exception: object) -> None:
        self._handle.cancel()
        self._note()

    def milliseconds(self) -> dict[str, float]:
        """Percentiles, after the block."""
        return _percentiles(self._late)

    def _begin(self) -> None:
        self._due = time.perf_counter() + BEAT_SECONDS
        self._handle = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _beat(self) -> None:
        self._note()
        self._begin()

    def _note(self) -> None:
        late = max(0.0, time.perf_counter() - self._due)
        self._late += [late - missed * BEAT_SECONDS for missed in range(int(late / BEAT_SECONDS) + 1)]


async def produce(
    work: Iterator[tuple[str, str]], put: Callable[[str, str], Awaitable[object]], producers: int, clock: Clock
) -> None:
    """Producers that share the work: each puts (or gets) one object after the other, until none is left.

    What `put` returns, where it is a number, counts as bytes received.
    """
    seconds: list[float] = []
    received = 0

    async def producer() -> None:
        nonlocal received
        for name, path in work:
            began = time.perf_counter()
            made = await put(name, path)
            seconds.append(time.perf_counter() - began)
            if isinstance(made, int):
                received += made

    with Lag() as lag:
        async with asyncio.TaskGroup() as group:
            for _ in range(producers):
                group.create_task(producer())
    clock.objects = len(seconds)
    clock.notes = {"lag_ms": lag.milliseconds(), "latency_ms": _percentiles(seconds), "bytes": received}


def content(path: str) -> bytes:
    """What a service has received. From the page cache, and within the clock: the same few microseconds for all."""
    with open(path, "rb") as file:
        return file.read()


def _percentiles(seconds: list[float]) -> dict[str, float]:
    ranked = sorted(seconds)
    picked = {"p50": ranked[len(ranked) // 2], "p99": ranked[len(ranked) * 99 // 100], "max": ranked[-1]}
    return {name: round(each * 1e3, 3) for name, each in picked.items()}
