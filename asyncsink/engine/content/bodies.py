"""Content in memory, from the calls of `put_bytes` to the queue: turn of the key, gathered, journal, batches.

Calls that come at the same time are handled together, as small files are; a single one is served at once. The data are
the caller's: they take nothing of the byte budget, but where large ones are sent in parts.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import anyio
import anyio.to_thread

from asyncsink.engine.content.publication import never_published
from asyncsink.engine.open_run import Run
from asyncsink.engine.planning.producer import grouped
from asyncsink.engine.queue_entries import Batch, Submit, Work
from asyncsink.engine.recording.accepted import Accepted
from asyncsink.engine.recording.recorder import Completion
from asyncsink.engine.transfer.outcomes import published
from asyncsink.model import Receipt, Skip, Transfer


class BodyCalls:
    """The calls of one sink that publish what is in memory."""

    def __init__(self, run: Run, accepted: Accepted) -> None:
        self._run = run
        self._accepted = accepted
        self._key_turns = run.resources.key_turns
        self._arrived: list[Work] = []
        self._waiting: set[Completion] = set()
        self._some = anyio.Event()
        self._closing = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def put(self, transfer: Transfer) -> Receipt | Skip:
        """Publish a content in memory; see `AsyncSink.put_bytes`."""
        key, completion = transfer.key, Completion()
        self._waiting.add(completion)
        try:
            await self._key_turns.take(key)
            if self._key_turns.closed:
                raise never_published(key)
            work = Work(transfer, completion)
            self._accepted.add(key, work)
            self._arrived.append(work)
            self._some.set()
            await self._end_of(work, completion, key)
        finally:
            self._waiting.discard(completion)
            if self._closing:
                self._some.set()
        if not completion.outcomes:
            raise never_published(key)
        return published(completion.outcomes)

    async def _end_of(self, work: Work, completion: Completion, key: str) -> None:
        try:
            await completion.done.wait()
        except BaseException:
            if completion.done.is_set():
                raise
            if not work.taken or completion.withdraw():
                work.dropped = True
                self._accepted.withdraw(key)
                self._key_turns.end((key,))
                completion.done.set()
            else:
                with anyio.move_on_after(self._run.resources.settings.retry.abort_seconds, shield=True):
                    await completion.done.wait()
            raise

    async def feed(self, submit: Submit) -> None:
        """Submit what the calls bring, until `close`, and until no call is left."""
        while not self._closing or self._waiting:
            await self._some.wait()
            self._some = anyio.Event()
            works, self._arrived = [work for work in self._arrived if not work.dropped], []
            await self._hand_on(works, submit)

    async def _hand_on(self, works: list[Work], submit: Submit) -> None:
        if works and self._run.journal is not None:
            # What the journal has of the keys is void from now on.
            attach = partial(self._run.journal.attach, [work.found for work in works])
            found = await anyio.to_thread.run_sync(attach, limiter=self._run.resources.threads)
            for work, each in zip(works, found, strict=True):
                work.found = each
        for piece in grouped(works, lambda work: work.found, self._run.batch_size(None)):
            if isinstance(piece, list):
                await submit(Batch([cast("Transfer", work.found) for work in piece], piece))
            else:
                await submit(piece)

    def close(self) -> None:
        """Let `feed` end with the present calls."""
        self._closing = True
        self._some.set()

    def release(self) -> None:
        """Let every caller go: nothing will be recorded any more."""
        for completion in self._waiting:
            completion.done.set()
