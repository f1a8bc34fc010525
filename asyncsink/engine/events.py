"""Who hears of what happens: an observer that is called, and subscribers that iterate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from asyncsink.model import Event, Notice

QUEUE_EVENTS = 1000
NOTICES_MAX = 100
"""Notices that are kept for the report; a fault that repeats for every file is said often enough by then."""


class Events:
    """Delivers events, in order.

    A subscriber that is slower than the run holds the run back (it never loses an outcome) until the run is closing;
    from then on one whose queue is full is left behind.
    """

    def __init__(self, observe: Callable[[Event], None] | None = None) -> None:
        self._observe = observe
        self._subscribers: list[MemoryObjectSendStream[Event]] = []
        self._closing = False
        self.notices: list[str] = []

    async def subscribe(self) -> AsyncIterator[Event]:
        """Events from now on, until the run is over."""
        send, receive = anyio.create_memory_object_stream[Event](QUEUE_EVENTS)
        self._subscribers.append(send)
        with send, receive:
            async for event in receive:
                yield event

    async def emit(self, event: Event) -> None:
        """Deliver; waits for subscribers whose queue is full."""
        if self._observe is not None:
            self._observe(event)
        for subscriber in list(self._subscribers):
            try:
                if self._closing:
                    subscriber.send_nowait(event)
                else:
                    await subscriber.send(event)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.WouldBlock):
                self._subscribers.remove(subscriber)

    def notice(self, message: str) -> None:
        """Say something to people. A sentence that was said is not repeated."""
        if message in self.notices or len(self.notices) >= NOTICES_MAX:
            return
        self.notices.append(message)
        event = Notice(message)
        if self._observe is not None:
            self._observe(event)
        for subscriber in self._subscribers:
            try:
                subscriber.send_nowait(event)
            except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.WouldBlock):
                # A notice also stands in the report; outcomes keep their place in the queue.
                continue

    def closing(self) -> None:
        """From now on nobody is waited for."""
        self._closing = True

    def close(self) -> None:
        """End every subscription."""
        for subscriber in self._subscribers:
            subscriber.close()
        self._subscribers.clear()
