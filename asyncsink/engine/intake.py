"""From the calls of `put` and `submit` to the queue of a sink; calls that come at the same time are handled together.

    put, submit ──arrived──► found and routed ──► turn taken ──► claimed ──► row of the journal ──► queue
                             └──────────── one thread call for all that wait ────────────┘

A single caller is served at once; while a thread call is under way, the next callers gather for the one after it. Their
small files become batches, each file with a key of its own, and cost what they cost in an export. Small files of
`submit`, whose outcome nobody waits for, are gathered over its calls for `GATHER_SECONDS`, and the journal is asked for
all of them at once. An error that concerns one caller (a path that cannot be read, a key that another source has) is
raised for this caller alone. A path that hangs in its file system delays no other: another thread call begins beside.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final, TypeVar, cast

import anyio

from asyncsink.engine.calls import Call, CallItem, Calls
from asyncsink.engine.limits.call_threads import CallThreads
from asyncsink.engine.limits.memory import SMALL_BYTES
from asyncsink.engine.planning.key_ledger import ledger_of
from asyncsink.engine.planning.producer import grouped, is_small
from asyncsink.engine.queue_entries import Batch, Submit, Work
from asyncsink.engine.recording.accepted import Accepted
from asyncsink.engine.recording.recorder import Completion, KeyTurns
from asyncsink.engine.recording.run_journal import RunJournal
from asyncsink.errors import ConfigError
from asyncsink.event_loops import BATCH
from asyncsink.model import Transfer
from asyncsink.options.schema import Settings
from asyncsink.routing.keys import collision_error

T = TypeVar("T")
SLICE_SECONDS: Final = 0.005
"""Seconds after which a thread call hands on what it has; the rest is for the next one."""
GATHER_SECONDS: Final = 0.05
"""Seconds for which small files that were submitted wait for others of their batch."""
HANGING_SECONDS: Final = 0.25
"""Seconds after which a further thread call begins beside one that hangs; calls of one key may overtake each other
then. On a busy machine a thread call takes tens of milliseconds without hanging."""


class Intake:
    """The calls of one sink that are not queued yet; bounded by the callers that wait. Belongs to one event loop.

    Args:
        calls: of the sink, for those who enter them.
        settings: of the run.
        key_turns, accepted: of the run.
        journal: of the run, or None.
        threads_max: most thread calls at once, all but one of which hang.
        batch_max: returns the most small files that one worker is to take at a time.

    Attributes:
        thread_calls: those under way.
    """

    def __init__(
        self,
        calls: Calls,
        settings: Settings,
        *,
        key_turns: KeyTurns,
        accepted: Accepted,
        journal: RunJournal | None,
        threads_max: int,
        batch_max: Callable[[], int],
    ) -> None:
        self.calls = calls
        self._key_turns = key_turns
        self.accepted = accepted
        self._journal = journal
        # Without one, several sources may have one key.
        self._ledger = ledger_of(settings.records_max) if settings.policies.on_collision == "error" else None
        self._threads_max = threads_max
        self._threads = CallThreads()
        self._batch_max = batch_max
        self._loop = asyncio.get_running_loop()
        self._calls: set[Call] = set()
        self._closing, self._idle = anyio.Event(), anyio.Event()
        self._submit: Submit
        self._group: asyncio.TaskGroup | None = None
        self._sending = False
        self._settled = asyncio.Event()
        self._watching: asyncio.TimerHandle | None = None
        self.thread_calls = 0
        self._gathered: list[CallItem] = []
        self._gathered_bytes = 0
        self._gathering: asyncio.TimerHandle | None = None
        self._asking = 0
        # Appended to and taken from in threads too.
        self._arrived: deque[Call] = deque()
        self._routed: deque[CallItem] = deque()
        self._unasked: deque[list[CallItem]] = deque()
        self._found: deque[CallItem | Call | list[CallItem]] = deque()
        self._entries: deque[Work | Batch] = deque()

    def __repr__(self) -> str:
        return f"<Intake of {len(self._calls)} calls, {self.thread_calls} thread calls>"

    def enter(self, call: Call) -> None:
        """Take a call over. `call.completion` is done when it has ended."""
        self._calls.add(call)
        self._arrived.append(call)
        self._go()

    def withdraw(self, call: Call, *, queued_too: bool = False) -> bool:
        """Give a call up: its caller does not wait any more, and nothing further of it is queued.

        Args:
            queued_too: also what is queued: of `put`, whose one file has the call's completion.

        Returns whether something is still under way for it, and is being ended; `call.completion` is done then.
        """
        ending = False
        call._withdrawn = True
        for item in call._items:
            if item.queued or item.taken:
                if queued_too:
                    ending = not self._take_back(item)
                continue
            if item.ready:
                self._drop(item)
                continue
            item.dropped = True
            if item.key:
                # An item that is still in a thread is dropped when the thread returns it.
                self._key_turns.leave(item.key, item.given)
        self._end(call)
        return ending

    async def feed(self, submit: Submit) -> None:
        """Submit what the calls bring, until `close`, and until nothing is left of those that came before.

        Cancelled, it abandons the thread calls under way, as they do whose callers have given up: nothing that they
        find is queued any more.
        """
        self._submit = submit
        async with asyncio.TaskGroup() as group:  # anyio's task groups take no task from a callback
            self._group = group
            try:
                self._go()
                await self._closing.wait()
                if self._calls:
                    await self._idle.wait()
                self._gathered_long()
                while self._asking or self._entries or self._sending:
                    self._settled.clear()
                    await self._settled.wait()
            finally:
                # Before the group ends its tasks: from then on it takes no further one.
                self._group = None
                for timer in (self._watching, self._gathering):
                    if timer is not None:
                        timer.cancel()

    def close(self) -> None:
        """Let `feed` end: it queues what the present calls have found, and walks no directory any further."""
        self._closing.set()

    def release(self) -> None:
        """Release the files on disk, at the end of the run."""
        self._threads.close()
        if self._ledger is not None:
            self._ledger.close()

    # -- Steps on the event loop --------------------------------------------------------------------------------------

    def _go(self) -> None:
        if not self.thread_calls and not self._sending and self._waiting:
            self._start()

    @property
    def _waiting(self) -> bool:
        """Whether there is work for a thread."""
        return bool(self._arrived or self._routed or self._unasked)

    def _start(self) -> None:
        if self._group is None:
            return
        self.thread_calls += 1
        self._watch_later()
        try:
            # Abandoned at the end, since a thread that hangs in a file system must not keep a stopped sink open.
            self._threads.begin(self._work_off, self._worked)
        except (OSError, RuntimeError) as error:
            self._loop.call_soon(self._worked, error)

    def _worked(self, error: BaseException | None) -> None:
        """Go on after a thread call."""
        self.thread_calls -= 1
        if self._group is None:
            return
        if error is not None:
            self._fail_all(error)
        self._hand_on()
        self._go()

    def _watch_later(self) -> None:
        if self._watching is None:
            self._watching = self._loop.call_later(HANGING_SECONDS, self._watch)

    def _watch(self) -> None:
        """Begin another thread call where those under way hang, and the queue is not full."""
        self._watching = None
        if not self.thread_calls or self._group is None:
            return
        if self._waiting and not self._sending and self.thread_calls < self._threads_max:
            self._start()
        self._watch_later()

    def _fail_all(self, error: BaseException) -> None:
        """Give each caller the error of a thread that could not be started. What is gathered is tried again."""
        if not isinstance(error, Exception):
            raise error
        for call in _taken(self._arrived):
            call.error, call._more = error, False
            self._found.append(call)
        for item in _taken(self._routed):
            item.refused = error
            self._found.append(item)

    def _hand_on(self) -> None:
        """Have found items put on the queue."""
        self._collect()
        if self._entries and not self._sending and self._group is not None:
            self._sending = True
            self._group.create_task(self._send())

    async def _send(self) -> None:
        """Put entries on the queue; waits while it is full, and nothing further is looked for meanwhile."""
        try:
            while self._entries:
                entry = self._entries.popleft()
                await self._submit(entry)
                for work in entry.works if isinstance(entry, Batch) else (entry,):
                    assert isinstance(work, CallItem)
                    if not work.queued:
                        self._queued(work)
                self._collect()
        finally:
            self._sending = False
            self._settled.set()
        self._go()

    def _collect(self) -> None:
        items: list[CallItem] = []
        while self._found:
            item = self._found.popleft()
            if isinstance(item, Call):
                self._check(item)
                continue
            if isinstance(item, list):
                self._asking -= 1
                self._entries.extend(_entries(self._asked(item), self._batch_max()))
                continue
            call = item.call
            assert call is not None
            if item.refused is not None:
                call.error, call._more = item.refused, False
            if item.refused is not None or item.dropped or call._withdrawn:
                self._release(item)
                call._left -= 1
                self._check(call)
                continue
            self._skipped(item)
            item.ready = True
            self.accepted.add(item.name, item)
            if call.alone or not self._gather(item):
                items.append(item)
        if items:
            self._entries.extend(_entries(items, self._batch_max()))

    def _skipped(self, item: CallItem) -> None:
        """Where the journal has made a Skip of an item, nothing is sent: the next transfer of its key may begin."""
        if not isinstance(item.found, Transfer):
            self._release(item)
            item.completion = item.completion or Completion(urgent=False)

    def _take_back(self, item: CallItem) -> bool:
        """Give an item of `put` up that was queued; False where a worker has something under way for it."""
        assert item.completion is not None
        if item.taken and not item.completion.withdraw():
            return False
        self._drop(item)
        item.completion.done.set()
        return True

    def _drop(self, item: CallItem) -> None:
        """Give an item up that is ready, and that no worker has."""
        item.dropped = True
        self.accepted.withdraw(item.name)
        self._release(item)

    # -- Small files that were submitted, gathered over many calls ----------------------------------------------------

    def _gather(self, item: CallItem) -> bool:
        """Keep a small file for a batch; returns False where it goes to the queue by itself."""
        found = item.found
        if not isinstance(found, Transfer) or not is_small(found) or (most := self._batch_max()) == 1:
            return False
        self._gathered.append(item)
        self._gathered_bytes += found.source.size_bytes
        self._queued(item)
        if len(self._gathered) >= most or self._gathered_bytes >= SMALL_BYTES:
            self._hand_over_gathered()
        elif self._gathering is None:
            self._gathering = self._loop.call_later(GATHER_SECONDS, self._gathered_long)
        return True

    def _gathered_long(self) -> None:
        self._hand_over_gathered()
        self._hand_on()
        self._go()

    def _hand_over_gathered(self) -> None:
        """Let the gathered files go on: to the journal, where there is one, and then to the queue."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        if self._journal is None:
            self._entries.extend(_entries(gathered, self._batch_max()))
        elif gathered:
            self._asking += 1
            self._unasked.append(gathered)

    def _asked(self, gathered: list[CallItem]) -> list[CallItem]:
        """The gathered files with their rows of the journal. An error of the journal concerns no single caller any
        more: it stops the run."""
        for item in gathered:
            if item.refused is not None and self._group is not None:
                self._group.create_task(_raised(item.refused))
                return []
            if not isinstance(item.found, Transfer):
                self.accepted.withdraw(item.key)
                self._skipped(item)
                self.accepted.add(item.name, item)
        return gathered

    def _release(self, item: CallItem) -> None:
        if item.holds:
            item.holds = False
            self._key_turns.end((item.key,))

    def _queued(self, item: CallItem) -> None:
        call = item.call
        assert call is not None
        item.queued = True
        call.count += bool(item.key)
        call._left -= 1
        self._check(call)

    def _check(self, call: Call) -> None:
        """End a call that has nothing left, or go on with it."""
        if call._left or call._withdrawn:
            return
        if call.error is None and call._more:
            if not self._closing.is_set():
                self._arrived.append(call)
                self._go()
                return
            call.error = ConfigError("The sink was closed while a file waited for its queue; export it again.")
        call.over = call.error is None
        if not call.alone or call.error is not None:
            call.completion.done.set()
        self._end(call)

    def _end(self, call: Call) -> None:
        self._calls.discard(call)
        if not call.alone or not call.over:
            call.release()  # the one of `put` may still be withdrawn
        if not self._calls and self._closing.is_set():
            self._idle.set()

    def _given(self, item: CallItem) -> None:
        item.holds = True
        self._routed.append(item)
        self._go()

    # -- Steps in a thread --------------------------------------------------------------------------------------------

    def _work_off(self) -> None:
        """Find and claim waiting items, for `SLICE_SECONDS`. Several threads may do so at once."""
        until = time.monotonic() + SLICE_SECONDS
        for call in _taken(self._arrived):
            self._find(call)
            if time.monotonic() > until:
                break
        held = [item for item in _taken(self._routed) if self._has_turn(item)]
        if held and not self._key_turns.closed:
            self._claim(held)
            self._ask_journal([item for item in held if item.refused is None and not item.dropped and self._asks(item)])
        self._found.extend(held)
        for gathered in _taken(self._unasked):
            self._ask_journal(gathered)
            self._found.append(gathered)

    def _asks(self, item: CallItem) -> bool:
        """Whether the journal is asked for an item at once, and not for all that are gathered."""
        assert item.call is not None
        assert isinstance(item.found, Transfer)
        return bool(item.call.alone) or not is_small(item.found)

    def _find(self, call: Call) -> None:
        if call._withdrawn:
            return
        items: list[CallItem] = []
        most = 2 if call.alone else BATCH
        try:
            for found in islice(call.found, most):
                key = found.key if isinstance(found, Transfer) else ""
                completion = call.completion if call.alone else None
                items.append(CallItem(found, completion, call=call, key=key, turn=self._given))
            if call.alone and len(items) != 1:
                number = "more than one file" if items else "no file"
                raise ConfigError(f"{call.alone} has {number}; put takes one file, submit takes directories and lists.")
        except Exception as error:  # noqa: BLE001 - any error goes to this caller
            call.error, call._more = error, False
            items = [] if call.alone else items
        call._more = call._more and len(items) == most
        call._items = items
        call._left = len(items)
        if items:
            self._routed.extend(items)
        else:
            self._found.append(call)

    def _has_turn(self, item: CallItem) -> bool:
        """Whether the item is to be claimed now; else it waits for the turn of its key, or needs none."""
        if not item.key or item.dropped:
            self._found.append(item)
            return False
        if not item.holds and not self._key_turns.enter(item.key, item.given):
            return False
        item.holds = True
        return True

    def _claim(self, items: Sequence[CallItem]) -> None:
        """Refuse the keys that another source has. After a refusal, the rest of its call is dropped; items of a
        withdrawn call are dropped, and claim no key."""
        if self._ledger is None:
            return
        try:
            with self._ledger.claiming() as claim:
                for item in items:
                    call = item.call
                    assert call is not None
                    assert isinstance(item.found, Transfer)
                    if call._refused or call._withdrawn:
                        item.dropped = True
                    elif first := claim(item.key, item.found.source.path, 0):
                        item.refused = collision_error(item.key, first, item.found.source.path)
                        call._refused = True
        except Exception as error:  # noqa: BLE001 - the error goes to each of these callers
            for item in items:
                item.refused = item.refused or error

    def _ask_journal(self, items: Sequence[CallItem]) -> None:
        if self._journal is None or not items:
            return
        try:
            known = self._journal.attach([item.found for item in items])
        except Exception as error:  # noqa: BLE001 - the error goes to each of these callers
            for item in items:
                item.refused = error
            return
        for item, found in zip(items, known, strict=True):
            item.found = found


async def _raised(error: Exception) -> None:
    raise error


def _taken(waiting: deque[T]) -> Iterator[T]:
    """Take waiting items from the left; other threads may take and append at the same time."""
    while True:
        try:
            item = waiting.popleft()
        except IndexError:
            return
        yield item


def _entries(works: Sequence[CallItem], batch_max: int) -> Iterator[Work | Batch]:
    """The works, with small files in batches, unless `batch_max` is 1."""
    if batch_max == 1:
        yield from works
        return
    for piece in grouped(works, lambda work: work.found, batch_max):
        yield Batch([cast("Transfer", work.found) for work in piece], [*piece]) if isinstance(piece, list) else piece
