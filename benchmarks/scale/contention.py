"""What the real concurrency policy makes of machines that share one partition.

Each machine has its own policy, with the real beat; requests are a flow, not one by one. A refused object waits as the
retries make it wait, and keeps one of the machine's workers meanwhile. Each part is a process of its own, which begins
with the policy's first limit. The outcome depends on the machine's share of what the partition takes, and is measured
once for each share: a fluid run of hours reads it from here.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from functools import cache

import numpy as np

from asyncsink.engine.limits.concurrency import Sample, State, next_state
from asyncsink.engine.limits.controller import BEAT_SECONDS
from asyncsink.options.schema import Limits
from asyncsink.options.settings import KIB, RetryPolicy
from benchmarks.scale.world import Bucket, Machines, Numbers

MACHINES_MAX = 24
"""Machines that are simulated; more of them are as many at the same share of the partition."""
SECONDS, WARM_SECONDS, START_SECONDS = 90.0, 30.0, 2.0
"""Measured, before that, and of that at the start. Few machines are measured for longer, as chance counts for more."""
FEW = 8
SHARED_BY = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
STAGES = 9
"""Refusals of one object that are told apart: the wait no longer grows from the ninth on."""
BODY_BYTES = 16 * KIB


@dataclass(frozen=True, slots=True)
class Contention:
    """By the number of machines on one partition.

    Attributes:
        shared_by: that number.
        served: requests, as a share of the partition's rate. refused: for each served one.
        unequal: standard deviation of a machine's rate over one part, as a share of the mean of all.
        at_start: refused requests of each machine while all of them start at once.
    """

    shared_by: Numbers
    served: Numbers
    refused: Numbers
    unequal: Numbers
    at_start: Numbers

    def at(self, machines: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Served, refused and unequal at these numbers of machines, interpolated."""
        place = np.log(np.maximum(machines, 1.0))
        known = np.log(self.shared_by)
        served, refused, unequal = (np.interp(place, known, row) for row in (self.served, self.refused, self.unequal))
        return served, refused, unequal

    def start(self, machines: int) -> float:
        """Refused requests of each machine where so many start at once."""
        return float(np.interp(math.log(machines), np.log(self.shared_by), self.at_start))


def mean_waits(policy: RetryPolicy) -> Numbers:
    """Mean seconds before the next attempt after one refusal, two, …: full jitter."""
    ceilings = policy.backoff_seconds_base * 2.0 ** np.arange(STAGES)
    return np.minimum(policy.backoff_seconds_max, ceilings) / 2


def contention(bucket: Bucket, machines: Machines, part_requests: float) -> Contention:
    """Measure the policy at every share, or look it up: splits, orders and ramps do not matter here.

    Args:
        part_requests: of one part, after which a machine begins anew.
    """
    return measured(
        Bucket(per_second=bucket.per_second, burst_seconds=bucket.burst_seconds),
        Machines(objects_per_second=machines.objects_per_second, latency_seconds=machines.latency_seconds),
        float(f"{part_requests:.1g}"),
    )


@cache
def measured(bucket: Bucket, machines: Machines, part_requests: float) -> Contention:
    """As `contention`, whose arguments are rounded and stripped."""
    rows = [_share(bucket, machines, part_requests, count) for count in SHARED_BY]
    return Contention(np.array(SHARED_BY, float), *(np.array(each) for each in zip(*rows, strict=True)))


def _share(bucket: Bucket, machines: Machines, part_requests: float, count: int) -> tuple[float, float, float, float]:
    simulated = min(count, MACHINES_MAX)
    run = _Run(bucket, machines, part_requests, (simulated, simulated / count))
    served = refused = start = 0.0
    seconds = SECONDS * max(1.0, FEW / count)
    for beat in range(int((WARM_SECONDS + seconds) / BEAT_SECONDS)):
        accepted, not_accepted = run.beat()
        if beat * BEAT_SECONDS < START_SECONDS:
            start += not_accepted
        if beat * BEAT_SECONDS >= WARM_SECONDS:
            served, refused = served + accepted, refused + not_accepted
        elif (beat + 1) * BEAT_SECONDS >= WARM_SECONDS:
            run.begin_turns()
    whole = bucket.per_second * simulated / count * seconds
    return min(1.0, served / whole), refused / served, run.unequal(), start / simulated


