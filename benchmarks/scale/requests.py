"""The same world request by request, to check the fluid model: every machine with the real policy and its beat.

Unlike the fluid model it has single answers with jitter, retries one by one, a policy that needs time after each
change, and a machine that begins its next part when the last object of the one before is published, as `asyncsink run`
does.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from asyncsink.engine.limits.concurrency import Sample, State, next_state
from asyncsink.engine.limits.controller import BEAT_SECONDS
from asyncsink.options.schema import Limits
from asyncsink.options.settings import RetryPolicy
from benchmarks.scale.contention import BODY_BYTES
from benchmarks.scale.fluid import Course
from benchmarks.scale.world import Bucket, Dealer, Machines, Parts

JITTER = 0.1
LOAD_SECONDS = 10.0
"""A partition's load is a mean over so long."""
_STORED, _REFUSED, _AGAIN, _BEAT, _WATCH = range(5)


@dataclass(slots=True)
class _Object:
    position: int
    part: int
    attempts: int = 0
    began: float = 0.0


class _Machine:
    def __init__(self, number: int, limits: Limits) -> None:
        self.number = number
        self.state = State(limit=limits.concurrency_start)
        self.in_flight = self.waiting = 0
        self.ready: deque[_Object] = deque()
        self.part = -1
        self.next = self.end = self.open = 0
        self.free_at = 0.0
        self.answered = self.throttled = 0
        self.saturated = False
        self.ended = False


class _Partition:
    def __init__(self, tokens: float, at: float) -> None:
        self.tokens, self.at = tokens, at
        self.seen: list[int] = []
        self.hot = 0.0


def simulate_requests(bucket: Bucket, machines: Machines, parts: Parts, *, seed: int = 1) -> Course:
    """Publish all parts, of which each object is one request."""
    run = _Run(bucket, machines, parts, seed)
    run.to_end()
    return run.course


