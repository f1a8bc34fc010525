"""The log of a command: -v and -vv on stderr, --log-file in a file."""

from __future__ import annotations

import logging
import queue
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from asyncsink.cli.printer import write
from asyncsink.errors import ConfigError
from asyncsink.model import Finished, Notice
from asyncsink.report.sentences import inert

if TYPE_CHECKING:
    from logging.handlers import QueueListener

FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(verbose: int, log_file: str | None) -> Callable[[], None]:
    """Send asyncsink's log to stderr and to a file; returns a function that writes the rest of the file.

    Args:
        verbose: 0 logs nothing to stderr, since a log can have tracebacks; 1 what happens to the run; 2 and more each
            file and each repeated request too.
        log_file: gets the same, as with `verbose` of 1 at the least; what it has already stays.

    Raises:
        ConfigError: the file cannot be written.
    """
    logger, level = logging.getLogger("asyncsink"), logging.DEBUG if verbose > 1 else logging.INFO
    if not verbose and not log_file:
        logging.getLogger().addHandler(logging.NullHandler())
        return lambda: None
    handlers: list[logging.Handler] = []
    stop: Callable[[], None] = lambda: None  # noqa: E731 - a default for the one below
    if verbose:
        on_stderr = _StderrHandler()
        on_stderr.addFilter(_is_said_by_nobody_else)
        handlers.append(on_stderr)
    if log_file:
        from logging.handlers import QueueHandler, QueueListener  # only for a file

        in_file = _LogFile(log_file)
        # A thread writes: a slow disk does not hold back the event loop.
        listener = QueueListener(waiting := queue.SimpleQueue[logging.LogRecord](), in_file)
        listener.start()
        handlers.append(QueueHandler(waiting))
        stop = _stopper(listener, in_file)
    for handler in handlers:
        handler.setFormatter(_Inert(FORM))
        logger.addHandler(handler)
        logging.getLogger("asyncio").addHandler(handler)
    logger.setLevel(level)
    return stop


def _stopper(listener: QueueListener, in_file: logging.Handler) -> Callable[[], None]:
    def stop() -> None:
        listener.stop()
        in_file.close()

    return stop


def _is_said_by_nobody_else(record: logging.LogRecord) -> bool:
    """Whether a record is no outcome and no notice, which the command words itself."""
    return not isinstance(getattr(record, "event", None), (Finished, Notice))


class _Inert(logging.Formatter):
    """Escapes what a terminal does not print as itself. Only a traceback keeps its line breaks; those in a file's name
    are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(map(inert, text.split("\n"))) if record.exc_info else inert(text)


class _StderrHandler(logging.Handler):
    """Writes to the present sys.stderr, so that lines are printed above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        write(sys.stderr, self.format(record) + "\n")


class _LogFile(logging.FileHandler):
    """A file that grows. Where it cannot be written any more, the run goes on, and a note says so once."""

    def __init__(self, path: str) -> None:
        try:
            super().__init__(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigError(
                f"--log-file {path} cannot be written ({error.strerror}); name a file in a directory that exists.",
                option="log_file",
            ) from error
        self._path = path
        self._failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's own method
        """Note an error of the disk, once."""
        self._note(sys.exc_info()[1])

    def close(self) -> None:
        """Close the file."""
        try:
            super().close()
        except OSError as error:  # lines that were not written before
            self._note(error)

    def _note(self, error: BaseException | None) -> None:
        if not self._failed:
            self._failed = True
            why = getattr(error, "strerror", None) or type(error).__name__
            write(sys.stderr, f"asyncsink: note: --log-file {inert(self._path)} is incomplete ({why}).\n")
