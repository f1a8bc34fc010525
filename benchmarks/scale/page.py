"""The tables of the page about many machines, from the result file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.scale.picture import WORDS, of_middle
from benchmarks.scale.sweep import ORDERS
from benchmarks.showing.readme import replace_table

PAGE = Path("asyncsink/guide/machines.md")
SHOWN = {"small": (1, 4, 16, 64, 256), "cohort": (1, 4, 16, 64, 256), "many": (1, 10, 100, 1000)}
Result = Mapping[str, Any]


def fill(page: Path, result: Result) -> None:
    """Put the tables of all sections that the result has into the page. Blocking.

    Raises:
        ValueError: the page lacks the marks of a table.
    """
    tables: Mapping[str, Callable[[Result], str]] = {
        "model": hours, "balance": evenness, "check": checks, "throttled": throttled, "split": memory,
    }  # fmt: skip
    for name, table in tables.items():
        if name in result:
            replace_table(page, table(result), f"<!-- {name}: begin -->", f"<!-- {name}: end -->")


def hours(result: Result) -> str:
    """Hours of each order: of the middle assumption, and of all."""
    rows = [["what", "machines", *(WORDS[order] for order in ORDERS)]]
    runs = result["model"]["runs"]
    for name, counts in SHOWN.items():
        for count in counts:
            told = []
            for order in ORDERS:
                key = (name, count, order)
                mine = [run for run in runs if (run["data"], run["machines"], run["order"]) == key]
                middle = next(run["hours"] for run in mine if of_middle(run))
                low, high = min(run["hours"] for run in mine), max(run["hours"] for run in mine)
                band = f" ({_hours(low)} to {_hours(high)})" if _hours(low) != _hours(high) else ""
                told.append(_hours(middle) + band)
            rows.append([result["model"]["data"][name]["title"], f"{count:,}", *told])
    return _table(rows, left=1)


def evenness(result: Result) -> str:
    """Ways of dividing, by the number of machines."""
    rows = [["machines", "way", "parts", "largest ÷ mean of bytes"]]
    for row in result["balance"]:
        spread = f" ({row['best']:.2f} to {row['worst']:.2f})" if "best" in row else ""
        way = row["way"] if " " in row["way"].strip("-") and not row["way"].startswith("--part") else f"`{row['way']}`"
        rows.append([str(row["machines"]), way, str(row["parts"]), f"{row['largest_by_mean']:.3f}{spread}"])
    return _table(rows, left=2)


def checks(result: Result) -> str:
    """Fluid beside requests one by one."""
    rows = [
        ["machines", "parts", "s, model", "s, one by one (three seeds)", "model ÷ one by one", "refused per request"]
    ]
    for row in result["check"]:
        low, high = row["spread_seconds"]
        fluid, single = row["refused_per_request"]
        rows.append(
            [
                str(row["machines"]), WORDS[row["order"]], f"{row['seconds'][0]:.0f}",
                f"{row['seconds'][1]:.0f} ({low:.0f} to {high:.0f})", f"{row['fluid_by_single']:.2f}",
                f"{fluid:.3f}, {single:.3f}",
            ]
        )  # fmt: skip
    return _table(rows, left=2)


def throttled(result: Result) -> str:
    """Both models beside the real engine."""
    kinds = ("measured", "request by request", "fluid")
    rows = [
        ["processes", *(f"objects/s, {kind}" for kind in kinds), *(f"refused per request, {kind}" for kind in kinds)]
    ]
    for row in result["throttled"]:
        rates = [f"{row[kind]['objects_per_second']:.0f}" for kind in kinds]
        rows.append([str(row["processes"]), *rates, *(f"{row[kind]['refused_per_request']:.2f}" for kind in kinds)])
    return _table(rows, left=0)


def memory(result: Result) -> str:
    """What a split costs."""
    rows = [["files", "parts", "peak memory", "seconds of CPU", "spool", "DIR"]]
    rows += [
        [f"{row['files']:,}", str(row["parts"]), _mb(row["peak_rss_bytes"]), f"{row['cpu_seconds']:.1f}",
         _mb(row["spool_bytes"]), _mb(row["directory_bytes"])]
        for row in result["split"]
    ]  # fmt: skip
    return _table(rows, left=0)


def _hours(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 3 else f"{value:.2f}"


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.0f} MB"


def _table(rows: Sequence[Iterable[str]], *, left: int) -> str:
    """Markdown; so many columns are set to the left, the others to the right."""
    head, *body = [list(row) for row in rows]
    lines = [head, ["---" if number < left else "---:" for number in range(len(head))], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
