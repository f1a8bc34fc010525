"""An engine that publishes parts of one source over connections that stay open, several parts at once.

Opening connections, finding credentials and learning how much the network takes cost more than a small part does. Each
part has a listing of its own range of keys, its own rounds and its own outcomes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import copy
from dataclasses import replace

import anyio

from asyncsink.engine.limits.controller import ConcurrencyController
from asyncsink.engine.open_run import RunBuilder
from asyncsink.engine.planning.producer import entries_of
from asyncsink.engine.queue_entries import Submit
from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.resources import Resources, open_resources, with_callers_bucket
from asyncsink.errors import AccessDenied
from asyncsink.event_loops import surface
from asyncsink.model import Found, JournalEntry
from asyncsink.options.schema import S3Target, Settings
from asyncsink.report.outcomes import OutcomeLines
from asyncsink.s3.operations import ListObjects
from asyncsink.s3.retry import PREPARE_ATTEMPTS_MAX
from asyncsink.s3.stack import S3Stack
from asyncsink.splitting.known_uploads import KnownUploads, Pending, end_uploads
from asyncsink.splitting.part_of_run import PartOfRun, rules_of
from asyncsink.value import dataclass

BATCH = 128
"""Files that are put on the queue at a time."""


@dataclass(frozen=True, slots=True)
class PartOutcome:
    """What became of a part.

    Attributes:
        lines: the outcomes.
        notices: sentences for people.
        requests, retries: since the last part of the same engine.
        bytes_failed: sizes of the files that failed.
        stop_reason: why the whole run has to stop, or "".
    """

    lines: OutcomeLines
    notices: tuple[str, ...] = ()
    requests: int = 0
    retries: int = 0
    bytes_failed: int = 0
    stop_reason: str = ""


class PartEngine:
    """Publishes parts; made by `open_engine`. Belongs to one event loop."""

    def __init__(self, resources: Resources, stack: S3Stack) -> None:
        self._resources = resources
        self._stack = stack
        settings = resources.settings
        self._rules = rules_of(settings)
        self._prefix = settings.target.prefix if isinstance(settings.target, S3Target) else ""
        self._told = (0, 0)
        self._notices_told = 0

    def __repr__(self) -> str:
        return f"<PartEngine for {self._resources.settings.target.url}>"

    @property
    def place(self) -> tuple[str, str, str]:
        """Endpoint, region and lane in use."""
        return self._stack.endpoint_url, self._stack.region, self._stack.lane

    async def prove(self, prefix: str) -> None:
        """Ask the server for one key below `prefix`: credentials and bucket can be used, as far as a listing shows.

        Raises:
            TransferError, CredentialsError, ConfigError: they cannot.
        """
        try:
            with self._stack.transport.fewer_attempts(PREPARE_ATTEMPTS_MAX):
                await self._stack.transport.send(ListObjects(prefix=prefix, max_keys=1))
        except AccessDenied:
            return  # perhaps they may only write; the first part finds out

    async def publish(self, part: PartOfRun, uploads: KnownUploads) -> PartOutcome:
        """Publish the files of one part, of which each key comes once.

        Raises:
            ConfigError, TransferError: the part cannot be begun.

        Cancelled, or at the end, it leaves no multipart upload open that it can end.
        """
        transfers = part.transfers(self._rules, self._prefix)
        resources = self._of_part(len(transfers))
        settings, pending = resources.settings, uploads.pending
        if pending:
            transfers = [
                replace(each, known=JournalEntry(upload=pending[each.key])) if each.key in pending else each
                for each in transfers
            ]
        published: set[str] = set()
        try:
            builder = RunBuilder(resources, retries=settings.policies.retries, lasting=self._stack, uploads=uploads)
            async with builder.open(part.forecast(transfers, settings)) as run:

                async def feed(submit: Submit) -> None:
                    for start in range(0, len(transfers), BATCH):
                        some = list[Found](transfers[start : start + BATCH])
                        for entry in entries_of(some, run.batch_size(len(transfers) - start)):
                            await submit(entry)

                await run.pipeline.run(feed)
                lines = run.log.lines()
                if uploads.pending:
                    published = {receipt.key for receipt in run.log.receipts}
        except BaseExceptionGroup as group:
            raise surface(group) from None
        finally:
            if left := {key: known for key, known in uploads.pending.items() if key not in published}:
                await self.end_uploads(left, resources.events.notice, log=uploads)
        return self._outcome(lines, resources)

    async def end_uploads(
        self, left: Pending, notice: Callable[[str], None], *, log: KnownUploads | None = None
    ) -> None:
        """As `known_uploads.end_uploads`."""
        settings = self._resources.settings
        secret = settings.objects.sse_customer_key
        await end_uploads(self._stack.transport, settings.retry, secret, left, notice, log=log)

    def _of_part(self, objects_total: int) -> Resources:
        """The shared limits and pools, with progress and notices of the part's own."""
        resources = copy(self._resources)
        resources.progress = Progress(objects_total=objects_total, traffic=self._resources.progress.traffic)
        resources.events = Events()
        return resources

    def _outcome(self, lines: OutcomeLines, part: Resources) -> PartOutcome:
        traffic, shared = self._resources.progress.traffic, self._resources.events.notices
        before, self._told = self._told, (traffic.requests, traffic.retries)
        notices = (*shared[self._notices_told :], *part.events.notices)
        self._notices_told = len(shared)
        return PartOutcome(
            lines,
            notices,
            traffic.requests - before[0],
            traffic.retries - before[1],
            part.progress.bytes_failed,
            self._resources.halt.reason,
        )


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[PartEngine]:
    """An engine for parts of one destination in S3.

    Raises:
        ConfigError, CredentialsError: there are no credentials, or no such way to the bucket; nothing was sent.
    """
    async with open_resources(settings, events=Events()) as resources:
        _, target = await with_callers_bucket(settings)
        async with resources.open_bucket(target) as stack, anyio.create_task_group() as tuning:
            tuning.start_soon(ConcurrencyController(stack.pacer, resources.limits, resources.events.emit).run)
            try:
                yield PartEngine(resources, stack)
            finally:
                tuning.cancel_scope.cancel()
