"""Models of networks and servers, and a run of the real concurrency policy against each of them.

A model is a closed loop: whenever fewer requests than the limit are in flight, the source has another one. A request
takes the latency, and waits for its turn in the queue of a server (or link) that works off so many a second; a token
bucket answers SlowDown to what comes too fast. The clock is the model's own, so a run gives the same numbers on every
machine.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from asyncsink.engine.limits.concurrency import Sample, State, next_state
from asyncsink.engine.limits.controller import BEAT_SECONDS
from asyncsink.options.schema import Limits

SMALL_BYTES = 16 * 1024
UNLIMITED = 1e9
LANE_PER_SECOND = 14_000.0
"""Small objects that one process sends in a second at most: about what a lane thread was measured to do."""

Steps = tuple[tuple[float, float], ...]
"""Values over time: (seconds from the start, value from then on), the first from 0.0 on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Model:
    """A network and a server, as far as concurrency is concerned.

    Attributes:
        name, title: for the command line and for pictures.
        latency_seconds: of one request alone, from its sending to its answer.
        jitter: each latency is drawn evenly from this share below it to this share above it.
        late_share: of the requests take ten times the latency.
        served_per_second: requests that the server, or the process itself, works off one after another.
        crowding: in flight, that many requests halve the server's speed; 0 leaves it as it is.
        bytes_per_second: of the link.
        throttle_per_second: requests that are taken before the rest is answered by SlowDown.
        burst_seconds: what the token bucket of the throttle holds, in seconds of its rate.
        source_per_second: files that the source yields.
        body_bytes: of each request.
        seconds: simulated.
    """

    name: str
    title: str
    latency_seconds: Steps
    jitter: float = 0.1
    late_share: float = 0.0
    served_per_second: Steps = ((0.0, LANE_PER_SECOND),)
    crowding: int = 0
    bytes_per_second: float = UNLIMITED * SMALL_BYTES
    throttle_per_second: Steps = ()
    burst_seconds: float = 0.5
    source_per_second: Steps = ((0.0, UNLIMITED),)
    body_bytes: int = SMALL_BYTES
    seconds: float = 10.0

    def possible_per_second(self, seconds: float, limit_max: int) -> float:
        """Requests a second that no policy could exceed at that time, leaving out what a bucket has saved up."""
        throttle = at(self.throttle_per_second, seconds) if self.throttle_per_second else UNLIMITED
        return min(
            limit_max / at(self.latency_seconds, seconds),
            at(self.served_per_second, seconds),
            self.bytes_per_second / self.body_bytes,
            throttle,
            at(self.source_per_second, seconds),
        )

    def needed_in_flight(self, seconds: float, limit_max: int) -> float:
        """Requests in flight that just reach what is possible at that time."""
        return self.possible_per_second(seconds, limit_max) * at(self.latency_seconds, seconds)


@dataclass(frozen=True, slots=True)
class Beat:
    """What was seen at one beat: the limit before it, and what was answered since the beat before."""

    seconds: float
    limit: int
    answered: int
    throttled: int


@dataclass(slots=True)
class Course:
    """How a model's run went."""

    model: Model
    limit_max: int
    beats: list[Beat] = field(default_factory=list)
    reasons: list[tuple[float, int, str]] = field(default_factory=list)

    def rate(self, begin: float, end: float) -> float:
        """Requests a second that were published between two times."""
        return sum(beat.answered for beat in self.beats if begin < beat.seconds <= end) / (end - begin)

    def throttled(self, begin: float, end: float) -> int:
        """SlowDowns between two times."""
        return sum(beat.throttled for beat in self.beats if begin < beat.seconds <= end)

    def limits(self, begin: float, end: float) -> list[int]:
        """Every limit between two times."""
        return [beat.limit for beat in self.beats if begin < beat.seconds <= end]

    def key_turns(self, begin: float, end: float) -> int:
        """How often the limit changed its direction between two times."""
        moves = [after - before for before, after in pairwise(self.limits(begin, end)) if after != before]
        return sum((one > 0) != (two > 0) for one, two in pairwise(moves))

    def seconds_to(self, share: float, begin: float = 0.0) -> float:
        """Seconds from `begin` until so large a share of what is possible was reached; infinite where it never was.

        It is reached at the beginning of the first round trips (0.2 s at least) in which it was.
        """
        latency = at(self.model.latency_seconds, begin)
        window = max(0.2, 2 * latency)
        wanted = share * self.model.possible_per_second(begin, self.limit_max)
        for beat in self.beats:
            if beat.seconds >= begin and self.rate(beat.seconds, beat.seconds + window) >= wanted:
                return beat.seconds - begin
        return float("inf")

    def seconds_to_limit(self, limit: int) -> float:
        """Seconds until the limit was so high; infinite where it never was."""
        return next((beat.seconds for beat in self.beats if beat.limit >= limit), float("inf"))


