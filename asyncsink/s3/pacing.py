"""Pacing: tokens for requests in flight, their counts for adaptive concurrency, and the bandwidth limit.

The policy that moves the limit is pure and lives in the engine; this module only holds the tokens and the counts. Lanes
take tokens in their threads, everything else on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, Literal, TypeVar

from asyncsink.errors import RetryableError, Throttled
from asyncsink.options.settings import KIB, MIB
from asyncsink.s3.get_object import GetObjectTo, ObjectData
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    ListParts,
    Operation,
    PutObject,
    PutObjectFrom,
    Response,
    UploadPart,
    UploadPartFrom,
)
from asyncsink.s3.transport import Listener, NoListener, Traffic, Transport, measured
from asyncsink.value import dataclass

R = TypeVar("R", bound=Response)
Problem = Literal["", "throttled", "error"]
"""The fault of a request, as far as it concerns concurrency."""
UNPACED = (AbortMultipartUpload, ListParts)
"""An abort has only seconds, which must not pass behind the parts of other files."""


@dataclass(slots=True)
class Window:
    """Counts since the last `Pacer.take_window`: requests answered, body bytes sent, and faults.

    `saturated` is True where every token was in use at some moment: more concurrency could have been used.
    """

    requests: int = 0
    bytes: int = 0
    throttled: int = 0
    errors: int = 0
    saturated: bool = False


class Pacer:
    """Tokens for requests, across lanes, files and parts together. Usable from any thread.

    Args:
        limit: most requests in flight, 1 or more.
        traffic: counts the requests; None makes a new one.
        within: the pacer that several runs share, or None. Each request holds one of its tokens too, and the runs take
            turns: each asks for one token at a time.
        bandwidth: the limit on bytes sent in a second, or None.
        listener: hears of the requests that hold the tokens; lanes tell it.
        lanes: bounds the lane threads for large bodies beyond the first of each transport, or None; that of `within`
            counts, where there is one.
    """

    def __init__(
        self,
        limit: int,
        traffic: Traffic | None = None,
        *,
        within: Pacer | None = None,
        bandwidth: Bandwidth | None = None,
        listener: Listener | None = None,
        lanes: threading.Semaphore | None = None,
    ) -> None:
        self.bandwidth = bandwidth
        self.listener = listener if listener is not None else NoListener()
        self.lanes: threading.Semaphore | None = within.lanes if within is not None else lanes
        self.runs = 1
        """How many runs share it: one token is left for each of the others, so that requests of one run that hang hold
        back no other."""
        self._within = within
        self._asking = False
        self._limit = limit
        self._most: int | None = None
        self._hanging = 0
        self._bound = limit
        self._lock = threading.Lock()
        self._in_flight = 0
        self._waiting: deque[Callable[[], None]] = deque()
        self._window = Window()
        self._at_use: Callable[[], None] | None = None
        self.traffic = traffic if traffic is not None else Traffic()

    def __repr__(self) -> str:
        return f"<Pacer {self._in_flight} of {self._bound} in flight, {len(self._waiting)} waiting>"

    @property
    def limit(self) -> int:
        """Most requests in flight."""
        return self._limit

    @limit.setter
    def limit(self, value: int) -> None:
        # Lowering it never cancels a request: tokens in use run out by themselves.
        self._limit = max(1, value)
        self._set_bound()

    @property
    def most(self) -> int | None:
        """The upper bound of the limit, whatever the policy sets; None is no bound."""
        return self._most

    @most.setter
    def most(self, value: int | None) -> None:
        self._most = value
        self._set_bound()

    def hang(self, more: int) -> None:
        """Let `more` further requests be in flight beside those that hang in a file system; negative when these
        continue."""
        if self._within is not None:
            self._within.hang(more)
        self._hanging += more
        self._set_bound()

    def _set_bound(self) -> None:
        with self._lock:
            bound = self._limit if self._most is None else min(self._limit, max(1, self._most))
            self._bound = bound + self._hanging
            granted = self._grants()
        for grant in granted:
            grant()

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return self._in_flight

    def take(self, grant: Callable[[], None]) -> bool:
        """Take a token. False where there is none: `grant` is called later, in any thread, with a token for the caller.

        First come, first served. `grant` must neither block nor raise.
        """
        taken = self._take(grant)
        # Afterwards, so that `call_at_use` sees a request in flight, or is seen here.
        if self._at_use is not None:
            self._used()
        return taken

    def _take(self, grant: Callable[[], None]) -> bool:
        with self._lock:
            if self._waiting or self._in_flight >= self._bound or not self._take_within():
                if self._in_flight >= self._bound:
                    self._window.saturated = True
                self._waiting.append(grant)
                return False
            self._in_flight += 1
            if self._in_flight == self._bound:
                self._window.saturated = True
            return True

    def call_at_use(self, call: Callable[[], None]) -> None:
        """Call `call` once, in any thread, when the next request asks for a token; at once while some are in flight, or
        wait for one. It must neither block nor raise."""
        self._at_use = call
        if self._in_flight or self._waiting:
            self._used()

    def _used(self) -> None:
        with self._lock:
            call, self._at_use = self._at_use, None
        if call is not None:
            call()

    @property
    def contended(self) -> bool:
        """Whether spare tokens must be given back: other requests wait for one, or there are too many."""
        if self._waiting or self._in_flight > self._bound:
            return True
        return self._within is not None and self._within.contended

    def give(self, size_bytes: int = 0, problem: Problem = "") -> None:
        """Give a token back after a request.

        Args:
            size_bytes: of the body, in either direction.
            problem: the request's fault.
        """
        self.count(1, size_bytes, problem)
        self.give_back()

    def give_back(self, tokens: int = 1) -> None:
        """Give tokens back."""
        with self._lock:
            self._in_flight -= tokens
        if self._within is not None:
            # Never under the lock: another run may be granted the token, and takes a lock of its own.
            self._within.give_back(tokens)
        with self._lock:
            granted = self._grants()
        for grant in granted:
            grant()

    def count(self, requests: int, size_bytes: int, problem: Problem = "") -> None:
        """Count answered requests with the fault that they have in common; their tokens stay taken."""
        with self._lock:
            self.traffic.requests += requests
            window = self._window
            window.requests += requests
            window.bytes += size_bytes
            if problem == "throttled":
                window.throttled += requests
            elif problem:
                window.errors += requests
            if self._in_flight == self._bound:
                window.saturated = True

    def withdraw(self, grant: Callable[[], None]) -> bool:
        """Stop waiting. False where `grant` was called or is about to be: the token must be given back."""
        with self._lock, contextlib.suppress(ValueError):
            self._waiting.remove(grant)
            if self._asking and not self._waiting and self._within is not None:
                self._asking = not self._within.withdraw(self._granted_within)
            return True
        return False

    def count_unpaced(self) -> None:
        """Count a request that needs no token."""
        with self._lock:
            self.traffic.requests += 1

    def take_window(self) -> Window:
        """The counts since the last call."""
        with self._lock:
            window, self._window = self._window, Window()
        return window

    async def send(self, transport: Transport, operation: Operation[R]) -> R:
        """Send one operation through `transport` while holding a token; for the event loop."""
        await self._turn()
        problem: Problem = "error"
        size_bytes = 0
        try:
            response = await self.carried(transport, operation)
            problem = ""
            size_bytes = len(response.data) if isinstance(response, ObjectData) else body_bytes(operation)
        except Throttled:
            problem = "throttled"
            raise
        except RetryableError:
            raise
        except BaseException:
            problem = ""
            raise
        finally:
            self.give(size_bytes, problem)
        return response

    def carried(self, transport: Transport, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send one operation without a token; the listener, if there is one, is told of its end."""
        if self.listener.hears_requests:
            return measured(transport.send, operation, self.listener, body_bytes(operation))
        return transport.send(operation)

    async def _turn(self) -> None:
        """Wait for a token. Cancelled while waiting, it holds none."""
        loop = asyncio.get_running_loop()
        granted = loop.create_future()

        def granted_now() -> None:
            if not granted.done():
                granted.set_result(None)

        def grant() -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed
                loop.call_soon_threadsafe(granted_now)

        if self.take(grant):
            return
        try:
            await granted
        except BaseException:
            if not self.withdraw(grant):
                # Granted and cancelled in the same iteration of the loop: the token goes back.
                self.give_back()
            raise

    def _grants(self) -> list[Callable[[], None]]:
        granted = []
        while self._waiting and self._in_flight < self._bound and self._take_within():
            self._in_flight += 1
            granted.append(self._waiting.popleft())
        return granted

    def _take_within(self) -> bool:
        """Take a token of the shared pacer, or ask it for one. Called under the lock."""
        if self._within is None:
            return True
        others = self._within.runs - 1
        if others and self._in_flight >= max(1, self._within._bound - others):
            return False
        if not self._asking:
            self._asking = not self._within.take(self._granted_within)
            return not self._asking
        return False

    def _granted_within(self) -> None:
        """Use a token of the shared pacer for the next request; called in any thread."""
        assert self._within is not None
        granted: list[Callable[[], None]] = []
        with self._lock:
            self._asking = False
            if self._waiting and self._in_flight < self._bound:
                self._in_flight += 1
                granted = [self._waiting.popleft(), *self._grants()]
        if not granted:
            self._within.give_back()
        for grant in granted:
            grant()


