"""The events of a run, for observers that are called, subscribers that iterate, and the log; and its progress."""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextvars import Context
from dataclasses import field

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from asyncsink.errors import AsyncSinkError
from asyncsink.event_loops import OwnerLoop
from asyncsink.model import Event, Failure, Finished, LimitChanged, Notice, Requested, Resumable, Started
from asyncsink.report.outcomes import Counts, OutcomeLines
from asyncsink.report.sentences import inert
from asyncsink.s3.transport import Traffic
from asyncsink.value import dataclass

QUEUE_EVENTS = 1000
PATIENCE_SECONDS = 30.0
"""Seconds that a run waits for a subscriber that takes nothing: after that it is stuck, and not merely slow."""
CLOSING_SECONDS = 5.0
"""Seconds that a closing run waits for a subscriber whose queue is full."""
NOTICES_MAX = 100
"""Most notices that the report keeps: a fault that repeats for every file needs no more."""

TakesLines = Callable[[OutcomeLines], None]
"""Takes the lines of recorded outcomes, on the event loop."""
_GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)
log = logging.getLogger("asyncsink.engine")
# Without it, Python would print warnings of a program that has set up no logging.
logging.getLogger("asyncsink").addHandler(logging.NullHandler())


class Events:
    """Delivers events, in order.

    A subscriber that is slower than the run holds the run back, so that it misses no outcome. One that has a full queue
    and takes nothing for `PATIENCE_SECONDS` (for `CLOSING_SECONDS` after the run began to close, not at all in a
    cancelled run) is left behind, and its iteration raises: one subscriber must not stop the run.
    """

    def __init__(
        self,
        observe: Callable[[Event], None] | None = None,
        watch: Callable[[Event], None] | None = None,
        *,
        failures_only: bool = False,
        recorded: TakesLines | None = None,
    ) -> None:
        """Begin without subscribers.

        Args:
            observe: is called with every event; None is nobody.
            watch: is called with every event but Requested.
            failures_only: `watch` gets no outcomes but failures either.
            recorded: is called with the lines of recorded outcomes, which costs little for each of them.
        """
        self._observe = observe
        self._watch = watch
        self._failures_only = failures_only
        self._recorded = recorded
        self._hears_requests = observe is not None
        self._unread: list[Notice] = []
        self._channels: list[_Channel] = []
        self._patience_seconds = PATIENCE_SECONDS
        self._closed = False
        self.notices: list[str] = []
        self.home: OwnerLoop | None = None
        """The event loop that delivers events, once that is decided; subscribers of another one would wait for ever."""

    def subscribe(self, *, requests: bool = False) -> Subscription:
        """Events from this call on, until the run ends. The first subscriber also gets the notices from before.

        Args:
            requests: with the Requested, which others do not get.
        """
        send, receive = anyio.create_memory_object_stream[Event](QUEUE_EVENTS)
        channel = _Channel(send, requests=requests)
        unread, self._unread = self._unread, []
        for notice in unread:
            send.send_nowait(notice)
        if self._closed:
            send.close()
        else:
            self._channels.append(channel)
            self._listen()
        return Subscription(channel, receive, self._check_here)

    def _check_here(self) -> None:
        if self.home is not None:
            self.home.check("The source of these events")

    @property
    def heard(self) -> bool:
        """Whether there is an observer or a subscriber."""
        return self._observe is not None or self._watch is not None or bool(self._channels)

    @property
    def heard_whole(self) -> bool:
        """Whether an observer or a subscriber needs every outcome, and not failures only."""
        watched = self._watch is not None and not self._failures_only
        return self._observe is not None or watched or bool(self._channels)

    @property
    def hears_requests(self) -> bool:
        """See `s3.transport.Listener`."""
        return self._hears_requests

    def recorded(self, lines: OutcomeLines) -> None:
        """Deliver the lines of recorded outcomes to who takes lines."""
        if self._recorded is not None:
            self._recorded(lines)

    def _listen(self) -> None:
        """Note whether anybody hears requests: asked for each of them."""
        self._hears_requests = self._observe is not None or any(channel.requests for channel in self._channels)

    @property
    def subscribed(self) -> bool:
        """Whether there is a subscriber, which may be waiting for an event."""
        return bool(self._channels)

    async def emit(self, event: Event, context: Context | None = None) -> None:
        """Deliver an event; waits for subscribers whose queue is full. The observer is called in `context`, or in the
        present one."""
        self._show(event, context)
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
            self._listen()

    def notice(self, message: str) -> None:
        """Deliver a sentence for people, each only once, and at most `NOTICES_MAX`."""
        if message in self.notices or len(self.notices) >= NOTICES_MAX:
            return
        self.notices.append(message)
        notice = Notice(message)
        if not self._channels:
            self._unread.append(notice)
        self.tell(notice)

    def tell(self, event: Event) -> None:
        """Deliver an event without waiting: a subscriber whose queue is full misses it."""
        self._show(event)
        for channel in self._channels:
            try:
                channel.send.send_nowait(event)
            except (anyio.WouldBlock, *_GONE):
                # The place in the queue is kept for outcomes.
                continue

    def requested(self, ended: Sequence[Requested], /) -> None:
        """Deliver ends of requests without waiting: a subscriber that is behind misses them."""
        for channel in self._channels:
            if not channel.requests:
                continue
            # The other half of the queue is kept for outcomes.
            room = QUEUE_EVENTS // 2 - channel.send.statistics().current_buffer_used
            for event in ended[: max(0, room)]:
                with contextlib.suppress(*_GONE):
                    channel.send.send_nowait(event)
        for event in ended if self._observe is not None else ():
            self._observed(event)

    def _show(self, event: Event, context: Context | None = None) -> None:
        """Log an event, and call the observers with it."""
        log_event(event)
        if self._watch is not None:
            self._watch(event)
        if context is None:
            self._observed(event)
        else:
            context.run(self._observed, event)

    def _observed(self, event: Event) -> None:
        observe = self._observe
        if observe is None:
            return
        try:
            observe(event)
        except Exception as error:
            # Its fault is not the run's.
            self._observe = None
            self._listen()
            log.exception("An observer has raised an error, and is not called any more")
            self.notice(
                f"observe={getattr(observe, '__qualname__', type(observe).__name__)} raised {type(error).__name__} for "
                f"{type(event).__name__}, and was not called any more; the log has more."
            )

    def closing(self, patience_seconds: float = CLOSING_SECONDS) -> None:
        """Bound every wait for a subscriber, the present ones included, to `patience_seconds` from now on."""
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


