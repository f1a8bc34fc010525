"""A result as a picture: one panel per scenario and clock, one bar per contender with its range."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from benchmarks.summary import CLOCKS, Row, rows_of
from benchmarks.table import number

_OURS, _OTHERS = "#1f6f8b", "#b8b8b8"


def needs_matplotlib() -> None:
    """Refuse to draw before anything is measured.

    Raises:
        typer.BadParameter: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise typer.BadParameter("a picture needs matplotlib; install the bench extra, or leave the picture out.")


def plot(results: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write a PNG. Blocking.

    Raises:
        ImportError: matplotlib is not installed (it comes with the bench extra).
        ValueError: the results hold no measurement that could be drawn.
    """
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    panels: list[tuple[str, list[Row]]] = []
    for result in results:
        for data in result["data_sets"]:
            for clock in CLOCKS:
                rows = [row for row in rows_of(result, data["name"], clock) if row.rate]
                if rows:
                    panels.append((f"{data['title']}\n{result['server']['kind']}, clock: {clock}", rows))
    if not panels:
        raise ValueError("The results hold no measurement that could be drawn; run the benchmark first.")
    figure, axes = pyplot.subplots(
        -(-len(panels) // 2), 2, figsize=(12, 3.2 * -(-len(panels) // 2)), squeeze=False, layout="constrained"
    )
    for axis, (title, rows) in zip(axes.flat, panels, strict=False):
        _draw(axis, title, rows)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw(axis: Any, title: str, rows: Sequence[Row]) -> None:
    middles, below, above = [], [], []
    for row in reversed(rows):
        assert row.rate is not None
        middles.append(row.rate.median)
        below.append(row.rate.median - row.rate.low)
        above.append(row.rate.high - row.rate.median)
    colours = [_OURS if row.contender.startswith("asyncsink") else _OTHERS for row in reversed(rows)]
    names = [row.title for row in reversed(rows)]
    bars = axis.barh(names, middles, xerr=(below, above), color=colours, error_kw={"ecolor": "#444444", "capsize": 2})
    axis.bar_label(bars, labels=[number(value) for value in middles], padding=6, fontsize=8)
    axis.set_title(title, fontsize=10, loc="left")
    axis.set_xlabel(rows[0].unit, fontsize=8)
    axis.margins(x=0.18)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
