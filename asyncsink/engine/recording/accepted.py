"""What a sink has accepted and not recorded yet: `flush` waits for it, and the report of a stopped sink names it."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable
from typing import Protocol

import anyio

from asyncsink.model import Found, Transfer, Unfinished
from asyncsink.value import dataclass


class InHand(Protocol):
    """An entry that has been accepted."""

    @property
    def found(self) -> Found:
        """What is published."""
        ...

    @property
    def taken(self) -> bool:
        """Whether it has been begun."""
        ...


@dataclass(slots=True, eq=False)
class _Entry:
    serial: int
    item: InHand
    since: float


@dataclass(slots=True, eq=False)
class _Flush:
    """A caller that waits for all entries up to `serial`."""

    serial: int
    over: anyio.Event


class Accepted:
    """The accepted entries, in their order. On the event loop. Bounded by the queue, and by the callers that wait.

    An entry has a name that no other one has until it is recorded: its key, because transfers of one key take turns, or
    the `Completion` of what could not become a transfer.
    """

    def __init__(self) -> None:
        self._serial = 0
        self._entries: dict[Hashable, _Entry] = {}
        self._flushes: list[_Flush] = []

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: Hashable, item: InHand) -> None:
        """Accept an entry."""
        self._serial += 1
        self._entries[name] = _Entry(self._serial, item, time.monotonic())

    def oldest_seconds(self) -> float:
        """Seconds since the oldest entry was accepted; 0 where there is none. In any thread."""
        while True:
            try:
                oldest = next(iter(self._entries.values()), None)
            except RuntimeError:
                # The event loop has changed the entries in between.
                continue
            return 0.0 if oldest is None else time.monotonic() - oldest.since

    def withdraw(self, name: Hashable) -> None:
        """Give an entry up, which will not be recorded."""
        self.recorded((name,))

    def recorded(self, names: Iterable[Hashable]) -> None:
        """Take note that entries are recorded. Names that are not here are passed over."""
        if not self._entries:
            return
        for name in names:
            self._entries.pop(name, None)
        if self._flushes:
            self._wake()

    def _wake(self) -> None:
        oldest = next(iter(self._entries.values())).serial if self._entries else math.inf
        for flush in tuple(self._flushes):
            if flush.serial < oldest:
                flush.over.set()
                self._flushes.remove(flush)

    async def flush(self) -> None:
        """Wait until everything that was accepted before this call is recorded, or `close`."""
        if not self._entries:
            return
        flush = _Flush(self._serial, anyio.Event())
        self._flushes.append(flush)
        try:
            await flush.over.wait()
        finally:
            if flush in self._flushes:
                self._flushes.remove(flush)

    def close(self) -> None:
        """Let every `flush` end: nothing will be recorded any more."""
        for flush in self._flushes:
            flush.over.set()
        self._flushes.clear()

    def unfinished(self) -> list[Unfinished]:
        """The transfers that are not recorded, in the order of their acceptance."""
        return [
            Unfinished(
                entry.item.found.key,
                entry.item.found.source.path,
                entry.item.found.source.attribute,
                "in flight" if entry.item.taken else "queued",
            )
            for entry in self._entries.values()
            if isinstance(entry.item.found, Transfer)
        ]