def body_bytes(operation: Operation[Any]) -> int:
    """Bytes of an operation's body, or of its answer's."""
    if isinstance(operation, (PutObject, UploadPart)):
        return len(operation.body)
    return operation.length if isinstance(operation, (UploadPartFrom, PutObjectFrom, GetObjectTo)) else 0


class PacedTransport:
    """A Transport whose requests each hold one of the pacer's tokens (and none while a retry waits)."""

    def __init__(self, inner: Transport, pacer: Pacer) -> None:
        self._inner = inner
        self.pacer = pacer

    def __repr__(self) -> str:
        return f"PacedTransport({self.pacer!r}, {self._inner!r})"

    # No coroutine of its own: every object passes here.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation` when a token is free; the requests in UNPACED need none."""
        if isinstance(operation, UNPACED):
            self.pacer.count_unpaced()
            return self.pacer.carried(self._inner, operation)  # type: ignore[arg-type] # it is an Operation[R]
        return self.pacer.send(self._inner, operation)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()


# -- The bandwidth limit, over all lanes, connections and threads together ---------------------------------------------
# A sender reserves a slice of a body and waits until its time: the bytes sent never exceed what `bytes_per_second`
# allows since the first one, and BURST_SECONDS more (a leaky bucket, as in ATM Forum TM 4.0, "generic cell rate
# algorithm"). A reservation is a point in time, so that no sender polls, and slices go in the order of reservation.

