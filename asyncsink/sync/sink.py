"""SyncSink: a sink for synchronous code, such as Django's views and Celery's tasks."""

from __future__ import annotations

from collections.abc import Awaitable
from functools import partial
from types import TracebackType
from typing import Unpack

from asyncsink.destinations.base import Destination
from asyncsink.event_loops import BACKGROUND, END_SECONDS_MAX
from asyncsink.options.typed import ExportOptions, StrPath
from asyncsink.report.report import Report
from asyncsink.sink import AsyncSink
from asyncsink.sync.facade import Facade, blocking


class SyncSink(Facade[AsyncSink]):
    """A long-lived AsyncSink for synchronous code, used by any number of threads.

        sink = SyncSink("s3://bucket/prefix")         # opened by its first use, in whichever process that is
        receipt = sink.put("motion", path)
        report = sink.close(deadline_seconds=20)

    Arguments, results and errors of its methods are AsyncSink's. An opened sink belongs to its process: in a forked
    child its methods raise ConfigError. What is still open at the exit of the process is closed, within 10 seconds.
    """

    def __init__(
        self,
        base_directory: StrPath = "",
        *,
        destination: Destination | None = None,
        **options: Unpack[ExportOptions],
    ) -> None:
        """See `export` for the arguments. Nothing is opened before the first use.

        Raises:
            ConfigError: an option is wrong.
        """
        super().__init__(partial(AsyncSink, base_directory, destination=destination, **options))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(deadline_seconds=None if error is None else 0)

    def close(self, *, deadline_seconds: float | None = None) -> Report:
        """As `AsyncSink.close`; waits for it. A sink that was never used has a report of nothing."""
        self._ended()
        return BACKGROUND.run(partial(self._inner.close, deadline_seconds=deadline_seconds))

    def _end(self) -> Awaitable[object]:
        return self._inner.close(deadline_seconds=END_SECONDS_MAX / 2)

    @property
    def report(self) -> Report:
        """As `AsyncSink.report`."""
        return self._inner.report

    put = blocking(AsyncSink.put)
    submit = blocking(AsyncSink.submit)
    flush = blocking(AsyncSink.flush)