def at(steps: Steps, seconds: float) -> float:
    """The value at a time."""
    if len(steps) == 1:  # most of them, asked for with every request
        return steps[0][1]
    return [value for begin, value in steps if begin <= seconds][-1]


def simulate(model: Model, *, seed: int = 1, limits: Limits | None = None) -> Course:
    """Run the policy against a model, with the beat of the real tuner and the limits of a run without options."""
    limits = limits or Limits()
    course = Course(model, limits.concurrency_max)
    run = _Run(model, seed)
    state = State(limit=min(limits.concurrency_start, limits.concurrency_max))
    beat = 0
    while run.now < model.seconds:
        beat += 1
        answered, throttled, saturated = run.until(beat * BEAT_SECONDS, state.limit)
        course.beats.append(Beat(run.now, state.limit, answered, throttled))
        sample = Sample(
            seconds=BEAT_SECONDS,
            requests=answered + throttled,
            bytes=answered * model.body_bytes,
            throttled=throttled,
            errors=0,
            saturated=saturated,
        )
        after = next_state(state, sample, limit_min=1, limit_max=limits.concurrency_max)
        if after.limit != state.limit:
            course.reasons.append((run.now, after.limit, after.reason))
        state = after
    return course


class _Run:
    def __init__(self, model: Model, seed: int) -> None:
        self.now = 0.0
        self._model = model
        self._random = random.Random(seed)
        self._ends: list[tuple[float, bool]] = []
        self._free = 0.0
        self._tokens = at(model.throttle_per_second, 0.0) * model.burst_seconds if model.throttle_per_second else 0.0
        self._tokens_at = 0.0
        self._found = 0.0
        self._found_at = 0.0

    def until(self, end: float, limit: int) -> tuple[int, int, bool]:
        """Go on to a time: requests answered, throttled, and whether the limit was reached."""
        answered = throttled = 0
        saturated = False
        ends = self._ends
        while True:
            while len(ends) < limit and self._another():
                self._send()
                saturated = saturated or len(ends) == limit
            if not ends or ends[0][0] > end:
                # A source that yields nothing now may do so before the next answer.
                source = at(self._model.source_per_second, self.now)
                wait = (1.0 - self._found) / source if len(ends) < limit else UNLIMITED
                if self.now + wait < end:
                    self.now += wait + 1e-9
                    continue
                self.now = end
                return answered, throttled, saturated
            source = at(self._model.source_per_second, self.now)
            if len(ends) < limit and self.now + (1.0 - self._found) / source < ends[0][0]:
                self.now += (1.0 - self._found) / source + 1e-9
                continue
            self.now, refused = heappop(ends)
            if refused:
                throttled += 1
            else:
                answered += 1

    def _another(self) -> bool:
        """Whether the source has another file now; what it yields while nobody takes it is not lost, up to a queue."""
        source = at(self._model.source_per_second, self.now)
        self._found = min(1000.0, self._found + (self.now - self._found_at) * source)
        self._found_at = self.now
        if self._found < 1.0:
            return False
        self._found -= 1.0
        return True

    def _send(self) -> None:
        model, now = self._model, self.now
        half = at(model.latency_seconds, now) / 2
        # Chance is on the way back only: what is late does not hold up the queue of others.
        back = half * (1 + 2 * self._random.uniform(-model.jitter, model.jitter))
        if model.late_share and self._random.random() < model.late_share:
            back += 18 * half
        if model.throttle_per_second and not self._admitted():
            heappush(self._ends, (now + half + back, True))
            return
        speed = at(model.served_per_second, now)
        if model.crowding:
            speed /= 1 + len(self._ends) / model.crowding
        each = max(1 / speed, model.body_bytes / model.bytes_per_second) * self._random.uniform(0.5, 1.5)
        self._free = max(now + half, self._free) + each
        heappush(self._ends, (self._free + back, False))

    def _admitted(self) -> bool:
        rate = at(self._model.throttle_per_second, self.now)
        saved = self._tokens + (self.now - self._tokens_at) * rate
        self._tokens, self._tokens_at = min(rate * self._model.burst_seconds, saved), self.now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def constant(value: float) -> Steps:
    """The same value all the time."""
    return ((0.0, value),)


