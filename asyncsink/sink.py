"""AsyncSink and the export functions: where the rooms are put together for uploads."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Any, Unpack

import anyio
import anyio.to_thread
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from asyncsink.config import ExportOptions, LocalTarget, S3Target, Settings
from asyncsink.destinations.base import Outlook
from asyncsink.engine.clearing import check_not_nested, clear_destinations
from asyncsink.engine.discover import Discovery, batches
from asyncsink.engine.events import Events
from asyncsink.engine.ledger import KeyLedger
from asyncsink.engine.loops import run_to_end
from asyncsink.engine.outcomes import is_skip
from asyncsink.engine.pipeline import Submit, Work
from asyncsink.engine.producer import batch_size, feed_discovery, first_only
from asyncsink.engine.progress import Progress
from asyncsink.engine.recorder import Ticket
from asyncsink.engine.run import Opening, Run, check_bucket_given, surface
from asyncsink.engine.survey import Survey, take_survey
from asyncsink.errors import ConfigError, ExportFailed
from asyncsink.model import Event, Failure, Receipt, Skip, SourceProblem, Started, Transfer
from asyncsink.options import parse_options
from asyncsink.report.report import Report
from asyncsink.routing.router import Router
from asyncsink.sources.base import Entry, Source
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.outputs import OutputsSource


async def export(outputs: Mapping[str, Any], base_directory: Any, **options: Unpack[ExportOptions]) -> Report:
    """Publish workflow outputs by DataSink's rules.

    Args:
        outputs: {attribute: path | [paths] | nested lists}; a directory is published with everything inside it.
        base_directory: "s3://bucket/prefix" or a local directory.
        options: see `ExportOptions`.

    Returns:
        A Report, also where single files failed: ask it with `raise_for_failures()`.

    Raises:
        ConfigError, SourceError, TransferError: the run could not start; nothing was sent.

    Cancelled, it aborts open multipart uploads (shielded, bounded in time) and leaves no temporary file.
    """
    settings = parse_options(base_directory, options)
    source = OutputsSource(outputs, symlinks=settings.policies.symlinks, compat=settings.routing.compat)
    return await run_source(settings, source)


async def export_directory(directory: Any, base_directory: Any, **options: Unpack[ExportOptions]) -> Report:
    """Publish a directory tree; keys keep the path relative to `directory`. Otherwise as `export`."""
    settings = parse_options(base_directory, options)
    return await run_source(settings, DirectorySource(directory, symlinks=settings.policies.symlinks))


async def run_source(
    settings: Settings,
    source: Source,
    *,
    dry_run: bool = False,
    observe: Callable[[Event], None] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Publish everything that `source` has: survey it, prepare the destinations, run the pipeline, report.

    Args:
        dry_run: look and compare, but send nothing; what would be sent is in `report.planned`.
        observe: called with every event, on the event loop; it must return quickly.
        progress: counts for a display to poll.
    """
    _refuse_trio()
    check_bucket_given(settings)
    started = time.monotonic()
    progress = progress if progress is not None else Progress()
    events = Events(observe)
    threads = CapacityLimiter(settings.limits.reader_threads)
    discovery = _discovery(settings, settings.target, source)
    await anyio.to_thread.run_sync(check_not_nested, _tops(source), _local_places(settings), limiter=threads)
    survey = Survey()
    surveyed = source.replayable
    if surveyed:
        survey = await take_survey(discovery, settings, limiter=threads)
        progress.objects_total, progress.bytes_total = survey.objects_total, survey.bytes_total
        if not survey.objects_total:
            events.notice("The source holds no files: there is nothing to publish.")
    elif discovery.may_collide and settings.policies.on_collision == "error":
        survey.ledger = KeyLedger()
    outlook = survey.outlook if survey.sample_key else _open_end(settings.target)
    opening = Opening(settings, progress, events, dry_run, threads=threads, started=started)
    try:
        async with opening.open(outlook) as run:
            discovery = _discovery(settings, run.target, source)
            if settings.remove_dest_dir and not dry_run:
                local = settings.local_copy.directory if settings.local_copy is not None else ""
                roots = (run.target.url if isinstance(run.target, LocalTarget) else "", local)
                await anyio.to_thread.run_sync(clear_destinations, discovery, roots, limiter=threads)
            await run.begin()
            progress.started = True
            await events.emit(Started(progress.objects_total, progress.bytes_total, run.destination.lane))
            feed = partial(
                feed_discovery,
                discovery,
                surveyed=surveyed,
                ledger=survey.ledger,
                batch_max=batch_size(progress.objects_total, settings.limits.concurrency_max),
                limiter=threads,
            )
            await run.pipeline.run(feed)
            run.interrupted = False
            return _report(run, discovery, dry_run)
    except BaseExceptionGroup as group:
        raise surface(group) from None
    finally:
        events.close()
        if survey.ledger is not None:
            survey.ledger.close()