class _Run:
    def __init__(self, bucket: Bucket, machines: Machines, parts: Parts, seed: int) -> None:
        self.course = Course()
        self._bucket, self._given, self._limits, self._retries = bucket, machines, Limits(), RetryPolicy()
        self._random = random.Random(seed)
        self._dealer = Dealer(len(parts.objects), machines.count, machines.order)
        ends = np.rint(np.cumsum(parts.objects)).astype(int).tolist()
        self._bounds = list(zip([0, *ends[:-1]], ends, strict=True))
        self._left = ends[-1]
        self._stored = np.zeros(len(ends))
        self._edges = [0, ends[-1]]
        self._partitions = [_Partition(bucket.per_second * bucket.burst_seconds, 0.0)]
        self._machines = [_Machine(number, self._limits) for number in range(machines.count)]
        self._events: list[tuple[float, int, int, _Machine | None, _Object | None]] = []
        self._numbers = 0
        self._now = 0.0
        gap = machines.ramp_seconds / max(1, machines.count - 1)
        for machine in self._machines:
            # Beats of machines are at different moments.
            self._add(machine.number * gap + self._random.uniform(0.0, BEAT_SECONDS), _BEAT, machine)
        self._add(LOAD_SECONDS, _WATCH)

    def _add(self, at: float, kind: int, machine: _Machine | None = None, one: _Object | None = None) -> None:
        self._numbers += 1
        heappush(self._events, (at, self._numbers, kind, machine, one))

    def to_end(self) -> None:
        """Until no object is left."""
        course = self.course
        while self._left:
            self._now, _, kind, machine, one = heappop(self._events)
            if machine is None:
                self._watch()
                self._add(self._now + LOAD_SECONDS, _WATCH)
                continue
            if kind == _BEAT:
                self._beat(machine)
            elif one is None:
                continue
            elif kind == _STORED:
                machine.in_flight -= 1
                machine.answered += 1
                machine.open -= 1
                self._left -= 1
                self._stored[one.part] += 1
                course.objects += 1
                course.requests += 1
            elif kind == _REFUSED:
                machine.in_flight -= 1
                machine.throttled += 1
                course.refused += 1
                self._refused(machine, one)
            else:
                machine.waiting -= 1
                machine.ready.append(one)
            self._send(machine)
        course.seconds = self._now
        course.partitions = len(self._partitions)
        course.failed_share /= course.objects

    def _refused(self, machine: _Machine, one: _Object) -> None:
        policy = self._retries
        one.attempts += 1
        if one.attempts == policy.attempts and self._now - one.began > policy.throttled_seconds:
            self.course.failed_share += 1
        ceiling = min(policy.backoff_seconds_max, policy.backoff_seconds_base * 2 ** (one.attempts - 1))
        machine.waiting += 1
        self._add(self._now + self._random.uniform(0.0, ceiling), _AGAIN, machine, one)

    def _beat(self, machine: _Machine) -> None:
        sample = Sample(
            seconds=BEAT_SECONDS,
            requests=machine.answered + machine.throttled,
            bytes=machine.answered * BODY_BYTES,
            throttled=machine.throttled,
            errors=0,
            saturated=machine.saturated,
            idle=not machine.answered and not machine.throttled and not machine.in_flight,
        )
        machine.state = next_state(machine.state, sample, limit_min=1, limit_max=self._limits.concurrency_max)
        machine.answered = machine.throttled = 0
        machine.saturated = False
        if not machine.ended:
            self._add(self._now + BEAT_SECONDS, _BEAT, machine)

    def _send(self, machine: _Machine) -> None:
        while machine.in_flight < machine.state.limit:
            one = machine.ready.popleft() if machine.ready else self._fresh(machine)
            if one is None:
                return
            machine.in_flight += 1
            machine.saturated = machine.saturated or machine.in_flight >= machine.state.limit
            # The processor, or the file system, hands out one object after another.
            machine.free_at = max(self._now, machine.free_at) + 1.0 / self._given.objects_per_second
            latency = self._given.latency_seconds * (1.0 + self._random.uniform(-JITTER, JITTER))
            kind = _STORED if self._admitted(one.position) else _REFUSED
            self._add(machine.free_at + latency, kind, machine, one)

    def _fresh(self, machine: _Machine) -> _Object | None:
        if machine.waiting >= self._limits.workers:
            return None
        if machine.next == machine.end:
            if machine.open or machine.ended:
                return None
            number = int(self._dealer.deal(np.array([machine.number]))[0])
            if number < 0:
                machine.ended = True
                return None
            machine.part = number
            machine.state = State(limit=self._limits.concurrency_start)
            machine.next, machine.end = self._bounds[number]
            machine.open = machine.end - machine.next
        machine.next += 1
        return _Object(machine.next - 1, machine.part, began=self._now)

    def _admitted(self, position: int) -> bool:
        number = min(bisect_right(self._edges, position) - 1, len(self._partitions) - 1)
        partition, bucket = self._partitions[number], self._bucket
        saved = partition.tokens + (self._now - partition.at) * bucket.per_second
        partition.tokens, partition.at = min(bucket.per_second * bucket.burst_seconds, saved), self._now
        partition.seen.append(position)
        if partition.tokens < 1.0:
            return False
        partition.tokens -= 1.0
        return True

    def _watch(self) -> None:
        bucket = self._bucket
        for number in range(len(self._partitions) - 1, -1, -1):
            partition = self._partitions[number]
            over = len(partition.seen) > bucket.split_load * bucket.per_second * LOAD_SECONDS
            partition.hot = max(0.0, partition.hot + (LOAD_SECONDS if over else -LOAD_SECONDS))
            if partition.hot >= bucket.split_seconds:
                partition.hot = 0.0
                cut = self._cut(number, sorted(partition.seen))
                if self._edges[number] < cut < self._edges[number + 1]:
                    self._edges.insert(number + 1, cut)
                    full = bucket.per_second * bucket.burst_seconds
                    self._partitions.insert(number + 1, _Partition(full, self._now))
                    self.course.splits.append(self._now)
            partition.seen = []

    def _cut(self, number: int, seen: list[int]) -> int:
        if self._bucket.cut == "load":
            return seen[len(seen) // 2]
        low, high = self._edges[number : number + 2]
        inside = [each for each, (begin, _) in enumerate(self._bounds) if low <= begin < high]
        sums = np.cumsum(self._stored[inside])
        return self._bounds[inside[int(np.searchsorted(sums, sums[-1] / 2))]][0] if inside else low
