"""Results as the tables of the README, each of which is replaced between two marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def short_table(results: Iterable[Mapping[str, Any]]) -> str:
    """One line per result and Python: our rate, and the median over the rounds of our rate ÷ the other's. The clock is
    the engine's where asyncsink took part by it. Results that hold none of the columns are left out."""
    lines = [_HEAD]
    for result in results:
        lines += [told for python in result["pythons"] if (told := _line(result, python))]
    return "\n".join(lines)


def _line(result: Mapping[str, Any], python: str) -> str:
    engine = marked(REFERENCE_ENGINE, python)
    clock: Clock = "engine" if any(m["contender"] == engine for m in result["measurements"]) else "whole process"
    rows = {row.contender: row for row in rows_of(result, clock, python=python)}
    ours = next((row for row in rows.values() if row.reference), None)
    others = [_first(rows, names, python) for names in _OTHERS.values()]
    if ours is None or ours.rate is None or not any(others):
        return ""
    beside = others[0]
    cpu = f"{beside.cpu_ratio.median:.2f} x" if beside is not None and beside.cpu_ratio else ""
    build = f", {result['pythons'][python]['version']}" if python else ""
    what = f"{result['scenario']['title']}, {server_of(result)}, {clock}{build}"
    cells = [f"{row.speed_ratio.median:.2f} x" if row is not None and row.speed_ratio else "" for row in others]
    return "| " + " | ".join([what, f"{number(ours.rate.median)} {ours.unit}", *cells, cpu]) + " |"


def _first(rows: Mapping[str, Row], names: Iterable[str], python: str) -> Row | None:
    return next((row for name in names for row in (rows.get(marked(name, python)), rows.get(name)) if row), None)


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
