"""A lane: one thread with a selector and many non-blocking sockets, which carries exchanges and gives results back.

Work comes in batches from the event loop and results go back in batches, so that neither side is woken for each of
them. The pacer bounds the exchanges under way, over all lanes together.
"""

from __future__ import annotations

import contextlib
import heapq
import mmap
import os
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Final

from asyncsink.errors import ConnectionLost
from asyncsink.model import Requested
from asyncsink.options.settings import KIB, MIB, RetryPolicy
from asyncsink.os_errors import shortage
from asyncsink.s3.endpoint import KEEP_ALIVE_SECONDS
from asyncsink.s3.http.addresses import Address, Addresses
from asyncsink.s3.http.connection import Connection
from asyncsink.s3.http.exchange import Exchange, ExchangeInterrupted, LaneWork
from asyncsink.s3.http.reading import ExchangeError
from asyncsink.value import dataclass

if TYPE_CHECKING:
    from asyncsink.s3.http.exchange import Outbox
    from asyncsink.s3.pacing import Bandwidth, Pacer

RECEIVE_BYTES: Final = 64 * KIB
BUFFER_KEPT_BYTES_MAX: Final = 32 * MIB
"""A larger buffer serves bodies of its own size only: smaller ones have paid for no more memory than they need."""
FRESH_SECONDS: Final = 1.0
"""Seconds after its last use within which the server is not closing a connection as idle."""
HUGE_PAGES_BYTES_MIN: Final = 4 * MIB
"""Smallest buffer for huge pages (2 MiB, madvise(2)): the first use of its pages then costs a tenth."""
EVENTS_PER_OBJECT: Final = 4
"""Events that cost the event loop about as much as the result of an object."""
SWEEP_SECONDS_MIN, SWEEP_SECONDS_MAX = 0.01, 1.0


@dataclass(frozen=True, slots=True)
class Shared:
    """What all lanes of a client have in common.

    Attributes:
        host: the name that the certificate must have.
        tls: the context for HTTPS, None for plain HTTP.
        retry: its connect_seconds, stall_seconds and complete_seconds apply.
        pacer: tokens; each exchange that is not urgent holds one.
        addresses: of the host.
        bandwidth: the limit on bytes sent in a second, or None.
        outbox: takes the results.
        owner: the thread of the event loop; lanes end with it.
    """

    host: str
    tls: ssl.SSLContext | None
    retry: RetryPolicy
    pacer: Pacer
    addresses: Addresses
    bandwidth: Bandwidth | None
    outbox: Outbox
    owner: threading.Thread


