"""The progress bar: on stderr, on a terminal, and nowhere else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

from asyncsink.engine.progress import Progress
from asyncsink.report.wording import count, inert, size

INTERVAL_SECONDS = 0.1


class Display:
    """A line on the terminal, redrawn from the event loop's timer; gone when its block ends. What is printed
    to sys.stderr meanwhile stands above it."""

    def __init__(self, console: Console, text: str) -> None:
        """Describe a spinner beside `text`; entering shows it, on a running event loop."""
        self._console = console
        self._text = text
        self._timer: asyncio.TimerHandle | None = None
        self._bars = self._new(rich_progress.SpinnerColumn(), rich_progress.TextColumn("{task.description}"))
        self._task = self._bars.add_task(_plain(text), total=None)

    def _new(self, *columns: rich_progress.ProgressColumn) -> rich_progress.Progress:
        # No thread of rich's own: it would draw while the event loop prints, and outlive a run that fails.
        return rich_progress.Progress(
            *columns, console=self._console, transient=True, auto_refresh=False, redirect_stdout=False
        )

    def __enter__(self) -> Self:
        self._bars.start()
        self._tick()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._bars.stop()

    def _tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL_SECONDS, self._tick)
        self.update()
        self._bars.refresh()

    def update(self) -> None:
        """Bring what is shown up to date."""


class TransferDisplay(Display):
    """Looks at SOURCE, then files, bytes, rate and (where the totals are known) time left."""

    def __init__(self, console: Console, source: str, progress: Progress) -> None:
        """Show `progress`, which the engine moves."""
        super().__init__(console, f"looking at {source}…")
        self._progress = progress
        self._sending = False

    def update(self) -> None:
        """Poll the counts."""
        progress = self._progress
        if not progress.started:
            return
        if not self._sending:
            self._sending = True
            self._show_bar()
        # A run of empty files has no bytes to count by.
        by_bytes = progress.bytes_total is None or progress.bytes_total > 0
        done = progress.bytes_done if by_bytes else progress.objects_done
        total = progress.bytes_total if by_bytes else progress.objects_total
        self._bars.update(self._task, completed=done, total=total)

    def _show_bar(self) -> None:
        self._bars.stop()
        first: list[rich_progress.ProgressColumn] = [rich_progress.SpinnerColumn()]
        last: list[rich_progress.ProgressColumn] = []
        if self._progress.bytes_total is not None:
            first.append(rich_progress.BarColumn(bar_width=None))
            last.append(rich_progress.TimeRemainingColumn(compact=True))
        self._bars = self._new(
            *first,
            _Files(self._progress),
            rich_progress.DownloadColumn(binary_units=True),
            _Rate(),
            *last,
        )
        self._bars.expand = True
        self._task = self._bars.add_task("", total=self._progress.bytes_total)
        self._bars.start()


class CountDisplay(Display):
    """A number of objects that grows."""

    def __init__(self, console: Console, text: str, done: Callable[[], int]) -> None:
        """Show `text` and what `done` returns."""
        super().__init__(console, text)
        self._done = done

    def update(self) -> None:
        """Poll the number."""
        self._bars.update(self._task, description=_plain(f"{self._text} {count(self._done(), 'object')}"))


class _Files(rich_progress.ProgressColumn):
    """Files done, of how many."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def render(self, task: rich_progress.Task) -> Text:  # noqa: ARG002 - rich gives it
        """The counts as they are now."""
        done, total = self._progress.objects_done, self._progress.objects_total
        return Text(count(done, "file") if total is None else f"{done:,}/{total:,} files")


class _Rate(rich_progress.ProgressColumn):
    """Bytes per second, in the units of the amount beside it."""

    def render(self, task: rich_progress.Task) -> Text:
        """The rate of the last seconds."""
        return Text(f"{size(task.speed)}/s" if task.speed else "")


def terminal() -> Console | None:
    """The terminal that stderr is, or None where it is none that can show a line that changes."""
    console = Console(stderr=True)
    return None if not console.is_terminal or console.is_dumb_terminal else console


def _plain(text: str) -> str:
    """A foreign text, with nothing in it that rich would read as markup."""
    return inert(text).replace("[", r"\[")
