"""Pure: from single measurements to medians, ranges, and ratios per round.

A ratio compares two contenders in the same round, minutes apart at most; the median of ratios is steadier than the
ratio of medians on a machine whose speed drifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Literal

from benchmarks.lineup.contenders import marked
from benchmarks.lineup.scenarios import REFERENCE, REFERENCE_ENGINE

Clock = Literal["whole process", "engine"]
CLOCKS: tuple[Clock, ...] = ("engine", "whole process")
_BIG_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of some numbers; at least one."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A contender, by one clock.

    Attributes:
        checks, repeats: what it says it sends to be checked (or, of a grab, compares what it received with), and by
            what it knows that a file is there already.
        seconds, cpu_seconds: by this clock; None where no round succeeded.
        rate: objects per second, or MB per second where objects are large (`unit` says which).
        rss_bytes: of the whole process.
        speed_ratio: asyncsink's rate ÷ this one's, per round: above 1, asyncsink is faster.
        cpu_ratio: asyncsink's CPU per object ÷ this one's, per round: below 1, asyncsink needs less.
        server_busy: the null server's CPU seconds ÷ wall: near 1, the server's core was the limit.
        lag_ms: a service's event loop's, 99th percentile of each round.
        p50_ms, p99_ms: latency of a service's calls, percentiles of each round.
        observed: integrity headers that the server saw, as "name (share of uploads)".
        status: "ok", or what happened in the rounds that did not end well.
        reference: the ratios are of it.
    """

    contender: str
    title: str
    checks: str
    repeats: str
    unit: str
    rounds: int
    seconds: Spread | None = None
    cpu_seconds: Spread | None = None
    rate: Spread | None = None
    rss_bytes: Spread | None = None
    speed_ratio: Spread | None = None
    cpu_ratio: Spread | None = None
    server_busy: Spread | None = None
    lag_ms: Spread | None = None
    p50_ms: Spread | None = None
    p99_ms: Spread | None = None
    observed: str = ""
    status: str = "ok"
    reference: bool = False


@dataclass(frozen=True, slots=True)
class _Timed:
    """One measurement by one clock. `share` is the part of the data set that arrived."""

    seconds: float
    cpu_seconds: float
    share: float


def spread(numbers: Iterable[float]) -> Spread | None:
    """Median, least and greatest; None of no numbers."""
    known = sorted(numbers)
    return Spread(median(known), known[0], known[-1]) if known else None


