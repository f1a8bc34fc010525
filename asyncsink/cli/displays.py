"""Whether a command shows its progress. Rich, which draws it, is loaded only where somebody looks."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from asyncsink.engine.progress import Progress

if TYPE_CHECKING:
    from asyncsink.cli.progress import Display


def progress_display(
    opening: str, progress: Progress, *, quiet: bool, noun: str = "file"
) -> AbstractContextManager[Display | None]:
    """The display of a run, or None where stderr is no terminal that can show one.

    Args:
        opening, noun: as in `ProgressLines`.
    """
    # A process that was started with its stderr closed has none.
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        return nullcontext()
    from asyncsink.cli.progress import Display, ProgressLines, terminal

    console = terminal()
    return Display(console, ProgressLines(opening, progress, noun=noun)) if console is not None else nullcontext()
