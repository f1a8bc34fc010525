"""The events of a run as JSON lines, for programs that watch it: --events FILE, or - for standard output.

Each line is one object with "event" and "time" (UTC). Outcomes are the lines of the receipt manifest; "progress" has
the attributes of a ProgressSnapshot; the last line is "ended", with what --json prints.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from asyncsink.errors import ConfigError, DestinationFull
from asyncsink.model import Event, Finished
from asyncsink.options.progress import ProgressSnapshot
from asyncsink.report.outcomes import OutcomeLines

PROGRESS_SECONDS = 5.0
"""Seconds from one "progress" to the next."""
WRITE_SECONDS = 0.25
"""Most seconds that a line waits for others, which are written with it."""
PENDING_BYTES_MAX = 64 << 20
"""Bytes of lines that wait; a reader of the pipe that takes nothing holds the run back then."""
_NAMES = {
    "Started": "started", "LimitChanged": "limit_changed", "Retried": "retried", "Notice": "notice",
    "Paused": "paused", "Resumed": "resumed", "GaveUp": "gave_up",
}  # fmt: skip
_RECORD = b'{"record":'


class EventLines:
    """Writes the events of a run to a descriptor, in a thread of its own.

    Args:
        name: of the file, for messages; "-" is standard output.
        descriptor: open for writing, and closed in the end unless it is standard output.
    """

    def __init__(self, name: str, descriptor: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self._pending: list[bytes] = []
        self._bytes = 0
        self._ending = False
        self._error: OSError | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._write, name="asyncsink-events", daemon=True)
        self._thread.start()

    @property
    def on_stdout(self) -> bool:
        """Whether they go to standard output."""
        return self._name == "-"

    @classmethod
    def open(cls, name: str) -> EventLines:
        """The events in a new file, or on standard output.

        Raises:
            ConfigError: it cannot be written.
        """
        try:
            if name == "-":
                return cls(name, sys.stdout.fileno())
            return cls(name, os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
        except (OSError, AttributeError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is closed"
            raise ConfigError(
                f"--events {name} cannot be written ({why}); name a file in a directory that exists, or - for standard "
                "output.",
                option="events",
            ) from error

    def watch(self, observe: Callable[[Event], None]) -> Callable[[Event], None]:
        """An observer that writes each event, and passes it to `observe`. Outcomes come by `recorded`."""

        def both(event: Event) -> None:
            if not isinstance(event, Finished):
                values = {each.name: _value(getattr(event, each.name)) for each in fields(event)}
                self._put(_NAMES.get(type(event).__name__, type(event).__name__), values)
            observe(event)

        return both

    def recorded(self, lines: OutcomeLines) -> None:
        """Write recorded outcomes."""
        head = _head("finished") + b', "record":'
        if text := lines.text:
            # A line break is never inside of a line: strings of JSON have it escaped.
            self._add(head + text[len(_RECORD) :].replace(b"\n" + _RECORD, b"\n" + head))

    progress_seconds = PROGRESS_SECONDS

    def progress(self, now: ProgressSnapshot) -> None:
        """Write the progress."""
        self._put("progress", now.as_dict())

    def end(self, values: Mapping[str, Any]) -> None:
        """Write the last line, and close.

        Raises:
            DestinationFull: not everything could be written.
        """
        self._put("ended", {name: value for name, value in values.items() if name != "failures"})
        self.close()
        if self._error is not None and not (self.on_stdout and isinstance(self._error, BrokenPipeError)):
            raise DestinationFull(
                f"The run is over, but --events {self._name} is incomplete ({self._error.strerror}).",
                operation="events",
            ) from self._error

    def close(self) -> None:
        """Write what waits, and close. Harmless when repeated."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()
        if self._descriptor >= 0 and not self.on_stdout:
            os.close(self._descriptor)
            self._descriptor = -1

    def _put(self, event: str, values: Mapping[str, Any]) -> None:
        self._add(_head(event) + b", " + json.dumps(values, default=str)[1:].encode("ascii") + b"\n")

    def _add(self, lines: bytes) -> None:
        with self._changed:
            if self._error is not None or self._ending:
                return
            self._changed.wait_for(lambda: self._bytes < PENDING_BYTES_MAX or self._error is not None)
            self._pending.append(lines)
            self._bytes += len(lines)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ending, timeout=WRITE_SECONDS)
                taken, self._pending = b"".join(self._pending), []
                ending = self._ending
            try:
                view = memoryview(taken)
                while view:
                    view = view[os.write(self._descriptor, view) :]
            except OSError as error:
                self._error = error
            with self._changed:
                self._bytes -= len(taken)
                self._changed.notify_all()
            if ending or self._error is not None:
                return


def _head(event: str) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f'{{"event": "{event}", "time": "{now}"'.encode("ascii")


def _value(value: Any) -> Any:
    """A field of an event as a JSON-ready value; an error by its class and its sentence."""
    if isinstance(value, BaseException):
        return {"type": type(value).__name__, "message": str(value)}
    return {each.name: _value(getattr(value, each.name)) for each in fields(value)} if is_dataclass(value) else value
