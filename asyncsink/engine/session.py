"""The life of a sink's run, from opening to report, in a task of its own.

Cancel scopes and task groups must be entered and left in one task, and the tasks of a program come and go: a test
fixture, a worker's start-up and shutdown, and a signal handler are tasks of their own. So one supervisor task owns the
run; every other task opens it, uses it and closes it by calls that wait for that task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Final

import anyio

from asyncsink.engine.calls import Call, Calls, Patience
from asyncsink.engine.content.contents import Contents
from asyncsink.engine.intake import Intake
from asyncsink.engine.open_run import Run, RunBuilder
from asyncsink.engine.planning.walk import (
    check_bucket_given,
    check_page,
    check_shard,
    check_together,
    open_end,
    page_of_export,
)
from asyncsink.engine.recording.events import Events
from asyncsink.engine.resources import open_resources
from asyncsink.engine.run_report import report_of, stats_of
from asyncsink.errors import ConfigError, ExportFailed, PutFailed
from asyncsink.event_loops import OwnerLoop, refuse_trio, surface
from asyncsink.model import Receipt, Skip, Started
from asyncsink.options.schema import Settings
from asyncsink.os_errors import shortage
from asyncsink.report.outcomes import Counts, OutcomeLog
from asyncsink.report.report import Report, RunEnd, SinkStats

__all__ = ["NOT_OPEN", "Counts", "Session"]

NOT_OPEN: Final = "The sink is not open; use it inside its `async with` block, or between `start` and `close`."


class Session:
    """One run of a sink, which any task of the event loop may start, use and close.

    Attributes:
        settings: of the run.
        events: of the run, before it is open too.
        run: while it is open, and afterwards; None where opening has not got so far.
        intake: takes the calls; None until the run is open.
        fault: the error that stopped the run, or None.
        closing: whether nothing more is taken.
    """

    def __init__(self, settings: Settings, records_max: int | None = None) -> None:
        """Raises ConfigError where a sink cannot have these settings."""
        check_bucket_given(settings)
        check_shard(settings, walks=False)
        check_together(settings, ends=False)
        if records_max is not None and (type(records_max) is not int or records_max < 1):
            raise ConfigError(f"records_max={records_max!r:.60} is no number of records; expected 1 or more, or None.")
        self.settings = replace(settings, records_max=records_max)
        self._page = page_of_export(settings, None)
        self.events = Events(
            settings.observe, None if self._page is None else self._page.beside(None), failures_only=True
        )
        self.run: Run | None = None
        self.intake: Intake | None = None
        self._contents: Contents | None = None
        self.fault: BaseException | None = None
        self.closing = False
        self._home: OwnerLoop | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope
        self._opened: asyncio.Future[None]
        self._closers = 0
        self._timers: list[asyncio.TimerHandle] = []
        self._calls: set[Call] = set()
        self._report: Report | None = None
        self._block: _Block | None = None

    def __repr__(self) -> str:
        state = "closed" if self._report is not None else repr(self.run.pipeline) if self.run else "not opened"
        return f"{self.settings.target.url}: {state}"

    @property
    def report(self) -> Report:
        """The report of the closed run; of one that was never open, a report of nothing.

        Raises:
            ConfigError: the run goes on.
        """
        if self._report is None:
            raise ConfigError("The report is known when the sink is closed; ask for it after `close` or its block.")
        return self._report

    def stats(self) -> SinkStats:
        """The figures of this moment, in any thread."""
        return stats_of(self.run) if self.run is not None else SinkStats()

    # -- Opening ------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the run, and return when it takes calls.

        Raises:
            ConfigError: it was started or closed before, or is closed meanwhile; or, as every other error, the run
                cannot be opened.

        Cancellation ends the opening.
        """
        if self._supervisor is not None or self._report is not None:
            raise ConfigError("This AsyncSink was used before; make a new one for every `async with` or `start`.")
        refuse_trio()
        self._home = self.events.home = OwnerLoop()
        self._scope = anyio.CancelScope()
        self._opened = asyncio.get_running_loop().create_future()
        self._supervisor = asyncio.create_task(self._supervise(), name=f"asyncsink {self.settings.target.url}")
        try:
            await asyncio.wait((self._opened, self._supervisor), return_when=asyncio.FIRST_COMPLETED)
        except BaseException:
            await self.abandon()
            raise
        if self.fault is not None and not self._opened.done():
            raise self.fault
        if self.intake is None:
            raise ConfigError("The sink was closed while it was being opened.")

    async def _supervise(self) -> None:
        """Own the run; its errors are kept for those who call."""
        try:
            with self._scope:
                async with AsyncExitStack() as exits:
                    run, intake = await self._open(exits)
                    await self.events.emit(Started(None, None, run.destination.lane))
                    self._contents = Contents(run)
                    self.intake = intake
                    self._opened.set_result(None)
                    page, showing = self._page, partial(report_of, run, None)
                    async with (
                        page.following(run.resources, run.stack, showing, run.journal) if page else nullcontext()
                    ):
                        await self._publish(run, intake, self._contents)
                        await run.end()
        except Exception as error:  # noqa: BLE001 - raised by `start`, or by `close`
            self.fault = self.fault or (surface(error) if isinstance(error, BaseExceptionGroup) else error)
        finally:
            self.closing = True
            for timer in self._timers:
                timer.cancel()
            self._report = self._nothing() if self.run is None or self.intake is None else report_of(self.run, None)

    async def _open(self, exits: AsyncExitStack) -> tuple[Run, Intake]:
        exits.callback(self.events.close)
        resources = await exits.enter_async_context(open_resources(self.settings, events=self.events, lasting=True))
        assert resources.accepted is not None  # it is lasting
        await check_page(self.settings, (), threads=resources.threads)
        forecast = open_end(self.settings.target, lasting=True)
        self.run = run = await exits.enter_async_context(RunBuilder(resources).open(forecast))
        intake = Intake(
            Calls(self.settings, run.target),
            self.settings,
            key_turns=resources.key_turns,
            accepted=resources.accepted,
            journal=run.journal,
            threads_max=resources.limits.reader_threads,
            batch_max=partial(run.batch_size, None),
        )
        exits.callback(intake.release)
        await run.begin()
        return run, intake

    async def _publish(self, run: Run, intake: Intake, contents: Contents) -> None:
        try:
            await run.pipeline.run(contents.beside(intake.feed))
        except BaseExceptionGroup as group:
            self.fault = surface(group)
            if self._block is not None and not self.closing:
                self._block.cancel()
            raise
        finally:
            # In any case: a waiting caller would otherwise never return.
            self._take_no_more()
            for call in self._calls:
                call.completion.done.set()
            contents.release()
            run.resources.key_turns.close()
            intake.accepted.close()

    def _nothing(self) -> Report:
        return Report(OutcomeLog(), self.settings.target.url, RunEnd(notices=self.events.notices))

    # -- Use ----------------------------------------------------------------------------------------------------------

    def check_here(self) -> None:
        """Refuse another process or event loop than that in which the run was opened, by a ConfigError."""
        if self._home is not None:
            self._home.check(f"The sink to {self.settings.target.url}")

    def check_working(self) -> None:
        """Raise ExportFailed where the run has stopped by itself."""
        if self.fault is not None:
            why = shortage(self.fault) or self.fault
            raise ExportFailed(f"The sink has stopped and takes nothing more: {why}", report=None) from self.fault

    def taking(self) -> Intake:
        """The intake of the open run.

        Raises:
            ConfigError: the run is not open, or not here. ExportFailed: it has stopped by itself.
        """
        self.check_here()
        self.check_working()
        if self.closing:
            raise ConfigError("The sink is closed, and takes nothing more; make a new one.")
        if self.intake is None:
            raise ConfigError(NOT_OPEN)
        return self.intake

    def taking_contents(self) -> Contents:
        """What takes content without files; raises as `taking`."""
        self.taking()
        assert self._contents is not None  # made before the run takes anything
        return self._contents

    async def outcome_of(
        self, publishing: Awaitable[Receipt | Skip], key: str = "", patience: Patience | None = None
    ) -> Receipt | Skip:
        """The outcome of a call of `taking_contents`; where the run has stopped by itself, its error is the reason.

        Raises:
            DeadlinePassed: that of `patience` did; `key` names what was withdrawn.
        """
        try:
            async with _deadline(patience) as bound:
                return await publishing
        except PutFailed:
            raise
        except TimeoutError as error:
            if patience is None or bound is None or not bound.expired():
                raise
            raise patience.passed(repr(key)) from error.__cause__
        except ExportFailed:
            self.check_working()
            raise

    async def carry_out(self, call: Call, *, patience: Patience | None = None) -> None:
        """Enter a call of `taking`, and wait until it has ended; raises its error.

        Args:
            patience: of the caller; None: without a deadline, and queued files are published whatever happens.

        Raises:
            DeadlinePassed: its deadline did.

        Cancelled, or at its deadline, what is not queued is withdrawn; where `patience` says so, what is queued too:
        its requests have ended then, or `abort_seconds` are over.
        """
        intake = self.taking()
        self._calls.add(call)
        try:
            intake.enter(call)
            async with _deadline(patience):
                await call.completion.done.wait()
        except BaseException as error:
            withdraws = patience is not None and patience.withdraws
            goes_on = call.queued and not withdraws
            if intake.withdraw(call, queued_too=withdraws):
                with anyio.move_on_after(self.settings.retry.abort_seconds, shield=True):
                    await call.completion.done.wait()
            if not isinstance(error, TimeoutError):
                raise
            assert patience is not None
            if not call.completion.outcomes:
                raise patience.passed(call.alone, goes_on=goes_on) from None
        finally:
            self._calls.discard(call)
            call.release()
        if call.error is not None:
            raise call.error

    async def flush(self) -> Counts:
        """Wait until everything that was accepted before is recorded; returns the counts of that moment.

        Raises:
            ConfigError: as `taking`. ExportFailed: the run was stopped before.
        """
        await self.taking().accepted.flush()
        self.check_working()
        if self._scope.cancel_called:
            raise ExportFailed(
                "The sink was closed before everything was published; export the rest again.", report=None
            )
        assert self.run is not None
        return deepcopy(self.run.log.counts)

    # -- Closing ------------------------------------------------------------------------------------------------------

    async def close(self, deadline_seconds: float | None = None) -> Report:
        """Take nothing more, wait until everything is recorded, and return the report.

        Args:
            deadline_seconds: after them the run is stopped: what is under way ends as in a cancelled export. Of several
                calls the earliest deadline counts.

        Raises:
            AsyncSinkError: the run was stopped by an error, or could not be ended.

        Any number of tasks may call it, at the same time or again. Cancelled, while no other task waits here, it stops
        the run at once, waits for the bounded clean-up, and raises.
        """
        self.check_here()
        supervisor = self._supervisor
        if supervisor is None:
            self.closing = True
            self._report = self._report or self._nothing()
            return self._report
        self._closers += 1
        try:
            if not supervisor.done():
                self._close_by(deadline_seconds)
                await asyncio.wait((supervisor,))
        except asyncio.CancelledError:
            if self._closers == 1:
                await self.abandon()
            raise
        finally:
            self._closers -= 1
        if self.fault is not None and self._opened.done():
            raise self.fault
        return self.report

    def _close_by(self, deadline_seconds: float | None) -> None:
        if not self._opened.done():
            self._scope.cancel()  # no caller has the open sink yet
        if deadline_seconds is not None:
            loop = asyncio.get_running_loop()
            self._timers.append(loop.call_later(deadline_seconds, self._stop_at_deadline, deadline_seconds))
        self._take_no_more()

    def _stop_at_deadline(self, deadline_seconds: float) -> None:
        if self.run is not None and not self._scope.cancel_called:
            halt = self.run.resources.halt
            halt.reason = halt.reason or f"close(deadline_seconds={deadline_seconds:g}) was over"
        self._scope.cancel()

    async def abandon(self) -> None:
        """Stop the run at once, and wait for its bounded clean-up, also where the caller is cancelled meanwhile."""
        assert self._supervisor is not None
        self._take_no_more()
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            while not self._supervisor.done():
                try:
                    await asyncio.wait((self._supervisor,))
                except asyncio.CancelledError:
                    # asyncio's own cancellation ignores the shield; the caller raises it when the run has ended.
                    continue

    def _take_no_more(self) -> None:
        if not self.closing:
            self.events.closing()
        self.closing = True
        if self.intake is not None:
            self.intake.close()
        if self._contents is not None:
            self._contents.close()

    # -- The block of `async with` ------------------------------------------------------------------------------------

    async def enter(self) -> None:
        """Start, for a block: a run that stops by itself cancels the task that is in it."""
        await self.start()
        self._block = _Block()

    async def leave(self, error: BaseException | None) -> None:
        """Close when the block has ended; where `error` has ended it, stop the run at once.

        Raises:
            AsyncSinkError: as `close`; not where the block has raised another error, which comes first.
        """
        self.check_here()
        block, self._block = self._block, None
        if block is not None and await block.ended_by_cancel(error):
            await self.abandon()
            assert self.fault is not None
            raise self.fault from None
        if error is None:
            await self.close()
            return
        await self.abandon()
        if self.fault is not None:
            error.add_note(f"The sink has stopped: {self.fault}")


def _deadline(patience: Patience | None) -> AbstractAsyncContextManager[asyncio.Timeout | None]:
    """A block with the deadline of a caller. Most have none, and `asyncio.timeout(None)` is no cheaper than another."""
    if patience is None or patience.deadline_seconds is None:
        return nullcontext()
    return asyncio.timeout(patience.deadline_seconds)


class _Block:
    """The task inside an `async with` block, cancelled as `asyncio.timeout` does it."""

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._earlier = task.cancelling()
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel the task, unless it has ended: a fixture is entered and left in two tasks."""
        self._cancelled = not self._task.done() and self._task.cancel()

    async def ended_by_cancel(self, error: BaseException | None) -> bool:
        """Whether the block has ended with nothing but the cancellation by `cancel`, which is over then.

        Args:
            error: that has ended the block, or None.
        """
        if not self._cancelled or self._task is not asyncio.current_task():
            return False
        alone = self._task.uncancel() <= self._earlier
        if error is None:
            try:
                await asyncio.sleep(0)  # the cancellation has not been raised yet
            except asyncio.CancelledError:
                if not alone:
                    raise
            return True
        return alone and isinstance(error, asyncio.CancelledError)