BURST_SECONDS: Final = 0.1
"""Seconds of unused time that are made up for: sleeps end late, and without this the rate would fall short."""
RESERVED_SECONDS: Final = 0.05
"""Seconds of the rate that one reservation covers, short enough that all connections keep moving."""
SLICE_BYTES_MIN, SLICE_BYTES_MAX = 4 * KIB, 4 * MIB


class Bandwidth:
    """A limit on the bytes of requests (heads and bodies; not of TLS and TCP). Usable from any thread.

    Args:
        bytes_per_second: more than 0.
        within: the limit that several runs share, or None; both hold.
        clock: seconds, never going back.
    """

    def __init__(
        self, bytes_per_second: int, *, within: Bandwidth | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = bytes_per_second
        self._within = within
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = float("-inf")
        self.slice_bytes = int(min(max(bytes_per_second * RESERVED_SECONDS, SLICE_BYTES_MIN), SLICE_BYTES_MAX))
        """Bytes that a sender of a large body should reserve at a time."""
        if within is not None:
            self.slice_bytes = min(self.slice_bytes, within.slice_bytes)

    def __repr__(self) -> str:
        return f"<Bandwidth {self._rate:,} bytes a second>"

    def reserve(self, size_bytes: int) -> float:
        """Reserve time for `size_bytes`, and return the seconds to wait before they are sent.

        Sending without the wait (the head of a request that is already on its way) delays later senders.
        """
        with self._lock:
            now = self._clock()
            self._paid_until = max(self._paid_until, now - BURST_SECONDS) + size_bytes / self._rate
            seconds = max(0.0, self._paid_until - now)
        return seconds if self._within is None else max(seconds, self._within.reserve(size_bytes))

    async def turn(self, size_bytes: int) -> None:
        """Wait until `size_bytes` may be sent.

        Cancelled, it gives nothing back: later senders wait a little longer.
        """
        seconds = self.reserve(size_bytes)
        if seconds:
            await asyncio.sleep(seconds)


def usable_cores() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
