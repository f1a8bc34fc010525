"""Stage 6 begins here: outcomes are recorded, in batches, before they are reported.

One task writes the journal, the manifest and the run's log; only then do waiting callers and subscribers get the
outcomes (wall 6). `Halt` stops a run from inside, and `KeyTurns` orders the transfers of one key.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from dataclasses import field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

from asyncsink.engine.recording.accepted import Accepted
from asyncsink.engine.recording.events import Events, log_failure
from asyncsink.errors import AsyncSinkError, ConfigError, JournalError, TransferError
from asyncsink.journal.base import PublishedRow
from asyncsink.model import Failure, Finished, Outcome, Receipt, Transfer
from asyncsink.paths import decoded_name
from asyncsink.report.outcomes import OutcomeLines, OutcomeLog, encoded
from asyncsink.routing.keys import alike
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.report.manifest import ManifestWriter


# -- Halt: stopping a run from inside, for a reason that concerns no single file ---------------------------------------


class Halt:
    """Cancels the blocks that are inside `bounds`, now or later.

    Attributes:
        reason: why the run stops, as a sentence; "" until it does.
    """

    def __init__(self) -> None:
        """Begin without a reason to stop."""
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
        """A block that `stop` cancels; `reason` is set then. Errors that its last requests raise for that reason are
        dropped."""
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


# -- Turns of a key: transfers of one key follow each other, in the order in which they came ---------------------------
# A server may carry out two concurrent requests of one key in either order, so that the object could be either. A turn
# lasts from before the look into the journal until the outcome is recorded, so that every transfer finds there what the
# one before it has left. Only sinks and streams need turns: a survey has seen every key before anything is sent.


class KeyTurns:
    """The keys whose turn is taken, and who waits for them; keys that a server may take for one count as one.

    Its size is bounded by the transfers under way, and by the callers that wait. `enter` and `leave` may be called from
    any thread, everything else on the event loop.

    Attributes:
        closed: the run is over.
    """

    def __init__(self) -> None:
        """Begin with every key free."""
        self._waiting: dict[str, deque[Callable[[], None]]] = {}
        self._lock = threading.Lock()
        self.closed = False

    def __repr__(self) -> str:
        return f"<KeyTurns of {len(self._waiting)} keys>"

    def enter(self, key: str, given: Callable[[], None]) -> bool:
        """Take the turn of `key`, until `end`; returns False where it is taken. Then `given` is called on the event
        loop as soon as every earlier caller has ended its own."""
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
        """Withdraw `given`; returns False where it does not wait: it never did, or was called already."""
        with self._lock:
            waiting = self._waiting.get(alike(key))
            if waiting is None or given not in waiting:
                return False
            waiting.remove(given)
            return True

    async def take(self, key: str) -> None:
        """Wait until every earlier caller has ended its turn of `key`, and take it, until `end`.

        Cancelled, it leaves the queue, or hands on the turn that it has just got.
        """
        turn = asyncio.Event()  # made for every call; one of anyio takes ten times as long
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
        """End the turn of each key, and give it to the caller that waits longest. Keys that are free are passed
        over."""
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
        """Let every present and later caller go at once: nothing will be recorded any more, and `closed` is set."""
        with self._lock:
            self.closed = True
            given = [each for waiting in self._waiting.values() for each in waiting]
            self._waiting.clear()
        for each in given:
            each()


# -- The recorder ------------------------------------------------------------------------------------------------------

BATCH = 256
QUEUE_OUTCOMES = 1000
PASSED_BATCH = 1000
"""Most receipts of batches that are written at once: one write for many costs little more than for one."""
QUEUE_PASSED = 4000
TOLD_AT_ONCE = 32
"""Most waiting callers that are woken in one iteration of the event loop."""
GATHER_SECONDS = 0.02
"""Seconds in which outcomes are gathered for one write, where no caller waits for one of them."""
COMMIT_GATHER_SECONDS = 0.1
"""The same where that write is a commit, which costs more than its rows do, and there is no subscriber."""


@dataclass(slots=True, eq=False)
class Completion:
    """The outcomes that a caller waits for; `done` is set when they are recorded.

    Attributes:
        urgent: whether they are recorded without waiting for more.
        withdrawn: the caller has given the transfer up.
        ended: the outcomes are on their way to the recorder.
        context: of the caller; observers are called in it, so that their traces have the caller's.
    """

    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[Outcome] = field(default_factory=list)
    context: Context = field(default_factory=copy_context)
    urgent: bool = True
    withdrawn: bool = False
    ended: bool = False
    _end: Callable[[], object] | None = None

    def sending(self, end: Callable[[], object] | None) -> None:
        """Let `end` be called where the caller withdraws, at once where that was before; None: nothing is sent now."""
        self._end = end
        if end is not None and self.withdrawn:
            end()

    def withdraw(self) -> bool:
        """End the transfer. Returns whether nothing is being sent for it now, so that it is over; else `done` is set
        as soon as it is."""
        self.withdrawn = True
        if self._end is not None:
            self._end()
            return False
        return not self.ended


@contextmanager
def until_withdrawn(completion: Completion | None) -> Iterator[anyio.CancelScope]:
    """A block that is cancelled where the caller withdraws; `cancelled_caught` of the scope tells so."""
    with anyio.CancelScope() as scope:
        if completion is None:
            yield scope
            return
        completion.sending(scope.cancel)
        try:
            yield scope
        finally:
            completion.sending(None)


QueuedOutcomes = tuple[Sequence[Outcome], Transfer | None, Completion | None]


class Records(Protocol):
    """Stores every outcome before it is reported."""

    async def record(self, ended: Sequence[QueuedOutcomes], passed: Sequence[Passed], /) -> None:
        """Store outcomes; on return they survive the end of this process.

        Args:
            ended: outcomes of single transfers.
            passed: receipts of batches.

        Raises:
            JournalError, DestinationFull: they are not written; the run stops.
        """
        ...


@dataclass(slots=True, eq=False)
class Passed:
    """Receipts of a batch of small files, ready to be written down.

    Attributes:
        written: the receipts as lines of the log.
        rows: the receipts as rows of the journal.
        receipts: makes the receipts as values.
        completions: those of the callers that wait for one of the receipts.
    """

    written: OutcomeLines
    rows: list[PublishedRow]
    receipts: Callable[[], list[Receipt]]
    completions: Sequence[tuple[Completion, Receipt]] = ()


class Recorder:
    """Writes outcomes down, then reports them.

    Args:
        log: the run's own store of outcomes.
        manifest, journal: None where there is none.
        events: gets the outcomes last.
        key_turns: the turn of a key ends when its outcome is recorded.
        accepted: of a sink; gets what is recorded.
    """

    def __init__(
        self,
        log: OutcomeLog,
        manifest: ManifestWriter | None,
        events: Events,
        journal: Records | None = None,
        key_turns: KeyTurns | None = None,
        *,
        accepted: Accepted | None = None,
    ) -> None:
        self._log = log
        self._manifest = manifest
        self._events = events
        self._journal = journal
        self._key_turns = key_turns
        self._accepted = accepted
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
        """Hand over the outcomes of one transfer, which is as it was read; or, without a transfer, any outcomes.

        Raises:
            anyio.BrokenResourceError: the recorder has failed, so that nothing can be recorded any more.
        """
        if self._broken:
            raise anyio.BrokenResourceError
        self._records.append((outcomes, transfer, completion))
        if completion is not None:
            completion.ended = True
        self._outcomes += len(outcomes)
        if len(self._records) == 1:
            self._some.set()
        if (completion is not None and completion.urgent) or self._outcomes >= BATCH:
            self._urgent.set()

    def pass_on(self, passed: Passed) -> None:
        """Hand over receipts that are ready to be written; raises as `add`."""
        if self._broken:
            raise anyio.BrokenResourceError
        self._passed.append(passed)
        for completion, _ in passed.completions:
            completion.ended = True
        self._passed_outcomes += len(passed.written)
        self._some.set()
        if passed.completions or self._passed_outcomes >= PASSED_BATCH:
            self._urgent.set()

    async def room(self) -> None:
        """Wait while a whole queue of outcomes is unwritten: the backpressure."""
        while (self._outcomes >= QUEUE_OUTCOMES or self._passed_outcomes >= QUEUE_PASSED) and not self._broken:
            await self._room.wait()

    def finish(self) -> None:
        """Let `run` end when all outcomes are written; no more may be added."""
        self._finished = True
        self._some.set()
        self._urgent.set()

    async def run(self) -> None:
        """Write outcomes until `finish`; see `Recording`."""
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
            # From now on `add` raises, and no waiting caller waits for ever.
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
            if self._outcomes < BATCH and not any(each and each.urgent for _, _, each in self._records):
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
                # Carried unchanged: the receipts replace what earlier manifests have of their keys.
                await self._manifest.carried(each.receipts())
        written = encoded(outcomes)
        if self._journal is not None:
            await self._journal.record(batch, passed)
        for each in passed:
            written.add(each.written)
        if self._manifest is not None:
            await self._manifest.write(written)
        self._log.extend(written)
        self._events.recorded(written)
        self._end_turns(batch, passed)
        waiting = [(completion, group) for group, _, completion in batch if completion is not None]
        waiting += [(completion, (receipt,)) for each in passed for completion, receipt in each.completions]
        for number, (completion, ended) in enumerate(waiting, 1):
            completion.outcomes.extend(ended)
            completion.done.set()
            if number % TOLD_AT_ONCE == 0:
                # Woken callers run in the loop's next iteration; other tasks must run in between.
                await anyio.lowlevel.checkpoint()
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                log_failure(outcome)
        if self._events.heard:
            contexts = {id(outcome): completion.context for completion, group in waiting for outcome in group}
            await self._tell(outcomes, passed, contexts)

    def _end_turns(self, batch: list[QueuedOutcomes], passed: list[Passed]) -> None:
        if self._key_turns is None:
            return
        keys = [transfer.key for _, transfer, _ in batch if transfer is not None]
        keys += [decoded_name(row[0]) for each in passed for row in each.rows]
        if self._accepted is not None:
            # Before the turns end: the next transfer of a key has the same name there.
            self._accepted.recorded(keys)
            self._accepted.recorded(completion for _, transfer, completion in batch if transfer is None)
        self._key_turns.end(keys)

    async def _tell(self, outcomes: Sequence[Outcome], passed: list[Passed], contexts: Mapping[int, Context]) -> None:
        whole = self._events.heard_whole
        for outcome in outcomes:
            if whole or isinstance(outcome, Failure):
                await self._events.emit(Finished(outcome), contexts.get(id(outcome)))
        for each in passed if whole else ():
            awaited = {receipt.key: receipt for _, receipt in each.completions}
            for receipt in each.receipts():
                own = awaited.get(receipt.key, receipt)
                await self._events.emit(Finished(own), contexts.get(id(own)))


class Recording:
    """A running recorder: until its end, or for at most `seconds` after `stop`."""

    def __init__(self, recorder: Recorder, seconds: float) -> None:
        self._recorder = recorder
        self._seconds = seconds
        self._scope = anyio.CancelScope(shield=True)
        self._over = anyio.Event()

    async def run(self) -> None:
        """Run the recorder until its `finish`. Shielded from cancellation, so that every outcome is recorded.

        Raises:
            JournalError: the outcomes could not be recorded in time, after `stop`.
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
        """Finish the recorder, and wait until all outcomes are written. Cancelled, it stops waiting."""
        self._recorder.finish()
        await self._over.wait()

    def stop(self) -> None:
        """Bound the recording from now on: a stopped run does not wait for a stalled disk without end."""
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + self._seconds)
