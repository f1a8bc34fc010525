"""What a run did over time: a bounded number of samples, whatever it lasts. Pure: the time is an argument."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any, Final

from asyncsink.errors import ConnectionLost, RequestTimeout, Stalled, Throttled
from asyncsink.model import Event, GaveUp, Paused, Resumed, Retried
from asyncsink.value import dataclass

SAMPLES_MAX: Final = 240
"""Samples kept: more lines than a phone is wide show nothing more."""
SAMPLE_SECONDS_MIN: Final = 0.1
"""Seconds between the samples of a short run; doubled whenever there are too many of them."""
_MOMENT_SECONDS: Final = 1e-4
"""The shortest interval: a rate needs some time."""
OUTAGES_MAX: Final = 50
TROUBLES: Final = ("slow_down", "stalled", "lost", "other")
"""Why requests were sent again: the server asked to slow down, gave no byte, broke off, or anything else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The figures of a run at one moment; totals are since its start, and never fall."""

    bytes_moved: int = 0
    objects_done: int = 0
    requests: int = 0
    in_flight: int = 0
    limit: int = 0


@dataclass(slots=True, kw_only=True)
class Interval:
    """What happened between two samples.

    Attributes:
        end_seconds, seconds: its end since the start of the run, and its length.
        bytes, objects, requests: how many in it.
        in_flight, limit: requests under way, and most of them, on average.
        troubles: repeated requests, by TROUBLES.
    """

    end_seconds: float
    seconds: float
    bytes: int
    objects: int
    requests: int
    in_flight: float
    limit: float
    troubles: Counter[str]


@dataclass(slots=True)
class Absence:
    """A server that did not answer: from when to when, in seconds since the start; None is to the end."""

    start_seconds: float
    end_seconds: float | None
    cause: str


class Timeline:
    """The samples of a run.

    Attributes:
        sample_seconds: seconds until the next sample is due.
        intervals: at most SAMPLES_MAX, in order.
        outages: at most OUTAGES_MAX, in order.
    """

    def __init__(self) -> None:
        self.sample_seconds = SAMPLE_SECONDS_MIN
        self.intervals: list[Interval] = []
        self.outages: list[Absence] = []
        self._last = Moment()
        self._last_seconds = 0.0
        self._troubles: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Timeline of {len(self.intervals)} samples>"

    def add(self, now: float, moment: Moment) -> None:
        """Add a sample, `now` seconds after the start."""
        now = max(now, self._last_seconds + _MOMENT_SECONDS)
        seconds = now - self._last_seconds
        last, self._last, self._last_seconds = self._last, moment, now
        troubles, self._troubles = self._troubles, Counter()
        self.intervals.append(
            Interval(
                end_seconds=now,
                seconds=seconds,
                bytes=moment.bytes_moved - last.bytes_moved,
                objects=moment.objects_done - last.objects_done,
                requests=moment.requests - last.requests,
                in_flight=moment.in_flight,
                limit=moment.limit,
                troubles=troubles,
            )
        )
        if seconds < self.sample_seconds / 2 and len(self.intervals) > 1:
            # The last sample comes when the run ends: a rate over a moment would tower above all others.
            last_one = self.intervals.pop()
            self.intervals[-1] = _joined(self.intervals[-1], last_one)
        if len(self.intervals) > SAMPLES_MAX:
            self._halve()

    def _halve(self) -> None:
        """Join the samples in pairs; later ones come half as often."""
        earlier, later = self.intervals[::2], self.intervals[1::2]
        joined = [_joined(one, other) for one, other in zip(earlier, later, strict=False)]
        self.intervals = joined + earlier[len(later) :]
        self.sample_seconds *= 2

    def hear(self, now: float, event: Event) -> None:
        """Count an event that was told `now` seconds after the start."""
        if isinstance(event, Retried):
            self._troubles[_trouble(event)] += 1
        elif isinstance(event, Paused):
            if not self._is_out and len(self.outages) < OUTAGES_MAX:
                start = max(0.0, now - event.seconds)
                self.outages.append(Absence(start, None, f"{event.endpoint} {event.cause}"))
        elif isinstance(event, (Resumed, GaveUp)) and self._is_out:
            self.outages[-1].end_seconds = now

    @property
    def _is_out(self) -> bool:
        return bool(self.outages) and self.outages[-1].end_seconds is None

    def as_dict(self) -> dict[str, Any]:
        """The samples as JSON-ready columns."""
        some = self.intervals
        columns: dict[str, list[Any]] = {
            "end_seconds": [round(each.end_seconds, 6) for each in some],
            "seconds": [round(each.seconds, 6) for each in some],
            "bytes": [each.bytes for each in some],
            "objects": [each.objects for each in some],
            "requests": [each.requests for each in some],
            "in_flight": [round(each.in_flight, 1) for each in some],
            "limit": [round(each.limit, 1) for each in some],
        }
        for trouble in TROUBLES:
            columns[trouble] = [each.troubles[trouble] for each in some]
        return {**columns, "outages": [asdict(each) for each in self.outages]}


def _joined(one: Interval, other: Interval) -> Interval:
    seconds = one.seconds + other.seconds

    def average(first: float, second: float) -> float:
        return (first * one.seconds + second * other.seconds) / seconds

    return Interval(
        end_seconds=other.end_seconds,
        seconds=seconds,
        bytes=one.bytes + other.bytes,
        objects=one.objects + other.objects,
        requests=one.requests + other.requests,
        in_flight=average(one.in_flight, other.in_flight),
        limit=average(one.limit, other.limit),
        troubles=one.troubles + other.troubles,
    )


def _trouble(event: Retried) -> str:
    if isinstance(event.error, Throttled):
        return "slow_down"
    if isinstance(event.error, (Stalled, RequestTimeout)):
        return "stalled"
    return "lost" if isinstance(event.error, ConnectionLost) else "other"
