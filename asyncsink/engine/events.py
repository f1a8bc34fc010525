"""Who hears of what happens: an observer that is called, and subscribers that iterate."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.model import Event, Notice

QUEUE_EVENTS = 1000
CLOSING_SECONDS = 5.0
"""So long a subscriber with a full queue is waited for when the run is closing."""
NOTICES_MAX = 100
"""Notices that are kept for the report; a fault that repeats for every file is said often enough by then."""

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class Events:
    """Delivers events, in order.

    A subscriber that is slower than the run holds the run back: it never loses an outcome. One that still has a full
    queue `CLOSING_SECONDS` after the run began to close, or when it was cancelled, is left behind.
    """

    def __init__(self, observe: Callable[[Event], None] | None = None) -> None:
        self._observe = observe
        self._subscribers: list[MemoryObjectSendStream[Event]] = []
        self._waits: set[anyio.CancelScope] = set()
        self._patience_seconds = math.inf
        self._closed = False
        self.notices: list[str] = []

    def subscribe(self) -> AsyncIterator[Event]:
        """Events from this call on, until the run is over; at once over where it is over already."""
        send, receive = anyio.create_memory_object_stream[Event](QUEUE_EVENTS)
        if self._closed:
            send.close()
        else:
            self._subscribers.append(send)
        return _Subscription(receive)

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return self._observe is not None or bool(self._subscribers)

    async def emit(self, event: Event) -> None:
        """Deliver; waits for subscribers whose queue is full."""
        if self._observe is not None:
            self._observe(event)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber.send_nowait(event)
            except anyio.WouldBlock:
                await self._wait_for(subscriber, event)
            except _GONE:
                self._forget(subscriber)

    async def _wait_for(self, subscriber: MemoryObjectSendStream[Event], event: Event) -> None:
        with anyio.move_on_after(self._patience_seconds) as scope:
            self._waits.add(scope)
            try:
                await subscriber.send(event)
            except _GONE:
                self._forget(subscriber)
            finally:
                self._waits.discard(scope)
        if scope.cancelled_caught:
            self._forget(subscriber)

    def _forget(self, subscriber: MemoryObjectSendStream[Event]) -> None:
        subscriber.close()
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)

    def notice(self, message: str) -> None:
        """Say something to people. A sentence that was said is not repeated."""
        if message in self.notices or len(self.notices) >= NOTICES_MAX:
            return
        self.notices.append(message)
        event = Notice(message)
        if self._observe is not None:
            self._observe(event)
        for subscriber in tuple(self._subscribers):
            try:
                subscriber.send_nowait(event)
            except (anyio.WouldBlock, *_GONE):
                # A notice also stands in the report; outcomes keep their place in the queue.
                continue

    def closing(self, patience_seconds: float = CLOSING_SECONDS) -> None:
        """From now on nobody is waited for longer than this, those who are waited for now included."""
        self._patience_seconds = min(self._patience_seconds, patience_seconds)
        for scope in self._waits:
            scope.deadline = min(scope.deadline, anyio.current_time() + patience_seconds)

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        for subscriber in self._subscribers:
            subscriber.close()
        self._subscribers.clear()


class _Subscription:
    """What a subscriber iterates; forgotten, or closed, it receives nothing any more."""

    def __init__(self, receive: MemoryObjectReceiveStream[Event]) -> None:
        self._receive = receive

    def __aiter__(self) -> _Subscription:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._receive.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._receive.close()
            raise StopAsyncIteration from None

    async def aclose(self) -> None:
        """Receive nothing more."""
        self._receive.close()

    def __del__(self) -> None:
        self._receive.close()
