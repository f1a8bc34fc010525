"""What to measure, checked before anything is sent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args

from asyncsink.errors import ConfigError
from asyncsink.options.values import parse_duration, read_integer
from asyncsink.testing.synthetic import Bodies
from asyncsink.value import dataclass

Verb = Literal["put", "get", "head"]
VERBS: Final[tuple[Verb, ...]] = get_args(Verb)
WORKERS_MAX: Final = 4096
STEPS_MAX: Final = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A benchmark.

    Attributes:
        mix: the weight of each kind of operation that is sent.
        bodies: of the objects.
        ramp: operations at the same time, step by step.
        seconds: of each step.
        rate: operations that begin in a second, or None: each worker begins the next one when one has ended.
        cleanup: delete the objects afterwards.
    """

    mix: Mapping[Verb, float]
    bodies: Bodies
    ramp: tuple[int, ...]
    seconds: float
    rate: float | None
    cleanup: bool

    @property
    def reads(self) -> bool:
        """Whether objects have to be there before the first step."""
        return "get" in self.mix or "head" in self.mix


def parse_order(*, mix: str, sizes: str, ramp: str, seconds: Any, rate: Any, seed: Any, cleanup: bool) -> Order:
    """Check the values of a command line.

    Raises:
        ConfigError: one is wrong.
    """
    number = read_integer(seed)
    if number < 0:
        raise ConfigError(f"seed={seed!r} is no number; expected a whole number from 0 on.")
    return Order(
        mix=_mix(mix),
        bodies=Bodies(sizes, number),
        ramp=_ramp(ramp),
        seconds=_seconds(seconds),
        rate=None if rate is None else _rate(rate),
        cleanup=cleanup,
    )


def _mix(text: str) -> Mapping[Verb, float]:
    weights: dict[Verb, float] = {}
    for part in text.split(","):
        name, _, weight = part.strip().partition(":")
        kind = next((each for each in VERBS if each == name), None)
        value = _number(weight or "1")
        if kind is None or not value >= 0 or kind in weights:
            raise ConfigError(
                f"mix={text!r} has {part.strip()!r}; expected weights of put, get and head, such as "
                "put:80,get:15,head:5."
            )
        weights[kind] = value
    weights = {kind: value for kind, value in weights.items() if value}
    if not weights:
        raise ConfigError(f"mix={text!r} has nothing to do; expected such as put:80,get:15,head:5.")
    return weights


def _ramp(text: str) -> tuple[int, ...]:
    steps = tuple(read_integer(part.strip()) for part in text.split(","))
    if len(steps) > STEPS_MAX or not all(1 <= step <= WORKERS_MAX for step in steps):
        raise ConfigError(
            f"ramp={text!r:.80} is no list of steps; expected operations at the same time, from 1 to {WORKERS_MAX:,} "
            f"and {STEPS_MAX} steps at most, such as 1,4,16,64."
        )
    return steps


def _seconds(value: Any) -> float:
    seconds = parse_duration(float(value) if _number(value) >= 0 else value, "seconds")
    if not 0 < seconds <= 86400:
        raise ConfigError(f"seconds={value!r} is no length of a step; expected more than 0, and a day at most.")
    return seconds


def _rate(value: Any) -> float:
    rate = _number(value)
    if not 0 < rate <= 1e6:
        raise ConfigError(f"rate={value!r} is no rate; expected operations a second, more than 0.")
    return rate


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return math.nan
    return number if math.isfinite(number) else math.nan
