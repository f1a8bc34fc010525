"""The progress of a run in lines: a bar, and a line of counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle

from asyncsink.engine.recording.events import Progress, Speed, Speedometer
from asyncsink.report.sentences import count, inert, share_of_size, size

BAR_WIDTH_MIN = 6
BAR_WIDTH_MAX = 60


class ProgressLines:
    """The lines of a run: what it looks at until transfers run, then its progress.

    Args:
        opening: shown until transfers run.
        noun: what is counted, in the singular.
        clock: seconds, never falling.
    """

    def __init__(
        self, opening: str, progress: Progress, *, noun: str = "file", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._opening = inert(opening)
        self._progress = progress
        self._noun = noun
        self._speedometer = Speedometer(progress, clock)
        self._spinner = {True: cycle(r"|/-\\"), False: cycle("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")}

    def __call__(self, columns: int, ascii_only: bool) -> list[str]:
        """The lines now, none longer than `columns`."""
        progress = self._progress
        spin = next(self._spinner[ascii_only])
        if not progress.started:
            found = f" {count(progress.objects_found, self._noun)}" if progress.objects_found else ""
            return [_joined([f"{spin} {self._opening}", found], "", columns)]
        speed = self._speedometer.read()
        first = _bar_line(progress, speed, columns, ascii_only=ascii_only)
        return [first or _joined([spin, *_amounts(progress, speed)], "  ", columns), self._counts(columns, ascii_only)]

    def _counts(self, columns: int, ascii_only: bool) -> str:
        progress, counts = self._progress, self._progress.counts
        done, total = progress.objects_done, progress.objects_total
        parts = [count(done, self._noun) if total is None else f"{done:,}/{total:,} {self._noun}s"]
        left_out = counts.not_published_total
        parts += [f"{counts.objects_failed:,} failed"]
        parts += [f"{counts.already_there:,} unchanged"] if counts.already_there else []
        parts += [f"{left_out:,} left out"] if left_out else []
        parts += [f"{progress.traffic.retries:,} retried"] if progress.traffic.retries else []
        parts += [f"{size(progress.bytes_under_way)} under way"] if progress.bytes_under_way else []
        return _joined(parts, ", " if ascii_only else " · ", columns)


def _bar_line(progress: Progress, speed: Speed, columns: int, *, ascii_only: bool) -> str:
    """The bar, the share, the bytes, the rate and the time left; "" where no total is known."""
    share = progress.done_share
    if share is None:
        return ""
    figures = _joined([f"{int(share * 100):>3}%", *_amounts(progress, speed)], "  ", columns)
    width = min(BAR_WIDTH_MAX, columns - len(figures) - 1)
    if width < BAR_WIDTH_MIN:
        return figures
    filled = int(share * width)
    full, empty = ("#", "-") if ascii_only else ("━", "╌")
    return f"{full * filled}{empty * (width - filled)} {figures}"


def _amounts(progress: Progress, speed: Speed) -> list[str]:
    """Bytes done, the rate, and the time left, as far as they are known."""
    done, total = progress.bytes_done, progress.bytes_total
    parts = []
    if total is None:
        parts.append(size(done))
    elif total:
        parts.append(share_of_size(done, total))
    moves_files_only = not speed.bytes_per_second and speed.objects_per_second
    rate = f"{speed.objects_per_second:,.0f} files" if moves_files_only else size(speed.bytes_per_second)
    parts.append(f"{rate}/s")
    if progress.bytes_total is not None:
        parts.append("--:-- left" if speed.seconds_left is None else f"{_clock_time(speed.seconds_left)} left")
    return parts


def _clock_time(seconds: float) -> str:
    """ "0:07", "12:34", "3:05:00"."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _joined(parts: Sequence[str], separator: str, columns: int) -> str:
    """The first parts that fit into `columns`, joined."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + len(separator) + len(part) > columns:
            break
        line += separator + part
    return line
