"""Results as one picture of four plots: small files, large files, a cohort, and late answers.

Everybody has the same place and colour in each, and the clock is that of users: the whole process.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from benchmarks.lineup.contenders import OBSTORE
from benchmarks.lineup.scenarios import REFERENCE
from benchmarks.showing.summary import Row, rows_of
from benchmarks.showing.table import number

_SHOWN = {REFERENCE: "asyncsink", OBSTORE: "obstore", "s5cmd": "s5cmd", "rclone": "rclone"}
_COLOURS = dict(zip(_SHOWN, ("#1f6f8b", "#e0a458", "#8c8c8c", "#c9c9c9"), strict=True))
_NULL, _TLS, _WEED = "null server", "TLS", "SeaweedFS"
_BARS: dict[str, dict[str, tuple[str, str]]] = {
    "Files of 16 KiB": {_NULL: ("small", "null"), _TLS: ("small", "null-tls"), _WEED: ("small", "seaweed")},
    "Large files": {_NULL: ("large", "null"), _TLS: ("large-4", "null-tls"), _WEED: ("large-4", "seaweed")},
    "A cohort: fMRIPrep's outputs of ds000114": {_NULL: ("cohort", "null"), _WEED: ("cohort", "seaweed")},
}
"""By the plot's title and the name in it: scenario and server."""
_LATE = "Files of 16 KiB, late answers"
_DELAYS = (5, 20, 50, 100)


def needs_matplotlib() -> None:
    """Refuse to draw before anything is measured.

    Raises:
        typer.BadParameter: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise typer.BadParameter("a picture needs matplotlib; install the contenders extra, or leave the picture out.")


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG. Blocking.

    Raises:
        ImportError: matplotlib is not installed (it comes with the contenders extra).
        ValueError: the results hold nothing that could be drawn.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    found = {(result["scenario"]["name"], result["server"]): _rows(result) for result in results}
    groups = {
        title: [(found[key], name) for name, key in bars.items() if key in found] for title, bars in _BARS.items()
    }
    late = {delay: found[key] for delay in _DELAYS if (key := (f"latency-{delay}", "null")) in found}
    if not any(groups.values()) and not late:
        raise ValueError("The results hold nothing that could be drawn; run the benchmark first.")
    figure, axes = pyplot.subplots(2, 2, figsize=(9, 7), layout="constrained")
    for axis, (title, bars) in zip(axes.flat, groups.items(), strict=False):
        _draw_bars(axis, title, bars)
    _draw_late(axes.flat[-1], late)
    patches = [mpl.patches.Patch(color=_COLOURS[name], label=label) for name, label in _SHOWN.items()]
    figure.legend(handles=patches, loc="outside upper center", ncols=len(patches), frameon=False, fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _rows(result: Mapping[str, Any]) -> dict[str, Row]:
    """Of those that are shown, under the first Python."""
    return {row.contender: row for row in rows_of(result, "whole process") if row.contender in _SHOWN and row.rate}


def _draw_bars(axis: Any, title: str, groups: Sequence[tuple[Mapping[str, Row], str]]) -> None:
    height = 0.8 / len(_SHOWN)
    unit = next((row.unit for rows, _ in groups for row in rows.values()), "")
    for place, (rows, _) in enumerate(groups):
        for turn, name in enumerate(_SHOWN):
            row = rows.get(name)
            at = place + (turn - (len(_SHOWN) - 1) / 2) * height
            if row is None or row.rate is None:
                axis.text(0, at, " not measured", va="center", fontsize=8, color="#777777")
                continue
            spread = [[row.rate.median - row.rate.low], [row.rate.high - row.rate.median]]
            bars = axis.barh(
                at, row.rate.median, height * 0.92, xerr=spread, color=_COLOURS[name],
                error_kw={"ecolor": "#444444", "elinewidth": 0.8},
            )  # fmt: skip
            axis.bar_label(bars, labels=[number(row.rate.median)], padding=5, fontsize=9)
    axis.set_yticks(range(len(groups)), [name for _, name in groups], fontsize=10)
    axis.set_ylim(max(1, len(groups)) - 0.5, -0.5)
    axis.margins(x=0.2)
    axis.locator_params(axis="x", nbins=5)
    _finish(axis, title, unit)


def _draw_late(axis: Any, late: Mapping[int, Mapping[str, Row]]) -> None:
    for name, label in _SHOWN.items():
        points = [(delay, row.rate) for delay, rows in late.items() if (row := rows.get(name)) and row.rate]
        if not points:
            continue
        delays = [delay for delay, _ in points]
        axis.plot(delays, [rate.median for _, rate in points], "o-", color=_COLOURS[name], label=label, linewidth=2)
        axis.fill_between(
            delays, [rate.low for _, rate in points], [rate.high for _, rate in points], color=_COLOURS[name], alpha=0.2
        )
    axis.set_xscale("log")
    axis.set_xticks(_DELAYS, [f"{delay} ms" for delay in _DELAYS], fontsize=10)
    axis.minorticks_off()
    axis.set_ylim(bottom=0)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.set_ylabel("objects/s", fontsize=10)
    _finish(axis, _LATE, "")
    axis.set_xlabel("delay of each answer; everybody's own defaults", fontsize=10)


def _finish(axis: Any, title: str, unit: str) -> None:
    axis.set_title(title, fontsize=11, loc="left")
    axis.set_xlabel(unit, fontsize=10)
    axis.tick_params(labelsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    if unit:
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