def export_sync(outputs: Mapping[str, Any], base_directory: Any, **options: Unpack[ExportOptions]) -> Report:
    """`export` for code without an event loop; also works inside a running one (Jupyter), in a thread of its own.

    KeyboardInterrupt cancels the export, waits for its clean-up, and is raised.
    """
    return run_to_end(partial(export, outputs, base_directory, **options))


class AsyncSink:
    """A long-lived sink inside an asyncio program: many producers feed it, results stream out.

        async with AsyncSink("s3://bucket/prefix") as sink:
            receipt = await sink.put("motion", path)
            await sink.submit("contrasts.@con", paths)

    Entering checks destination and credentials. Leaving waits until everything that was submitted is published and
    recorded; leaving with an exception, or being cancelled, aborts what is under way.
    """

    def __init__(self, base_directory: Any, **options: Unpack[ExportOptions]) -> None:
        """See `export` for the arguments. Nothing is opened yet.

        Raises:
            ConfigError: an option is wrong.
        """
        self._settings = parse_options(base_directory, options)
        check_bucket_given(self._settings)
        self._events = Events()
        self._ledger: KeyLedger | None = None
        self._exits: AsyncExitStack | None = None
        self._run: Run | None = None
        self._group: TaskGroup | None = None
        self._closing = anyio.Event()
        self._tickets: set[Ticket] = set()
        self._report: Report | None = None

    def __repr__(self) -> str:
        state = "closed" if self._report is not None else repr(self._run.pipeline) if self._run else "not opened"
        return f"<AsyncSink {self._settings.target.url}: {state}>"

    async def __aenter__(self) -> AsyncSink:
        _refuse_trio()
        if self._exits is not None:
            raise ConfigError("This AsyncSink was used before; make a new one for every `async with`.")
        async with AsyncExitStack() as exits:
            opening = Opening(self._settings, events=self._events)
            self._run = await exits.enter_async_context(opening.open(_open_end(self._settings.target)))
            self._ledger = KeyLedger()
            exits.callback(self._ledger.close)
            exits.callback(self._events.close)
            await self._run.begin()
            self._exits = exits.pop_all()
        await self._events.emit(Started(None, None, self._run.destination.lane))
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._publish, self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._group is not None
        assert self._run is not None
        assert self._exits is not None
        self._events.closing()
        self._closing.set()
        try:
            swallowed = await self._group.__aexit__(kind, error, trace)
            self._run.interrupted = error is not None
        except BaseExceptionGroup as group:
            raise surface(group) from None
        finally:
            self._report = _report(self._run, None, dry_run=False)
            await self._exits.aclose()
        return swallowed

    async def _publish(self, run: Run) -> None:
        try:
            await run.pipeline.run(self._feed)
        finally:
            # Whether it ended in order or not: nobody must wait for what will not come.
            self._closing.set()
            for ticket in self._tickets:
                ticket.done.set()

    @property
    def report(self) -> Report:
        """What happened; known after the `async with` block.

        Raises:
            ConfigError: the sink is still open.
        """
        if self._report is None:
            raise ConfigError("The report is known when the sink is closed; ask for it after the `async with` block.")
        return self._report

    async def put(self, attribute: str, path: Any) -> Receipt | Skip:
        """Publish one file, and return when it is published, or found to be there already.

        Raises:
            ConfigError, SourceError: the file cannot be routed or read.
            ExportFailed: it was not published; the message says why, `report` is the Failure.

        Cancelled, it stops waiting; the transfer itself goes on.
        """
        run, ledger = self._opened()
        found = [item async for item in self._discover(run, attribute, path)]
        if len(found) != 1:
            raise ConfigError(
                f"{path!r} has {len(found)} files; put takes one file, submit takes directories and lists."
            )
        ticket = Ticket()
        self._tickets.add(ticket)
        try:
            for transfer in await self._claimed(ledger, found):
                await self._submit(Work(transfer, ticket))
            await ticket.done.wait()
        finally:
            self._tickets.discard(ticket)
        if not ticket.outcomes:
            raise ExportFailed(f"The sink was closed before {path!r} was published; export it again.", report=None)
        outcome = ticket.outcomes[0]
        if isinstance(outcome, (Receipt, Skip)):
            return outcome
        assert isinstance(outcome, Failure)  # nothing is planned here
        raise ExportFailed(outcome.message, report=outcome)

    async def submit(self, attribute: str, paths: Any) -> int:
        """Queue a path, or nested lists of paths, and return their number when they are queued; waits while the queue
        is full.

        Raises:
            ConfigError, SourceError: something cannot be routed or read; what came before it is queued.
        """
        run, ledger = self._opened()
        count = 0
        async for transfer in self._discover(run, attribute, paths):
            for claimed in await self._claimed(ledger, [transfer]):
                await self._submit(Work(claimed))
                count += 1
        return count

    def events(self) -> AsyncIterator[Event]:
        """Events from now on, until the sink is closed; a slow reader slows the sink down, and loses nothing."""
        return self._events.subscribe()

    async def _feed(self, _submit: Submit) -> None:
        await self._closing.wait()

    def _opened(self) -> tuple[Run, KeyLedger]:
        if self._run is None or self._ledger is None or self._closing.is_set():
            raise ConfigError("The sink is not open; use it inside its `async with` block.")
        return self._run, self._ledger

    async def _submit(self, work: Work) -> None:
        run, _ = self._opened()
        try:
            await run.pipeline.submit(work)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            raise ConfigError("The sink was closed while a file waited for its queue; export it again.") from None

    async def _discover(self, run: Run, attribute: str, paths: Any) -> AsyncIterator[Transfer]:
        policies = self._settings.policies
        source = OutputsSource({attribute: paths}, symlinks=policies.symlinks, compat=self._settings.routing.compat)
        discovery = _discovery(self._settings, run.target, source)
        async for batch in batches(iter(discovery), limiter=run.threads):
            for item in batch:
                if isinstance(item, Transfer):
                    yield item
                elif is_skip(item, policies):
                    await self._submit(Work(item))
                else:
                    raise item.error

    async def _claimed(self, ledger: KeyLedger, transfers: list[Transfer]) -> list[Transfer]:
        """The transfers, whose keys are theirs now.

        Raises:
            KeyCollision: another source has one of the keys, and `on_collision` says that this is an error.
        """
        if self._settings.policies.on_collision == "last":
            return transfers

        def claim() -> list[Transfer]:
            claimed = []
            for item in first_only(iter(transfers), ledger):
                if isinstance(item, SourceProblem):
                    raise item.error
                if isinstance(item, Transfer):
                    claimed.append(item)
            return claimed

        return await anyio.to_thread.run_sync(claim)