class Lane:
    """A thread that carries exchanges. `give`, `give_up_work` and `stop` may be called from any thread.

    Args:
        shared: of the client.
        name: of the thread.
        large: its bodies are large: sockets have smaller buffers on a near network.

    Raises:
        OSError, RuntimeError: the system has no descriptor, or no thread, to spare.
    """

    def __init__(self, shared: Shared, name: str, *, large: bool) -> None:
        self.large = large
        self.host, self.tls = shared.host, shared.tls
        self.retry = shared.retry
        self.addresses = shared.addresses
        self.bandwidth = shared.bandwidth
        self.keep_alive_seconds = KEEP_ALIVE_SECONDS
        self.clock, self.now = time.monotonic, time.monotonic()
        self._shared = shared
        self._pacer = shared.pacer
        self._outbox = shared.outbox
        self._heard: list[Requested] = []
        self._queue: deque[LaneWork] = deque()
        self._urgent: deque[Exchange] = deque()
        self._queueing = threading.Lock()
        self._calls: deque[Callable[[], None]] = deque()
        self._connections: set[Connection] = set()
        self._idle: list[Connection] = []
        self._busy: dict[Exchange, Connection] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_number = 0
        self._kept_max: int | None = None
        self._sweep_at = float("inf")
        self._asked = self._granted = self._stopping = self._sleeping = False
        self._tokens = self._answered = self._answered_bytes = 0
        """Tokens of exchanges that are over, kept for new ones until the lane waits for the network; and answered
        exchanges that the pacer has not counted yet, with the bytes of their bodies."""
        self.began_at, self.over = 0.0, False
        """When the thread began its current action (`clock`), or 0.0 while it waits; and whether it has ended or is
        about to, so that it takes no more work."""
        self.view = memoryview(bytearray(RECEIVE_BYTES))
        """Receives answers; overwritten by the next."""
        self._body = memoryview(b"")
        self._buffers: list[memoryview] = []
        self._lent = self._lent_max = 0
        self._selector = selectors.DefaultSelector()
        try:
            self._wake_reader, self._wake_writer = os.pipe()
        except OSError:
            self._selector.close()
            raise
        for descriptor in (self._wake_reader, self._wake_writer):
            os.set_blocking(descriptor, False)
        self._waking = threading.Lock()
        self._closed = False
        self.ended_future: Future[None] = Future()
        """Completed when the thread has released everything."""
        self._selector.register(self._wake_reader, selectors.EVENT_READ, None)
        self.thread = threading.Thread(target=self._run, name=name, daemon=False)
        try:
            self.thread.start()
        except RuntimeError:
            self._release()
            raise

    def __repr__(self) -> str:
        return f"<Lane {self.thread.name}: {len(self._busy)} under way, {len(self._connections)} connections>"

    # -- For other threads ---------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Exchanges under way, and pieces of work that wait."""
        return len(self._busy) + len(self._queue) + len(self._urgent)

    @property
    def waiting(self) -> int:
        """Pieces of work that wait."""
        return len(self._queue) + len(self._urgent)

    @property
    def tokens(self) -> int:
        """The pacer's tokens that the lane holds."""
        return sum(not exchange.urgent for exchange in tuple(self._busy)) + self._granted + self._tokens

    def give(self, work: LaneWork) -> None:
        """Add work to the end of the queue."""
        self.add(work)
        self.wake()

    def add(self, work: LaneWork) -> None:
        """Add work to the end of the queue; `wake` is owed."""
        self._queue.append(work)

    def give_urgent(self, exchange: Exchange) -> None:
        """Carry an exchange at once, without a token."""
        self._urgent.append(exchange)
        self.wake()

    def hand_over(self, other: Lane) -> None:
        """Give all waiting work to another lane, also the rest of a piece that has begun."""
        with self._queueing:
            taken = list(self._queue)
            self._queue.clear()
        for work in taken:
            other.give(work)
        while (exchange := self._next_urgent()) is not None:
            other.give_urgent(exchange)

    def call(self, function: Callable[[], None]) -> None:
        """Have the thread call `function` soon."""
        self._calls.append(function)
        self.wake()

    def give_up_work(self, work: LaneWork, is_of: Callable[[Exchange], bool]) -> None:
        """End all exchanges of a piece of work: at once those that have not begun, the others as soon as the thread
        waits for the network."""
        with self._queueing:
            if work in self._queue:
                self._queue.remove(work)
        while (exchange := work.take()) is not None:
            exchange.failed(ExchangeInterrupted())
            exchange.over(self)
        self._outbox.flush()
        self.give_up(is_of)

    def give_up(self, is_of: Callable[[Exchange], bool]) -> None:
        """End exchanges that have begun, as soon as the thread waits for the network."""

        def end() -> None:
            for exchange, connection in tuple(self._busy.items()):
                if is_of(exchange):
                    connection.give_up(ExchangeInterrupted())

        self.call(end)

    def bound(self, connections: int) -> None:
        """Keep `connections` at most; idle ones beyond that are closed."""
        self._kept_max = connections
        self.call(self._close_surplus)

    def stop(self) -> None:
        """End everything under way, and the thread."""
        self._stopping = True
        for exchange in tuple(self._busy):
            exchange.given_up = True  # a body that is still being read is not sent
        self.wake()

    def wake(self) -> None:
        """Wake the thread where it waits."""
        if self._sleeping:
            # Under the lock: the number of a closed descriptor may be in use again.
            with self._waking:
                if not self._closed:
                    with contextlib.suppress(BlockingIOError):  # a full pipe wakes just as well
                        os.write(self._wake_writer, b"!")

    # -- For connections and exchanges, in the thread ------------------------------------------------------------------

    def room(self, size_bytes: int) -> memoryview:
        """A buffer for the body of one exchange that is `borrowed`."""
        if len(self._body) < size_bytes:
            self._body = memoryview(bytearray(max(size_bytes, 2 * len(self._body), RECEIVE_BYTES)))
        return self._body[:size_bytes]

    def lend(self, size_bytes: int) -> memoryview:
        """A buffer of `size_bytes` for one exchange, returned by `take_in`.

        Raises:
            ConnectionLost: the system has no memory for it now.
        """
        for number, kept in enumerate(self._buffers):
            if size_bytes <= len(kept) <= max(size_bytes, BUFFER_KEPT_BYTES_MAX):
                del self._buffers[number]
                self._count_lent()
                return kept[:size_bytes]
        # Anonymous memory begins on a page: the kernel copies to and from it a fifth cheaper than with a bytearray.
        rounded = max(size_bytes, mmap.PAGESIZE)
        try:
            pages = mmap.mmap(-1, rounded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            # Retryable: other buffers may be freed.
            raise ConnectionLost(f"A buffer of {size_bytes:,} bytes cannot be had. {shortage(error)}") from error
        if rounded >= HUGE_PAGES_BYTES_MIN:
            with contextlib.suppress(OSError, AttributeError):  # a kernel, or a system, without huge pages
                pages.madvise(mmap.MADV_HUGEPAGE)
        self._count_lent()
        return memoryview(pages)[:size_bytes]

    def _count_lent(self) -> None:
        self._lent += 1
        self._lent_max = max(self._lent_max, self._lent)

    def take_in(self, buffer: memoryview) -> None:
        """Take a lent buffer back; lent and kept ones together are at most as many as were lent at once lately.

        The pages of a new buffer cost as much as reading the file into it.
        """
        self._lent -= 1
        if self._buffers and len(self._buffers) + self._lent >= self._lent_max:
            del self._buffers[0]
        self._buffers.append(memoryview(buffer.obj))

    def watch(self, where: socket.socket, before: int, events: int, connection: Connection) -> None:
        """Have `connection.ready` called for these events."""
        if not before:
            self._selector.register(where, events, connection)
        elif not events:
            self._selector.unregister(where)
        else:
            self._selector.modify(where, events, connection)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Call `function` in `seconds`."""
        self._timer_number += 1
        heapq.heappush(self._timers, (self.clock() + seconds, self._timer_number, function))

    def open_for(self, exchange: Exchange) -> None:
        """Carry `exchange`, which holds its token already, over a new connection."""
        connection = Connection(self, exchange)
        self._connections.add(connection)
        self._busy[exchange] = connection
        self._sweep_at = min(self._sweep_at, self.now + self._sweep_seconds)

        def told(addresses: Sequence[Address] | ExchangeError) -> None:
            self.call(lambda: connection.dial(addresses))

        addresses = self.addresses.ask(told)
        if addresses is not None:
            connection.dial(addresses)

    def ended(self, connection: Connection, exchange: Exchange, *, usable: bool, begun: bool) -> None:
        """Take note of the end of an exchange; `begun`: something of it was sent, or was to be."""
        self._busy.pop(exchange, None)
        if usable:
            self._idle.append(connection)
            if self._kept_max is not None and len(self._connections) > self._kept_max:
                self._close_surplus()
        if begun and self._pacer.listener.hears_requests:
            self._heard.append(connection.requested(exchange))
        exchange.over(self)
        if exchange.urgent:
            return
        self._tokens += 1
        if not begun:
            return
        if exchange.problem:
            self._pacer.count(1, 0, exchange.problem)
        else:
            self._answered += 1
            self._answered_bytes += exchange.weight_bytes

    def closed(self, connection: Connection) -> None:
        """Forget a closed connection."""
        self._connections.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    # -- The thread ----------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        ended = ExchangeError("the transport was closed")
        try:
            while self._turn():
                pass
        except MemoryError as error:
            # All exchanges of the lane fail with the cause, and the transport gives it no more.
            ended = ExchangeError(shortage(error))
            ended.__cause__ = error
        finally:
            self.over = True
            self._end_everything(ended)
            self._tell()
            self._release()
            self._outbox.flush()
            self.ended_future.set_result(None)

    def _turn(self) -> bool:
        """One round: calls, new exchanges, events. False where the thread is to end."""
        while self._calls:
            self._calls.popleft()()
        if self._stopping:
            return False
        if self._answered:
            self._count_answered()
        self._begin_work()
        self._tell()
        self._outbox.flush()
        self.began_at = 0.0
        self._sleeping = True
        # Checked after the flag is set: later work wakes the thread.
        idle = not (self._calls or self._granted or self._stopping or self._urgent or (self._queue and not self._asked))
        try:
            events = self._selector.select(self._timeout() if idle else 0)
        finally:
            self._sleeping = False
        self.now = self.began_at = self.clock()
        for key, mask in events:
            if key.data is None:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_reader, 4096)
            else:
                key.data.ready(mask)
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2]()
        if self.now >= self._sweep_at:
            self._sweep()
        return bool(events or self._busy or self._queue) or self._shared.owner.is_alive()

    def _begin_work(self) -> None:
        while (urgent := self._next_urgent()) is not None:
            self._carry(urgent)
        if self._tokens and self._pacer.contended:
            self._give_back_tokens()
        while self._queue:
            if not self._token():
                return
            exchange = self._next_exchange()
            if exchange is None:
                self._tokens += 1
                break
            self._carry(exchange)
        self._give_back_tokens()

    def _count_answered(self) -> None:
        self._pacer.count(self._answered, self._answered_bytes)
        self._answered = self._answered_bytes = 0

    def _tell(self) -> None:
        """Have the listener told of the requests that have ended, on the event loop."""
        if self._heard:
            heard, self._heard = self._heard, []
            self._outbox.put(partial(self._pacer.listener.requested, heard), len(heard) // EVENTS_PER_OBJECT)

    def _give_back_tokens(self) -> None:
        if self._granted:
            self._granted = False
            self._tokens += 1
        if self._tokens:
            tokens, self._tokens = self._tokens, 0
            self._pacer.give_back(tokens)

    def _next_urgent(self) -> Exchange | None:
        # In one step: the event loop may hand it to another lane at the same time.
        try:
            return self._urgent.popleft()
        except IndexError:
            return None

    def _next_exchange(self) -> Exchange | None:
        with self._queueing:
            while self._queue:
                exchange = self._queue[0].take()
                if exchange is not None:
                    return exchange
                self._queue.popleft()
        return None

    def _token(self) -> bool:
        if self._tokens:
            self._tokens -= 1
            return True
        if self._granted:
            self._granted = False
            return True
        if self._asked:
            return False
        self._asked = True
        if self._pacer.take(self._grant):
            self._asked = False
            return True
        return False

    def _grant(self) -> None:
        """Take a token of the pacer for this lane; called in any thread."""
        self._granted = True
        self._asked = False
        self.wake()

    def _carry(self, exchange: Exchange) -> None:
        if exchange.given_up:
            exchange.failed(ExchangeInterrupted())
            exchange.over(self)
            if not exchange.urgent:
                self._tokens += 1
            return
        connection = self._kept(FRESH_SECONDS if exchange.once else self.keep_alive_seconds)
        if connection is not None and not exchange.borrowed and not connection.fit():
            # On such a connection a late answer would be taken for this one's, a body would be read in vain, and a
            # request that must not be sent twice would fail. A small file needs no such care: only an answer with its
            # own checksum counts.
            connection.close()
            connection = None
        if connection is None:
            self.open_for(exchange)
            return
        self._busy[exchange] = connection
        self._sweep_at = min(self._sweep_at, self.now + self._sweep_seconds)
        connection.start(exchange)

    def _kept(self, idle_seconds_max: float) -> Connection | None:
        """The idle connection that was used last, which the server is least likely to have closed."""
        if not self._idle:
            return None
        connection = self._idle[-1]
        if self.now - connection.idle_since >= idle_seconds_max:
            return None
        self._idle.pop()
        return connection

    def _close_surplus(self) -> None:
        while self._kept_max is not None and self._idle and len(self._connections) > self._kept_max:
            self._idle[0].close()

    def _timeout(self) -> float:
        soonest = min(self._sweep_at, self._timers[0][0] if self._timers else float("inf"))
        return min(max(0.0, soonest - self.clock()), self.keep_alive_seconds)

    @property
    def _sweep_seconds(self) -> float:
        return min(max(self.retry.stall_seconds / 8, SWEEP_SECONDS_MIN), SWEEP_SECONDS_MAX)

    def _sweep(self) -> None:
        for connection in tuple(self._connections):
            connection.check(self.now)
        # What was not lent at once since the last sweep is given back, the oldest first.
        del self._buffers[: max(0, len(self._buffers) + self._lent - self._lent_max)]
        self._lent_max = self._lent
        if self._connections:
            # Idle ones are looked at for nothing but their age.
            working = self._busy or self._buffers
            self._sweep_at = self.now + (self._sweep_seconds if working else self.keep_alive_seconds)
        else:
            # Nothing was sent for a while: the memory is free for others.
            self._sweep_at = float("inf")
            self._body = memoryview(b"")
            self._buffers.clear()

    def _end_everything(self, error: ExchangeError) -> None:
        for connection in tuple(self._connections):
            connection.give_up(error)
        while (exchange := self._next_urgent() or self._next_exchange()) is not None:
            exchange.failed(error)
            exchange.over(self)
        self._pacer.withdraw(self._grant)
        self._count_answered()
        self._give_back_tokens()

    def _release(self) -> None:
        with self._waking:
            self._closed = True
            self._selector.close()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
