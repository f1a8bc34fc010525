"""A plan as people read it: what is new, changed, unchanged and left out, by size, folder and kind. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from asyncsink.model import Planned
from asyncsink.report.outcomes import Counts
from asyncsink.report.plan import Amount, PlanFigures, Prices, money, requests_in_words
from asyncsink.report.sentences import inert, reasons, size
from asyncsink.value import dataclass

if TYPE_CHECKING:  # needs SQLite
    from asyncsink.report.plan_list import PlannedFile

COLUMNS_MIN, COLUMNS_MAX = 50, 100
LABEL_COLUMNS = 15
FOLDERS_SHOWN = 5
NO_FOLDER = "(top)"
NO_SUFFIX = "(none)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What lines are written on.

    Attributes:
        columns: width of a line.
        ascii_only: whether it takes no other characters.
        whole_names: whether long names are written out, for a file or another program.
    """

    columns: int = 80
    ascii_only: bool = False
    whole_names: bool = False

    @property
    def width(self) -> int:
        """The columns that lines may have."""
        return min(max(self.columns, COLUMNS_MIN), COLUMNS_MAX)

    @property
    def arrow(self) -> str:
        """What stands between a source and its key."""
        return "->" if self.ascii_only else "→"

    @property
    def dot(self) -> str:
        """What stands between figures."""
        return "-" if self.ascii_only else "·"

    def name(self, text: str, columns: int) -> str:
        """A path in at most so many columns: its beginning, and most of its end, which tells files apart."""
        text = inert(text)
        if self.whole_names or len(text) <= columns:
            return text
        gap = "..." if self.ascii_only else "…"
        head = max(4, (columns - len(gap)) // 4)
        slash = text.rfind("/", 0, head + 1)
        head = slash + 1 if slash > 0 else head
        return f"{text[:head]}{gap}{text[len(text) - max(1, columns - head - len(gap)) :]}"


def plan_rows(figures: PlanFigures, counts: Counts, paper: Paper, *, prices: Prices | None = None) -> list[str]:
    """The plan in lines of at most `paper.width` columns; names that are written out may be longer."""
    lines = _amounts(figures, counts, paper)
    example = figures.example
    if example is None:
        return lines
    lines += _largest(figures, paper)
    folders = [(name or NO_FOLDER, amount) for name, amount in figures.folders.largest(FOLDERS_SHOWN)]
    kinds = [(name or NO_SUFFIX, amount) for name, amount in figures.kinds.largest(FOLDERS_SHOWN)]
    lines += _row("by folder", [_figure(name, amount, paper) for name, amount in folders], paper)
    lines += _row("by kind", [_figure(name, amount, paper) for name, amount in kinds], paper)
    lines += _example(figures, example, paper)
    if figures.requests:
        total = f"{sum(figures.requests.values()):,} in all"
        lines += _row("requests", [*requests_in_words(figures.requests), total], paper, f" {paper.dot} ")
    if prices is not None:
        lines += _row("cost", _cost(figures, prices), paper, f" {paper.dot} ")
    return lines


def plan_heading(title: str, destination: str, paper: Paper) -> list[str]:
    """From where to where; `title` is the source, as the user names it."""
    said, width = "nothing is sent", paper.width
    text = f" {inert(title)} {paper.arrow} {inert(destination)}"
    if len(text) + 2 + len(said) <= width:
        return [f"{text}{said:>{max(min(width, 80) - len(text), len(said) + 2)}}"]
    if len(text) <= width:
        return [text, f" {said}"]
    return [f" {inert(title)}", f" {paper.arrow} {inert(destination)}", f" {said}"]


def list_line(file: PlannedFile, paper: Paper) -> str:
    """One file of a plan; names are whole."""
    amount = size(file.size_bytes) if file.size_bytes or file.what in ("new", "changed", "unchanged") else ""
    its = f" {paper.arrow} {inert(file.object)}" if file.object else ""
    why = f"  ({inert(file.why)})" if file.why else ""
    return f"  {file.what:<{LABEL_COLUMNS}}{amount:>10}  {inert(file.name)}{its}{why}"


def _amounts(figures: PlanFigures, counts: Counts, paper: Paper) -> list[str]:
    changed = figures.changed.largest(FOLDERS_SHOWN)
    rows: list[tuple[str, int, int | None, str]] = [("new", figures.new.objects, figures.new.size_bytes, "")]
    rows += [("changed" if not n else "", a.objects, a.size_bytes, why) for n, (why, a) in enumerate(changed)]
    # An object that is there, without a comparison ("never"), is among these too: the reason says so.
    there = "" if set(counts.there_reasons) <= {"same checksum"} else reasons(counts.there_reasons)
    rows.append(("unchanged", counts.already_there, counts.bytes_skipped, there))
    left_out = counts.left_out_reasons.most_common()
    rows += [("left out" if not n else "", number, None, why) for n, (why, number) in enumerate(left_out)]
    rows.append(("cannot be sent", counts.objects_failed, None, ""))
    lines: list[str] = []
    for label, number, size_bytes, why in rows:
        if not number:
            continue
        # What is left out may be a directory, whose files nobody has counted.
        noun = "file" if size_bytes is not None or label == "cannot be sent" else "path"
        files = f"{number:>9,} {noun if number == 1 else f'{noun}s':<5}"
        text = f"  {label:<{LABEL_COLUMNS}}{files}"
        if size_bytes is not None:
            text += f" {size(size_bytes):>10}"
        if why and len(text) + 2 + len(inert(why)) <= paper.width:
            lines.append(f"{text}  {inert(why)}")
            continue
        lines.append(text.rstrip())
        lines += textwrap.wrap(
            inert(why),
            paper.width,
            initial_indent=" " * (2 + LABEL_COLUMNS),
            subsequent_indent=" " * (2 + LABEL_COLUMNS),
        )
    return lines


def _largest(figures: PlanFigures, paper: Paper) -> list[str]:
    lines = []
    for number, planned in enumerate(figures.largest):
        label = "largest" if not number else ""
        start = f"  {label:<{LABEL_COLUMNS}}{size(planned.size_bytes):>10}  "
        path = figures.basis.below(planned.source)
        lines.append(start + paper.name(path, paper.width - len(start)))
    return lines


def _example(figures: PlanFigures, planned: Planned, paper: Paper) -> list[str]:
    start = f"  {'for example':<{LABEL_COLUMNS}}"
    path, key = inert(figures.basis.below(planned.source)), inert(planned.key)
    if len(start) + len(path) + len(key) + 2 + len(paper.arrow) <= paper.width:
        return [f"{start}{path} {paper.arrow} {key}"]
    room = paper.width - len(start)
    return [
        start + paper.name(path, room),
        f"{'':{len(start)}}{paper.arrow} {paper.name(key, room - len(paper.arrow) - 1)}",
    ]


def _figure(name: str, amount: Amount, paper: Paper) -> str:
    room = paper.width - 2 - LABEL_COLUMNS - 24
    return f"{paper.name(name, room)} {amount.objects:,} {paper.dot} {size(amount.size_bytes)}"


def _row(label: str, items: Sequence[str], paper: Paper, separator: str = "   ") -> list[str]:
    """Items in one row, and in further ones where they do not fit."""
    lines, line = [], f"  {label:<{LABEL_COLUMNS}}"
    start = len(line)
    for item in items:
        if len(line) > start and len(line) + len(separator) + len(item) > paper.width:
            lines.append(line)
            line = " " * start
        line += item if len(line) == start else separator + item
    return [*lines, line] if items else []


def _cost(figures: PlanFigures, prices: Prices) -> list[str]:
    requests = f"{money(prices.requests(figures.requests), prices.currency)} for requests"
    if not prices.storage:
        return [requests]
    return [requests, f"{money(prices.month(figures.size_bytes), prices.currency)} a month"]
