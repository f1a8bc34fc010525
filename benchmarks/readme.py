"""Results as the short table of the README, which is replaced between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.contenders import REFERENCE, REFERENCE_ENGINE
from benchmarks.summary import CLOCKS, Clock, Row, rows_of
from benchmarks.table import number

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PROFILE_BEGIN, PROFILE_END = "<!-- profile: begin -->", "<!-- profile: end -->"
_OTHERS = ("obstore-unsigned", "obstore", "s5cmd", "rclone")
_OURS: dict[Clock, str] = {"engine": REFERENCE_ENGINE, "whole process": REFERENCE}
_HEAD = (
    "| what, server, clock | asyncsink | obstore, unsigned | obstore | s5cmd | rclone | CPU ÷ obstore, unsigned |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"
)


def short_table(results: Iterable[Mapping[str, Any]]) -> str:
    """One line per scenario and clock: our rate, and the median over the rounds of our rate ÷ the other's."""
    lines = [_HEAD]
    for result in results:
        for data in result["data_sets"]:
            lines += [line for clock in CLOCKS if (line := _line(result, data, clock))]
    return "\n".join(lines)


def _line(result: Mapping[str, Any], data: Mapping[str, Any], clock: Clock) -> str:
    rows = {row.contender: row for row in rows_of(result, data["name"], clock)}
    ours = rows.get(_OURS[clock])
    if ours is None or ours.rate is None:
        return ""
    server = result["server"]
    delay = f" + {server['delay_ms']:g} ms" if server["delay_ms"] else ""
    what = f"{data['title']}, {server['kind']}{delay}, {clock}"
    cells = [_ratio(rows.get(other)) for other in _OTHERS]
    fastest = rows.get(_OTHERS[0])
    cpu = f"{fastest.cpu_ratio.median:.2f} x" if fastest is not None and fastest.cpu_ratio else ""
    return "| " + " | ".join([what, f"{number(ours.rate.median)} {ours.unit}", *cells, cpu]) + " |"


def _ratio(row: Row | None) -> str:
    return f"{row.speed_ratio.median:.2f} x" if row is not None and row.speed_ratio else ""


def replace_table(readme: Path, table: str, begin_mark: str = BEGIN, end_mark: str = END) -> None:
    """Put `table` between the two marks of the README. Blocking.

    Raises:
        ValueError: it has no marks.
    """
    text = readme.read_text(encoding="utf-8")
    head, begin, rest = text.partition(begin_mark)
    _, end, tail = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"{readme.name} has no marks {begin_mark} and {end_mark}; write them where the table belongs.")
    readme.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
