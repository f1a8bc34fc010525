"""How many requests are in flight, and what became of them: the mechanism under adaptive concurrency.

The policy that moves the limit is pure and lives in the engine; this room only holds the tokens and the counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import anyio

from asyncsink.errors import RetryableError, Throttled
from asyncsink.s3.operations import Operation, PutObject, Response, UploadPart
from asyncsink.s3.transport import Transport

R = TypeVar("R", bound=Response)


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

    def __init__(self, limit: int) -> None:
        self._limiter = anyio.CapacityLimiter(limit)
        self._window = Window()
        self.requests = 0
        """Requests sent since the start, retries included."""

    def __repr__(self) -> str:
        waiting = self._limiter.statistics().tasks_waiting
        return f"<Pacer {self.in_flight} of {self.limit} in flight, {waiting} waiting>"

    @property
    def limit(self) -> int:
        """Most requests in flight."""
        return int(self._limiter.total_tokens)

    @limit.setter
    def limit(self, value: int) -> None:
        # Lowering it never cancels a request: tokens in use run out by themselves.
        self._limiter.total_tokens = max(1, value)

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return int(self._limiter.borrowed_tokens)

    def take_window(self) -> Window:
        """What happened since the last call."""
        window, self._window = self._window, Window()
        return window

    async def send(self, transport: Transport, operation: Operation[R]) -> R:
        """Send one operation through `transport` while holding a token."""
        async with self._limiter:
            self.requests += 1
            if self._limiter.available_tokens <= 0:
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
        if isinstance(operation, (PutObject, UploadPart)):
            self._window.bytes += len(operation.body)
        return response


class PacedTransport:
    """A Transport whose requests each hold one of the pacer's tokens (and none while a retry waits)."""

    def __init__(self, inner: Transport, pacer: Pacer) -> None:
        self._inner = inner
        self.pacer = pacer

    def __repr__(self) -> str:
        return f"PacedTransport({self.pacer!r}, {self._inner!r})"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation` when a token is free."""
        return await self.pacer.send(self._inner, operation)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()
