"""Pure: the progress of a run in lines, for a screen of so many columns, and in one line for a log."""

from __future__ import annotations

from collections.abc import Sequence

from asyncsink.options.progress import FileInProgress, ProgressSnapshot
from asyncsink.report.sentences import clock_time, count, duration, inert, rate, share_of_size, size
from asyncsink.value import dataclass

Span = tuple[str, str]
"""A text and its style in rich's words ("yellow", "dim"), or ""."""
ScreenLine = Sequence[Span]

FILES_SHOWN = 3
BAR_WIDTH_MIN = 6
BAR_WIDTH_MAX = 60
NAME_WIDTH_WITH_HEAD = 40
SPINS_PER_SECOND = 10
TIME_LEFT_UNKNOWN = "-:-- left"


@dataclass(frozen=True, slots=True)
class Headings:
    """The words of a run that its progress does not have.

    Attributes:
        title: from where to where: "derivatives → s3://bucket/study".
        opening: shown until transfers run.
        noun: what is counted, in the singular.
    """

    title: str
    opening: str
    noun: str = "file"


def screen_lines(now: ProgressSnapshot, headings: Headings, columns: int, *, ascii_only: bool) -> list[ScreenLine]:
    """The lines of a screen: the title; until transfers run, what is looked at; then the bar, the server's trouble, the
    counts, and the largest files in progress.

    Args:
        columns: most characters of a line. The trouble and the names are cut to them; a caller cuts wide characters.
        ascii_only: whether the terminal shows ASCII only.
    """
    glyphs = _ASCII if ascii_only else _UNICODE
    room = columns - 1
    lines: list[ScreenLine] = [[(f" {_shortened(headings.title, room, glyphs)}", "bold")]]
    if not now.started:
        spin = glyphs.spinner[int(now.elapsed_seconds * SPINS_PER_SECOND) % len(glyphs.spinner)]
        found = f" {count(now.objects_found, headings.noun)}" if now.objects_found else ""
        lines.append([(f" {_joined([f'{spin} {headings.opening}', found], '', room)}", "")])
    else:
        lines.append([(" ", ""), *_bar(now, room, glyphs)])
    if now.trouble:
        lines.append([(f" ! {_clauses(now.trouble, room - 2, glyphs)}", "yellow")])
    if now.started:
        lines.append([(" ", ""), *_counts(now, headings.noun, room, glyphs)])
        lines += [_file(each, room, glyphs) for each in now.largest[: FILES_SHOWN - bool(now.trouble)]]
    return [[(_shown(text, glyphs), style) for text, style in line] for line in lines]


def plain_line(now: ProgressSnapshot, noun: str = "file") -> str:
    """One line without colours, for logs: "42 %  974/2,319 files  411/977 MiB  21 MiB/s  27 s left  failed 0  retried
    3"."""
    if not now.started:
        parts = [f"looking: {count(now.objects_found, noun)} so far"]
    else:
        total = now.objects_total
        parts = [] if now.share is None else [f"{int(now.share * 100)} %"]
        parts += [count(now.objects_done, noun) if total is None else f"{now.objects_done:,}/{total:,} {noun}s"]
        parts += _amounts(now)
        if now.seconds_left is not None:
            left = now.seconds_left
            parts.append(f"{f'{left:.0f} s' if left < 60 else duration(left)} left")
        parts += [f"failed {now.objects_failed:,}", f"retried {now.retries:,}"]
    parts += [f"! {now.trouble}"] if now.trouble else []
    return inert("  ".join(parts))


# -- The characters of a terminal --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Glyphs:
    """Characters for lines; of the bar, those for what is done, in flight, and not begun."""

    spinner: str
    done: str
    in_flight: str
    rest: str
    dots: str
    dash: str
    separator: str


_UNICODE = _Glyphs("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏", "━", "┅", "─", "…", "\u2013", " · ")
_ASCII = _Glyphs("|/-\\", "#", "=", "-", "...", "-", ", ")


def _shown(text: str, glyphs: _Glyphs) -> str:
    """The text in characters that the terminal can show."""
    text = inert(text)
    if glyphs is _UNICODE:
        return text
    return text.replace("…", "...").replace("→", "->").encode("ascii", "backslashreplace").decode("ascii")


# -- The lines ---------------------------------------------------------------------------------------------------------


