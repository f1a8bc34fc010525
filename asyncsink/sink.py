"""AsyncSink and the export functions: the entry points for uploads."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Unpack

import anyio
from anyio.abc import TaskGroup

from asyncsink.engine.export import run_source
from asyncsink.engine.intake import Call, Intake
from asyncsink.engine.open_run import Run, RunBuilder
from asyncsink.engine.planning.walk import check_bucket_given, check_shard, discovery_of, open_end
from asyncsink.engine.recording.events import Events, Subscription
from asyncsink.engine.resources import open_resources
from asyncsink.engine.run_report import report_of
from asyncsink.errors import ConfigError, ExportFailed
from asyncsink.event_loops import OwnerLoop, refuse_trio, run_to_end, surface
from asyncsink.model import Receipt, Skip, Started
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import ExportOptions
from asyncsink.os_errors import shortage, words_shortages
from asyncsink.report.report import Report
from asyncsink.sources.opening import directory_source, outputs_source


async def export(outputs: Mapping[str, Any], base_directory: Any, **options: Unpack[ExportOptions]) -> Report:
    """Publish workflow outputs by DataSink's rules.

    Args:
        outputs: {attribute: path | [paths] | nested lists}; a directory is published with everything inside it.
        base_directory: "s3://bucket/prefix" or a local directory.
        options: see `ExportOptions`.

    Returns:
        A Report, also where single files failed; its `raise_for_failures()` raises then.

    Raises:
        ConfigError, SourceError, TransferError: the run could not start; nothing was sent.

    On cancellation, its multipart uploads stay open for the next run, which resumes them by the journal; without a
    journal, or with abort_on_interrupt=True, they are aborted (shielded, bounded in time). No temporary file stays.
    """
    settings = parse_options(base_directory, options)
    return await run_source(settings, outputs_source(outputs, settings))


async def export_directory(directory: Any, base_directory: Any, **options: Unpack[ExportOptions]) -> Report:
    """Publish a directory tree; keys keep the path relative to `directory`. Otherwise as `export`."""
    settings = parse_options(base_directory, options)
    return await run_source(settings, directory_source(directory, settings))


def export_sync(outputs: Mapping[str, Any], base_directory: Any, **options: Unpack[ExportOptions]) -> Report:
    """`export` for synchronous code; inside a running event loop (Jupyter) it uses a thread of its own.

    KeyboardInterrupt cancels the export, waits for its clean-up, and is raised.
    """
    return run_to_end(partial(export, outputs, base_directory, **options))


class AsyncSink:
    """A long-lived sink inside an asyncio program, for any number of concurrent producers.

        async with AsyncSink("s3://bucket/prefix") as sink:
            receipt = await sink.put("motion", path)
            await sink.submit("contrasts.@con", paths)

    Entering checks destination and credentials. Leaving, in the same task, waits until all submitted files are
    published and recorded; an exception in the block, or cancellation, ends open transfers as in a cancelled `export`.

    It belongs to the process and the event loop in which it was entered: elsewhere (in a forked child, in another loop,
    in a thread without one) its methods raise ConfigError instead of waiting forever.

    It may stay open for months: memory does not grow with the number of files. In the temporary directory it keeps
    every outcome, some 400 bytes, for the report and, unless on_collision="last", every key with its source.
    """

    def __init__(self, base_directory: Any, **options: Unpack[ExportOptions]) -> None:
        """See `export` for the arguments. Nothing is opened before the block.

        Raises:
            ConfigError: an option is wrong.
        """
        self._settings = parse_options(base_directory, options)
        check_bucket_given(self._settings)
        check_shard(self._settings, walks=False)
        self._events = Events()
        self._home: OwnerLoop | None = None
        self._intake: Intake | None = None
        self._exits: AsyncExitStack | None = None
        self._run: Run | None = None
        self._group: TaskGroup | None = None
        self._closing = anyio.Event()
        self._calls: set[Call] = set()
        self._report: Report | None = None
        self._fault: BaseException | None = None

    def __repr__(self) -> str:
        state = "closed" if self._report is not None else repr(self._run.pipeline) if self._run else "not opened"
        return f"<AsyncSink {self._settings.target.url}: {state}>"

    @words_shortages
    async def __aenter__(self) -> AsyncSink:
        refuse_trio()
        if self._run is not None:
            raise ConfigError("This AsyncSink was used before; make a new one for every `async with`.")
        self._home = self._events.home = OwnerLoop()
        async with AsyncExitStack() as exits:
            opening = open_resources(self._settings, events=self._events, lasting=True)
            resources = await exits.enter_async_context(opening)
            forecast = open_end(self._settings.target, lasting=True)
            self._run = await exits.enter_async_context(RunBuilder(resources).open(forecast))
            intake = Intake(
                discovery_of(self._settings, self._run.target, outputs_source({}, self._settings)),
                self._settings,
                key_turns=resources.key_turns,
                journal=self._run.journal,
                limiter=resources.threads,
                batch_max=partial(self._run.batch_size, None),
            )
            exits.callback(intake.release)
            exits.callback(self._events.close)
            await self._run.begin()
            self._exits = exits.pop_all()
        self._intake = intake
        await self._events.emit(Started(None, None, self._run.destination.lane))
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._publish, self._run, self._intake)
        return self

    @words_shortages
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._group is not None
        assert self._run is not None
        assert self._exits is not None
        self._check_here()
        self._events.closing()
        self._close()
        try:
            swallowed = await self._group.__aexit__(kind, error, trace)
            if error is None:
                await self._run.end()
        except BaseExceptionGroup as group:
            if all(each is error for each in group.exceptions):
                return False  # the block's own exception, whole even where it is a group itself
            raise surface(group) from None
        finally:
            try:
                await self._exits.aclose()
            finally:
                self._report = report_of(self._run, None)
        return swallowed

    async def _publish(self, run: Run, intake: Intake) -> None:
        try:
            await run.pipeline.run(intake.feed)
        except BaseExceptionGroup as group:
            self._fault = surface(group)
            raise
        finally:
            # In any case: a waiting caller would otherwise never return.
            self._close()
            for call in self._calls:
                call.completion.done.set()
            run.resources.key_turns.close()

    def _close(self) -> None:
        self._closing.set()
        if self._intake is not None:
            self._intake.close()

    @property
    def report(self) -> Report:
        """The report, available after the `async with` block.

        Raises:
            ConfigError: the sink is still open.
        """
        if self._report is None:
            raise ConfigError("The report is known when the sink is closed; ask for it after the `async with` block.")
        return self._report

    @words_shortages
    async def put(self, attribute: str, path: Any) -> Receipt | Skip:
        """Publish one file, and return when it is published, or found to be there already.

        Raises:
            ConfigError, SourceError: the file cannot be routed or read.
            ExportFailed: the file was not published; the message has the reason, `report` is the Failure, and
                `__cause__` an error of its class. An unavailable server is retried for at most give_up_after_seconds.
                The error concerns this caller only: the sink continues, unless it can no longer record, which the
                message then states.

        Simultaneous calls share all costs of a file but its request. A call waits while its key is being written: of
        two calls with one key, the first is recorded before the second begins.

        Cancellation ends the wait only: a queued transfer continues, and reads the file if it still exists.
        """
        intake = self._opened()
        call = intake.call(attribute, path, alone=repr(path))
        await self._waited_for(call, intake)
        outcome = call.outcome()
        if outcome is None:
            self._check_working()
            raise ExportFailed(f"The sink was closed before {path!r} was published; export it again.", report=None)
        return outcome

    @words_shortages
    async def submit(self, attribute: str, paths: Any) -> int:
        """Queue a path, or nested lists of paths, and return their number when they are queued; waits while the queue
        is full, and while another file is being written to the same key.

        Raises:
            ConfigError, SourceError: a path cannot be routed or read (with on_unreadable="skip" it is a Failure in the
                report, and the rest is queued); the paths before it are queued.

        Cancellation ends the wait: queued files are published, the others are not.
        """
        intake = self._opened()
        call = intake.call(attribute, paths)
        await self._waited_for(call, intake)
        if not call.over:
            self._check_working()
            raise ConfigError("The sink was closed while a file waited for its queue; export it again.")
        return call.count

    def events(self) -> Subscription:
        """Events from now on, until the sink is closed, or `aclose()` of the result is called.

        Every reader gets every event. A slow reader slows the sink down, and loses nothing; one that takes nothing for
        30 seconds while 1,000 events wait gets an AsyncSinkError at the end, and the sink continues without it.

        Raises:
            ConfigError: the sink was opened in another process or event loop; reading raises it likewise.
        """
        self._check_here()
        return self._events.subscribe()

    def _check_working(self) -> None:
        if self._fault is not None:
            why = shortage(self._fault) or self._fault
            raise ExportFailed(f"The sink has stopped and takes nothing more: {why}", report=None) from self._fault

    def _check_here(self) -> None:
        if self._home is not None:
            self._home.check(f"The sink to {self._settings.target.url}")

    def _opened(self) -> Intake:
        self._check_here()
        self._check_working()
        if self._intake is None or self._closing.is_set():
            raise ConfigError("The sink is not open; use it inside its `async with` block.")
        return self._intake

    async def _waited_for(self, call: Call, intake: Intake) -> None:
        self._calls.add(call)
        try:
            intake.enter(call)
            await call.completion.done.wait()
        except BaseException:
            intake.withdraw(call)
            raise
        finally:
            self._calls.discard(call)
        if call.error is not None:
            raise call.error