def ratios_per_round(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Spread | None:
    """Spread of ours ÷ theirs over the rounds that have both (and theirs is not 0)."""
    return spread(ours[number] / theirs[number] for number in ours.keys() & theirs.keys() if theirs[number])


def rows_of(result: Mapping[str, Any], clock: Clock, *, python: str = "", reference: str = "") -> list[Row]:
    """Every contender that this clock fits, fastest first; those that never succeeded come last.

    Args:
        python: the tag of the interpreter; compiled programs stand beside each.
        reference: whom the ratios are of; "": the scenario's, or asyncsink as it is by default.

    Under the engine's clock asyncsink stands as "asyncsink-api" and compiled programs with their whole process, since
    they import nothing; under the other, everybody as a user starts it.
    """
    scenario, measurements = result["scenario"], result["measurements"]
    whole, engine = marked(REFERENCE, python), marked(REFERENCE_ENGINE, python)
    other = whole if clock == "engine" else engine
    reference = marked(reference or scenario["reference"], python) if reference or scenario["reference"] else ""
    reference = reference or (engine if clock == "engine" else whole)
    ours = _timed([m for m in measurements if m["contender"] == reference], scenario, clock)
    rows = []
    for contender in result["contenders"]:
        own = [m for m in measurements if m["contender"] == contender["name"]]
        fits = contender["python"] == python or not contender["every_python"]
        if own and fits and (contender["name"] != other or reference == other):
            row = _row(contender, own, ours, scenario, clock)
            rows.append(replace(row, reference=row.contender == reference))
    return sorted(rows, key=lambda row: -row.rate.median if row.rate else 0.0)


def medians(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What stands in a result's file beside the single measurements: each contender by each clock."""
    told = ("rate", "cpu_seconds", "rss_bytes", "speed_ratio", "cpu_ratio", "server_busy", "lag_ms", "p50_ms", "p99_ms")
    return [
        {"python": python, "clock": clock, "contender": row.contender, "unit": row.unit, "rounds": row.rounds}
        | {name: asdict(value) for name in told if (value := getattr(row, name)) is not None}
        for python in result["pythons"]
        for clock in CLOCKS
        for row in rows_of(result, clock, python=python)
    ]


def _row(
    contender: Mapping[str, Any],
    measurements: Sequence[Mapping[str, Any]],
    ours: Mapping[int, _Timed],
    data: Mapping[str, Any],
    clock: Clock,
) -> Row:
    timed = _timed(measurements, data, clock)
    large = data["bytes"] / data["objects"] >= _BIG_BYTES
    amount = data["bytes"] / 1e6 if large else data["objects"]
    good = [m for m in measurements if m["round"] in timed]
    return Row(
        contender=contender["name"],
        title=contender["title"],
        checks=contender["proves" if data["grab"] else "checks"],
        repeats=contender["repeats"],
        unit="MB/s" if large else "objects/s",
        rounds=len(timed),
        seconds=spread(t.seconds for t in timed.values()),
        cpu_seconds=spread(t.cpu_seconds for t in timed.values()),
        rate=spread(amount * t.share / t.seconds for t in timed.values()),
        rss_bytes=spread(m["rss_bytes"] for m in good),
        speed_ratio=ratios_per_round(
            {number: t.share / t.seconds for number, t in ours.items()},
            {number: t.share / t.seconds for number, t in timed.items()},
        ),
        cpu_ratio=ratios_per_round(
            {number: t.cpu_seconds / t.share for number, t in ours.items()},
            {number: t.cpu_seconds / t.share for number, t in timed.items()},
        ),
        server_busy=spread(m["server"]["cpu_seconds"] / m["wall_seconds"] for m in good if m["server"]),
        lag_ms=spread(m["notes"]["lag_ms"]["p99"] for m in good if "lag_ms" in m["notes"]),
        p50_ms=spread(m["notes"]["latency_ms"]["p50"] for m in good if "latency_ms" in m["notes"]),
        p99_ms=spread(m["notes"]["latency_ms"]["p99"] for m in good if "latency_ms" in m["notes"]),
        observed=observed_checks(good),
        status=", ".join(sorted({m["status"] for m in measurements if m["status"] != "ok"})) or "ok",
    )


def _timed(measurements: Sequence[Mapping[str, Any]], data: Mapping[str, Any], clock: Clock) -> dict[int, _Timed]:
    """By round. What failed counts for nothing; what was stopped at the limit counts for what had arrived by then."""
    found: dict[int, _Timed] = {}
    for one in measurements:
        share = min(1.0, one["bytes"] / data["bytes"] if data["bytes"] else 1.0)
        if data["bytes"] / data["objects"] < _BIG_BYTES:
            share = min(1.0, one["objects"] / data["objects"])
        # In a repeated publication everything is there from the start, so that nothing tells how far it came.
        unknown = data["repeat"] and one["status"] != "ok"
        if one["status"] == "failed" or unknown or share <= 0:
            continue
        if clock == "engine" and one["engine_seconds"] is not None:
            found[one["round"]] = _Timed(one["engine_seconds"], one["engine_cpu_seconds"], share)
        else:
            found[one["round"]] = _Timed(one["wall_seconds"], one["cpu_seconds"], share)
    return found


def observed_checks(measurements: Sequence[Mapping[str, Any]]) -> str:
    """What the null server saw in the uploads: "x-amz-checksum-crc64nvme (all)"; "none"; "" where nothing was seen."""
    seen: dict[str, int] = {}
    uploads = 0
    for one in measurements:
        uploads += one["server"].get("puts", 0) + one["server"].get("parts", 0)
        for name, count in one["server"].get("checks", {}).items():
            seen[name] = seen.get(name, 0) + count
    if not uploads:
        return ""
    told = [
        f"{name} ({'all' if count >= uploads else f'{count / uploads:.0%}'})" for name, count in sorted(seen.items())
    ]
    return ", ".join(told) or "none"
