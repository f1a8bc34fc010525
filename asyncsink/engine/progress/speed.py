"""The speed of a run over the last seconds, and the time that is left."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from asyncsink.engine.recording.events import Progress
from asyncsink.value import dataclass

WINDOW_SECONDS = 12.0
"""Seconds over which rates are measured: long enough for parts of some MiB on a slow line, short enough to show that a
server has stopped answering."""
SAMPLE_SECONDS = 0.25
"""Seconds between the samples of a window, however often the rate is read."""


class Rate:
    """Growth of a number, in units per second over the last `window_seconds`. Pure: the time is an argument."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._samples: deque[tuple[float, int]] = deque()

    def at(self, now: float, value: int) -> float:
        """The rate at `now`, in seconds of a monotonic clock, when the number is `value`.

        0.0 where the number has not grown for the whole window. `now` must not fall from call to call.
        """
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now - self._window_seconds:
            samples.popleft()
        if not samples or now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append((now, value))
        since, before = samples[0]
        # Over a second at least: the first bytes of a run say little about its speed.
        return max(0, value - before) / max(now - since, 1.0)


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a run at one moment.

    Attributes:
        bytes_per_second: transferred, over the last seconds. objects_per_second: ended in whatever way but failure.
        seconds_left: at this speed, or None where nothing moves, or no total is known.
    """

    bytes_per_second: float = 0.0
    objects_per_second: float = 0.0
    seconds_left: float | None = None


class Speedometer:
    """Measures the speed of a run whenever it is read.

    Args:
        clock: seconds, never falling.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._moved, self._handled, self._objects = Rate(), Rate(), Rate()

    def read(self) -> Speed:
        """The speed now; to be read several times a second, so that the window is full."""
        now, progress = self._clock(), self._progress
        counts = progress.counts
        moved = self._moved.at(now, progress.bytes_moved)
        # The time left depends on comparisons too: a file that is there already needs no transfer.
        handled = self._handled.at(now, progress.bytes_moved + counts.bytes_skipped + counts.bytes_planned)
        objects = self._objects.at(now, progress.objects_done)
        bytes_left, objects_left = progress.bytes_left, progress.objects_left
        if bytes_left is None or objects_left is None:
            return Speed(moved, objects)
        left, rate = (bytes_left, handled) if bytes_left else (objects_left, objects)
        if not left:
            return Speed(moved, objects, 0.0)
        return Speed(moved, objects, left / rate if rate > 0 else None)
