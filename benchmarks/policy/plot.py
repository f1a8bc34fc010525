"""The concurrency policy's runs against models, as a picture: limit and throughput over time, one panel each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.policy.models import Course

COLUMNS = 4
WINDOW_SECONDS_MIN = 0.25
WINDOWS_MAX = 60
"""Of a panel: the throughput is averaged over each."""
_LIMIT, _RATE, _THROTTLED = "#b3541e", "#1f6f8b", "#c00000"


def summary(course: Course) -> str:
    """One line for people."""
    model = course.model
    end = model.seconds
    rate = course.rate(0.75 * end, end)
    share = rate / model.possible_per_second(end, course.limit_max)
    limits = course.limits(0.75 * end, end)
    return (
        f"{model.title:66} {rate:8,.0f}/s in the last quarter, {share:4.0%} of what is possible; limit {min(limits):,} "
        f"to {max(limits):,}; {course.throttled(0.0, end):,} SlowDowns"
    )


def draw(courses: Sequence[Course], path: Path) -> None:
    """Write a PNG. Blocking.

    Raises:
        ImportError: matplotlib is not installed (it comes with the contenders extra).
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = -(-len(courses) // COLUMNS)
    figure, axes = pyplot.subplots(rows, COLUMNS, figsize=(4.6 * COLUMNS, 2.7 * rows), squeeze=False)
    for axis, course in zip(axes.flat, courses, strict=False):
        _draw_one(axis, course)
    for axis in list(axes.flat)[len(courses) :]:
        axis.set_visible(False)
    figure.suptitle(
        "The concurrency policy against models: requests in flight allowed (orange, left, logarithmic), requests a "
        "second (blue, right; dashed: possible), SlowDowns (red ticks), over seconds",
        fontsize=11,
    )
    figure.tight_layout(rect=(0, 0, 1, 0.985))
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def _draw_one(axis: Any, course: Course) -> None:
    model = course.model
    times = [beat.seconds for beat in course.beats]
    axis.step(times, [beat.limit for beat in course.beats], where="post", color=_LIMIT, linewidth=1.2)
    axis.set_yscale("log", base=2)
    axis.set_ylim(0.8, 1.3 * course.limit_max)
    axis.set_yticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1,024"])
    axis.tick_params(labelsize=7)
    axis.tick_params(axis="y", labelcolor=_LIMIT)
    axis.set_title(model.title, fontsize=8.5, loc="left")
    axis.set_xlim(0, model.seconds)
    throttled = [beat.seconds for beat in course.beats if beat.throttled]
    axis.plot(throttled, [1] * len(throttled), "|", color=_THROTTLED, markersize=5)
    right = axis.twinx()
    window = max(WINDOW_SECONDS_MIN, model.seconds / WINDOWS_MAX)
    windows = [number * window for number in range(int(model.seconds / window))]
    rates = [course.rate(begin, begin + window) for begin in windows]
    right.step(windows, rates, where="post", color=_RATE, linewidth=1.0)
    possible = [model.possible_per_second(seconds, course.limit_max) for seconds in times]
    right.plot(times, possible, "--", color=_RATE, linewidth=0.7)
    right.set_ylim(0, 1.25 * max(possible))
    right.tick_params(labelsize=7, labelcolor=_RATE)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
