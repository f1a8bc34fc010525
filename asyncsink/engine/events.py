"""Who hears of what happens: an observer that is called, and subscribers that iterate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.engine.loops import Home
from asyncsink.errors import AsyncSinkError
from asyncsink.model import Event, Notice

QUEUE_EVENTS = 1000
PATIENCE_SECONDS = 30.0
"""So long the run is held back by a subscriber that takes nothing: then it is stuck, and not merely slow."""
CLOSING_SECONDS = 5.0
"""So long a subscriber with a full queue is waited for when the run is closing."""
NOTICES_MAX = 100
"""Notices that are kept for the report; a fault that repeats for every file is said often enough by then."""

_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)


class Events:
    """Delivers events, in order.

    A subscriber that is slower than the run holds the run back, so that it misses no outcome. One that has a full queue
    and takes nothing for `PATIENCE_SECONDS` (`CLOSING_SECONDS` after the run began to close, nothing when it was
    cancelled) is left behind, and told so: it must not stop everybody else.
    """

    def __init__(self, observe: Callable[[Event], None] | None = None, *, failures_only: bool = False) -> None:
        """With `failures_only` the observer hears of no outcome but failures; subscribers hear of all."""
        self._observe = observe
        self._failures_only = failures_only
        self._channels: list[_Channel] = []
        self._patience_seconds = PATIENCE_SECONDS
        self._closed = False
        self.notices: list[str] = []
        self.home: Home | None = None
        """Where events are delivered, once that is decided; subscribers elsewhere would wait for ever."""

    def subscribe(self) -> Subscription:
        """Events from this call on, until the run is over; at once over where it is over already."""
        send, receive = anyio.create_memory_object_stream[Event](QUEUE_EVENTS)
        channel = _Channel(send)
        if self._closed:
            send.close()
        else:
            self._channels.append(channel)
        return Subscription(channel, receive, self._check_here)

    def _check_here(self) -> None:
        if self.home is not None:
            self.home.check("The source of these events")

    @property
    def heard(self) -> bool:
        """Whether anybody listens."""
        return self._observe is not None or bool(self._channels)

    @property
    def heard_whole(self) -> bool:
        """Whether anybody listens who wants every outcome, and not failures only."""
        return bool(self._channels) or (self._observe is not None and not self._failures_only)

    @property
    def subscribed(self) -> bool:
        """Whether anybody iterates, and may be waiting for an event."""
        return bool(self._channels)

    async def emit(self, event: Event) -> None:
        """Deliver; waits for subscribers whose queue is full."""
        if self._observe is not None:
            self._observe(event)
        for channel in tuple(self._channels):
            try:
                channel.send.send_nowait(event)
            except anyio.WouldBlock:
                await self._wait_for(channel, event)
            except _GONE:
                self._forget(channel)

    async def _wait_for(self, channel: _Channel, event: Event) -> None:
        with anyio.move_on_after(self._patience_seconds) as scope:
            channel.waits.add(scope)
            try:
                await channel.send.send(event)
            except _GONE:
                self._forget(channel)
            finally:
                channel.waits.discard(scope)
        if scope.cancelled_caught:
            channel.left_behind = not channel.ended
            self._forget(channel)

    def _forget(self, channel: _Channel) -> None:
        channel.send.close()
        if channel in self._channels:
            self._channels.remove(channel)

    def notice(self, message: str) -> None:
        """Say something to people. A sentence that was said is not repeated."""
        if message in self.notices or len(self.notices) >= NOTICES_MAX:
            return
        self.notices.append(message)
        self.tell(Notice(message))

    def tell(self, event: Event) -> None:
        """Deliver without waiting: a subscriber whose queue is full misses it."""
        if self._observe is not None:
            self._observe(event)
        for channel in self._channels:
            try:
                channel.send.send_nowait(event)
            except (anyio.WouldBlock, *_GONE):
                # Outcomes keep their place in the queue.
                continue

    def closing(self, patience_seconds: float = CLOSING_SECONDS) -> None:
        """From now on nobody is waited for longer than this, those who are waited for now included."""
        self._patience_seconds = min(self._patience_seconds, patience_seconds)
        deadline = anyio.current_time() + patience_seconds
        for channel in self._channels:
            for scope in channel.waits:
                scope.deadline = min(scope.deadline, deadline)

    def close(self) -> None:
        """End every subscription."""
        self._closed = True
        for channel in self._channels:
            channel.send.close()
        self._channels.clear()


class _Channel:
    """What the run knows of a subscriber. It does not hold the subscription: one that nobody holds ends by itself."""

    def __init__(self, send: MemoryObjectSendStream[Event]) -> None:
        self.send = send
        self.waits: set[anyio.CancelScope] = set()
        self.ended = self.left_behind = False

    def end(self) -> None:
        """No further event; who waits for a place in the queue waits no more."""
        self.ended = True
        self.send.close()
        # Later versions of anyio wake them by themselves.
        for scope in self.waits:
            scope.cancel()


class Subscription(AsyncIterator[Event]):
    """What a subscriber iterates; in one task at a time."""

    def __init__(
        self, channel: _Channel, receive: MemoryObjectReceiveStream[Event], check_here: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._receive = receive
        self._check_here = check_here

    async def __anext__(self) -> Event:
        """The next event, when there is one.

        Raises:
            AsyncSinkError: this subscriber was left behind (see `Events`), and what comes now is lost to it.
            ConfigError: this is another process or event loop than that of the run.
        """
        self._check_here()
        try:
            return await self._receive.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            self._receive.close()
        if self._channel.left_behind:
            self._channel.left_behind = False
            raise AsyncSinkError(
                f"A reader of events let {QUEUE_EVENTS:,} wait, took none for too long, and was left behind; expected "
                "that they are read without delay, in a task of their own; the report has every outcome."
            )
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Subscribe to nothing more, from any task: the iteration ends after the events that are waiting in it."""
        self._channel.end()

    def __del__(self) -> None:
        self._channel.send.close()
        self._receive.close()
