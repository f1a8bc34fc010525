"""A result as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.showing.summary import CLOCKS, Row, Spread, rows_of


def render(results: Iterable[Mapping[str, Any]]) -> str:
    """One section per result, with the machine, and one table per Python and clock."""
    return "\n\n".join("\n\n".join(_section(result)) for result in results) + "\n"


def conditions(result: Mapping[str, Any]) -> str:
    """Where and how a result was measured, but for the data."""
    scenario, machine = result["scenario"], result["machine"]
    at_once = f"{scenario['at_once']} requests at once" if scenario["at_once"] else "everybody's own concurrency"
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['kernel']}; {at_once}; files in the page cache; {result['started'][:10]}. "
        f"Medians (least to greatest) of {result['rounds']} interleaved rounds"
        + ("." if result["complete"] else "; the run was stopped before its end.")
        + (" **Quick run: small data sets, not a result.**" if result["quick"] else "")
    )


def server_of(result: Mapping[str, Any]) -> str:
    """The server, with its delay and its limit."""
    scenario = result["scenario"]
    words = [result["server"]]
    words += [f"{scenario['delay_ms']:g} ms of delay"] if scenario["delay_ms"] else []
    words += [f"{scenario['bytes_per_second'] / 1e6:g} MB/s per connection"] if scenario["bytes_per_second"] else []
    return ", ".join(words)


def python_of(result: Mapping[str, Any], tag: str) -> str:
    """An interpreter and how it was built."""
    build = result["pythons"][tag]
    return f"{build['version']} (PGO: {build['pgo']})"


def _section(result: Mapping[str, Any]) -> list[str]:
    scenario = result["scenario"]
    parts = [f"### {scenario['title']}, server: {server_of(result)}", conditions(result)]
    parts.append(f"{scenario['objects']:,} files, {scenario['bytes'] / 1e9:.2f} GB. Repeat: `{result['command']}`")
    for python in result["pythons"]:
        for clock in CLOCKS:
            rows = rows_of(result, clock, python=python)
            if rows:
                calls = result["pythons"][python]["million_calls_ms"]
                parts.append(f"Clock: {clock}. {python_of(result, python)}; a million calls take {calls:.0f} ms.")
                parts.append(_table(rows, scenario))
    if result["left_out"]:
        parts.append("\n".join(f"- {out['contender']} is left out: {out['reason']}." for out in result["left_out"]))
    parts.append("Versions: " + ", ".join(f"{name} {text}" for name, text in result["versions"].items()) + ".")
    return parts


def _table(rows: Sequence[Row], scenario: Mapping[str, Any]) -> str:
    large = rows[0].unit == "MB/s"
    cpu_unit, cpu_scale = ("s/GB", 1e9 / scenario["bytes"]) if large else ("µs/object", 1e6 / scenario["objects"])
    observed = any(row.observed for row in rows)
    last = "sends a checksum (observed)" if observed else "sends to be checked"
    if scenario["repeat"]:
        last = "compares"
    elif scenario["grab"]:
        last = "compares what it received with"
    ours = scenario["reference"] or "asyncsink"
    lag = any(row.lag_ms for row in rows)
    latency = any(row.p50_ms for row in rows)
    header = [
        "", rows[0].unit, "seconds", f"CPU {cpu_unit}", "peak MB", f"speed: {ours} ÷ it", f"CPU: {ours} ÷ it",
        "server busy", *(["loop lag, p99"] if lag else []), *(["latency, p50", "p99"] if latency else []), last,
    ]  # fmt: skip
    lines = [line(header), line(["---", *["---:"] * (len(header) - 2), "---"])]
    for row in rows:
        name = f"**{row.title}**" if row.reference else row.title
        if row.status != "ok":
            name += f" ({row.status})"
        lines.append(
            line([
                name,
                spread_cell(row.rate, 1),
                spread_cell(row.seconds, 1),
                spread_cell(row.cpu_seconds, cpu_scale),
                spread_cell(row.rss_bytes, 1e-6),
                "1" if row.reference else spread_cell(row.speed_ratio, 1, " x"),
                "1" if row.reference else spread_cell(row.cpu_ratio, 1, " x"),
                spread_cell(row.server_busy, 100, " %"),
                *([spread_cell(row.lag_ms, 1, " ms")] if lag else []),
                *([spread_cell(each, 1, " ms") for each in (row.p50_ms, row.p99_ms)] if latency else []),
                _last_cell(row, repeat=scenario["repeat"], observed=observed),
            ])
        )  # fmt: skip
    return "\n".join(lines)


def _last_cell(row: Row, *, repeat: bool, observed: bool) -> str:
    if repeat:
        return row.repeats
    return (row.observed or "nothing seen") if observed else row.checks


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return "| " + " | ".join(cells) + " |"


def spread_cell(numbers: Spread | None, scale: float, unit: str = "") -> str:
    """A median with its range."""
    if numbers is None:
        return "-"
    middle, low, high = (number(value * scale) for value in (numbers.median, numbers.low, numbers.high))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
