"""The progress of a run where stderr is no terminal: one line every 30 seconds."""

from __future__ import annotations

import sys
import time

from asyncsink.cli.printer import write_line
from asyncsink.engine.progress.lines import plain_line
from asyncsink.engine.progress.snapshot import ProgressReader

PLAIN_SECONDS = 30.0
"""Seconds from one line to the next where stderr is no terminal: a log of ten hours has 1,200 of them."""


class PlainLines:
    """Writes a line to stderr at every call but the first, which begins the measurement of rates."""

    def __init__(self, reader: ProgressReader, noun: str) -> None:
        self._reader = reader
        self._noun = noun
        self._begun = False

    def __call__(self) -> None:
        """Write the line."""
        now = self._reader.read()
        if self._begun:
            write_line(sys.stderr, f"asyncsink: {time.strftime('%H:%M:%S')}  {plain_line(now, self._noun)}")
        self._begun = True
