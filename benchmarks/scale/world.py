"""What the model assumes: the bucket, the machines, the data, in which order parts are dealt, and when machines start.

Known of S3: a partition is a range of keys; it takes at least 3,500 PUTs a second; a bucket begins with one; S3 splits
partitions under sustained load, and answers 503 SlowDown meanwhile. Unknown, and therefore swept: after how long, from
which load on, and where it cuts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from asyncsink.options.schema import Limits
from asyncsink.options.settings import KIB
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.splitting.cutting import ByLimits, spread
from benchmarks.lineup.cohort import load_cohort

PUT_PER_SECOND = 3500.0
HEAD_PER_SECOND = 5500.0
DOLLARS_PER_PUT = 5e-6
"""S3 Standard; refused requests (5XX) cost nothing (S3 User Guide, "Billing for Amazon S3 error responses")."""

Order = Literal["walk", "ranges", "bit-reversed"]
Cut = Literal["load", "stored"]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Bucket:
    """A bucket and its partitions.

    Attributes:
        per_second: requests that a partition takes; the rest is answered by SlowDown.
        burst_seconds: what a partition saves up, in seconds of its rate.
        split_seconds: sustained load until a partition is split.
        split_load: share of `per_second` from which on load, refused requests included, counts as sustained.
        cut: a partition is cut at the median of its present load, or of the keys that it stores.
    """

    per_second: float = PUT_PER_SECOND
    burst_seconds: float = 0.5
    split_seconds: float = 600.0
    split_load: float = 0.8
    cut: Cut = "load"


@dataclass(frozen=True, kw_only=True, slots=True)
class Machines:
    """Machines that publish parts.

    Attributes:
        count: how many.
        objects_per_second: most small objects that one sends, by its processor or file system.
        bytes_per_second: of its network or file system.
        latency_seconds: of one request.
        order: in which parts are dealt. "walk": the next part in the order of the keys to whoever is free. "ranges": a
            contiguous block of parts for each machine. "bit-reversed": to whoever is free, the parts at 0, 1/2, 1/4,
            3/4, 1/8… of the keys, as a job array does (`splitting.cutting.spread`).
        ramp_seconds: from the first machine's start to the last one's.
    """

    count: int = 1
    objects_per_second: float = 5000.0
    bytes_per_second: float = 1.25e9
    latency_seconds: float = 0.03
    order: Order = "walk"
    ramp_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a split, in the order of their keys: how much each holds."""

    objects: Numbers
    requests: Numbers
    bytes: Numbers

    @property
    def totals(self) -> dict[str, float]:
        """Objects, requests, bytes and dollars for requests."""
        requests = float(self.requests.sum())
        return {
            "objects": float(self.objects.sum()),
            "requests": requests,
            "bytes": float(self.bytes.sum()),
            "parts": len(self.objects),
            "put_dollars": round(requests * DOLLARS_PER_PUT, 2),
        }

    def repeated_to(self, objects: float) -> Parts:
        """The same parts again and again, the last one cut off, until they hold so many objects."""
        times = int(objects // self.objects.sum()) + 1
        all_of = [np.tile(each, times) for each in (self.objects, self.requests, self.bytes)]
        sums = np.cumsum(all_of[0])
        count = int(np.searchsorted(sums, objects)) + 1
        kept = [each[:count].copy() for each in all_of]
        share = 1.0 - (sums[count - 1] - objects) / kept[0][-1]
        for each in kept:
            each[-1] *= share
        return Parts(*kept)


def requests_of(size_bytes: int, limits: Limits) -> int:
    """PUT-like requests that publish a file: one, or create, the parts and complete."""
    if size_bytes < limits.multipart_threshold_bytes:
        return 1
    return 2 + plan_parts(size_bytes, limits.part_size_bytes).count


def cut_parts(sizes_bytes: Iterable[int]) -> Parts:
    """Cut files in the order of their keys by the limits of a split without options."""
    limits, cutter = Limits(), ByLimits()
    rows: list[list[float]] = []
    for size in sizes_bytes:
        if cutter.begins(size):
            rows.append([0.0, 0.0, 0.0])
        last = rows[-1]
        last[0] += 1
        last[1] += requests_of(size, limits)
        last[2] += size
    table: Any = np.array(rows)
    return Parts(table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy())


def small_parts(objects: float) -> Parts:
    """Parts of files of 16 KiB."""
    return cut_parts([16 * KIB] * 100_000).repeated_to(objects)


def cohort_parts(objects: float) -> Parts:
    """Parts of the real sizes of ds000114's derivatives, again and again: as many cohorts below one prefix."""
    sizes = [member.size_bytes for member in sorted(load_cohort(scale=1), key=lambda member: member.path.encode())]
    return cut_parts(sizes * 20).repeated_to(objects)


class Dealer:
    """Deals the numbers of parts to machines, each once."""

    def __init__(self, parts: int, machines: int, order: Order) -> None:
        self._sequence = np.array(spread(parts)) if order == "bit-reversed" else np.arange(parts)
        self._each_its_own = order == "ranges"
        bounds = np.arange(machines + 1) * parts // machines if self._each_its_own else np.array([0, parts])
        self._next, self._end = bounds[:-1].copy(), bounds[1:]

    @property
    def left(self) -> int:
        """Parts that nobody has yet."""
        return int((self._end - self._next).sum())

    def deal(self, machines: NDArray[np.int64]) -> NDArray[np.int64]:
        """A part for each of these machines (numbers, each at most once); -1 where there is none any more."""
        if self._each_its_own:
            numbers = self._next[machines]
            ends = self._end[machines]
            self._next[machines] = np.minimum(numbers + 1, ends)
        else:
            numbers = self._next[0] + np.arange(len(machines))
            ends = self._end[0]
            self._next[0] = min(self._next[0] + len(machines), self._end[0])
        return np.where(numbers < ends, self._sequence[np.minimum(numbers, len(self._sequence) - 1)], -1)
