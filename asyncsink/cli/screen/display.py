"""Lines on a terminal, redrawn in place."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Self

from asyncsink.cli.screen.lines import ProgressLines
from asyncsink.engine.recording.events import Progress

if TYPE_CHECKING:  # not loaded without a terminal
    from rich.console import Console

INTERVAL_SECONDS = 0.1
MARGIN = 3
"""Columns at the end of a line that stay free: a terminal that echoes ^C there would begin a new line, and a stale bar
would stay above it."""


def progress_display(
    opening: str, progress: Progress, *, quiet: bool, noun: str = "file"
) -> AbstractContextManager[Display | None]:
    """The display of a run, or an empty context where stderr is no terminal that can show one.

    Args:
        opening, noun: as in `ProgressLines`.
    """
    # sys.stderr is None in a process that was started with its stderr closed.
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    console = terminal()
    return Display(console, ProgressLines(opening, progress, noun=noun)) if console is not None else nullcontext()


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
