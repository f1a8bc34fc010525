"""Whether a command shows its progress. Rich, which draws it, is loaded only where somebody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from asyncsink.engine.progress import Progress

if TYPE_CHECKING:
    from asyncsink.cli.progress import Display


def transfer_display(source: str, progress: Progress, *, quiet: bool) -> AbstractContextManager[Display | None]:
    """The display of a run, or None where stderr is no terminal that can show one."""
    if quiet or not _looked_at():
        return nullcontext()
    from asyncsink.cli.progress import TransferDisplay, terminal

    console = terminal()
    return TransferDisplay(console, source, progress) if console is not None else nullcontext()


def count_display(text: str, done: Callable[[], int], *, quiet: bool) -> AbstractContextManager[Display | None]:
    """The display of a growing number, or None where stderr is no terminal that can show one."""
    if quiet or not _looked_at():
        return nullcontext()
    from asyncsink.cli.progress import CountDisplay, terminal

    console = terminal()
    return CountDisplay(console, text, done) if console is not None else nullcontext()


def _looked_at() -> bool:
    # A process that was started with its stderr closed has none.
    return sys.stderr is not None and sys.stderr.isatty()
