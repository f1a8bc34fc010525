"""The resources of one run, shared by all its parts: export, sink, grab and verify are opened here, and so is S3."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import anyio.to_thread

from asyncsink.engine.limits.descriptors import ACCOUNT, Share
from asyncsink.engine.limits.pools import SHARING, Pools
from asyncsink.engine.progress.shown import progress_shown
from asyncsink.engine.recording.accepted import Accepted
from asyncsink.engine.recording.events import Events, Progress
from asyncsink.engine.recording.recorder import Halt, KeyTurns
from asyncsink.integrity.checksums import load_checksums
from asyncsink.options.schema import Limits, Policies, S3Target, Settings
from asyncsink.report.report import RunEnd
from asyncsink.report.sentences import count
from asyncsink.s3.availability import Watch
from asyncsink.s3.credentials.file import bucket_settings
from asyncsink.s3.stack import S3Stack, open_stack


class Resources:
    """The limits, pools and listeners of one run, from its survey to its report.

    Args:
        settings: of the run; its limits are those of `share`.
        share: the open files of this process that the run may have.
        pools: memory, threads and tokens, its own or shared with other runs.
        events, progress: those of the caller, or None for new ones.
        dry_run: whether everything is decided, and nothing is sent or written.
        lasting: whether the run has no end of its own (a sink): it does not stop where its server is gone for good, or
            refuses everything; each file fails by itself.

    Attributes:
        threads, readers, budget, buffers, senders: as in Pools.
        clock: seconds.
        halt: stops the run from inside.
        key_turns: orders the transfers of one key, where a key can come twice.
        accepted: what a sink has accepted and not recorded yet; None in other runs.
        started: when the run began, by `clock`.
    """

    def __init__(
        self,
        settings: Settings,
        share: Share,
        pools: Pools,
        *,
        events: Events | None = None,
        progress: Progress | None = None,
        dry_run: bool = False,
        lasting: bool = False,
    ) -> None:
        self.settings = settings
        self.share = share
        self.events = events if events is not None else Events()
        self.progress = progress if progress is not None else Progress()
        self.dry_run = dry_run
        self.lasting = lasting
        self.clock: Callable[[], float] = time.monotonic
        self.started = self.clock()
        self.threads, self.readers = pools.threads, pools.readers
        self.budget, self.buffers = pools.budget, pools.buffers
        self.senders = pools.senders
        self._tokens = pools.pacer
        self.halt = Halt()
        self.key_turns = KeyTurns()
        self.accepted = Accepted() if lasting else None

    def __repr__(self) -> str:
        return f"<Resources of a run to {self.settings.target.url!r}>"

    @property
    def policies(self) -> Policies:
        """The policies of the run."""
        return self.settings.policies

    @property
    def limits(self) -> Limits:
        """The limits of the run, lowered to its share of the process's open files."""
        return self.settings.limits

    def ended(self, lane: str, *, interrupted: bool) -> RunEnd:
        """The end of the run, for its report; `lane` is the lane that carried it."""
        progress = self.progress
        return RunEnd(
            elapsed_seconds=self.clock() - self.started,
            transport=lane,
            requests=progress.traffic.requests,
            retries=progress.traffic.retries,
            retry_causes=progress.traffic.retry_causes,
            notices=self.events.notices,
            interrupted=interrupted,
            stop_reason=self.halt.reason,
            resumable=progress.resumable.values(),
        )

    @asynccontextmanager
    async def open_bucket(self, target: S3Target) -> AsyncIterator[S3Stack]:
        """Credentials, lanes, pacing and retries for `target`, within the run's share of open files.

        Raises:
            ConfigError, CredentialsError: as `open_stack`; nothing was sent.
        """
        settings = self.settings
        watch = Watch(
            give_up_after_seconds=settings.policies.give_up_after_seconds,
            tell=self.events.tell,
            stop=None if self.lasting else self.halt.stop,
        )
        async with open_stack(
            target,
            settings.retry,
            settings.limits,
            caller_bucket=settings.caller_bucket,
            lane=settings.transport,
            checksum=settings.policies.checksum,
            customer_key=settings.objects.sse_customer_key is not None,
            notice=self.events.notice,
            traffic=self.progress.traffic,
            listener=self.events,
            watch=watch,
            wrap=settings.wrap_transport,
            within=self._tokens,
        ) as stack:
            self.share.govern(stack.bound, stack.in_flight)
            yield stack


@asynccontextmanager
async def open_resources(
    settings: Settings,
    *,
    events: Events,
    progress: Progress | None = None,
    dry_run: bool = False,
    lasting: bool = False,
) -> AsyncIterator[Resources]:
    """The resources of a run, within its share of the process's open files; arguments as `Resources`.

    Raises:
        ConfigError: too few open files are left, or shared limits are in use in another event loop; nothing was sent.
    """
    share = await ACCOUNT.open(settings.limits)
    try:
        if 2 * share.allowed < settings.limits.concurrency_start:
            events.notice(
                f"This process may have few open files: {count(share.allowed, 'transfer')} at a time at most, instead "
                "of as many as bring speed; raise `ulimit -n`."
            )
        if lasting and (algorithm := settings.policies.algorithm) is not None:
            # At the opening, where a pause of the whole process does the least harm, and not by the first put.
            await anyio.to_thread.run_sync(load_checksums, algorithm)
        own = replace(settings, limits=share.limits)
        progress = progress if progress is not None else Progress()
        with (
            SHARING.pools(own.limits, own.shared) as pools,
            progress_shown(own.progress, progress, own.target.url, events.notice),
        ):
            yield Resources(own, share, pools, events=events, progress=progress, dry_run=dry_run, lasting=lasting)
    finally:
        share.close()


async def with_callers_bucket(settings: Settings) -> tuple[Settings, S3Target]:
    """The settings and their target, with the caller's `bucket`: it replaces the bucket, never a part of the key
    (rule 24).

    Raises:
        ConfigError, CredentialsError: as `bucket_settings`.
    """
    target = settings.target
    assert isinstance(target, S3Target)
    if settings.caller_bucket is not None:
        target = replace(target, bucket=(await bucket_settings(settings.caller_bucket)).name)
    return replace(settings, target=target), target
