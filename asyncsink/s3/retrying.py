"""The one layer of retries: around one S3 request, whichever lane sends it.

Full jitter (wait anything between 0 and min(max, base * 2**(attempt - 1)) seconds), and at least what the server asked
for in `Retry-After` (RFC 9110, 10.2.3). Sources: AWS Architecture Blog, "Exponential Backoff And Jitter"; S3 User
Guide, "Best practices design patterns".
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from asyncsink.config import RetryPolicy
from asyncsink.errors import RetryableError, TransferError
from asyncsink.s3.operations import Operation, Response
from asyncsink.s3.transport import Transport

R = TypeVar("R", bound=Response)
PREPARE_ATTEMPTS_MAX = 4
"""Attempts of a run's first request: a wrong endpoint should be told in seconds, not in minutes."""


class RetryingTransport:
    """Sends an operation until it succeeds, cannot succeed, or `policy.attempts` are used up.

    The last error tells the story: how many attempts, over how many seconds. Operations are safe to repeat: bodies
    are in memory, PutObject and UploadPart replace what an earlier attempt stored. A Complete that had succeeded before
    its answer was lost ends as UploadMissing, and a conditional write as PreconditionFailed: both are resolved by
    looking for the write token.

    A CreateMultipartUpload whose answer was lost leaves an upload nobody knows: the answer tells how many attempts
    there were, and whoever creates looks for the others.
    """

    def __init__(
        self,
        inner: Transport,
        policy: RetryPolicy,
        *,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._attempts = policy.attempts
        self._sleep = sleep
        self._clock = clock
        self._jitter = wait_random_exponential(multiplier=policy.backoff_seconds_base, max=policy.backoff_seconds_max)
        self.retries = 0
        """Attempts beyond the first, over all operations."""

    def __repr__(self) -> str:
        return f"RetryingTransport({self._policy.attempts}, {self._inner!r})"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation`. Raises the last attempt's error, with `attempts` and `elapsed_seconds` set."""
        started = self._clock()
        try:
            # The retrying machinery is only for requests that need it: nearly all succeed at once.
            return await self._inner.send(operation)
        except RetryableError as error:
            first = error
        except TransferError as error:
            error.elapsed_seconds = self._clock() - started
            raise
        return await self._send_again(operation, first, started)

    async def _send_again(self, operation: Operation[R], first: RetryableError, started: float) -> R:
        number = 0
        # A retrying object per call: tenacity keeps the state of the iteration in the object.
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            retry=retry_if_exception_type(RetryableError),
            sleep=self._sleep,
            before_sleep=self._count,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    number = attempt.retry_state.attempt_number
                    if number == 1:
                        raise first
                    response = await self._inner.send(operation)
        except TransferError as error:
            error.attempts = number
            error.elapsed_seconds = self._clock() - started
            if number > 1:
                error.args = (f"{error} It was tried {number} times in {error.elapsed_seconds:.1f} s.",)
            raise
        response.attempts = number
        return response

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    @contextmanager
    def fewer_attempts(self, attempts: int) -> Iterator[None]:
        """Within the block, give up after `attempts` at most."""
        before = self._attempts
        self._attempts = min(before, attempts)
        try:
            yield
        finally:
            self._attempts = before

    def _wait(self, state: RetryCallState) -> float:
        wanted = self._jitter(state)
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, RetryableError) and error.retry_after_seconds is not None:
            asked = min(error.retry_after_seconds, self._policy.retry_after_seconds_max)
            # The jitter comes on top, so that everybody who was told the same second does not return in it.
            return asked + wanted
        return wanted

    def _count(self, _state: RetryCallState) -> None:
        self.retries += 1
