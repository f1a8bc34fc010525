"""Results as the tables of the README and the guide, each of which is replaced between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lineup.contenders import OBSTORE, marked
from benchmarks.lineup.scenarios import REFERENCE_ENGINE
from benchmarks.showing.summary import Clock, Row, rows_of
from benchmarks.showing.table import number, server_of

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
PROFILE_BEGIN, PROFILE_END = "<!-- profile: begin -->", "<!-- profile: end -->"
_OTHERS = {"obstore": (OBSTORE, "obstore"), "s5cmd": ("s5cmd",), "rclone": ("rclone",)}
_HEAD = (
    "| what, server, clock | asyncsink | obstore | s5cmd | rclone | CPU ÷ obstore |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: |"
)
_BRIEF_HEAD = "| what | asyncsink | obstore | s5cmd | rclone |\n| --- | ---: | ---: | ---: | ---: |"


def brief_table(results: Iterable[Mapping[str, Any]]) -> str:
    """One line per result in which obstore and s5cmd took part, under the first Python: our rate, and how many times
    faster it is than each of the others."""
    lines = [_BRIEF_HEAD]
    for result in results:
        cells = _cells(result, next(iter(result["pythons"])))
        if cells is not None and all(cells.others[:2]):
            tls = ", over TLS" if result["server"] == "null-tls" else ""
            lines.append("| " + " | ".join([result["scenario"]["title"] + tls, cells.ours, *cells.others]) + " |")
    return "\n".join(lines)


def short_table(results: Iterable[Mapping[str, Any]]) -> str:
    """One line per result and Python: our rate, and the median over the rounds of our rate ÷ the other's. The clock is
    the engine's where asyncsink took part by it. Results that hold none of the columns are left out."""
    lines = [_HEAD]
    for result in results:
        lines += [told for python in result["pythons"] if (told := _line(result, python))]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Cells:
    """One result under one Python, as the cells of a line; a tool that did not take part has an empty cell."""

    clock: Clock
    ours: str
    others: list[str]
    cpu: str


def _cells(result: Mapping[str, Any], python: str) -> _Cells | None:
    engine = marked(REFERENCE_ENGINE, python)
    clock: Clock = "engine" if any(m["contender"] == engine for m in result["measurements"]) else "whole process"
    rows = {row.contender: row for row in rows_of(result, clock, python=python)}
    ours = next((row for row in rows.values() if row.reference), None)
    others = [_first(rows, names, python) for names in _OTHERS.values()]
    if ours is None or ours.rate is None or not any(others):
        return None
    beside = others[0]
    cpu = f"{beside.cpu_ratio.median:.2f} x" if beside is not None and beside.cpu_ratio else ""
    ratios = [f"{row.speed_ratio.median:.2f} x" if row is not None and row.speed_ratio else "" for row in others]
    return _Cells(clock, f"{number(ours.rate.median)} {ours.unit}", ratios, cpu)


def _line(result: Mapping[str, Any], python: str) -> str:
    cells = _cells(result, python)
    if cells is None:
        return ""
    build = f", {result['pythons'][python]['version']}" if python else ""
    what = f"{result['scenario']['title']}, {server_of(result)}, {cells.clock}{build}"
    return "| " + " | ".join([what, cells.ours, *cells.others, cells.cpu]) + " |"


def _first(rows: Mapping[str, Row], names: Iterable[str], python: str) -> Row | None:
    return next((row for name in names for row in (rows.get(marked(name, python)), rows.get(name)) if row), None)


def replace_table(page: Path, table: str, begin_mark: str = BEGIN, end_mark: str = END) -> None:
    """Put `table` between the two marks of a page. Blocking.

    Raises:
        ValueError: it has no marks.
    """
    text = page.read_text(encoding="utf-8")
    head, begin, rest = text.partition(begin_mark)
    _, end, tail = rest.partition(end_mark)
    if not begin or not end:
        raise ValueError(f"{page.name} has no marks {begin_mark} and {end_mark}; write them where the table belongs.")
    page.write_text(f"{head}{begin}\n{table}\n{end}{tail}", encoding="utf-8")
