"""Pure: how many requests should be in flight.

Grow while throughput grows; halve when the server says SlowDown or errors rise; leave the limit alone while the
source, not the limit, is what holds the run back. After a halving, growth is by small steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

REQUEST_COST_BYTES = 256 * 1024
"""What a request weighs besides its body: tiny objects are limited by requests, large ones by bytes."""
GAIN = 1.05
"""A step up is kept when throughput rose by this factor."""
ERROR_SHARE = 0.05
PATIENCE_SAMPLES = 10
"""Samples to rest after a step up that brought nothing, before the next try."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the run: `seconds` long; counts as in s3.pacing.Window."""

    seconds: float
    requests: int
    bytes: int
    throttled: int
    errors: int
    saturated: bool

    @property
    def rate(self) -> float:
        """Weighted bytes a second."""
        return (self.bytes + self.requests * REQUEST_COST_BYTES) / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class State:
    """The policy's memory.

    Attributes:
        limit: requests in flight that are allowed now.
        limit_before: the limit before the last step up, to return to when the step brought nothing.
        rate_before: the throughput that the last step up has to beat.
        rest: samples to wait before the next step up.
        gentle: True once the server has throttled: steps are then small.
        reason: why the last step was taken, for people.
    """

    limit: int
    limit_before: int = 0
    rate_before: float = 0.0
    rest: int = 0
    gentle: bool = False
    reason: str = "start"


def next_state(state: State, sample: Sample, *, limit_min: int, limit_max: int) -> State:
    """The limit to use from now on, given what the last sample showed."""
    if sample.throttled or sample.errors > max(1, sample.requests * ERROR_SHARE):
        reason = "the server throttles" if sample.throttled else "errors rise"
        limit = max(limit_min, state.limit // 2)
        return State(limit=limit, rest=PATIENCE_SAMPLES // 2, gentle=True, reason=reason)
    if state.rest:
        return replace(state, rest=state.rest - 1)
    if not sample.saturated or not sample.requests:
        return state
    if state.limit_before and sample.rate < state.rate_before * GAIN:
        return State(
            limit=state.limit_before,
            rest=PATIENCE_SAMPLES,
            gentle=state.gentle,
            reason="more in flight brought nothing",
        )
    step = max(1, state.limit // 8) if state.gentle else max(1, state.limit // 2)
    limit = min(limit_max, state.limit + step)
    if limit == state.limit:
        return replace(state, limit_before=0, rest=PATIENCE_SAMPLES)
    return State(
        limit=limit,
        limit_before=state.limit,
        rate_before=sample.rate,
        gentle=state.gentle,
        reason="throughput grows",
    )
