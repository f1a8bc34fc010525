"""The pictures of the page are drawn of every run: of no duration, of one moment, of nothing at all."""

from __future__ import annotations

import math
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from asyncsink.errors import Stalled
from asyncsink.model import Paused, Resumed, Retried
from asyncsink.report.page.drawing import chart_of, nice, nice_size, size_columns, ticks_of, time_columns
from asyncsink.report.page.timeline import TROUBLES, Moment, Timeline

SECONDS = st.sampled_from([0.0, 5e-324, 1e-9, 1e-7, 1e-4, 0.1, 1.0, 86_400.0 * 365])
FIGURES = st.sampled_from([0, 1, 2**40])


def drawn(time: dict[str, Any]) -> None:
    chart = chart_of(time)
    if chart is None:
        return
    numbers = [float(each) for strip in chart.strips for each in re.findall(r"-?\d+(?:\.\d+)?", strip.shapes)]
    assert all(map(math.isfinite, numbers))
    assert "nan" not in str(chart)
    assert all(0 <= left <= 100 and 0 <= width <= 100 for left, width, _ in chart.outages)
    assert all(0 <= at <= 100 for at, _ in chart.ticks)


@given(st.lists(st.tuples(SECONDS, FIGURES, FIGURES, FIGURES), max_size=5), st.booleans(), st.booleans())
@example([(0.0, 0, 0, 0)], True, True)
@example([(0.0, 1, 1, 1)] * 5, True, False)
def test_every_timeline_is_drawn(beats: list[tuple[float, int, int, int]], paused: bool, resumed: bool) -> None:
    timeline, now, moved = Timeline(), 0.0, 0
    for seconds, moved_more, in_flight, limit in beats:
        now, moved = now + seconds, moved + moved_more
        timeline.hear(now, Retried("PutObject", "k", 1, Stalled("nothing moved"), 0.0))
        if paused:
            timeline.hear(now, Paused("s3", "refused", 10.0, 1, 60.0))
        timeline.add(now, Moment(bytes_moved=moved, objects_done=moved, in_flight=in_flight, limit=limit))
        if resumed:
            timeline.hear(now, Resumed("s3", 0.0))
    drawn(timeline.as_dict())


@given(st.lists(st.tuples(SECONDS, SECONDS, FIGURES), min_size=1, max_size=4))
@example([(0.0, 0.0, 0)])
@example([(0.0, 0.0, 1)])
def test_samples_of_one_moment_are_drawn(samples: list[tuple[float, float, int]]) -> None:
    columns = {name: [each[2] for each in samples] for name in ("bytes", "objects", "in_flight", "limit", *TROUBLES)}
    ends, lengths = sorted(each[0] for each in samples), [each[1] for each in samples]
    outage = {"start_seconds": 0.0, "end_seconds": 0.0, "cause": "refused"}
    drawn({"end_seconds": ends, "seconds": lengths, "outages": [outage], **columns})


@given(st.lists(st.tuples(st.sampled_from([0, 1, 2**62]), st.integers(0, 3)), max_size=3))
def test_every_histogram_is_drawn(counted: list[tuple[int, int]]) -> None:
    for columns in (size_columns(counted), time_columns(counted)):
        assert all(0 <= each.percent <= 100 for each in columns)


@given(st.one_of(st.sampled_from([0.0, 5e-324, 1e-320, 1e300]), st.floats(0, 1e18)))
def test_every_axis_has_an_end(value: float) -> None:
    assert nice(value) >= value * 0.99
    assert nice_size(value) > 0
    if value < 1e10:
        assert 1 <= len(ticks_of(value)) <= 10