def _bar(now: ProgressSnapshot, columns: int, glyphs: _Glyphs) -> ScreenLine:
    """The bar, the share, the bytes, the rate and the time left; without a total, the bytes and the rate."""
    parts = _amounts(now, dash=glyphs.dash)
    if now.share is None:
        return [(_joined(parts, "  ", columns), "")]
    if now.bytes_total is not None:
        parts += [] if now.waiting else [_left(now)]
    figures = _joined([f"{int(now.share * 100):>3} %", *parts], "  ", columns)
    width = min(BAR_WIDTH_MAX, columns - len(figures) - 1)
    if width < BAR_WIDTH_MIN:
        return [(figures, "")]
    done, begun = int(now.share * width), 0
    if now.bytes_total:
        begun = min(width - done, int(now.bytes_in_flight / now.bytes_total * width))
    return [
        (glyphs.done * done, "cyan"),
        (glyphs.in_flight * begun, "blue"),
        (glyphs.rest * (width - done - begun), "dim"),
        (f" {figures}", ""),
    ]


def _left(now: ProgressSnapshot) -> str:
    return TIME_LEFT_UNKNOWN if now.seconds_left is None else f"{clock_time(now.seconds_left)} left"


def _amounts(now: ProgressSnapshot, dash: str = "-") -> list[str]:
    """The bytes done and the rate, as far as they are known; without bytes, files by the second."""
    parts = []
    if now.bytes_total is None:
        parts.append(size(now.bytes_done))
    elif now.bytes_total:
        parts.append(share_of_size(now.bytes_done, now.bytes_total))
    if now.waiting:
        parts.append(dash)
    elif not now.bytes_per_second and now.objects_per_second:
        parts.append(f"{now.objects_per_second:,.0f} files/s")
    else:
        parts.append(rate(now.bytes_per_second))
    return parts


def _counts(now: ProgressSnapshot, noun: str, columns: int, glyphs: _Glyphs) -> ScreenLine:
    done, total, failed = now.objects_done, now.objects_total, now.objects_failed
    files = count(done, noun) if total is None else f"{done:,} of {count(total, noun)}"
    # In their order on the line, each with the order in which they are dropped where it is too narrow.
    parts = [(0, files, "")]
    parts += [(2, f"{now.objects_unchanged:,} unchanged", "")] if now.objects_unchanged else []
    parts += [(1, f"{failed:,} failed", "red" if failed else "")]
    parts += [(4, f"{now.objects_left_out:,} left out", "")] if now.objects_left_out else []
    parts += [(3, f"{now.retries:,} retried", "")] if now.retries else []
    begun = f" ({size(now.bytes_in_flight)})" if now.bytes_in_flight else ""
    parts += [(5, f"{now.objects_in_flight:,} in flight{begun}", "")] if now.objects_in_flight else []
    while len(parts) > 1 and sum(len(text) + len(glyphs.separator) for _, text, _ in parts) > columns + 3:
        parts.remove(max(parts))
    line: list[Span] = []
    for _, text, style in parts:
        line += [(glyphs.separator, "dim")] if line else []
        line.append((text, style))
    return line


def _file(file: FileInProgress, columns: int, glyphs: _Glyphs) -> ScreenLine:
    share = f"{100 * file.bytes_done // file.size_bytes:>3} %" if file.size_bytes else "     "
    figures = f"   {share}  {size(file.size_bytes or file.bytes_done):>9}  "
    return [(figures + _shortened(file.name, columns - len(figures), glyphs), "dim")]


def _shortened(text: str, columns: int, glyphs: _Glyphs) -> str:
    """A path in so many columns: its first folder and its own name say most; of a name, its end does."""
    dots = len(glyphs.dots)
    if len(text) <= columns:
        return text
    first, slash, rest = text.partition("/")
    if slash and " " not in text and "/" in rest:
        short = f"{first}/…/{rest.rpartition('/')[2]}"
        if len(short) - 1 + dots <= columns:
            return short
    kept = max(2, columns - dots)
    head = kept // 3 if columns >= NAME_WIDTH_WITH_HEAD else 0
    return f"{text[:head]}…{text[len(text) - (kept - head) :]}"


def _clauses(text: str, columns: int, glyphs: _Glyphs) -> str:
    """The first clauses of a sentence that fit."""
    while len(text) > columns:
        end = max(text.rfind(mark) for mark in ("; ", ", ", ": "))
        if end < 1:
            return f"{text[: max(1, columns - len(glyphs.dots))]}…"
        text = text[:end]
    return text


def _joined(parts: Sequence[str], separator: str, columns: int) -> str:
    """The first parts that fit into `columns`, joined."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(separator) + len(part) > columns:
            break
        line += separator + part
    return line
