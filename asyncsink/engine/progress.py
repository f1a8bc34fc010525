"""How far a run is: counts that the engine moves and displays poll, and how fast they move.

What is done is what is recorded: `Progress.counts` is the very object that the report reads, so that no display is
ever ahead of the report. Bytes of files that have no outcome yet are counted apart, and taken back when the attempt
ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import field

from asyncsink.model import Resumable
from asyncsink.report.counts import Counts
from asyncsink.s3.traffic import Traffic
from asyncsink.value import dataclass

WINDOW_SECONDS = 12.0
"""Rates are those of the last 12 seconds: long enough for parts of some MiB on a slow line, short enough that a server
that answers no more shows."""
SAMPLE_SECONDS = 0.25
"""Seconds between the samples of a window, however often somebody looks."""


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        objects_total, bytes_total: from the survey, the listing or the manifest; None until then, and for streams.
        objects_found: how many the survey has found so far.
        started: True once transfers run.
        resumable: large files that a later run goes on with, by key.
        counts: what is recorded so far; those of the report, in the end. A verification counts what is proven there.
        traffic: requests sent, and how many of them repeated an earlier one.
        objects_in_hand: transfers that a worker has taken and that have no outcome yet.
        bytes_under_way: bytes of parts or ranges that are transferred, of objects that have no outcome yet; parts that
            an earlier run transferred are among them. Taken back when the object's attempt ends, however it ends.
        bytes_failed: sizes of the files that failed.
        bytes_moved: bytes that this run transferred, part by part. Never falls; what had to be sent again counts again.
    """

    objects_total: int | None = None
    bytes_total: int | None = None
    objects_found: int = 0
    started: bool = False
    resumable: dict[str, Resumable] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    traffic: Traffic = field(default_factory=Traffic)
    objects_in_hand: int = 0
    bytes_under_way: int = 0
    bytes_failed: int = 0
    bytes_moved: int = 0

    @property
    def objects_done(self) -> int:
        """Objects that are where they belong by now: sent, or there already; in a dry run, looked at."""
        return self.counts.objects_uploaded + self.counts.already_there + self.counts.objects_planned

    @property
    def bytes_done(self) -> int:
        """Bytes of these objects. Never more than the report will say."""
        return self.counts.bytes_uploaded + self.counts.bytes_skipped + self.counts.bytes_planned

    @property
    def bytes_left(self) -> int | None:
        """Bytes that still have to be transferred or compared, or None where the total is not known."""
        if self.bytes_total is None:
            return None
        return max(0, self.bytes_total - self.bytes_done - self.bytes_failed - self.bytes_under_way)

    @property
    def objects_left(self) -> int | None:
        """Objects without an outcome, or None where the total is not known."""
        return None if self.objects_total is None else max(0, self.objects_total - self.counts.objects_total)

    @property
    def done_share(self) -> float | None:
        """What is done, from 0 to 1, by bytes (by objects where there are no bytes), or None where no total is known.

        1 only where every object is done: an object that is there can be larger than the file that would have been
        sent, and a file can grow after it was counted.
        """
        if self.objects_total is None or self.bytes_total is None:
            return None
        if self.counts.objects_total - self.counts.objects_failed >= self.objects_total:
            return 1.0
        done, total = self.bytes_done, self.bytes_total
        if not total:
            done, total = self.objects_done, self.objects_total
        return min(done / total, 0.99)


class UnderWay:
    """The bytes of one object that are transferred while it has no outcome; who makes one takes it back in the end."""

    __slots__ = ("_bytes", "_progress")

    def __init__(self, progress: Progress) -> None:
        """Count in `progress`."""
        self._progress = progress
        self._bytes = 0

    def there(self, length: int) -> None:
        """Count `length` bytes that an earlier run transferred."""
        self._bytes += length
        self._progress.bytes_under_way += length

    def moved(self, length: int) -> None:
        """Count `length` bytes that were transferred now."""
        self.there(length)
        self._progress.bytes_moved += length

    def take_back(self) -> None:
        """Count none of them any longer: the object has failed, or is about to be recorded."""
        self._progress.bytes_under_way -= self._bytes
        self._bytes = 0


class Rate:
    """How fast a number grows, in units per second over the last `window_seconds`; pure: the time is given."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._samples: deque[tuple[float, int]] = deque()

    def at(self, now: float, value: int) -> float:
        """The rate at `now`, in seconds of a monotonic clock, when the number is `value`.

        0.0 where it has not grown for the whole window; times must not fall from call to call.
        """
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now - self._window_seconds:
            samples.popleft()
        if not samples or now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append((now, value))
        since, before = samples[0]
        # Over a second at least: the first bytes of a run say little of its speed.
        return max(0, value - before) / max(now - since, 1.0)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a run is at one moment.

    Attributes:
        bytes_per_second: transferred, over the last seconds. objects_per_second: ended in whatever way but failure.
        seconds_left: at this speed, or None where nothing moves, or no total is known.
    """

    bytes_per_second: float = 0.0
    objects_per_second: float = 0.0
    seconds_left: float | None = None


class Speedometer:
    """The speed of a run, read as often as somebody looks.

    Args:
        clock: seconds, never falling.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._moved, self._handled, self._objects = Rate(), Rate(), Rate()

    def read(self) -> Speed:
        """The speed now; call it several times a second, so that the window is full."""
        now, progress = self._clock(), self._progress
        counts = progress.counts
        moved = self._moved.at(now, progress.bytes_moved)
        # Time left is about what is compared, too: a file that is there already needs no transfer.
        handled = self._handled.at(now, progress.bytes_moved + counts.bytes_skipped + counts.bytes_planned)
        objects = self._objects.at(now, progress.objects_done)
        bytes_left, objects_left = progress.bytes_left, progress.objects_left
        if bytes_left is None or objects_left is None:
            return Speed(moved, objects)
        left, rate = (bytes_left, handled) if bytes_left else (objects_left, objects)
        if not left:
            return Speed(moved, objects, 0.0)
        return Speed(moved, objects, left / rate if rate > 0 else None)
