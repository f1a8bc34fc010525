"""progress= of the library: a caller's function that is called again and again, or lines where people look.

The library prints nothing unless progress=True asks for it; this is the only module of it that does.
"""

from __future__ import annotations

import html
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asyncsink.engine.progress.lines import Headings, ScreenLine, plain_line, screen_lines
from asyncsink.engine.progress.snapshot import ProgressReader
from asyncsink.engine.progress.ticking import Ticker
from asyncsink.engine.recording.events import Progress
from asyncsink.options.progress import ProgressSnapshot

SECONDS = 0.5
"""Seconds from one call to the next."""
LINE_SECONDS = 30.0
"""Seconds from one line to the next where stderr is no terminal."""
NOTEBOOK_COLUMNS = 100
_CSS = {"bold": "font-weight:bold", "dim": "opacity:.6", "cyan": "color:#0891b2", "blue": "color:#2563eb"} | {
    "yellow": "color:#b45309",
    "red": "color:#dc2626",
}
log = logging.getLogger("asyncsink.engine")


@contextmanager
def progress_shown(
    wanted: Callable[[ProgressSnapshot], object] | bool, progress: Progress, place: str, notice: Callable[[str], None]
) -> Iterator[None]:
    """Show the progress of a run during the block, and once more at its end.

    Args:
        wanted: a function that is called on the event loop every half second; True shows lines; False shows nothing.
        place: the bucket or directory of the run, for the title.
        notice: is told that the function raised an error; it is not called any more then.
    """
    if wanted is False:
        yield
        return
    call: Callable[[ProgressSnapshot], object] | None = _ShownLines(place) if wanted is True else wanted
    reader = ProgressReader(progress)

    def show(*, ended: bool = False) -> None:
        nonlocal call
        if call is None:
            return
        try:
            call(reader.read(ended=ended))
        except Exception as error:
            # Its fault is not the run's.
            called, call = call, None
            log.exception("progress= has raised an error, and is not called any more")
            notice(
                f"progress={getattr(called, '__qualname__', type(called).__name__)} raised {type(error).__name__}, and "
                "was not called any more; the log has more."
            )

    try:
        with Ticker(SECONDS, show):
            yield
    finally:
        show(ended=True)


class _ShownLines:
    """The lines of progress=True: an output of a notebook's cell that is updated in place, one line of a terminal that
    is written over, or a line of a log every 30 seconds."""

    def __init__(self, place: str) -> None:
        self._headings = Headings(place, "looking at the files…")
        self._kernel = _in_notebook()
        self._handle: Any = None
        self._told_at = time.monotonic()

    def __call__(self, now: ProgressSnapshot) -> None:
        """Show the progress."""
        if self._kernel:
            self._show_in_cell(now)
        elif sys.stderr is not None:
            self._write(now)

    def _show_in_cell(self, now: ProgressSnapshot) -> None:
        from IPython.display import display  # a notebook has it

        lines = screen_lines(now, self._headings, NOTEBOOK_COLUMNS, ascii_only=False)
        plain = "\n".join("".join(text for text, _ in line) for line in lines)
        marked = f"<pre>{'<br>'.join(map(_as_html, lines))}</pre>"
        shown = {"text/plain": plain, "text/html": marked}
        if self._handle is None:
            self._handle = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call, unused-ignore]
        else:
            self._handle.update(shown, raw=True)

    def _write(self, now: ProgressSnapshot) -> None:
        line = f"asyncsink: {plain_line(now)}"
        if sys.stderr.isatty():
            columns = os.get_terminal_size(sys.stderr.fileno()).columns or 80
            line = line[: columns - 1].ljust(columns - 1)
            sys.stderr.write(f"\r{line}{chr(10) if now.ended else ''}")
        elif now.ended or time.monotonic() - self._told_at >= LINE_SECONDS:
            self._told_at = time.monotonic()
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this program."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _as_html(line: ScreenLine) -> str:
    return "".join(
        f'<span style="{_CSS[style]}">{html.escape(text)}</span>' if style in _CSS else html.escape(text)
        for text, style in line
    )
