"""The model's outcome as one picture of four plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.fluid import Course
from benchmarks.scale.sweep import MIDDLE, ORDERS
from benchmarks.scale.world import Order

COLOURS: Mapping[Order, str] = {"walk": "#1f6f8b", "ranges": "#8c8c8c", "bit-reversed": "#e0a458"}
WORDS: Mapping[Order, str] = {
    "walk": "next part to whoever is free",
    "ranges": "a range for each machine",
    "bit-reversed": "spread parts to whoever is free",
}
WINDOW_SECONDS = 60.0


def draw(result: Mapping[str, Any], over_time: Mapping[Order, Course], machines: int, path: Path) -> None:
    """Write a PNG. Blocking.

    Raises:
        ImportError: matplotlib is not installed (it comes with the contenders extra).
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for axis, name in zip(axes.flat, ("small", "cohort", "many"), strict=False):
        rows = [row for row in result["runs"] if row["data"] == name]
        _draw_hours(axis, result["data"][name]["title"], rows)
    _draw_time(axes.flat[3], over_time, machines)
    patches = [mpl.patches.Patch(color=COLOURS[order], label=WORDS[order]) for order in ORDERS]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches), frameon=False, fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def of_middle(row: Mapping[str, Any]) -> bool:
    """Whether a run is of the assumption that lines are drawn for."""
    return (row["split_seconds"], row["split_load"], row["cut"]) == (
        MIDDLE.split_seconds,
        MIDDLE.split_load,
        MIDDLE.cut,
    )


def _draw_hours(axis: Any, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    counts = sorted({row["machines"] for row in rows})
    for order in ORDERS:
        mine = {count: [r for r in rows if r["order"] == order and r["machines"] == count] for count in counts}
        low, high = ([end(row["hours"] for row in mine[count]) for count in counts] for end in (min, max))
        middle = [next(row["hours"] for row in mine[count] if of_middle(row)) for count in counts]
        axis.fill_between(counts, low, high, color=COLOURS[order], alpha=0.2, linewidth=0)
        axis.plot(counts, middle, "o-", color=COLOURS[order], linewidth=2, markersize=4)
    axis.set_xscale("log", base=2 if len(counts) > 5 else 10)
    axis.set_yscale("log")
    axis.set_xticks(counts, [f"{count:,}" for count in counts])
    axis.minorticks_off()
    hours = [tick for tick in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick * 1.3 > min(r["hours"] for r in rows)]
    axis.set_yticks([tick for tick in hours if tick < 1.5 * max(r["hours"] for r in rows)])
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    _finish(axis, title, "machines", "hours")


def _draw_time(axis: Any, over_time: Mapping[Order, Course], machines: int) -> None:
    for order, course in over_time.items():
        minutes, rates = _windows(course)
        axis.step(minutes, rates, where="post", color=COLOURS[order], linewidth=2)
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    title = f"{machines} machines, 15 million files of 16 KiB"
    _finish(axis, title, f"minutes; a split takes {MIDDLE.split_seconds / 60:g} of them", "objects/s")


def _windows(course: Course) -> tuple[list[float], list[float]]:
    """Minutes, and the mean rate of each minute from then on; the last one is as long as the run."""
    times = np.array([0.0, *course.times])
    sent = np.array([0.0, *np.cumsum(np.array(course.rates) * np.diff(times))])
    marks = np.append(np.arange(0.0, times[-1], WINDOW_SECONDS), times[-1])
    rates = np.diff(np.interp(marks, times, sent)) / np.diff(marks)
    return (marks / WINDOW_SECONDS).tolist(), [*rates.tolist(), 0.0]


def _finish(axis: Any, title: str, across: str, up: str) -> None:
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel(across, fontsize=10)
    axis.set_ylabel(up, fontsize=10)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
