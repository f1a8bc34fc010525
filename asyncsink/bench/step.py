"""One step: so many operations at the same time, for so many seconds, and what came of them.

Without a rate the loop is closed: each worker begins an operation when its last one has ended, so that a server that
stalls is asked less, and its stall counts once for each worker. With a rate the loop is open: operations are due at
fixed times, and a time counts from when the operation was due, so that everything that a stall delayed shows in the
percentiles (coordinated omission).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import field
from itertools import count
from typing import Any

from asyncsink.bench.latencies import Latencies
from asyncsink.bench.objects import BenchObjects, Operations
from asyncsink.bench.order import VERBS, Order, Verb
from asyncsink.errors import AsyncSinkError, Throttled
from asyncsink.model import Event, Requested, Retried
from asyncsink.value import dataclass


@dataclass(slots=True)
class OfVerb:
    """What came of the operations of one kind.

    Attributes:
        seconds: from when the operation was due (open loop) or began (closed loop) to its end, retries included.
        service: from when it began; the same as `seconds` in a closed loop.
        bytes: of the bodies.
        errors: how many failed, by the error's name.
    """

    seconds: Latencies = field(default_factory=Latencies)
    service: Latencies = field(default_factory=Latencies)
    bytes: int = 0
    errors: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class StepResult:
    """What came of a step.

    Attributes:
        workers: operations at the same time, at most.
        rate: as in Order.
        elapsed_seconds: from its begin to the end of its last operation.
        cpu_seconds: of this process meanwhile.
        kinds: by kind of operation.
        first_byte: by S3's operation, from the first byte sent to the first one received, of each request.
        requests: how many were sent, by S3's operation.
        slow_downs: answers that asked to slow down; retries: requests that were sent again, those included.
        each_second: operations that ended in each second, and bytes of their bodies.
        not_begun: operations of an open loop that were due, and for which no worker was free until the end.
    """

    workers: int
    rate: float | None
    elapsed_seconds: float = 0.0
    cpu_seconds: float = 0.0
    kinds: dict[Verb, OfVerb] = field(default_factory=dict)
    first_byte: dict[str, Latencies] = field(default_factory=lambda: defaultdict(Latencies))
    requests: Counter[str] = field(default_factory=Counter)
    slow_downs: int = 0
    retries: int = 0
    each_second: list[tuple[int, int]] = field(default_factory=list)
    not_begun: int = 0

    @property
    def operations(self) -> int:
        """How many succeeded."""
        return sum(len(each.seconds) for each in self.kinds.values())

    @property
    def errors(self) -> int:
        """How many failed."""
        return sum(each.errors.total() for each in self.kinds.values())

    def heard(self, event: Event) -> None:
        """Count a request."""
        if isinstance(event, Requested):
            self.requests[event.operation] += 1
            if event.first_byte_seconds is not None:
                self.first_byte[event.operation].add(event.first_byte_seconds)
        elif isinstance(event, Retried):
            self.retries += 1
            self.slow_downs += isinstance(event.error, Throttled)

    def ended(self, second: int, size_bytes: int) -> None:
        """Count an operation that has ended."""
        self.each_second += [(0, 0)] * (second + 1 - len(self.each_second))
        number, total = self.each_second[second]
        self.each_second[second] = number + 1, total + size_bytes

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON; times in seconds."""
        return {
            "workers": self.workers,
            "rate": self.rate,
            "elapsed_seconds": self.elapsed_seconds,
            "cpu_seconds": self.cpu_seconds,
            "operations_per_second": self.operations / self.elapsed_seconds if self.elapsed_seconds else 0.0,
            "bytes_per_second": sum(each.bytes for each in self.kinds.values()) / (self.elapsed_seconds or 1.0),
            "errors": self.errors,
            "slow_downs": self.slow_downs,
            "retries": self.retries,
            "not_begun": self.not_begun,
            "operations": {
                kind: {
                    "bytes": each.bytes,
                    "errors": dict(each.errors),
                    "seconds": each.seconds.as_dict(),
                    "service_seconds": each.service.as_dict(),
                }
                for kind, each in self.kinds.items()
            },
            "requests": dict(self.requests),
            "first_byte_seconds": {name: each.as_dict() for name, each in self.first_byte.items()},
            "each_second": self.each_second,
        }


async def run_step(order: Order, workers: int, objects: BenchObjects) -> StepResult:
    """Carry out one step. Opening and closing connections is not counted.

    Raises:
        AsyncSinkError: the bucket cannot be used. The failure of one operation raises nothing.

    Cancelled, it ends the operations under way.
    """
    result = StepResult(workers, order.rate, kinds={kind: OfVerb() for kind in VERBS if kind in order.mix})
    async with objects.opened(workers, result.heard) as operations:
        await _Loop(order, result, operations, objects).run()
    return result


class _Loop:
    def __init__(self, order: Order, result: StepResult, operations: Operations, objects: BenchObjects) -> None:
        self._order = order
        self._result = result
        self._operations = operations
        self._objects = objects
        self._dice = random.Random(f"{order.bodies.seed} {result.workers}")  # noqa: S311 - an order of operations
        self._kinds, self._weights = list(order.mix), list(order.mix.values())

    async def run(self) -> None:
        result, cpu = self._result, time.process_time()
        self._began = began = time.perf_counter()
        due = self._due_times()
        async with asyncio.TaskGroup() as group:
            for _ in range(result.workers):
                group.create_task(self._work(due))
        result.elapsed_seconds = time.perf_counter() - began
        result.cpu_seconds = time.process_time() - cpu
        result.not_begun = sum(1 for _ in due)

    def _due_times(self) -> Iterator[float | None]:
        """When operations are due, in seconds of `perf_counter`; None is at once."""
        if self._order.rate is None:
            while time.perf_counter() < self._began + self._order.seconds:
                yield None
            return
        for number in count():
            at = number / self._order.rate
            if at >= self._order.seconds:
                return
            yield self._began + at

    async def _work(self, due: Iterator[float | None]) -> None:
        end = self._began + self._order.seconds
        while time.perf_counter() < end and (at := next(due, -1.0)) != -1.0:
            kind = self._dice.choices(self._kinds, self._weights)[0]
            number = self._objects.new() if kind == "put" else self._dice.randrange(1 << 30)
            operation = self._operations.make(kind, number)
            if at is not None and (pause := at - time.perf_counter()) > 0:
                await asyncio.sleep(pause)
            counts, started = self._result.kinds[kind], time.perf_counter()
            try:
                size_bytes = await operation()
            except AsyncSinkError as error:
                cause = error.__cause__ if isinstance(error.__cause__, AsyncSinkError) else error
                counts.errors[type(cause).__name__] += 1
                continue
            ended = time.perf_counter()
            counts.service.add(ended - started)
            counts.seconds.add(ended - (started if at is None else at))
            counts.bytes += size_bytes
            self._result.ended(int(ended - self._began), size_bytes)