def _discovery(settings: Settings, target: S3Target | LocalTarget, source: Source) -> Discovery:
    local = settings.local_copy.directory if settings.local_copy is not None else ""
    router = Router(settings.routing, base=target.url, local_base=local)
    # Also where a local directory stands in for the bucket: its keys are the bucket's.
    return Discovery(source, router, settings.target.prefix if isinstance(settings.target, S3Target) else "")


def _tops(source: Source) -> list[str]:
    """The directories and files that a run starts from."""
    if isinstance(source, DirectorySource):
        return [source.directory]
    return [entry.path for entry in source.entries or ()]


def _local_places(settings: Settings) -> list[str]:
    target, copy = settings.target, settings.local_copy
    return [place.directory for place in (target, copy) if isinstance(place, LocalTarget)]


def _open_end(target: S3Target | LocalTarget) -> Outlook:
    """The outlook of a run that nobody surveyed."""
    prefix = f"{target.prefix}/" if isinstance(target, S3Target) and target.prefix else ""
    return Outlook(objects_total=None, common_prefix=prefix, sample_key=f"{prefix}asyncsink")


def _report(run: Run, discovery: Discovery | None, dry_run: bool) -> Report:
    return Report(
        run.log,
        out_file=_out_file(run, discovery),
        elapsed_seconds=run.elapsed_seconds,
        transport=run.destination.lane,
        requests=run.requests,
        retries=run.retries,
        notices=run.events.notices,
        destination=run.target.url,
        dry_run=dry_run,
        interrupted=run.interrupted,
    )


def _out_file(run: Run, discovery: Discovery | None) -> list[str]:
    """Rule 34: for every top-level source its URL, then its local copy; what failed is left out."""
    if discovery is None:
        return []
    entries = discovery.source.entries
    if entries is None and isinstance(discovery.source, DirectorySource):
        entries = [Entry("", discovery.source.directory)]
    if entries is None:
        return []
    failed = {failure.entry for failure in run.log.failures if failure.stage != "local copy"}
    not_copied = {failure.entry for failure in run.log.failures}
    listed: list[str] = []
    left_out = {skip.entry for skip in run.log.skips if not skip.already_there} if run.log.skips else set()
    for ordinal, entry in enumerate(entries):
        if ordinal in failed or (ordinal in left_out and not os.path.isdir(entry.path)):
            continue
        url, local = discovery.router.out_file(entry.attribute, entry.path)
        listed.append(url)
        if local and ordinal not in not_copied:
            listed.append(local)
    return listed


def _refuse_trio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ConfigError(
            "asyncsink runs on asyncio (its S3 client is asyncio's); run it with asyncio, not with trio."
        ) from None
