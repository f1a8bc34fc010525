"""Stage 6 begins here: outcomes are recorded, in batches, before anybody hears of them.

One task writes the journal, the manifest and the run's log; only then are waiting callers and subscribers told
(wall 6).
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

from asyncsink.engine.recording.events import Events
from asyncsink.errors import AsyncSinkError, ConfigError, JournalError, TransferError
from asyncsink.journal.base import PublishedRow, decoded_name
from asyncsink.model import Failure, Finished, Outcome, Receipt, Transfer
from asyncsink.report.outcomes import OutcomeLines, OutcomeLog, encoded
from asyncsink.routing.keys import alike
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.report.manifest import ManifestWriter


# -- Stopping a run from inside, for a reason that is no file's own: what is under way is cancelled, no more is tried


class Halt:
    """Ends the blocks that are inside `bounds`, now or later.

    Attributes:
        reason: why, as a sentence; "" until then.
    """

    def __init__(self) -> None:
        """Nothing is to be stopped."""
        self.reason = ""
        self._scopes: set[anyio.CancelScope] = set()

    def __repr__(self) -> str:
        return f"<Halt {self.reason or 'not needed'}>"

    def stop(self, reason: str) -> None:
        """Cancel every block. Only the first reason counts. On the event loop."""
        self.reason = self.reason or reason
        for scope in self._scopes:
            scope.cancel()

    @contextmanager
    def bounds(self) -> Iterator[None]:
        """A block that `stop` ends; `reason` is set then. What its last requests raise for that reason is left out."""
        with anyio.CancelScope() as scope:
            self._scopes.add(scope)
            try:
                if self.reason:
                    scope.cancel()
                yield
            except (AsyncSinkError, BaseExceptionGroup) as error:
                if not self.reason or not _of_requests(error):
                    raise
            finally:
                self._scopes.discard(scope)


def _of_requests(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_of_requests, error.exceptions))
    return isinstance(error, (TransferError, ConfigError))


# -- Turns of a key: where a key can come twice in one run, its transfers follow each other in the order they came -----
# Two requests of one key under way at once may be carried out in either order, and nobody could say which of them the
# object is. A turn lasts from before the journal is asked until the outcome is recorded, so that every transfer is told
# what the one before it has left. Only sinks and streams need turns: a survey has seen every key before anything is
# sent.


class KeyTurns:
    """Who has which key; keys that a server may take for one are one.

    What it holds is bounded by the transfers under way, and by the callers that wait. `enter` and `leave` may be called
    from any thread, everything else on the event loop.

    Attributes:
        closed: the run is over.
    """

    def __init__(self) -> None:
        """Every key is free."""
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self.closed = False

    def __repr__(self) -> str:
        return f"<KeyTurns of {len(self._waiting)} keys>"

    def enter(self, key: str, given: Callable[[], None]) -> bool:
        """Whether `key` is the caller's from now on, until `end`. If not, `given` is called on the event loop as soon
        as it is: when everybody who came before has ended with it."""
        key = alike(key)
        with self._lock:
            if self.closed:
                return True
            waiting = self._waiting.get(key)
            if waiting is None:
                self._waiting[key] = deque()
                return True
            waiting.append(given)
            return False

    def leave(self, key: str, given: Callable[[], None]) -> bool:
        """Wait no more. False where `given` did not wait: it never did, or was called already."""
        with self._lock:
            waiting = self._waiting.get(alike(key))
            if waiting is None or given not in waiting:
                return False
            waiting.remove(given)
            return True

    async def take(self, key: str) -> None:
        """Wait until everybody who came before has ended with `key`; from then on it is the caller's, until `end`.

        Cancelled, it leaves the queue, or hands on the turn that it was just given.
        """
        turn = anyio.Event()
        given = turn.set
        if self.enter(key, given):
            return
        try:
            await turn.wait()
        except BaseException:
            if not self.leave(key, given):
                self.end((key,))
            raise

    def end(self, keys: Iterable[str]) -> None:
        """Hand each key to whoever waits longest for it. A key that nobody took is nothing to end."""
        if not self._waiting:
            return
        given: list[Callable[[], None]] = []
        with self._lock:
            for key in map(alike, keys):
                waiting = self._waiting.get(key)
                if waiting:
                    given.append(waiting.popleft())
                elif waiting is not None:
                    del self._waiting[key]
        for each in given:
            each()

    def close(self) -> None:
        """Nothing will be recorded any more: nobody waits now or later, and finds that out by himself."""
        with self._lock:
            self.closed = True
            given = [each for waiting in self._waiting.values() for each in waiting]
            self._waiting.clear()
        for each in given:
            each()


# -- recorder ----------------------------------------------------------------------------------------------------------

BATCH = 256
QUEUE_OUTCOMES = 1000
PASSED_BATCH = 1000
"""Receipts of batches that are written at once: one write for many costs little more than for one."""
QUEUE_PASSED = 4000
TOLD_AT_ONCE = 32
"""Callers that are woken in one turn of the event loop."""
GATHER_SECONDS = 0.02
"""So long outcomes are gathered where nobody waits for one of them: what is written together costs one write."""
COMMIT_GATHER_SECONDS = 0.1
"""So long where that write is a commit, which costs more than the rows in it do, and no subscriber iterates."""


@dataclass(slots=True, eq=False)
class Completion:
    """What a caller who waits holds."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[Outcome] = field(default_factory=list)


