"""How many requests are in flight, and what became of them: the mechanism under adaptive concurrency.

The policy that moves the limit is pure and lives in the engine; this room only holds the tokens and the counts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from asyncsink.errors import RetryableError, Throttled
from asyncsink.s3.get_object import GetObject, GetObjectTo
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
from asyncsink.s3.traffic import Traffic
from asyncsink.s3.transport import Transport

R = TypeVar("R", bound=Response)
UNPACED = (AbortMultipartUpload, ListParts)
"""An abort has seconds only; it must not spend them behind the parts of other files."""


@dataclass(slots=True)
class Window:
    """What happened since the last `Pacer.take_window`: requests answered, body bytes sent, and what went wrong.

    `saturated` is True where every token was in use at some moment: more concurrency could have been used.
    """

    requests: int = 0
    bytes: int = 0
    throttled: int = 0
    errors: int = 0
    saturated: bool = False


class Pacer:
    """The tokens that requests need, across files and parts together."""

    def __init__(self, limit: int, traffic: Traffic | None = None) -> None:
        """Let `limit` requests be in flight; they are counted in `traffic`."""
        self._limit = limit
        self._most: int | None = None
        self._bound = limit
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._window = Window()
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
        """What the limit may be at most, whatever the policy says; None is no bound."""
        return self._most

    @most.setter
    def most(self, value: int | None) -> None:
        self._most = value
        self._set_bound()

    def _set_bound(self) -> None:
        self._bound = self._limit if self._most is None else min(self._limit, max(1, self._most))
        self._wake()

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return self._in_flight

    async def _turn(self) -> None:
        """Wait for a token, first come, first served. Cancelled while waiting, it holds none."""
        # A bare future: this is passed for every request of a run that has more workers than tokens.
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append(granted)
        try:
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled():
                # Granted and cancelled in the same turn of the loop: the token goes back.
                self._give()
            elif granted in self._waiting:
                self._waiting.remove(granted)
            raise

    def _give(self) -> None:
        self._in_flight -= 1
        self._wake()

    def _wake(self) -> None:
        while self._waiting and self._in_flight < self._bound:
            granted = self._waiting.popleft()
            if not granted.done():
                self._in_flight += 1
                granted.set_result(None)

    def take_window(self) -> Window:
        """What happened since the last call."""
        window, self._window = self._window, Window()
        return window

    async def send(self, transport: Transport, operation: Operation[R]) -> R:
        """Send one operation through `transport` while holding a token."""
        if self._in_flight < self._bound and not self._waiting:
            self._in_flight += 1
        else:
            await self._turn()
        self.traffic.requests += 1
        if self._in_flight >= self._bound:
            self._window.saturated = True
        try:
            response = await transport.send(operation)
        except Throttled:
            self._window.throttled += 1
            raise
        except RetryableError:
            self._window.errors += 1
            raise
        finally:
            self._window.requests += 1
            self._give()
        if isinstance(operation, (PutObject, UploadPart)):
            self._window.bytes += len(operation.body)
        elif isinstance(operation, (UploadPartFrom, PutObjectFrom, GetObject, GetObjectTo)):
            self._window.bytes += operation.length
        return response


class PacedTransport:
    """A Transport whose requests each hold one of the pacer's tokens (and none while a retry waits)."""

    def __init__(self, inner: Transport, pacer: Pacer) -> None:
        self._inner = inner
        self.pacer = pacer

    def __repr__(self) -> str:
        return f"PacedTransport({self.pacer!r}, {self._inner!r})"

    # No coroutine of its own: every object passes here.
    def send(self, operation: Operation[R]) -> Coroutine[Any, Any, R]:
        """Send `operation` when a token is free; what ends an upload waits for nobody."""
        if isinstance(operation, UNPACED):
            self.pacer.traffic.requests += 1
            return self._inner.send(operation)  # type: ignore[arg-type] # it is an Operation[R]
        return self.pacer.send(self._inner, operation)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()
