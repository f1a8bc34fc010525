"""Times of operations in a histogram (HdrHistogram): exact to three digits from a microsecond to an hour."""

from __future__ import annotations

from typing import Any, Final

from asyncsink.errors import ConfigError

PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9, 100.0)
_CURVE: Final = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.95, 99.99)
_MOST_US: Final = 3_600_000_000


def check_histograms() -> None:
    """Raise ConfigError where the library of histograms is not installed."""
    try:
        import hdrh.histogram  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "bench needs HdrHistogram, which is not installed; pip install 'asyncsink[bench]'."
        ) from error


class Latencies:
    """The times of one kind of operation, in seconds."""

    def __init__(self) -> None:
        from hdrh.histogram import HdrHistogram

        self._histogram = HdrHistogram(1, _MOST_US, 3)

    def __len__(self) -> int:
        return int(self._histogram.get_total_count())

    def __repr__(self) -> str:
        return f"<Latencies of {len(self):,} operations>"

    def add(self, seconds: float) -> None:
        """Count one; more than an hour counts as an hour."""
        self._histogram.record_value(min(_MOST_US, max(1, round(seconds * 1e6))))

    def percentile(self, percent: float) -> float | None:
        """The time in seconds that `percent` of the operations did not exceed; None where there are none."""
        return self._histogram.get_value_at_percentile(percent) / 1e6 if len(self) else None

    def as_dict(self) -> dict[str, Any]:
        """Count, mean and percentiles in seconds, and the whole histogram as HdrHistogram writes it (base64)."""
        found = {f"p{percent:g}": self.percentile(percent) for percent in PERCENTILES}
        mean = self._histogram.get_mean_value() / 1e6 if len(self) else None
        return {"count": len(self), "mean": mean, **found, "hdr": self._histogram.encode().decode("ascii")}

    def curve(self) -> list[tuple[float, float]]:
        """Percentiles and their times in seconds, for a plot."""
        return [(percent, found) for percent in _CURVE if (found := self.percentile(percent)) is not None]
