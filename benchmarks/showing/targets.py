"""What is to be shown: each line is a scenario on a server, with the bounds that its result is held against.

Every line is one result of its own, so that lines can be measured one by one, on a machine that is quiet for minutes
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.lineup.contenders import OBSTORE, marked
from benchmarks.lineup.scenarios import (
    DATASINK,
    DIRECTORY,
    OBSTORE_BYTES,
    OBSTORE_GET,
    OTHER_LOOP,
    OUR_DATASINK,
    PUT,
    PUT_BYTES,
    REFERENCE,
    REFERENCE_ENGINE,
    SCENARIOS,
    SUBMIT,
)
from benchmarks.servers.running import ServerKind
from benchmarks.showing.summary import CLOCKS, Clock, Row, Spread, rows_of
from benchmarks.showing.table import line, python_of, spread_cell

Measure = Literal["speed", "CPU", "loop lag", "objects/s", "growth"]
_OURS = (REFERENCE, REFERENCE_ENGINE)
_NEAR = (*_OURS, OBSTORE, "s5cmd")
_ALL = (*_NEAR, "rclone")
_USERS = (REFERENCE, OBSTORE, "s5cmd", "rclone")
_JOURNAL = "asyncsink-journal"
_BUSY = 0.8
_FEWER = "tiny-20k"


@dataclass(frozen=True, slots=True)
class Target:
    """A bound.

    Attributes:
        measure: "speed": ours ÷ the fastest of `beside`, at least; "CPU": ours for an object ÷ theirs, at most; "loop
            lag": milliseconds, 99th percentile, at most; "objects/s": ours, at least; "growth": our CPU for an object ÷
            that of the line with fewer files, at most.
        ours: whom the bound is for; "" is the line's reference.
    """

    measure: Measure
    bound: float
    beside: tuple[str, ...] = ()
    clock: Clock = "engine"
    ours: str = ""

    @property
    def words(self) -> str:
        """For the table."""
        sign = "≥" if self.measure in ("speed", "objects/s") else "≤"
        unit = {"loop lag": " ms (p99)", "growth": f" x that of {_FEWER}"}.get(self.measure, "")
        unit = f" x {' and '.join(name.removesuffix('-unsigned') for name in self.beside)}" if self.beside else unit
        name = "CPU of an object" if self.measure == "growth" else self.measure
        name = f"{self.ours}: {name}" if self.ours else name
        return f"{name} {sign} {self.bound:,g}{unit}"

    def is_met(self, value: float) -> bool:
        """Whether a median is within the bound."""
        return value >= self.bound if self.measure in ("speed", "objects/s") else value <= self.bound


@dataclass(frozen=True, slots=True)
class Line:
    """A scenario on a server.

    Attributes:
        name: of the result's file, and for the command line.
        seconds: about what one round takes, all contenders together, with a second Python where it takes part.
        reference: whom the ratios are of; "": see `rows_of`.
        every_python: contenders run under the second Python too.
    """

    name: str
    scenario: str
    server: ServerKind
    contenders: tuple[str, ...]
    targets: tuple[Target, ...]
    seconds: float
    reference: str = ""
    every_python: bool = True

    def value(self, target: Target, results: Mapping[str, Mapping[str, Any]], python: str) -> Spread | None:
        """What a target came to under a Python; None where it was not measured."""
        reference = target.ours or self.reference
        rows = rows_of(results[self.name], target.clock, python=python, reference=reference)
        ours = next((row for row in rows if row.reference), None)
        if target.measure == "growth":
            return _growth(results, self.name, python)
        if target.measure in ("loop lag", "objects/s"):
            return ours and (ours.lag_ms if target.measure == "loop lag" else ours.rate)
        names = {marked(name, tag) for name in target.beside for tag in ("", python)}
        others = [row for row in rows if row.contender in names]
        found = [row.speed_ratio if target.measure == "speed" else row.cpu_ratio for row in others]
        worst = min if target.measure == "speed" else max
        return worst((each for each in found if each), key=lambda each: each.median, default=None)


def _beside(speed: float, cpu: float, whole: float = 0.0) -> tuple[Target, ...]:
    """Bounds beside obstore at its fastest."""
    targets = (Target("speed", speed, (OBSTORE,)), Target("CPU", cpu, (OBSTORE,)))
    return (*targets, Target("speed", whole, (OBSTORE,), "whole process")) if whole else targets


def _late(delay_ms: int, obstore: float, s5cmd: float, seconds: float) -> Line:
    name = f"latency-{delay_ms}"
    targets = (Target("speed", obstore, (OBSTORE,)), Target("speed", s5cmd, ("s5cmd",))) if obstore else ()
    return Line(name, name, "null", _NEAR, targets, seconds)


def _equal(delay_ms: int, seconds: float, *targets: Target) -> Line:
    name = f"latency-{delay_ms}-32"
    return Line(name, name, "null", _NEAR, targets, seconds, every_python=False)


def _weed(scenario: str, seconds: float) -> Line:
    target = Target("speed", 1.0, ("obstore" if "grab" in scenario else OBSTORE, "s5cmd", "rclone"), "whole process")
    users = tuple("obstore" if each == OBSTORE and "grab" in scenario else each for each in _USERS)
    return Line(f"seaweed-{scenario}", scenario, "seaweed", users, (target,), seconds, every_python=False)


def _grab(scenario: str, bound: float, seconds: float) -> Line:
    rivals = ("obstore", "s5cmd", "rclone")
    return Line(scenario, scenario, "null", (*_OURS, *rivals), (Target("speed", bound, rivals),), seconds)


def _sink(scenario: str) -> Line:
    return Line(scenario, scenario, "seaweed", (OUR_DATASINK, DATASINK), (), 25, every_python=False)


def _service(scenario: str, seconds: float, targets: tuple[Target, ...]) -> Line:
    return Line(scenario, scenario, "null", SCENARIOS[scenario].contenders, targets, seconds)


_RERUN = (REFERENCE, _JOURNAL, "s5cmd", "rclone", "rclone-size-only")
_READ = (Target("CPU", 1.5, (OBSTORE_GET,)),)
_LAG = (Target("loop lag", 5.0),)

LINES = {
    each.name: each
    for each in (
        Line("small", "small", "null", _ALL, _beside(1.5, 0.5, 1.3), 25),
        Line(_FEWER, _FEWER, "null", _NEAR, (), 15),
        Line("tiny", "tiny", "null", (*_OURS, OBSTORE), (*_beside(1.4, 0.55), Target("growth", 1.05)), 85),
        Line("cohort", "cohort", "null", _ALL, _beside(1.1, 0.8), 45),
        Line("tls-small", "small", "null-tls", _NEAR, _beside(1.4, 0.55), 30),
        Line("large", "large", "null", _ALL, _beside(1.2, 0.9), 50),
        Line("tls-large", "large-4", "null-tls", _NEAR, _beside(1.0, 1.05), 40),
        Line("loops", "loops", "null", (REFERENCE_ENGINE, OTHER_LOOP), (), 5, every_python=False),
        Line("limited", "limited", "null", _NEAR, (), 15),
        _late(5, 0, 0, 20),
        _late(20, 1.2, 1.5, 25),
        _late(50, 1.5, 2.0, 35),
        _late(100, 1.5, 2.0, 60),
        _equal(5, 15),
        _equal(20, 60, Target("objects/s", 1520)),
        _equal(50, 35),
        _equal(100, 65),
        Line("rerun", "cohort-rerun", "seaweed", _RERUN, (
            Target("speed", 1.0, ("rclone", "rclone-size-only"), "whole process"),
        ), 25, reference=_JOURNAL),
        _grab("grab-small", 1.3, 25),
        _grab("grab-large", 1.0, 20),
        _service("service", 60, (
            Target("CPU", 1.5, (OBSTORE_BYTES,), ours=PUT),
            Target("CPU", 1.5, (OBSTORE_BYTES,), ours=PUT_BYTES),
            Target("CPU", 1.2, (DIRECTORY,), ours=SUBMIT),
            *_LAG,
        )),
        _service("service-1", 30, ()),
        _service("service-16", 45, ()),
        _service("service-256", 45, _LAG),
        _service("service-large", 10, _LAG),
        _service("service-read-1", 30, _READ),
        _service("service-read-16", 45, _READ),
        _service("service-read-256", 45, _READ),
        _weed("small", 60),
        _weed(_FEWER, 50),
        _weed("large-4", 90),
        _weed("cohort", 90),
        _weed("grab-small", 40),
        _weed("grab-large", 30),
        *(_sink(name) for name in SCENARIOS if name.startswith("sink-")),
    )
}  # fmt: skip


def render_targets(lines: Sequence[Line], results: Mapping[str, Mapping[str, Any]]) -> str:
    """The table, from results by their line's name: one row per target, one column per Python."""
    shown = [results[each.name] for each in lines if each.name in results]
    pythons = {python_of(result, tag): None for result in shown for tag in result["pythons"]}
    head = ["what", "server", "to be shown", *pythons, "met"]
    rows = [line(head), line(["---"] * len(head))]
    every = [(each, target) for each in lines for target in each.targets]
    rows += [line(_cells(each, target, results, list(pythons))) for each, target in every]
    return "\n".join(rows) + "\n"


