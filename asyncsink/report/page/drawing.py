"""The pictures of the page, set by hand as inline SVG.

A library of plots would bring its own fonts, colours and megabytes: Matplotlib draws for a fixed width, and knows
neither the reader's light or dark page nor a phone; JavaScript libraries are larger than the page may be. What is drawn
here is few lines, areas and columns. The shapes alone are SVG, stretched to any width; labels are text of the page,
which stays readable on a phone. Colours are classes of the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

from asyncsink.report.page.timeline import TROUBLES
from asyncsink.report.sentences import duration, size
from asyncsink.value import dataclass

WIDTH, HEIGHT = 1000.0, 100.0
_SECONDS_MIN: Final = 1e-6
"""The shortest time that is drawn: a rate over none has no value."""
_STEPS: Final = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    1200,
    1800,
    3600,
    7200,
    14400,
    21600,
    43200,
    86400,
)
_LEAST: Final = 1e-300
"""Below it a power of ten has no float."""
TICKS_MAX: Final = 6
COLUMNS_MAX: Final = 24
_TROUBLE_WORDS: Final = {
    "slow_down": "SlowDown", "stalled": "stalled", "lost": "connection lost", "other": "other errors",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Strip:
    """One picture over time.

    Attributes:
        title, kind: what it shows, and its class.
        top: the label of its highest value.
        shapes: SVG.
        legend: (class, text) of what else is in it.
    """

    title: str
    kind: str
    top: str
    shapes: str
    legend: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """Strips over one axis of time.

    Attributes:
        ticks: (percent of the width, label).
        outages: (left, width, text), in percent.
        readings: for each interval [end in seconds, and the texts of the strips], for a pointer.
    """

    seconds: float
    strips: Sequence[Strip]
    ticks: Sequence[tuple[float, str]]
    outages: Sequence[tuple[float, float, str]]
    readings: Sequence[Sequence[Any]]


def chart_of(time: dict[str, Any]) -> Chart | None:
    """The chart of `Timeline.as_dict`; None without a sample. Pure."""
    ends, lengths = time["end_seconds"], [max(each, _SECONDS_MIN) for each in time["seconds"]]
    if not ends:
        return None
    total = max(ends[-1], _SECONDS_MIN)
    byte_rates = [each / seconds for each, seconds in zip(time["bytes"], lengths, strict=True)]
    object_rates = [each / seconds for each, seconds in zip(time["objects"], lengths, strict=True)]
    most_bytes, most_objects = max(byte_rates), max(object_rates)
    flight, limit = time["in_flight"], time["limit"]
    most_flight = max([*flight, 1])
    across = [WIDTH * max(0.0, end - length / 2) / total for end, length in zip(ends, lengths, strict=True)]
    strips = []
    if most_bytes:
        top = nice_size(most_bytes)
        strips.append(
            Strip("Throughput", "bytes", f"{size(top).replace('.0 ', ' ')}/s", _area(across, byte_rates, top))
        )
    if most_objects:
        top = nice(most_objects)
        strips.append(Strip("Files", "objects", f"{top:,.4g} /s", _area(across, object_rates, top)))
    if any(flight):
        # A limit far above what is under way would press the line to the ground: it is cut off at the top.
        top = nice(min(max([*limit, most_flight]), 3 * most_flight))
        shapes = _area(across, flight, top) + _line(across, [min(each, top) for each in limit], top, "limit")
        strips.append(Strip("Requests in flight", "flight", f"{top:,.4g}", shapes, (("limit", "limit"),)))
    strips.append(_troubles(time, total))
    outages = [_outage(each, total) for each in time["outages"]]
    readings = [
        [end, f"{size(rate)}/s", f"{objects:,.0f} files/s", f"{each:,.0f} in flight", _told(time, number)]
        for number, (end, rate, objects, each) in enumerate(zip(ends, byte_rates, object_rates, flight, strict=True))
    ]
    return Chart(total, strips, ticks_of(total), outages, readings)


def _outage(each: dict[str, Any], total: float) -> tuple[float, float, str]:
    start = min(each["start_seconds"], total)
    end = total if each["end_seconds"] is None else min(each["end_seconds"], total)
    seconds = max(0.0, end - start)
    return 100 * start / total, 100 * seconds / total, f"{each['cause']} for {duration(seconds)}"


def _told(time: dict[str, Any], number: int) -> str:
    return ", ".join(f"{time[each][number]:,} {_TROUBLE_WORDS[each]}" for each in TROUBLES if time[each][number])


def _troubles(time: dict[str, Any], total: float) -> Strip:
    """Columns of repeated requests, by cause."""
    sums = [sum(time[each][number] for each in TROUBLES) for number in range(len(time["end_seconds"]))]
    most = max(sums)
    legend = [(each, f"{sum(time[each]):,} {_TROUBLE_WORDS[each]}") for each in TROUBLES if sum(time[each])]
    if not most:
        return Strip("Repeated requests", "troubles", "", "", (("", "none"),))
    shapes = []
    for number, (end, length) in enumerate(zip(time["end_seconds"], time["seconds"], strict=True)):
        bottom = HEIGHT
        for each in TROUBLES:
            if value := time[each][number]:
                height = max(3.0, HEIGHT * value / nice(most))
                bottom -= height
                left, width = WIDTH * max(0.0, end - length) / total, max(1.5, WIDTH * length / total)
                shapes.append(
                    f'<rect class="{each}" x="{left:.1f}" y="{bottom:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
                )
    return Strip("Repeated requests", "troubles", f"{nice(most):,.4g}", "".join(shapes), legend)


def nice(value: float) -> float:
    """A round number that is not less: 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten. Pure."""
    if value < _LEAST:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.999)


def nice_size(value: float) -> float:
    """A number of bytes, not less, that is round in the unit in which people read it. Pure."""
    unit = 1024.0 ** max(0, math.floor(math.log(max(value, 1), 1024)))
    return nice(value / unit) * unit


def ticks_of(total: float) -> list[tuple[float, str]]:
    """The marks of an axis from 0 to `total` seconds: (percent, label). Pure."""
    total = max(total, _SECONDS_MIN)
    step = next((each for each in _STEPS if total / each <= TICKS_MAX), math.ceil(total / TICKS_MAX / 86400) * 86400)
    marks = [step * number for number in range(int(total / step) + 1)]
    return [(100 * mark / total, _clock(mark, step)) for mark in marks]


def _clock(seconds: float, step: float) -> str:
    if not seconds:
        return "0"
    if step < 60:
        return f"{seconds:g} s" if seconds < 60 else f"{int(seconds) // 60}:{int(seconds) % 60:02}"
    return f"{seconds / 60:g} min" if step < 3600 else f"{seconds / 3600:g} h"


def _points(across: Sequence[float], values: Sequence[float], top: float) -> list[tuple[float, float]]:
    points = [(x, HEIGHT * (1 - value / top)) for x, value in zip(across, values, strict=True)]
    return [(0.0, points[0][1]), *points, (WIDTH, points[-1][1])]


def _written(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _area(across: Sequence[float], values: Sequence[float], top: float) -> str:
    points = _points(across, values, top)
    under = [(0.0, HEIGHT), *points, (WIDTH, HEIGHT)]
    return f'<polygon class="area" points="{_written(under)}"/><polyline class="line" points="{_written(points)}"/>'


def _line(across: Sequence[float], values: Sequence[float], top: float, kind: str) -> str:
    return f'<polyline class="{kind}" points="{_written(_points(across, values, top))}"/>'


# -- Histograms --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its share of the highest in percent, its label ("" for most), and a sentence."""

    percent: float
    label: str
    says: str


