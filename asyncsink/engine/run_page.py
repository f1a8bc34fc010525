"""The page of a run (option `report`): samples while it runs, and the file at its end, however it ends."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import file_digest
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.engine.resources import Resources
from asyncsink.errors import AsyncSinkError
from asyncsink.event_loops import surface
from asyncsink.model import Event
from asyncsink.options.schema import Settings
from asyncsink.report.manifest_file import PARTIAL
from asyncsink.report.page.timeline import Moment, Timeline
from asyncsink.report.report import RunReport
from asyncsink.s3.stack import S3Stack

if TYPE_CHECKING:  # loaded where a page is made
    from asyncsink.report.page.content import KeptReceipt
    from asyncsink.report.page.facts import RunFacts

log = logging.getLogger("asyncsink.engine")
CLOSING_SECONDS_MAX: Final = 60.0
"""Seconds that a run which ended in order waits for the disk of its page."""


class RunPage:
    """The page of one run.

    Args:
        path: of the file, which `report.page.place.check_place` has checked.
        facts: what runs.
        clock: seconds.
    """

    def __init__(self, path: str, facts: RunFacts, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._facts = facts
        self._clock = clock
        self._begun = clock()
        self._timeline = Timeline()
        self._journal = ""

    def __repr__(self) -> str:
        return f"<RunPage {self._path!r}>"

    async def check(self) -> None:
        """Raise ConfigError where the page cannot be written."""
        await anyio.to_thread.run_sync(check_page_file, self._path)

    def beside(self, observe: Callable[[Event], None] | None) -> Callable[[Event], None]:
        """A function that hears events for the page, and for another observer."""

        def hear(event: Event) -> None:
            self._timeline.hear(self._clock() - self._begun, event)
            if observe is not None:
                observe(event)

        return hear

    @asynccontextmanager
    async def following(
        self,
        resources: Resources,
        stack: S3Stack | None,
        report: Callable[[], RunReport],
        journal: RunJournal | None = None,
    ) -> AsyncIterator[None]:
        """A block in which the run is sampled; at its end, which may be an error or a cancellation, the page is
        written. A page that cannot be written is a notice.

        Args:
            resources, stack: of the run, which is under way.
            report: makes the report of the run, after the block.
            journal: of the run, or None.
        """
        self._journal = journal.path if journal is not None else ""
        ticks = _Ticks(self._timeline, self._clock, self._begun, lambda: moment_of(resources, stack))
        fault: BaseException | None = None
        try:
            yield
        except BaseExceptionGroup as group:
            fault = surface(group)
            raise
        except BaseException as error:
            fault = error
            raise
        finally:
            ticks.stop()
            if isinstance(fault, AsyncSinkError):
                resources.halt.reason = resources.halt.reason or str(fault)
            await self._write(report(), resources, in_order=fault is None)

    async def _write(self, report: RunReport, resources: Resources, *, in_order: bool) -> None:
        # A stopped run does not wait for a stalled disk without end.
        seconds = CLOSING_SECONDS_MAX if in_order else resources.settings.retry.abort_seconds
        trouble = f"its disk did not answer within {seconds:g} s"
        with anyio.move_on_after(seconds, shield=not in_order):
            make = partial(self._make, report, resources, in_order=in_order)
            trouble = await anyio.to_thread.run_sync(make, abandon_on_cancel=True)
        if trouble:
            resources.events.notice(f"The page {self._path!r} could not be written: {trouble}.")

    def _make(self, report: RunReport, resources: Resources, *, in_order: bool) -> str:
        """Write the page, and return what is wrong with its place, or "". Blocks."""
        manifest = "" if resources.dry_run else resources.settings.manifest
        try:
            from asyncsink.report.page.content import content_of
            from asyncsink.report.page.place import is_json, write_page
            from asyncsink.report.page.rendering import as_html, as_json

            receipt = receipt_of(manifest, whole=in_order and not report.interrupted)
            content = content_of(report, self._facts, self._timeline, receipt=receipt, journal=self._journal)
            write_page(self._path, as_json(content) if is_json(self._path) else as_html(content))
        except OSError as error:
            return error.strerror or str(error)
        except AsyncSinkError as error:
            return str(error).rstrip(".")
        except Exception as error:
            # Its fault is not the run's, whose report is worth more than its page.
            log.exception("The page of the run could not be made")
            return f"{type(error).__name__}: {error}; the log has more"
        return ""


def page_of_run(settings: Settings, *, verb: str, sources: Sequence[str], prefix: str) -> RunPage | None:
    """The page of a run with these settings, or None where none was asked for; other arguments as in `RunFacts`."""
    if not settings.report:
        return None
    from asyncsink.report.page.facts import RunFacts, options_shown

    options = options_shown(settings)
    facts = RunFacts(verb=verb, sources=sources, prefix=prefix, begun_seconds=time.time(), options=options)
    return RunPage(settings.report, facts)


def check_page_file(path: str) -> None:
    """Raise ConfigError where no page can be written under this name. Blocks."""
    from asyncsink.report.page.place import check_place

    check_place(path)


def receipt_of(manifest: str, *, whole: bool) -> KeptReceipt | None:
    """The receipts' file of a run, with its digest where the run has completed it; None without one. Blocks."""
    from asyncsink.report.page.content import KeptReceipt

    if not manifest:
        return None
    if not whole:
        return KeptReceipt(manifest + PARTIAL)
    with open(manifest, "rb") as file:
        return KeptReceipt(manifest, file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


def moment_of(resources: Resources, stack: S3Stack | None) -> Moment:
    """The figures of a run at this moment."""
    progress, pacer = resources.progress, stack.pacer if stack is not None else None
    return Moment(
        bytes_moved=progress.bytes_moved,
        objects_done=progress.objects_done,
        requests=progress.traffic.requests,
        in_flight=pacer.in_flight if pacer is not None else 0,
        limit=pacer.limit if pacer is not None else 0,
    )


class _Ticks:
    """Adds a sample to a timeline whenever one is due, by timers of the event loop."""

    def __init__(
        self, timeline: Timeline, clock: Callable[[], float], begun: float, read: Callable[[], Moment]
    ) -> None:
        self._timeline = timeline
        self._clock = clock
        self._begun = begun
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._tick()

    def _tick(self) -> None:
        self._timeline.add(self._clock() - self._begun, self._read())
        self._timer = self._loop.call_later(self._timeline.sample_seconds, self._tick)

    def stop(self) -> None:
        """Add the last sample."""
        self._timer.cancel()
        self._timeline.add(self._clock() - self._begun, self._read())
