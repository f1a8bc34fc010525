"""Stage 6 begins here: outcomes are recorded, in batches, before anybody hears of them.

One task writes the journal, the manifest and the run's log; only then are waiting callers and subscribers told
(wall 6).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import field
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

from asyncsink.engine.events import Events
from asyncsink.engine.turns import Turns
from asyncsink.errors import JournalError
from asyncsink.journal.rows import PublishedRow, decoded
from asyncsink.model import Failure, Finished, Outcome, Receipt, Transfer
from asyncsink.report.encoded import Encoded, encoded
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.report.manifest import ManifestWriter

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
class Ticket:
    """What a caller who waits holds."""

    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcomes: list[Outcome] = field(default_factory=list)


Record = tuple[Sequence[Outcome], Transfer | None, Ticket | None]


class Records(Protocol):
    """Who is given every record before anybody else hears of it."""

    async def record(self, ended: Sequence[Record], passed: Sequence[Passed], /) -> None:
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

    written: Encoded
    rows: list[PublishedRow]
    receipts: Callable[[], list[Receipt]]
    tickets: Sequence[tuple[Ticket, Receipt]] = ()


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
        turns: Turns | None = None,
    ) -> None:
        self._log = log
        self._manifest = manifest
        self._events = events
        self._journal = journal
        self._turns = turns
        self._records: list[Record] = []
        self._outcomes = 0
        self._passed: list[Passed] = []
        self._passed_outcomes = 0
        self._finished = False
        self._broken = False
        self._some = anyio.Event()
        self._urgent = anyio.Event()
        self._room = anyio.Event()

    def add(self, outcomes: Sequence[Outcome], transfer: Transfer | None = None, ticket: Ticket | None = None) -> None:
        """Hand over what became of one transfer, which is as it was read; or, without a transfer, any outcomes.

        Raises:
            anyio.BrokenResourceError: the recorder has failed: nothing can be recorded any more.
        """
        if self._broken:
            raise anyio.BrokenResourceError
        self._records.append((outcomes, transfer, ticket))
        self._outcomes += len(outcomes)
        if len(self._records) == 1:
            self._some.set()
        if ticket is not None or self._outcomes >= BATCH:
            self._urgent.set()

    def pass_on(self, passed: Passed) -> None:
        """Hand over receipts that are ready to be written down. As `add`."""
        if self._broken:
            raise anyio.BrokenResourceError
        self._passed.append(passed)
        self._passed_outcomes += len(passed.written)
        self._some.set()
        if passed.tickets or self._passed_outcomes >= PASSED_BATCH:
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

    def _taken(self) -> tuple[list[Record], list[Passed]]:
        taken, self._records = self._records[:BATCH], self._records[BATCH:]
        self._outcomes -= sum([len(group) for group, _, _ in taken])
        passed, self._passed, self._passed_outcomes = self._passed, [], 0
        if not self._finished:
            if not self._records:
                self._some = anyio.Event()
            if self._outcomes < BATCH and all(ticket is None for _, _, ticket in self._records):
                self._urgent = anyio.Event()
        self._room.set()
        self._room = anyio.Event()
        return taken, passed

    async def _write(self, batch: list[Record], passed: list[Passed]) -> None:
        outcomes: Sequence[Outcome] = [outcome for group, _, _ in batch for outcome in group]
        if self._manifest is not None and self._manifest.has_earlier:
            outcomes = await self._manifest.carried(outcomes)
            rest = iter(outcomes)
            batch = [(list(islice(rest, len(group))), transfer, ticket) for group, transfer, ticket in batch]
            for each in passed:
                # Receipts come back as they are: they end what earlier manifests have of their keys.
                await self._manifest.carried(each.receipts())
        written = encoded(outcomes)
        if self._journal is not None:
            await self._journal.record(batch, passed)
        if self._turns is not None:
            self._turns.end(transfer.key for _, transfer, _ in batch if transfer is not None)
            self._turns.end(decoded(row[0]) for each in passed for row in each.rows)
        for each in passed:
            written.add(each.written)
        if self._manifest is not None:
            await self._manifest.write(written)
        self._log.extend(written)
        waiting = [(ticket, group) for group, _, ticket in batch if ticket is not None]
        waiting += [(ticket, (receipt,)) for each in passed for ticket, receipt in each.tickets]
        for number, (ticket, ended) in enumerate(waiting, 1):
            ticket.outcomes.extend(ended)
            ticket.done.set()
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