QueuedOutcomes = tuple[Sequence[Outcome], Transfer | None, Completion | None]


class Records(Protocol):
    """Who is given every record before anybody else hears of it."""

    async def record(self, ended: Sequence[QueuedOutcomes], passed: Sequence[Passed], /) -> None:
        """On return, what was given survives the end of this process.

        Args:
            ended: what ended by itself.
            passed: what ended in batches.

        Raises:
            JournalError, DestinationFull: it is not written; the run stops.
        """
        ...


@dataclass(slots=True, eq=False)
class Passed:
    """Receipts of a batch of small files, ready to be written down.

    Attributes:
        written: themselves.
        rows: for the journal: what is published.
        receipts: makes them as values, for whoever needs those.
        tickets: of the callers who wait for one of them.
    """

    written: OutcomeLines
    rows: list[PublishedRow]
    receipts: Callable[[], list[Receipt]]
    completions: Sequence[tuple[Completion, Receipt]] = ()


class Recorder:
    """Writes outcomes down, then reports them.

    Args:
        log: the run's own memory of them.
        manifest, journal: None where there is none.
        events: told last.
        turns: a key is free again once the journal has what became of it.
    """

    def __init__(
        self,
        log: OutcomeLog,
        manifest: ManifestWriter | None,
        events: Events,
        journal: Records | None = None,
        key_turns: KeyTurns | None = None,
    ) -> None:
        self._log = log
        self._manifest = manifest
        self._events = events
        self._journal = journal
        self._key_turns = key_turns
        self._records: list[QueuedOutcomes] = []
        self._outcomes = 0
        self._passed: list[Passed] = []
        self._passed_outcomes = 0
        self._finished = False
        self._broken = False
        self._some = anyio.Event()
        self._urgent = anyio.Event()
        self._room = anyio.Event()

    def add(
        self, outcomes: Sequence[Outcome], transfer: Transfer | None = None, completion: Completion | None = None
    ) -> None:
        """Hand over what became of one transfer, which is as it was read; or, without a transfer, any outcomes.

        Raises:
            anyio.BrokenResourceError: the recorder has failed: nothing can be recorded any more.
        """
        if self._broken:
            raise anyio.BrokenResourceError
        self._records.append((outcomes, transfer, completion))
        self._outcomes += len(outcomes)
        if len(self._records) == 1:
            self._some.set()
        if completion is not None or self._outcomes >= BATCH:
            self._urgent.set()

    def pass_on(self, passed: Passed) -> None:
        """Hand over receipts that are ready to be written down. As `add`."""
        if self._broken:
            raise anyio.BrokenResourceError
        self._passed.append(passed)
        self._passed_outcomes += len(passed.written)
        self._some.set()
        if passed.completions or self._passed_outcomes >= PASSED_BATCH:
            self._urgent.set()

    async def room(self) -> None:
        """Wait while the recorder is behind by a whole queue: the backpressure."""
        while (self._outcomes >= QUEUE_OUTCOMES or self._passed_outcomes >= QUEUE_PASSED) and not self._broken:
            await self._room.wait()

    def finish(self) -> None:
        """No more outcomes will come; `run` ends when all are written."""
        self._finished = True
        self._some.set()
        self._urgent.set()

    async def run(self) -> None:
        """Record until `finish`; see `Recording`."""
        try:
            while True:
                await self._some.wait()
                patient = self._journal is not None and not self._events.subscribed
                with anyio.move_on_after(COMMIT_GATHER_SECONDS if patient else GATHER_SECONDS):
                    await self._urgent.wait()
                await self._write(*self._taken())
                if self._finished and not self._records and not self._passed:
                    return
        except BaseException:
            # Whoever hands over an outcome now is told, and nobody waits for ever.
            self._broken = True
            raise
        finally:
            self._room.set()

    def _taken(self) -> tuple[list[QueuedOutcomes], list[Passed]]:
        taken, self._records = self._records[:BATCH], self._records[BATCH:]
        self._outcomes -= sum([len(group) for group, _, _ in taken])
        passed, self._passed, self._passed_outcomes = self._passed, [], 0
        if not self._finished:
            if not self._records:
                self._some = anyio.Event()
            if self._outcomes < BATCH and all(completion is None for _, _, completion in self._records):
                self._urgent = anyio.Event()
        self._room.set()
        self._room = anyio.Event()
        return taken, passed

    async def _write(self, batch: list[QueuedOutcomes], passed: list[Passed]) -> None:
        outcomes: Sequence[Outcome] = [outcome for group, _, _ in batch for outcome in group]
        if self._manifest is not None and self._manifest.has_earlier:
            outcomes = await self._manifest.carried(outcomes)
            rest = iter(outcomes)
            batch = [(list(islice(rest, len(group))), transfer, completion) for group, transfer, completion in batch]
            for each in passed:
                # Receipts come back as they are: they end what earlier manifests have of their keys.
                await self._manifest.carried(each.receipts())
        written = encoded(outcomes)
        if self._journal is not None:
            await self._journal.record(batch, passed)
        if self._key_turns is not None:
            self._key_turns.end(transfer.key for _, transfer, _ in batch if transfer is not None)
            self._key_turns.end(decoded_name(row[0]) for each in passed for row in each.rows)
        for each in passed:
            written.add(each.written)
        if self._manifest is not None:
            await self._manifest.write(written)
        self._log.extend(written)
        waiting = [(completion, group) for group, _, completion in batch if completion is not None]
        waiting += [(completion, (receipt,)) for each in passed for completion, receipt in each.completions]
        for number, (completion, ended) in enumerate(waiting, 1):
            completion.outcomes.extend(ended)
            completion.done.set()
            if number % TOLD_AT_ONCE == 0:
                # Whoever is woken runs in the loop's next turn: others must have theirs in between.
                await anyio.lowlevel.checkpoint()
        if self._events.heard:
            await self._tell(outcomes, passed)

    async def _tell(self, outcomes: Sequence[Outcome], passed: list[Passed]) -> None:
        whole = self._events.heard_whole
        for outcome in outcomes:
            if whole or isinstance(outcome, Failure):
                await self._events.emit(Finished(outcome))
        for each in passed if whole else ():
            for outcome in each.receipts():
                await self._events.emit(Finished(outcome))


class Recording:
    """A recorder at work: to its end, or, once the run is being stopped, for `seconds` more at the most."""

    def __init__(self, recorder: Recorder, seconds: float) -> None:
        self._recorder = recorder
        self._seconds = seconds
        self._scope = anyio.CancelScope(shield=True)
        self._over = anyio.Event()

    async def run(self) -> None:
        """Record until the recorder's `finish`. Shielded, so that nothing which ended is left unrecorded.

        Raises:
            JournalError: what ended could not be recorded in time, after `stop`.
        """
        try:
            with self._scope:
                await self._recorder.run()
        finally:
            self._over.set()
        if self._scope.cancelled_caught:
            raise JournalError(
                f"The run was stopped, and what it had published could not be recorded within {self._seconds:g} s; "
                "look at the disks of journal, manifest and temporary files (TMPDIR). The next run compares it."
            )

    async def finish(self) -> None:
        """No more outcomes will come; wait until all are written. Cancelled, it stops waiting."""
        self._recorder.finish()
        await self._over.wait()

    def stop(self) -> None:
        """The run is being stopped: a disk that stalls is not waited for without end."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + self._seconds)
