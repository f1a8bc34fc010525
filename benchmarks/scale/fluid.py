"""The fluid model: machines as flows of requests into partitions, tick by tick, in virtual time.

A tick is 1 s, or longer: as long as no machine sends a tenth of a part in it, or a 4,000th of the shortest possible
run. At the beginning of a tick every machine is in one part, and so in one partition. Machines on one partition reach
together what the real concurrency policy reaches there, and share it as unequally (`contention`), as far as each can
use its share; each part draws its machine's share anew. Between two states of a partition the policy needs some
seconds, which the model leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asyncsink.options.settings import RetryPolicy
from benchmarks.scale.contention import Contention, contention, mean_waits
from benchmarks.scale.world import Bucket, Dealer, Machines, Numbers, Parts

TICK_SECONDS = 1.0
TICK_SHARE = 0.1
"""Share of a part that a longer tick may be."""
TICKS = 4000
"""Ticks of a run that nothing holds up; one of many hours needs no more than one of an hour."""
TICKS_TO_SPLIT = 20
SHARING_STEPS = 4
Places = NDArray[np.int64]


@dataclass(slots=True)
class Course:
    """How a run went: totals, and the rates over time for pictures.

    Attributes:
        seconds: until the last object.
        objects, requests, refused: published, accepted and refused.
        partitions: at the end.
        failed_share: estimate of the objects that are refused for longer than the retries go on.
        times, rates: seconds, and objects a second until then.
        ticks: steps of the model.
    """

    seconds: float = 0.0
    objects: float = 0.0
    requests: float = 0.0
    refused: float = 0.0
    failed_share: float = 0.0
    partitions: int = 1
    splits: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    ticks: int = 0

    @property
    def row(self) -> dict[str, Any]:
        """For the result file."""
        return {
            "hours": round(self.seconds / 3600, 3),
            "objects_per_second": round(self.objects / self.seconds),
            "refused_per_request": round(self.refused / self.requests, 4),
            "failed_share": float(f"{self.failed_share:.1e}"),
            "partitions": self.partitions,
        }


def simulate(bucket: Bucket, machines: Machines, parts: Parts, *, tick_seconds: float = TICK_SECONDS) -> Course:
    """Publish all parts."""
    run = _Run(bucket, machines, parts)
    while run.goes_on:
        run.tick(tick_seconds)
    return run.course


def attempts_in_time() -> float:
    """Attempts of one object before a run gives it up as throttled."""
    policy, waits = RetryPolicy(), mean_waits(RetryPolicy())
    return float(len(waits) + max(0.0, policy.throttled_seconds - waits.sum()) / waits[-1])


class _Run:
    def __init__(self, bucket: Bucket, machines: Machines, parts: Parts) -> None:
        self.course = Course()
        self._bucket, self._parts = bucket, parts
        self._contention: Contention = contention(bucket, machines, float(parts.requests.mean()))
        self._dealer = Dealer(len(parts.objects), machines.count, machines.order)
        # Positions among the keys are numbers of objects before them.
        self._end = np.cumsum(parts.objects)
        self._begin = self._end - parts.objects
        slowest = np.maximum(parts.objects / machines.objects_per_second, parts.bytes / machines.bytes_per_second)
        self._most = parts.requests / slowest
        self._edges = np.array([0.0, self._end[-1]])
        self._hot = np.zeros(1)
        self._hot_load = bucket.split_load * bucket.per_second
        self._stored = np.zeros(len(parts.objects))
        self._starts = np.arange(machines.count) * (machines.ramp_seconds / max(1, machines.count - 1))
        self._at = np.full(machines.count, -1)
        self._left = np.zeros(machines.count)
        self._waiting = np.ones(machines.count, bool)
        self._random = np.random.default_rng(machines.count)
        self._luck = np.zeros(machines.count)
        self._attempts = attempts_in_time()
        self._longer = float(slowest.sum()) / machines.count / TICKS
        if not machines.ramp_seconds:
            self.course.refused = machines.count * self._contention.start(machines.count)
        self._take_new()

    @property
    def goes_on(self) -> bool:
        """Whether a machine has a part, or will get one."""
        return bool((self._at >= 0).any() or self._waiting.any())

    def _take_new(self) -> None:
        due = np.flatnonzero(self._waiting & (self._starts <= self.course.seconds))
        if len(due):
            self._waiting[due] = False
            self._deal(due)

    def _deal(self, machines: Places) -> None:
        numbers = self._dealer.deal(machines)
        self._at[machines] = numbers
        self._luck[machines] = self._random.standard_normal(len(machines))
        self._left[machines] = np.where(numbers >= 0, self._parts.requests[numbers], 0.0)

    def tick(self, seconds: float) -> None:
        """Go on by a tick."""
        working = np.flatnonzero(self._at >= 0)
        numbers = self._at[working]
        position = (
            self._end[numbers] - self._left[working] / self._parts.requests[numbers] * self._parts.objects[numbers]
        )
        partition = np.clip(np.searchsorted(self._edges, position, "right") - 1, 0, len(self._hot) - 1)
        rates, refused, load = self._shared(partition, self._most[numbers], self._luck[working])
        step = self._step(seconds, rates, working, hot=bool((load > self._hot_load).any()))
        before = self.course.objects, self.course.requests
        self._go_on(working, rates, step)
        self.course.seconds += step
        self.course.ticks += 1
        requests = self.course.requests - before[1]
        self._refuse(float((rates * refused).sum()) / max(1e-9, float(rates.sum())), refused, rates, requests)
        self._note((self.course.objects - before[0]) / step)
        self._split(load, step, position, rates, partition)
        self._take_new()

    def _shared(self, partition: Places, most: Numbers, luck: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Requests a second of each machine, refused ones for each served one, and the load of each partition."""
        count = len(self._hot)
        wanted = np.bincount(partition, most, count)
        served, per_served, unequal = self._contention.at(np.bincount(partition, minlength=count).astype(float))
        # A flow that the partition takes as a whole is not throttled.
        room = np.where(wanted > self._bucket.per_second * served, self._bucket.per_second * served, np.inf)
        # Shares with a mean of 1 and that standard deviation: lognormal, since none is negative.
        share = np.exp(luck * np.sqrt(np.log1p(unequal**2))[partition])
        level = room / np.maximum(np.bincount(partition, share, count), 1e-9)
        for _ in range(SHARING_STEPS):
            below = most <= share * level[partition]
            used = np.bincount(partition, np.where(below, most, 0.0), count)
            others = np.bincount(partition, np.where(below, 0.0, share), count)
            level = np.where(others > 0, (room - used) / np.maximum(others, 1e-9), level)
        rates = np.minimum(most, share * level[partition])
        refused = np.where(np.isinf(room), 0.0, per_served)
        load = np.bincount(partition, rates, count) * (1.0 + refused)
        return rates, refused[partition], load

    def _step(self, seconds: float, rates: Numbers, working: Places, *, hot: bool) -> float:
        if not len(working):
            return seconds
        part = self._parts.requests[self._at[working]] / rates
        longer = max(TICK_SHARE * float(part.min()), self._longer)
        if hot:
            longer = min(longer, self._bucket.split_seconds / TICKS_TO_SPLIT)
        step = max(seconds, longer)
        # The last tick ends with the last object.
        if self._dealer.left == 0 and (self._left[working] <= rates * step).all():
            ends = float((self._left[working] / rates).max())
            step = min(step, max(ends, 1e-3))
        return step

    def _go_on(self, working: Places, rates: Numbers, step: float) -> None:
        """Send, and take the next part with what is left of the tick."""
        left = np.full(len(working), step)
        while len(working):
            needed = self._left[working] / rates
            ended = needed <= left
            sent = np.where(ended, self._left[working], rates * left)
            numbers = self._at[working]
            self._left[working] = np.where(ended, 0.0, self._left[working] - sent)
            objects = sent / self._parts.requests[numbers] * self._parts.objects[numbers]
            self._stored[numbers] += objects  # no two machines have one part
            self.course.requests += float(sent.sum())
            self.course.objects += float(objects.sum())
            left, free = (left - needed)[ended], (rates >= self._most[numbers])[ended]
            rates, working = rates[ended], working[ended]
            if len(working):
                self._deal(working)
                goes_on = self._at[working] >= 0
                left, working, rates, free = left[goes_on], working[goes_on], rates[goes_on], free[goes_on]
                # A machine that is throttled keeps its rate until the next tick.
                most = self._most[self._at[working]]
                rates = np.where(free, most, np.minimum(rates, most))

    def _refuse(self, mean: float, refused: Numbers, rates: Numbers, requests: float) -> None:
        course = self.course
        course.refused += mean * requests
        if not mean:
            return
        share = refused / (1.0 + refused)
        failing = float((share**self._attempts * rates).sum() / rates.sum()) * requests
        total = course.failed_share * (course.requests - requests) + failing
        course.failed_share = total / course.requests

    def _note(self, rate: float) -> None:
        self.course.times.append(self.course.seconds)
        self.course.rates.append(rate)

    def _split(self, load: Numbers, step: float, position: Numbers, rates: Numbers, partition: Places) -> None:
        over = load > self._hot_load
        self._hot = np.where(over, self._hot + step, np.maximum(0.0, self._hot - step))
        for number in np.flatnonzero(self._hot >= self._bucket.split_seconds)[::-1]:
            self._hot[number] = 0.0
            cut = self._cut(number, position[partition == number], rates[partition == number])
            if self._edges[number] < cut < self._edges[number + 1]:
                self._edges = np.insert(self._edges, number + 1, cut)
                self._hot = np.insert(self._hot, number + 1, 0.0)
                self.course.splits.append(self.course.seconds)
        self.course.partitions = len(self._hot)

    def _cut(self, number: int, position: Numbers, rates: Numbers) -> float:
        """The median of the load, or of the keys that are stored."""
        if self._bucket.cut == "load":
            order = np.argsort(position)
            sums = np.cumsum(rates[order])
            return float(position[order][np.searchsorted(sums, sums[-1] / 2)])
        first, last = np.searchsorted(self._begin, self._edges[number : number + 2])
        if last <= first:
            return float(self._edges[number])
        sums = np.cumsum(self._stored[first:last])
        return float(self._begin[first + np.searchsorted(sums, sums[-1] / 2)])
