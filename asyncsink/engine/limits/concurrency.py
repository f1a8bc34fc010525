"""Pure: how many requests should be in flight.

The network decides. Where the server is far away, throughput doubles with the limit, so the limit doubles every two
round trips until throughput no longer rises. Where the server throttles or fails, the limit is halved, at most once in
a round trip, and grows by small steps from there. While the source, not the limit, holds the run back, the limit stays.

    start ──doubling brings little──► steady ──now and then a step up, or down: kept where it brings something──► steady
      ▲                                 │ ▲
      └──throughput fell: the network ──┘ └── SlowDown or errors: half, then one small step a second
         has changed

A limit is measured after it has settled: the first round trip (the limit divided by the rate) does not count, the next
ones do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from asyncsink.value import dataclass

REQUEST_COST_BYTES = 256 * 1024
"""Bytes that a request weighs besides its body: tiny objects are limited by requests, large ones by bytes."""
DOUBLING_GAIN = 1.25
"""Doubling goes on where it raised the throughput by this factor."""
GAIN = 1.05
"""Any step is kept where it raised the throughput by this factor."""
FALL = 0.6
"""A throughput below this share of the best one means that the network has changed."""
ERROR_SHARE = 0.05
"""Share of errors among the requests in flight, or answered in one measurement, that is too many. One error alone never
is."""
MEASURE_SECONDS_MIN = 0.05
MEASURE_SECONDS_MAX = 2.0
"""Seconds for which a limit is measured: one round trip, within these bounds."""
STEADY_SECONDS_MIN = 0.25
STEADY_ROUND_TRIPS = 3
"""Round trips for which a limit is measured in the steady phase: nothing is urgent there, and chance counts for
less."""
PATIENCE_SECONDS = 4.0
PATIENCE_SECONDS_MAX = 60.0
"""Seconds from a step without gain to the next one; doubled each time."""
RECOVER_SECONDS = 0.1
"""Fewest seconds after a halving in which further SlowDowns are answers to requests sent before it."""
RECOVER_ROUND_TRIPS = 1.5
"""The same in round trips, where those take longer: some answers are later than most."""
GENTLE_SECONDS = 30.0
"""Seconds without a SlowDown after which steps up are large again."""
GENTLE_STEP_SECONDS = 0.75
"""Seconds from one small step that was kept to the next: a server's allowance for bursts is used up in between."""

