"""The progress of a run in a program's log: its notices as they come, and a line now and then."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from asyncsink.engine.progress.snapshot import ProgressReader
from asyncsink.engine.progress.ticking import Ticker
from asyncsink.engine.recording.events import Progress
from asyncsink.model import Event, GaveUp, Notice, Paused, Resumed
from asyncsink.report.sentences import inert

LOGGED_SECONDS = 30.0
"""Seconds between two lines, the first of which comes after as many."""


class ProgressLog:
    """Logs a run while its block is open, on the event loop.

    Args:
        log: gets notices and lines as INFO, and as WARNING that the server is gone.
        seconds: between two lines.

    Attributes:
        progress: the run counts in it.
    """

    def __init__(self, log: logging.Logger, seconds: float = LOGGED_SECONDS) -> None:
        self.progress = Progress()
        self._log = log
        self._reader = ProgressReader(self.progress)
        self._began = False
        self._ticker = Ticker(seconds, self._tick)

    def __enter__(self) -> Self:
        self._ticker.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ticker.__exit__(kind, error, trace)

    def observe(self, event: Event) -> None:
        """Log what is not an outcome."""
        if isinstance(event, Notice):
            self._log.info("%s", inert(event.message))
        elif isinstance(event, (Paused, GaveUp)):
            self._log.warning("%s.", inert(str(event)))
        elif isinstance(event, Resumed):
            self._log.info("%s.", inert(str(event)))

    def _tick(self) -> None:
        now = self._reader.read()
        if self._began:
            self._log.info("%s", now)
        self._began = True  # nothing is said when the run begins