def _cells(each: Line, target: Target, results: Mapping[str, Mapping[str, Any]], pythons: Sequence[str]) -> list[str]:
    scenario, result = SCENARIOS[each.scenario], results.get(each.name)
    cells, met = dict.fromkeys(pythons, "-"), []
    for tag in result["pythons"] if result else ():
        assert result is not None
        value = each.value(target, results, tag)
        if value is not None:
            cells[python_of(result, tag)] = spread_cell(value, 1) + _busy(result, tag)
            met.append("yes" if target.is_met(value.median) else "**no**")
    notes = "" if result is None or result["complete"] else " (not all rounds)"
    notes += " (quick: no result)" if result and result["quick"] else ""
    words = target.words + ("" if target.clock == "engine" else ", whole process")
    return [scenario.title, each.server, words, *cells.values(), (", ".join(met) or "not measured") + notes]


def _busy(result: Mapping[str, Any], python: str) -> str:
    """Says where the server was near its core's limit while asyncsink published, so that it was measured too."""
    rows: list[Row] = [row for clock in CLOCKS for row in rows_of(result, clock, python=python) if row.reference]
    busy = max((row.server_busy.median for row in rows if row.server_busy), default=0.0)
    return f", server {busy:.0%} busy" if busy >= _BUSY else ""


def _growth(results: Mapping[str, Mapping[str, Any]], many: str, python: str) -> Spread | None:
    """Our CPU for an object, of many files ÷ of fewer: the ratio of medians, since no round holds both."""
    costs = []
    for name in (many, _FEWER):
        result = results.get(name)
        rows = rows_of(result, "engine", python=python) if result and python in result["pythons"] else []
        ours = next((row for row in rows if row.reference), None)
        if result is None or ours is None or ours.cpu_seconds is None:
            return None
        costs.append(ours.cpu_seconds.median / result["scenario"]["objects"])
    ratio = costs[0] / costs[1]
    return Spread(ratio, ratio, ratio)
