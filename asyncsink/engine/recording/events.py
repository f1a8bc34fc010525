"""Who hears of what happens: an observer that is called, and subscribers that iterate."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.errors import AsyncSinkError
from asyncsink.event_loops import OwnerLoop
from asyncsink.model import Event, Notice, Resumable
from asyncsink.report.outcomes import Counts
from asyncsink.s3.transport import Traffic
from asyncsink.value import dataclass

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
        self.home: OwnerLoop | None = None
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
        # Not __del__: in a circle of references the stream's own __del__ may come first, and warns where it is open.
        weakref.finalize(self, _close_both, channel.send, receive).atexit = False

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


def _close_both(send: MemoryObjectSendStream[Event], receive: MemoryObjectReceiveStream[Event]) -> None:
    send.close()
    receive.close()


# -- How far a run is: counts that the engine moves and displays poll, and how fast they move --------------------------
# What is done is what is recorded: `Progress.counts` is the very object that the report reads, so that no display is
# ever ahead of the report. Bytes of files that have no outcome yet are counted apart, and taken back when the attempt
# ends.

WINDOW_SECONDS = 12.0
"""Rates are those of the last 12 seconds: long enough for parts of some MiB on a slow line, short enough that a server
that answers no more shows."""
SAMPLE_SECONDS = 0.25
"""Seconds between the samples of a window, however often somebody looks."""


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        objects_total, bytes_total: from the survey, the listing or the manifest; None until then, and for streams.
        objects_found: how many the survey has found so far.
        started: True once transfers run.
        resumable: large files that a later run goes on with, by key.
        counts: what is recorded so far; those of the report, in the end. A verification counts what is proven there.
        traffic: requests sent, and how many of them repeated an earlier one.
        objects_in_hand: transfers that a worker has taken and that have no outcome yet.
        bytes_under_way: bytes of parts or ranges that are transferred, of objects that have no outcome yet; parts that
            an earlier run transferred are among them. Taken back when the object's attempt ends, however it ends.
        bytes_failed: sizes of the files that failed.
        bytes_moved: bytes that this run transferred, part by part. Never falls; what had to be sent again counts again.
    """

    objects_total: int | None = None
    bytes_total: int | None = None
    objects_found: int = 0
    started: bool = False
    resumable: dict[str, Resumable] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    traffic: Traffic = field(default_factory=Traffic)
    objects_in_hand: int = 0
    bytes_under_way: int = 0
    bytes_failed: int = 0
    bytes_moved: int = 0

    @property
    def objects_done(self) -> int:
        """Objects that are where they belong by now: sent, or there already; in a dry run, looked at."""
        return self.counts.objects_uploaded + self.counts.already_there + self.counts.objects_planned

    @property
    def bytes_done(self) -> int:
        """Bytes of these objects. Never more than the report will say."""
        return self.counts.bytes_uploaded + self.counts.bytes_skipped + self.counts.bytes_planned

    @property
    def bytes_left(self) -> int | None:
        """Bytes that still have to be transferred or compared, or None where the total is not known."""
        if self.bytes_total is None:
            return None
        return max(0, self.bytes_total - self.bytes_done - self.bytes_failed - self.bytes_under_way)

    @property
    def objects_left(self) -> int | None:
        """Objects without an outcome, or None where the total is not known."""
        return None if self.objects_total is None else max(0, self.objects_total - self.counts.objects_total)

    @property
    def done_share(self) -> float | None:
        """What is done, from 0 to 1, by bytes (by objects where there are no bytes), or None where no total is known.

        1 only where every object is done: an object that is there can be larger than the file that would have been
        sent, and a file can grow after it was counted.
        """
        if self.objects_total is None or self.bytes_total is None:
            return None
        if self.counts.objects_total - self.counts.objects_failed >= self.objects_total:
            return 1.0
        done, total = self.bytes_done, self.bytes_total
        if not total:
            done, total = self.objects_done, self.objects_total
        return min(done / total, 0.99)


class UnderWay:
    """The bytes of one object that are transferred while it has no outcome; who makes one takes it back in the end."""

    __slots__ = ("_bytes", "_progress")

    def __init__(self, progress: Progress) -> None:
        """Count in `progress`."""
        self._progress = progress
        self._bytes = 0

    def there(self, length: int) -> None:
        """Count `length` bytes that an earlier run transferred."""
        self._bytes += length
        self._progress.bytes_under_way += length

    def moved(self, length: int) -> None:
        """Count `length` bytes that were transferred now."""
        self.there(length)
        self._progress.bytes_moved += length

    def take_back(self) -> None:
        """Count none of them any longer: the object has failed, or is about to be recorded."""
        self._progress.bytes_under_way -= self._bytes
        self._bytes = 0


class Rate:
    """How fast a number grows, in units per second over the last `window_seconds`; pure: the time is given."""

    def __init__(self, window_seconds: float = WINDOW_SECONDS) -> None:
        self._window_seconds = window_seconds
        self._samples: deque[tuple[float, int]] = deque()

    def at(self, now: float, value: int) -> float:
        """The rate at `now`, in seconds of a monotonic clock, when the number is `value`.

        0.0 where it has not grown for the whole window; times must not fall from call to call.
        """
        samples = self._samples
        while len(samples) > 1 and samples[1][0] <= now - self._window_seconds:
            samples.popleft()
        if not samples or now - samples[-1][0] >= SAMPLE_SECONDS:
            samples.append((now, value))
        since, before = samples[0]
        # Over a second at least: the first bytes of a run say little of its speed.
        return max(0, value - before) / max(now - since, 1.0)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a run is at one moment.

    Attributes:
        bytes_per_second: transferred, over the last seconds. objects_per_second: ended in whatever way but failure.
        seconds_left: at this speed, or None where nothing moves, or no total is known.
    """

    bytes_per_second: float = 0.0
    objects_per_second: float = 0.0
    seconds_left: float | None = None


class Speedometer:
    """The speed of a run, read as often as somebody looks.

    Args:
        clock: seconds, never falling.
    """

    def __init__(self, progress: Progress, clock: Callable[[], float]) -> None:
        self._progress = progress
        self._clock = clock
        self._moved, self._handled, self._objects = Rate(), Rate(), Rate()

    def read(self) -> Speed:
        """The speed now; call it several times a second, so that the window is full."""
        now, progress = self._clock(), self._progress
        counts = progress.counts
        moved = self._moved.at(now, progress.bytes_moved)
        # Time left is about what is compared, too: a file that is there already needs no transfer.
        handled = self._handled.at(now, progress.bytes_moved + counts.bytes_skipped + counts.bytes_planned)
        objects = self._objects.at(now, progress.objects_done)
        bytes_left, objects_left = progress.bytes_left, progress.objects_left
        if bytes_left is None or objects_left is None:
            return Speed(moved, objects)
        left, rate = (bytes_left, handled) if bytes_left else (objects_left, objects)
        if not left:
            return Speed(moved, objects, 0.0)
        return Speed(moved, objects, left / rate if rate > 0 else None)
