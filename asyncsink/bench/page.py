"""A benchmark as one HTML file: nothing comes from outside, and nothing in it runs.

The plots are written as SVG by hand: two kinds of lines need no library of plots in the reader's browser or here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from asyncsink.bench.report import HEADINGS, BenchReport, table_rows
from asyncsink.bench.step import OfVerb, StepResult

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 640, 220, 60, 28
_COLORS: Final = ("#1f6f8b", "#c2571a", "#5a7d2a", "#7b4fa3", "#a3324f", "#6b6b6b")


def _nines(percent: float) -> float:
    """99 % is 2, 99.9 % is 3: what is rare gets as much room as what is usual."""
    return -math.log10(1 - percent / 100)


_TICKS: Final = [(_nines(each), f"{each:g} %") for each in (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)]
_STYLE: Final = """
:root { color-scheme: light dark; --text: #1c1c1c; --soft: #6a6a6a; --line: #d8d8d8; --back: #ffffff; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8e8; --soft: #a0a0a0; --line: #444444; --back: #181818; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 60em;
  margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.3em } h2 { font-size: 1.05em; margin-top: 2em }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap }
th { color: var(--soft); font-weight: normal } td:nth-child(2), th:nth-child(2) { text-align: left }
svg { width: 100%; height: auto } svg text { font-size: 11px; fill: var(--soft) } .soft { color: var(--soft) }
"""


def page_of(report: BenchReport) -> str:
    """The page. Pure."""
    order = report.order
    loop = f"open loop, {order.rate:g} operations a second" if order.rate else "closed loop"
    mix = ", ".join(f"{kind} {weight:g}" for kind, weight in order.mix.items())
    rows = "".join(_row("td", row) for step in report.steps for row in table_rows(step))
    curves = [
        (f"{kind}, {step.workers:,} at once", _milliseconds(each))
        for step in report.steps
        for kind, each in step.kinds.items()
    ]
    seconds = [(f"{step.workers:,} at once", _rates(step)) for step in report.steps]
    errors = "".join(
        f"<li>{step.workers:,} at once, {kind}: {number:,} of {escape(name)}</li>"
        for step in report.steps
        for kind, each in step.kinds.items()
        for name, number in each.errors.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>asyncsink bench</title><style>{_STYLE}</style></head><body>
<h1>{escape(report.prefix)}</h1>
<p>{escape(mix)} · sizes {escape(order.bodies.sizes)} · {order.seconds:g} s a step · {loop}</p>
<div class="wide"><table>{_row("th", HEADINGS)}{rows}</table></div>
<p class="soft">Times in milliseconds, retries included.</p>
{f"<h2>Errors</h2><ul>{errors}</ul>" if errors else ""}
<h2>Time of an operation, by percentile, in milliseconds</h2>
{_plot(curves, ticks=_TICKS, logarithmic=True)}
<h2>Operations that ended in each second</h2>
{_plot(seconds, ticks=[], logarithmic=False)}
<p class="soft">{escape(report.summary())}</p>
</body></html>
"""


def _milliseconds(each: OfVerb) -> list[tuple[float, float]]:
    return [(_nines(percent), found * 1e3) for percent, found in each.seconds.curve()]


def _row(cell: str, values: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(value)}</{cell}>' for value in values)}</tr>"


def _rates(step: StepResult) -> list[tuple[float, float]]:
    whole = step.each_second[: max(1, int(step.elapsed_seconds))]
    return [(float(second), float(number)) for second, (number, _) in enumerate(whole)]


def _plot(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    ticks: Sequence[tuple[float, str]],
    logarithmic: bool,
) -> str:
    """Lines in one frame, with their names below."""
    points = [point for _, some in series for point in some]
    if not points:
        return '<p class="soft">Nothing was measured.</p>'
    right = max(x for x, _ in points) or 1.0
    high = max(y for _, y in points) or 1.0
    low = max(min(y for _, y in points), high / 1e6) if logarithmic else 0.0

    def across(x: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 10) * x / right

    def up(y: float) -> float:
        share = math.log(max(y, low) / low) / (math.log(high / low) or 1.0) if logarithmic else y / high
        return (_HEIGHT - _BOTTOM) - (_HEIGHT - _BOTTOM - 12) * share

    lines, names = [], []
    for number, (name, some) in enumerate(series):
        color = _COLORS[number % len(_COLORS)]
        dash = ' stroke-dasharray="6 3"' if number >= len(_COLORS) else ""
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in some)
        lines.append(f'<polyline fill="none" stroke="{color}" stroke-width="1.6"{dash} points="{path}"/>')
        names.append(f'<span style="color:{color}">━</span> {escape(name)}')
    levels = [low * (high / low) ** (step / 3) if logarithmic else high * step / 3 for step in range(4)]
    marks = "".join(
        f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{up(y):.1f}" y2="{up(y):.1f}" stroke="#88888844"/>'
        f'<text x="{_LEFT - 6}" y="{up(y) + 4:.1f}" text-anchor="end">{y:,.3g}</text>'
        for y in levels
    )
    marks += "".join(
        f'<text x="{across(x):.1f}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(text)}</text>'
        for x, text in ticks or [(right * part / 4, f"{right * part / 4:.0f} s") for part in range(5)]
        if x <= right
    )
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{marks}{"".join(lines)}</svg>'
        f'<p class="soft">{" · ".join(names)}</p>'
    )