Phase = Literal["start", "steady"]


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample of the run, `seconds` long; counts as in s3.pacing.Window.

    `idle` is True where nothing was in flight: such a sample shows nothing about the network.
    """

    seconds: float
    requests: int
    bytes: int
    throttled: int
    errors: int
    saturated: bool
    idle: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """The policy's memory.

    Attributes:
        limit: requests in flight that are allowed now.
        phase: "start" doubles, "steady" tries a step now and then.
        settle_seconds: time until the limit is measured.
        seconds, requests, weight, saturated: measured so far at this limit, and whether the limit was reached.
        errors: number since the measurement before this one.
        round_trip_seconds: as the last whole measurement showed, or 0.
        trying_from: the limit before the step that is being measured, or 0.
        down: whether the step that is being measured, or the next one, lowers the limit.
        rate: weighted bytes a second at the limit before that step, or the best one seen.
        patience_seconds, rest_seconds: time from one try to the next, and what is left of it.
        recover_seconds: time in which further SlowDowns do not count.
        gentle_seconds: time for which steps up stay small.
        limit_max: the upper bound of the limit at the last sample, or 0 before the first one.
        reason: why the limit was changed last, for people.
    """

    limit: int
    phase: Phase = "start"
    settle_seconds: float = 0.0
    seconds: float = 0.0
    requests: int = 0
    weight: int = 0
    saturated: bool = False
    errors: int = 0
    round_trip_seconds: float = 0.0
    trying_from: int = 0
    down: bool = False
    rate: float = 0.0
    patience_seconds: float = PATIENCE_SECONDS
    rest_seconds: float = 0.0
    recover_seconds: float = 0.0
    gentle_seconds: float = 0.0
    limit_max: int = 0
    reason: str = "start"


def next_state(state: State, sample: Sample, *, limit_min: int, limit_max: int) -> State:
    """The state after one more sample; its limit applies from now on."""
    if state.limit > limit_max:
        # The upper bound was lowered from outside: the earlier rate is no measure any more.
        state = replace(_moved(state, limit_max, "no more is allowed"), trying_from=0, rate=0.0)
    elif 0 < state.limit_max <= state.limit < limit_max:
        # The bound, not the network, has held the limit: how far the network lets it go is not known.
        state = replace(
            _measure_anew(state), phase="start", trying_from=0, down=False, rate=0.0, rest_seconds=0.0, reason="start"
        )
    state = replace(
        state,
        limit_max=limit_max,
        recover_seconds=max(0.0, state.recover_seconds - sample.seconds),
        gentle_seconds=max(0.0, state.gentle_seconds - sample.seconds),
        rest_seconds=max(0.0, state.rest_seconds - sample.seconds),
        errors=state.errors + sample.errors,
    )
    if sample.throttled or state.errors > max(1.0, max(state.limit, state.requests + sample.requests) * ERROR_SHARE):
        return _halved(state, sample, limit_min)
    if sample.idle:
        # The first requests after a pause are no measure either.
        return replace(_measure_anew(state), settle_seconds=MEASURE_SECONDS_MIN)
    if state.settle_seconds > 0.0:
        return replace(state, settle_seconds=max(0.0, state.settle_seconds - sample.seconds))
    state = replace(
        state,
        seconds=state.seconds + sample.seconds,
        requests=state.requests + sample.requests,
        weight=state.weight + sample.bytes + sample.requests * REQUEST_COST_BYTES,
        saturated=state.saturated or sample.saturated,
    )
    if state.phase == "start":
        enough = state.seconds >= MEASURE_SECONDS_MIN and state.requests >= state.limit
    else:
        enough = state.seconds >= STEADY_SECONDS_MIN and state.requests >= STEADY_ROUND_TRIPS * state.limit
    if not enough and state.seconds < MEASURE_SECONDS_MAX:
        return state
    if not state.saturated or not state.requests:
        # Something else than the limit holds the run back: this measurement shows nothing about the limit.
        return _measure_anew(state)
    round_trip = min(MEASURE_SECONDS_MAX, state.limit * state.seconds / state.requests)
    return _judged(replace(state, round_trip_seconds=round_trip), limit_min, limit_max)


def _judged(state: State, limit_min: int, limit_max: int) -> State:
    """The state after a whole measurement at a limit that was reached."""
    rate = state.weight / state.seconds
    if state.trying_from:
        if rate < state.rate * GAIN:
            return _back(state)
        doubling = state.phase == "start" and rate >= state.rate * DOUBLING_GAIN
        state = replace(state, phase="start" if doubling else "steady", patience_seconds=PATIENCE_SECONDS)
        if state.gentle_seconds:
            rested = replace(state, trying_from=0, rate=rate, rest_seconds=GENTLE_STEP_SECONDS)
            return _measure_anew(rested)
        return _step(state, rate, limit_min, limit_max, "fewer bring more" if state.down else "throughput grows")
    if state.phase == "start":
        return _step(state, rate, limit_min, limit_max, "throughput grows")
    if rate < state.rate * FALL and not state.gentle_seconds:
        # Answers take longer than before: the number in flight no longer suffices.
        return _step(replace(state, phase="start", down=False), rate, limit_min, limit_max, "throughput fell")
    if state.rest_seconds:
        # The best rate fades, so that one lucky measurement does not stay the measure.
        return replace(_measure_anew(state), rate=max(rate, 0.9 * state.rate + 0.1 * rate))
    reason = "fewer may bring more" if state.down else "throughput may grow"
    return _step(state, rate, limit_min, limit_max, reason)


def _step(state: State, rate: float, limit_min: int, limit_max: int, reason: str) -> State:
    """The next limit to try, or a rest where there is none in that direction."""
    if state.down:
        limit = max(limit_min, state.limit - max(1, state.limit // 5))
    elif state.gentle_seconds:
        limit = min(limit_max, state.limit + max(1, state.limit // 8))
    else:
        limit = min(limit_max, 2 * state.limit if state.phase == "start" else state.limit + max(1, state.limit // 4))
    if limit == state.limit:
        return _rested(replace(state, rate=rate))
    return _moved(replace(state, rate=rate, trying_from=state.limit), limit, reason)


def _back(state: State) -> State:
    """Return to the limit before a step without gain."""
    reason = "fewer bring less" if state.down else "more in flight brought nothing"
    return _moved(_rested(state), state.trying_from, reason)


def _rested(state: State) -> State:
    """Keep the limit for a while, then try the other direction; after throttling upwards only, since the limit was
    halved."""
    patience = min(PATIENCE_SECONDS_MAX, 2 * state.patience_seconds)
    down = not state.down and not state.gentle_seconds
    rested = replace(state, phase="steady", trying_from=0, down=down, rest_seconds=state.patience_seconds)
    return _measure_anew(replace(rested, patience_seconds=patience))


def _halved(state: State, sample: Sample, limit_min: int) -> State:
    state = replace(
        _measure_anew(state),
        phase="steady",
        trying_from=0,
        down=False,
        rate=0.0,
        rest_seconds=GENTLE_STEP_SECONDS,
        gentle_seconds=GENTLE_SECONDS,
        patience_seconds=PATIENCE_SECONDS,
    )
    if state.recover_seconds:
        return state
    reason = "the server throttles" if sample.throttled else "errors rise"
    recover = max(RECOVER_SECONDS, RECOVER_ROUND_TRIPS * state.round_trip_seconds)
    return replace(_moved(state, max(limit_min, state.limit // 2), reason), recover_seconds=recover)


def _moved(state: State, limit: int, reason: str) -> State:
    """Go to another limit; answers to requests sent at the old one are not measured."""
    return replace(_measure_anew(state), limit=limit, settle_seconds=state.round_trip_seconds, reason=reason)


def _measure_anew(state: State) -> State:
    return replace(state, seconds=0.0, requests=0, weight=0, saturated=False, errors=0)