class _Run:
    def __init__(self, bucket: Bucket, machines: Machines, part_requests: float, few: tuple[int, float]) -> None:
        count, share = few
        self._limits, policy = Limits(), RetryPolicy()
        self._per_second, self._burst = bucket.per_second * share, bucket.per_second * share * bucket.burst_seconds
        self._tokens = self._burst
        self._latency = machines.latency_seconds
        self._machine_max = machines.objects_per_second
        self._states = [State(limit=self._limits.concurrency_start) for _ in range(count)]
        self._allowed = np.full(count, float(self._limits.concurrency_start))
        self._waits = mean_waits(policy)
        self._waiting = np.zeros((count, STAGES))
        self._ready = np.zeros((count, STAGES))
        self._carry = np.zeros(count)
        self._random = np.random.default_rng(count)
        self._part = part_requests
        self._to_next = part_requests * self._random.random(count)
        self._turns: list[tuple[float, float]] = []
        self.begin_turns()
        delay = math.ceil(self._latency / BEAT_SECONDS)
        nothing = np.zeros(count, np.int64)
        self._answers = deque([(nothing, nothing, np.zeros(count, bool))] * delay)

    def begin_turns(self) -> None:
        """Forget what each machine has sent, and in how many beats."""
        self._turns = []
        self._sent, self._beats = np.zeros(len(self._states)), np.zeros(len(self._states))

    def unequal(self) -> float:
        """Standard deviation of the rates since then, of each turn of each machine, as a share of their mean."""
        turns = [*self._turns, *zip(self._sent.tolist(), self._beats.tolist(), strict=True)]
        sent, beats = np.array([turn for turn in turns if turn[1]]).T
        rates = sent / beats / (sent.sum() / beats.sum())
        return float(np.sqrt(np.average((rates - 1.0) ** 2, weights=beats)))

    def beat(self) -> tuple[float, float]:
        """Go on by one beat: requests served and refused."""
        again = self._waiting * np.minimum(1.0, BEAT_SECONDS / self._waits)
        self._waiting -= again
        self._ready += again
        most = np.minimum(self._allowed / self._latency, self._machine_max) * BEAT_SECONDS
        ready = self._ready.sum(axis=1)
        repeated = np.minimum(ready, most)
        workers = np.maximum(0.0, self._limits.workers - self._waiting.sum(axis=1) - (ready - repeated))
        # A worker with nothing refused goes on with the next file as soon as one is answered.
        fresh = np.where(workers > 0.5, most - repeated, 0.0)
        wanted = repeated + fresh + self._carry
        sent = np.floor(wanted)
        self._carry = np.minimum(wanted - sent, 1.0)
        saturated = (fresh + repeated >= most - 1e-9) & (self._allowed / self._latency <= self._machine_max)
        self._tokens = min(self._burst, self._tokens + self._per_second * BEAT_SECONDS)
        total = float(sent.sum())
        share = min(1.0, self._tokens / total) if total else 1.0
        refused = self._random.binomial(sent.astype(np.int64), 1.0 - share)
        served = sent - refused
        self._tokens = max(0.0, self._tokens - float(served.sum()))
        self._move(repeated, fresh, refused / np.maximum(sent, 1.0))
        self._answers.append((served.astype(np.int64), refused, saturated))
        self._decide(*self._answers.popleft())
        return float(served.sum()), float(refused.sum())

    def _move(self, repeated: Numbers, fresh: Numbers, share: Numbers) -> None:
        """Objects that were refused once more wait for longer."""
        ready = self._ready.sum(axis=1)
        out = self._ready * (repeated / np.maximum(ready, 1e-12))[:, None]
        self._ready -= out
        back = out * share[:, None]
        self._waiting[:, 1:] += back[:, :-1]
        self._waiting[:, -1] += back[:, -1]
        self._waiting[:, 0] += fresh * share

    def _decide(self, served: Numbers, refused: Numbers, saturated: Numbers) -> None:
        for number, (good, bad, full) in enumerate(
            zip(served.tolist(), refused.tolist(), saturated.tolist(), strict=True)
        ):
            sample = Sample(
                seconds=BEAT_SECONDS,
                requests=good + bad,
                bytes=good * BODY_BYTES,
                throttled=bad,
                errors=0,
                saturated=full,
                idle=False,
            )
            state = next_state(self._states[number], sample, limit_min=1, limit_max=self._limits.concurrency_max)
            self._sent[number] += good
            self._beats[number] += 1
            self._to_next[number] -= good
            if self._to_next[number] <= 0.0:
                self._to_next[number] += self._part
                state = State(limit=self._limits.concurrency_start)
                self._turns.append((float(self._sent[number]), float(self._beats[number])))
                self._sent[number] = self._beats[number] = 0.0
            self._states[number] = state
            self._allowed[number] = state.limit