MODELS: Sequence[Model] = (
    *(
        Model(
            name=f"latency-{milliseconds:g}ms",
            title=f"{milliseconds:g} ms away",
            latency_seconds=constant(milliseconds / 1000),
            seconds=6.0,
        )
        for milliseconds in (0.2, 1, 5, 20, 50, 100, 300)
    ),
    Model(
        name="late-answers",
        title="30 ms away, and 300 ms for 2 % of the requests",
        latency_seconds=constant(0.03),
        late_share=0.02,
        seconds=20.0,
    ),
    Model(
        name="bandwidth",
        title="20 ms away, parts of 8 MiB, a link of 1 Gbit/s",
        latency_seconds=constant(0.02),
        bytes_per_second=125e6,
        body_bytes=8 << 20,
        seconds=30.0,
    ),
    Model(
        name="bandwidth-small",
        title="30 ms away, 64 KiB each, a link of 1 Gbit/s",
        latency_seconds=constant(0.03),
        bytes_per_second=125e6,
        body_bytes=64 << 10,
        seconds=30.0,
    ),
    Model(
        name="slow-down-200",
        title="20 ms away, SlowDown above 200 requests a second",
        latency_seconds=constant(0.02),
        throttle_per_second=constant(200),
        seconds=60.0,
    ),
    Model(
        name="slow-down-3500",
        title="30 ms away, SlowDown above 3,500 requests a second",
        latency_seconds=constant(0.03),
        throttle_per_second=constant(3500),
        seconds=40.0,
    ),
    Model(
        name="partition-split",
        title="30 ms away, SlowDown above 3,500/s, and 7,000/s after 60 s",
        latency_seconds=constant(0.03),
        throttle_per_second=((0.0, 3500), (60.0, 7000)),
        seconds=120.0,
    ),
    Model(
        name="throttled-minute",
        title="30 ms away, SlowDown above 20/s from 10 to 70 s",
        latency_seconds=constant(0.03),
        served_per_second=constant(4000),
        throttle_per_second=((0.0, UNLIMITED), (10.0, 20), (70.0, UNLIMITED)),
        seconds=150.0,
    ),
    Model(
        name="queueing-server",
        title="1 ms away, a server of 2,500 requests a second",
        latency_seconds=constant(0.001),
        served_per_second=constant(2500),
        seconds=60.0,
    ),
    Model(
        name="crowded-server",
        title="1 ms away, a server of 3,000/s; 100 in flight halve its speed",
        latency_seconds=constant(0.001),
        served_per_second=constant(3000),
        crowding=100,
        seconds=60.0,
    ),
    Model(
        name="latency-rises",
        title="5 ms away, and 80 ms after 10 s",
        latency_seconds=((0.0, 0.005), (10.0, 0.08)),
        seconds=30.0,
    ),
    Model(
        name="latency-falls",
        title="80 ms away, and 5 ms after 10 s",
        latency_seconds=((0.0, 0.08), (10.0, 0.005)),
        seconds=30.0,
    ),
    Model(
        name="slow-source",
        title="50 ms away, a source of 500 files a second, unbounded after 20 s",
        latency_seconds=constant(0.05),
        source_per_second=((0.0, 500), (20.0, UNLIMITED)),
        seconds=30.0,
    ),
)
