"""The progress of a run on stderr: lines of a terminal that are redrawn in place, or one line every 30 seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Self

from asyncsink.cli.output import Output
from asyncsink.cli.printer import locale_is_utf8
from asyncsink.cli.screen.lines import PLAIN_SECONDS, PlainLines
from asyncsink.engine.progress.lines import Headings, ScreenLine, screen_lines
from asyncsink.engine.progress.snapshot import ProgressReader
from asyncsink.engine.progress.ticking import Ticker
from asyncsink.engine.recording.events import Progress
from asyncsink.model import Event, GaveUp, Notice, Paused, Resumed

if TYPE_CHECKING:  # not loaded without a terminal
    from rich.console import Console
    from rich.text import Text

INTERVAL_SECONDS = 0.1
MARGIN = 3
"""Columns at the end of a line that stay free: a terminal that echoes ^C there would begin a new line, and a stale bar
would stay above it."""


@contextmanager
def progress_display(
    title: str, opening: str, progress: Progress, *, output: Output, noun: str = "file"
) -> Iterator[None]:
    """The display of a run, for a block on its event loop: nothing where the output is quiet, or without stderr. The
    progress is among the output's events.

    Args:
        title, opening, noun: as in `Headings`.
    """
    with ExitStack() as exits:
        if (events := output.events) is not None:
            machine = ProgressReader(progress)
            exits.enter_context(Ticker(events.progress_seconds, lambda: events.progress(machine.read())))
        # sys.stderr is None in a process that was started with its stderr closed.
        if not output.quiet and sys.stderr is not None:
            reader, console = ProgressReader(progress), terminal()
            if console is not None:
                exits.enter_context(Display(console, Headings(title, opening, noun), reader))
            else:
                exits.enter_context(Ticker(PLAIN_SECONDS, PlainLines(reader, noun)))
        yield


def terminal() -> Console | None:
    """The terminal of stderr, or None where stderr is no terminal that can redraw a line."""
    if sys.stderr is None or not sys.stderr.isatty():
        return None
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    return None if not console.is_terminal or console.is_dumb_terminal else console


def tells_trouble(*, quiet: bool) -> bool:
    """Whether a live display shows at each moment whether the server is gone."""
    return not quiet and terminal() is not None


def note_printer(output: Output) -> Callable[[Event], None]:
    """An observer that prints notices and the states of the server, except for pauses that a live display shows."""
    live = tells_trouble(quiet=output.quiet)

    def observe(event: Event) -> None:
        if isinstance(event, Notice):
            output.notice(event.message)
        elif isinstance(event, (Resumed, GaveUp)) or (isinstance(event, Paused) and not live):
            output.notice(f"{event}.")

    return observe


class Display:
    """The lines of a run on a terminal, redrawn from the event loop's timer, and removed when the block ends. Other
    lines on sys.stderr are printed above them."""

    def __init__(self, console: Console, headings: Headings, reader: ProgressReader) -> None:
        from rich.live import Live

        self._console = console
        self._headings = headings
        self._reader = reader
        self._exits = ExitStack()
        self._drawn: list[Text] = []
        self._ascii_only = console.options.ascii_only or not locale_is_utf8()
        # Without rich's own thread, which would draw while the event loop prints, and outlive a run that fails.
        self._live = Live(console=console, transient=True, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        with self._exits as exits:
            self._live.start()
            exits.callback(self._live.stop)
            exits.enter_context(Ticker(INTERVAL_SECONDS, self._draw))
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_wrapped()
        self._exits.close()

    def _draw(self) -> None:
        from rich.text import Text

        self._forget_wrapped()
        columns = max(1, self._console.width - MARGIN)
        now = self._reader.read()
        lines = screen_lines(now, self._headings, columns, ascii_only=self._ascii_only)
        self._drawn = [_text(line, columns) for line in lines]
        self._live.update(Text("\n", no_wrap=True, overflow="crop").join(self._drawn), refresh=True)

    def _forget_wrapped(self) -> None:
        """Erase the lines that a narrower terminal has wrapped: rich counts a row for each line, and would leave the
        others."""
        width = self._console.width
        if width >= max((text.cell_len for text in self._drawn), default=0):
            return
        from rich.control import Control
        from rich.segment import ControlType

        more = sum(-(-text.cell_len // width) - 1 for text in self._drawn if text.cell_len)
        up = [(ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)]
        self._console.control(Control(*(up * more)))
        self._drawn = []


def _text(line: ScreenLine, columns: int) -> Text:
    """A line for rich, cut to `columns`: some characters are two columns wide."""
    from rich.text import Text

    text = Text.assemble(*line, no_wrap=True)
    if text.cell_len > columns:
        text.truncate(columns)
    return text
