"""Whether a series of samples grows. Pure.

What a process holds goes up and down with the work and the weather; what it never gives back lifts its low tide. So the
low tides are compared: a leak shows in them, and a burst does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WARM_UP_SECONDS: Final = 240.0
"""Left out: modules of both lanes are imported, caches fill, pools grow to their size. Of a soak, whose rounds take up
to ten seconds in bad weather, that needs four minutes."""
SECONDS_MIN: Final = 180.0
"""In less, nobody can tell a leak from the rest of the warm-up."""
_WINDOW_SAMPLES: Final = 10


@dataclass(frozen=True, slots=True)
class Trend:
    """Of a series.

    Attributes:
        first_third, last_third: low tides (the lowest decile) of the first and the last third after the warm-up.
        most: the highest sample of all, warm-up included.
        slope_per_minute: of a line fitted by least squares to the lowest of every ten samples.
        allowed: so much may the last third be above the first.
        flat: it is not more; None where the series is too short to say.
    """

    first_third: float
    last_third: float
    most: float
    slope_per_minute: float
    allowed: float
    flat: bool | None


def trend(seconds: Sequence[float], values: Sequence[float], *, allowed: float) -> Trend:
    """Judge `values` sampled at `seconds`, about one a second.

    Raises:
        ValueError: fewer than 20 samples are left after the warm-up, which is four tenths of the time at most.
    """
    length = seconds[-1] - seconds[0] if seconds else 0.0
    warm_up = min(WARM_UP_SECONDS, 0.4 * length)
    kept = [(at, value) for at, value in zip(seconds, values, strict=True) if at - seconds[0] >= warm_up]
    if len(kept) < 2 * _WINDOW_SAMPLES:
        raise ValueError(f"{len(kept)} samples are too few to say whether they grow; expected 20 or more.")
    third = len(kept) // 3
    first, last = (
        statistics.quantiles((value for _, value in part), n=10)[0] for part in (kept[:third], kept[-third:])
    )
    lowest = [min(window, key=lambda pair: pair[1]) for window in _windows(kept)]
    slope = statistics.linear_regression([at for at, _ in lowest], [value for _, value in lowest]).slope
    flat = last - first <= allowed if length >= SECONDS_MIN else None
    return Trend(first, last, max(values), slope * 60, allowed, flat)


def _windows(kept: Sequence[tuple[float, float]]) -> list[Sequence[tuple[float, float]]]:
    starts = range(0, len(kept) - _WINDOW_SAMPLES + 1, _WINDOW_SAMPLES)
    return [kept[start : start + _WINDOW_SAMPLES] for start in starts]