def size_columns(sizes: Sequence[Sequence[int]]) -> list[Column]:
    """The histogram of sizes: [beginning of a doubling, files]. Pure."""
    counted = {start.bit_length(): number for start, number in sizes}
    return _columns(counted, lambda bits: 0 if bits <= 0 else 2 ** (bits - 1), size, "files of")


def time_columns(times: Sequence[Sequence[float]]) -> list[Column]:
    """The histogram of times: [end of a step in seconds, files]. Pure."""
    counted: dict[int, int] = {}
    for end, number in times:
        octave = math.ceil(math.log2(max(end, _SECONDS_MIN)) - 1e-6)
        counted[octave] = counted.get(octave, 0) + int(number)
    return _columns(counted, lambda octave: 2.0 ** (octave - 1), _moment, "files took")


def _moment(seconds: float) -> str:
    if seconds < 1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:g} s" if seconds < 60 else duration(seconds)


def _columns(counted: dict[int, int], start_of: Any, words: Any, what: str) -> list[Column]:
    if not counted:
        return []
    low, high, width = min(counted), max(counted), 1
    while (high - low + 1) / width > COLUMNS_MAX:
        width *= 2
    groups = [
        (first, sum(counted.get(each, 0) for each in range(first, first + width)))
        for first in range(low, high + 1, width)
    ]
    most = max(1, *(number for _, number in groups))
    every = math.ceil(len(groups) / 5)
    return [
        Column(
            100 * number / most,
            words(start_of(first)) if place % every == 0 else "",
            f"{number:,} {what} {words(start_of(first))} to {words(start_of(first + width))}",
        )
        for place, (first, number) in enumerate(groups)
    ]
