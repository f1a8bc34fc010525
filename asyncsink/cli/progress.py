"""The progress of a run on a terminal, a bar and a line of counts; and the tally that replaces a missing report."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, field
from itertools import cycle
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from asyncsink.engine.recording.events import Progress, Speed, Speedometer
from asyncsink.model import (
    Event,
    Failure,
    Finished,
    GaveUp,
    LimitChanged,
    Notice,
    Outcome,
    Paused,
    Receipt,
    Resumed,
    Skip,
    Started,
)
from asyncsink.report.outcomes import Counts, failure_as_dict
from asyncsink.report.sentences import EXPORT, count, early_end, goes_on, inert, share_of_size, size
from asyncsink.value import dataclass

if TYPE_CHECKING:  # not loaded without a terminal
    from rich.console import Console

INTERVAL_SECONDS = 0.1
BAR_WIDTH_MIN = 6
BAR_WIDTH_MAX = 60
MARGIN = 3
"""Columns at the end of a line that stay free: a terminal that echoes ^C there would begin a new line, and a stale bar
would stay above it."""


class Display:
    """Lines on the terminal, redrawn from the event loop's timer, and removed when the block ends. Other lines on
    sys.stderr are printed above them.

    Args:
        lines: returns the lines for a number of columns; its second argument is whether the terminal takes ASCII only.
    """

    def __init__(self, console: Console, lines: Callable[[int, bool], Sequence[str]]) -> None:
        from rich.live import Live

        self._console = console
        self._lines = lines
        self._timer: asyncio.TimerHandle | None = None
        # Without rich's own thread, which would draw while the event loop prints, and outlive a run that fails.
        self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        self._tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._live.stop()

    def _tick(self) -> None:
        from rich.text import Text

        self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._tick)
        ascii_only = self._console.options.ascii_only
        columns = max(1, self._console.width - MARGIN)
        lines = [_fitting(line, columns, ascii_only=ascii_only) for line in self._lines(columns, ascii_only)]
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)


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


def _fitting(line: str, columns: int, *, ascii_only: bool) -> str:
    """The line in characters that the terminal can show, cut to `columns`."""
    if ascii_only:
        line = line.replace("…", "...").encode("ascii", "backslashreplace").decode("ascii")
    from rich.text import Text

    text = Text(line)
    if text.cell_len > columns:
        text.truncate(columns)
    return text.plain


def terminal() -> Console | None:
    """The terminal of stderr, or None where stderr is no terminal that can redraw a line."""
    from rich.console import Console

    console = Console(stderr=True)
    return None if not console.is_terminal or console.is_dumb_terminal else console


# -- The tally: counts from a run's events, for a run that ends without a report ---------------------------------------

FAILURES_KEPT = 1000
log = logging.getLogger("asyncsink.cli")


@dataclass(slots=True)
class Tally:
    """Counts of recorded outcomes, named as in `Report.as_dict`. Its `observe` is called on the event loop.

    Attributes:
        progress: has the number of objects, once they are counted, and the counts of outcomes.
        on_notice: prints a notice.
        destination: the destination, once it is checked to hold no secret.
        held: a list in which notices wait until the result is printed; None where they are printed as they come.
    """

    dry_run: bool
    progress: Progress
    on_notice: Callable[[str], None]
    destination: str = ""
    transport: str = ""
    failures: list[Failure] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    held: list[str] | None = None

    @property
    def failures_only(self) -> bool:
        """Whether `observe` needs no outcome but failures: without --verbose, the others are not logged."""
        return not log.isEnabledFor(logging.DEBUG)

    @property
    def counts(self) -> Counts:
        """The counts of recorded outcomes."""
        return self.progress.counts

    def observe(self, event: Event) -> None:
        """Keep failures, pass notices on, and log the events for --verbose."""
        if isinstance(event, Finished):
            if isinstance(event.outcome, Failure) and len(self.failures) < FAILURES_KEPT:
                self.failures.append(event.outcome)
            log.debug("%s", _Told(event.outcome))
        elif isinstance(event, Started):
            self.transport = event.transport
            log.info("sending by %s", event.transport)
        elif isinstance(event, LimitChanged):
            log.info("concurrency %d -> %d: %s", event.before, event.after, event.reason)
        elif isinstance(event, (Paused, Resumed, GaveUp)):
            self.on_notice(f"{event}.")
        elif isinstance(event, Notice):
            self.notices.append(event.message)
            if self.held is None:
                self.on_notice(event.message)
            else:
                self.held.append(event.message)

    def as_dict(self, *, elapsed_seconds: float, interrupted: bool) -> dict[str, Any]:
        """The keys of `Report.as_dict`. `requests` and `retries` are null: events do not have their number."""
        total = self.progress.objects_total
        return {
            "destination": self.destination,
            "dry_run": self.dry_run,
            "interrupted": interrupted,
            "stop_reason": "",
            "objects_unfinished": max(0, (total or 0) - self.counts.objects_total) if interrupted else 0,
            **self.counts.as_dict(),
            "objects_total": self.counts.objects_total if total is None else total,
            "elapsed_seconds": elapsed_seconds,
            "requests": None,
            "retries": None,
            "transport": self.transport,
            "resumable": [asdict(left) for left in self.progress.resumable.values()],
            "notices": self.notices,
            "failures": [failure_as_dict(failure) for failure in self.failures],
        }

    def sentence(self, *, interrupted: bool) -> str:
        """One line: what was published before the early end, what was not, and what the same command will do."""
        counts, reason = self.counts, "Interrupted" if interrupted else "Stopped"
        if self.dry_run:
            looked = counts.objects_planned + counts.objects_skipped
            return f"{reason}: looked at {count(looked, 'file')}; nothing was sent."
        if not self.progress.started:
            return f"{reason}: nothing was sent. Run the same command again."
        elsewhere = self.transport == "local" and self.destination.lower().startswith("s3:")
        place = "the directory that stands in for the bucket" if elsewhere else self.destination
        going_on, total = goes_on(self.progress.resumable.values()), self.progress.objects_total
        return early_end(counts, place, EXPORT, total=total, reason=reason, going_on=going_on)


class _Told:
    """An outcome as a line of the log, worded only when the line is written."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def __str__(self) -> str:
        o = self._outcome
        if isinstance(o, Receipt):
            text = f"published {o.source} -> {o.url} ({size(o.size_bytes)}, confirmed by {o.confirmed_by})"
        elif isinstance(o, Failure):
            text = f"failed {o.source} -> {o.url}: {o.error}: {o.message}"
        elif isinstance(o, Skip):
            text = f"not sent {o.source} -> {o.url}: {o.reason}"
        else:
            text = f"would send {o.source} -> {o.url}: {o.reason}"
        return inert(text)
