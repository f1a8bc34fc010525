"""Whether a series of samples grows. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

WARM_UP: Final = 0.1
"""The first share of the time is left out: caches fill, pools grow to their size."""
_SAMPLES_MIN: Final = 9


@dataclass(frozen=True, slots=True)
class Trend:
    """Of a series, after its warm-up.

    Attributes:
        first_third, last_third: medians.
        most: the highest sample of all, warm-up included.
        slope_per_minute: of a line fitted by least squares.
        allowed: so much may the last third be above the first.
        flat: it is not more.
    """

    first_third: float
    last_third: float
    most: float
    slope_per_minute: float
    allowed: float
    flat: bool


def trend(seconds: Sequence[float], values: Sequence[float], *, allowed: float) -> Trend:
    """Judge `values` sampled at `seconds`.

    Raises:
        ValueError: fewer than nine samples are left after the warm-up.
    """
    start = seconds[0] + (seconds[-1] - seconds[0]) * WARM_UP if seconds else 0.0
    kept = [(at, value) for at, value in zip(seconds, values, strict=True) if at >= start]
    if len(kept) < _SAMPLES_MIN:
        raise ValueError(f"{len(kept)} samples are too few to say whether they grow; expected {_SAMPLES_MIN} or more.")
    third = len(kept) // 3
    first = statistics.median(value for _, value in kept[:third])
    last = statistics.median(value for _, value in kept[-third:])
    slope = statistics.linear_regression([at for at, _ in kept], [value for _, value in kept]).slope
    return Trend(first, last, max(values), slope * 60, allowed, last - first <= allowed)
