"""A result as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.summary import CLOCKS, Row, Spread, rows_of


def render(results: Iterable[Mapping[str, Any]]) -> str:
    """One section per result, with the machine, and one table per scenario and clock."""
    return "\n\n".join("\n\n".join(_section(result)) for result in results) + "\n"


def _section(result: Mapping[str, Any]) -> list[str]:
    machine, server = result["machine"], result["server"]
    delay = f", {server['delay_ms']:g} ms of delay" if server["delay_ms"] else ""
    parts = [
        f"### Server: {server['kind']}{delay}",
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_bytes'] / 2**30:.0f} GiB, "
        f"{machine['kernel']}, {machine['python']}; {result['concurrency']} requests at once; files in the page cache; "
        f"{result['started'][:10]}. Medians (least to greatest) of {result['rounds']} interleaved rounds"
        + ("." if result["complete"] else "; the run was stopped before its end.")
        + (" **Quick run: small data sets, not a result.**" if result["quick"] else ""),
        "Repeat: `" + result["command"] + "`",
    ]
    for data in result["data_sets"]:
        size = f"{data['bytes'] / 1e9:.2f} GB"
        for clock in CLOCKS:
            rows = rows_of(result, data["name"], clock)
            if rows:
                parts.append(f"**{data['title']}** ({data['objects']:,} files, {size}), clock: {clock}")
                parts.append(_table(rows, data))
    if result["left_out"]:
        parts.append(
            "\n".join(
                f"- {out['scenario']}: {out['contender']} is left out; {out['reason']}." for out in result["left_out"]
            )
        )
    parts.append("Versions: " + ", ".join(f"{name} {text}" for name, text in result["versions"].items()) + ".")
    return parts


def _table(rows: Sequence[Row], data: Mapping[str, Any]) -> str:
    large = rows[0].unit == "MB/s"
    cpu_unit, cpu_scale = ("s/GB", 1e9 / data["bytes"]) if large else ("ms/object", 1e3 / data["objects"])
    observed = any(row.observed for row in rows)
    last = "sends a checksum (observed)" if observed else "sends to be checked"
    if data["repeat"]:
        last = "compares"
    elif data.get("grab"):
        last = "compares what it received with"
    ours = data.get("reference") or "asyncsink"
    header = [
        "", rows[0].unit, "seconds", f"CPU {cpu_unit}", "peak MB", f"speed: {ours} ÷ it", f"CPU: {ours} ÷ it",
        "server busy", last,
    ]  # fmt: skip
    lines = [_line(header), _line(["---", *["---:"] * (len(header) - 2), "---"])]
    for row in rows:
        name = f"**{row.title}**" if row.reference else row.title
        if row.status != "ok":
            name += f" ({row.status})"
        lines.append(
            _line([
                name,
                _spread(row.rate, 1),
                _spread(row.seconds, 1),
                _spread(row.cpu_seconds, cpu_scale),
                _spread(row.rss_bytes, 1e-6),
                "1" if row.reference else _spread(row.speed_ratio, 1, " x"),
                "1" if row.reference else _spread(row.cpu_ratio, 1, " x"),
                _spread(row.server_busy, 100, " %"),
                _last_cell(row, repeat=data["repeat"], observed=observed),
            ])
        )  # fmt: skip
    return "\n".join(lines)


def _last_cell(row: Row, *, repeat: bool, observed: bool) -> str:
    if repeat:
        return row.repeats
    return (row.observed or "nothing seen") if observed else row.checks


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _spread(numbers: Spread | None, scale: float, unit: str = "") -> str:
    if numbers is None:
        return "-"
    middle, low, high = (number(value * scale) for value in (numbers.median, numbers.low, numbers.high))
    return f"{middle}{unit}" if low == high else f"{middle}{unit} ({low} to {high})"


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