def log_event(event: Event) -> None:
    """Log an event, which the record has as `event`. Outcomes are logged by `log_failure`, the states of the server and
    repeated requests by the room that sees them."""
    if isinstance(event, Notice):
        log.warning("%s", inert(event.message), extra={"event": event})
    elif isinstance(event, LimitChanged):
        log.info("concurrency %d -> %d: %s", event.before, event.after, event.reason, extra={"event": event})
    elif isinstance(event, Started):
        log.info("sending by %s", event.transport, extra={"event": event})


def log_failure(failure: Failure) -> None:
    """Log a recorded failure."""
    text = f"failed {failure.source} -> {failure.url or failure.key}: {failure.error}: {failure.message}"
    log.warning("%s", inert(text), extra={"event": Finished(failure)})


class _Channel:
    """The run's end of a subscription. It holds no reference to the subscription, so that a dropped one ends by
    itself."""

    def __init__(self, send: MemoryObjectSendStream[Event], *, requests: bool) -> None:
        self.send = send
        self.requests = requests
        self.waits: set[anyio.CancelScope] = set()
        self.ended = self.left_behind = False

    def end(self) -> None:
        """Deliver no further event, and end the waits for a place in the queue."""
        self.ended = True
        self.send.close()
        # Later versions of anyio wake them by themselves.
        for scope in self.waits:
            scope.cancel()


class Subscription(AsyncIterator[Event]):
    """The events of one subscriber, iterated in one task at a time."""

    def __init__(
        self, channel: _Channel, receive: MemoryObjectReceiveStream[Event], check_here: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._receive = receive
        self._check_here = check_here
        # Not __del__: in a circle of references the stream's own __del__ may come first, and warns where it is open.
        weakref.finalize(self, _close_both, channel.send, receive).atexit = False

    async def __anext__(self) -> Event:
        """Wait for the next event.

        Raises:
            AsyncSinkError: this subscriber was left behind (see `Events`), and gets no further events.
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
        """End the subscription, from any task: the iteration ends after the events that wait in its queue."""
        self._channel.end()


def _close_both(send: MemoryObjectSendStream[Event], receive: MemoryObjectReceiveStream[Event]) -> None:
    send.close()
    receive.close()


# -- Progress: counts that the engine changes and displays poll --------------------------------------------------------
# An object is done when its outcome is recorded: `Progress.counts` is the very object that the report reads, so that no
# display is ever ahead of the report. Bytes of files without an outcome are counted apart, and subtracted when the
# attempt ends.


@dataclass(slots=True)
class Progress:
    """The progress of a run.

    Attributes:
        objects_total, bytes_total: from the survey, the listing or the manifest; None until then, and for streams.
        objects_found: how many the survey has found so far.
        started: True once transfers run.
        resumable: large files that a later run continues, by key.
        counts: outcomes recorded so far, and in the end those of the report. A verification counts proven objects here.
        traffic: requests sent, and how many of them repeated an earlier one.
        objects_in_hand: transfers that a worker has taken and that have no outcome yet.
        bytes_under_way: bytes of the transferred parts or ranges of objects that have no outcome yet; parts that an
            earlier run transferred are among them. Subtracted when the object's attempt ends, however it ends.
        files: those of the objects that are transferred one by one, and not in a batch of small ones.
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
    files: set[UnderWay] = field(default_factory=set)
    bytes_failed: int = 0
    bytes_moved: int = 0

    @property
    def objects_done(self) -> int:
        """Objects that were sent, or are there already; in a dry run, objects that were looked at."""
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
        """The share that is done, from 0 to 1, by bytes (by objects where there are no bytes); None where no total is
        known.

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
    """Transferred bytes of one object that has no outcome yet; its maker owes a `take_back` in the end.

    Attributes:
        name: of the file or object, for people.
        size_bytes: of the whole object; None where it is not known.
        began: seconds of time.monotonic().
        bytes: transferred so far.
    """

    __slots__ = ("_progress", "began", "bytes", "name", "size_bytes")

    def __init__(self, progress: Progress, name: str, size_bytes: int | None) -> None:
        """Count nothing yet; later bytes count in `progress`."""
        self._progress = progress
        self.name = name
        self.size_bytes = size_bytes
        self.began = time.monotonic()
        self.bytes = 0
        progress.files.add(self)

    def there(self, length: int) -> None:
        """Count `length` bytes that an earlier run transferred."""
        self.bytes += length
        self._progress.bytes_under_way += length

    def moved(self, length: int) -> None:
        """Count `length` bytes that were transferred now."""
        self.there(length)
        self._progress.bytes_moved += length

    def take_back(self) -> None:
        """Subtract all of them: the object has failed, or is about to be recorded."""
        self._progress.bytes_under_way -= self.bytes
        self.bytes = 0
        self._progress.files.discard(self)
