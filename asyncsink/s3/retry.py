"""The one layer of retries: around one S3 request, whichever lane sends it.

Full jitter (wait anything between 0 and min(max, base * 2**(attempt - 1)) seconds), and at least the server's
`Retry-After` (RFC 9110, 10.2.3). Sources: AWS Architecture Blog, "Exponential Backoff And Jitter"; S3 User
Guide, "Best practices design patterns".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from asyncsink.errors import (
    AsyncSinkError,
    ConfigError,
    RetryableError,
    ServerFault,
    Throttled,
    TransferError,
    WrongRegion,
    without_frames,
)
from asyncsink.model import Retried
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.availability import Availability, Verdict, is_mute
from asyncsink.s3.errors_map import one_line
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    FilesPut,
    ObjectHead,
    ObjectPage,
    ObjectStored,
    Operation,
    Response,
)
from asyncsink.s3.transport import Traffic, Transport

if TYPE_CHECKING:
    from tenacity import RetryCallState

R = TypeVar("R", bound=Response)


class Unproved(ServerFault):
    """A 200 without proof, from a server whose other answers have it."""


log = logging.getLogger("asyncsink.s3")
THROTTLED_LOG_SECONDS = 10.0
"""Seconds in which one throttled request is logged for all: a storm has thousands."""
PREPARE_ATTEMPTS_MAX = 4
"""Attempts of a run's first request: a wrong endpoint is reported in seconds, not in minutes."""
PREPARE_THROTTLED_SECONDS_MAX = 60.0
"""Seconds of throttling for that request: the server may be down behind a proxy (503 without an S3 code)."""


class _Attempts:
    """The attempts of one request: how many count, and whether another follows.

    Attributes:
        faults: attempts that count, without throttled ones.
        succeeded_before: successful requests of the run when the first attempt failed.
        given_up: the server is gone for good.
    """

    def __init__(
        self,
        operation: Operation[Any],
        *,
        most: int,
        throttled_seconds: float,
        started: float,
        clock: Callable[[], float],
        succeeded_before: int,
    ) -> None:
        self._operation = operation
        self._most = most
        self._throttled_seconds = throttled_seconds
        self._started = started
        self._clock = clock
        self._mute = 0
        self.faults = 0
        self.succeeded_before = succeeded_before
        self.given_up = False

    def are_over(self, state: RetryCallState) -> bool:
        """Whether the attempt of `state` was the last."""
        if self.given_up:
            return True
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, Throttled):
            elapsed = self._clock() - self._started
            return state.attempt_number >= self._most and elapsed >= self._throttled_seconds
        self.faults += 1
        return self.faults >= self._most

    def may_pass(self, error: BaseException) -> bool:
        """Whether the same request may succeed after `error`."""
        if is_mute(self._operation, error):
            # RequestTimeout is a 400 too, and a HEAD does not show it: only the second 400 is final.
            self._mute += 1
            return self._mute == 1
        return isinstance(error, RetryableError)


class RetryingTransport:
    """Sends an operation until it succeeds, cannot succeed, or `policy.attempts` are used up.

    An attempt that failed because the server is gone does not count (see `availability`), nor does a throttled one
    within `policy.throttled_seconds`: a request that could still succeed does not fail because others were admitted
    before it.

    The last error carries the number of attempts and their seconds. Operations are safe to repeat: bodies are in
    memory, PutObject and UploadPart replace what an earlier attempt stored. A Complete that had succeeded before its
    answer was lost ends as UploadMissing, and a conditional write as PreconditionFailed: both are resolved by looking
    for the write token.

    A body that is answered with neither ETag nor checksum is sent once more where this server has sent either before:
    the answer may have come from elsewhere. The second answer is returned, whatever it is.

    A request that was signed for another region than its bucket's is sent again for that one, once `follow` has
    returned.

    A HEAD's bare 400 is repeated once, since its meaning is not shown (see `availability.is_mute`).

    A CreateMultipartUpload whose answer was lost leaves an unknown upload: the response has the number of attempts, and
    its caller looks for the others.
    """

    def __init__(
        self,
        inner: Transport,
        policy: RetryPolicy,
        *,
        traffic: Traffic | None = None,
        follow: Callable[[WrongRegion], Awaitable[None]] | None = None,
        availability: Availability | None = None,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._policy = policy
        self._attempts = policy.attempts
        self._throttled_seconds = policy.throttled_seconds
        self._sleep = sleep
        self._clock = clock
        self._proves = False
        self._throttled_logged_at = float("-inf")
        self._follow = follow
        self._availability = availability
        self._traffic = traffic if traffic is not None else Traffic()

    def __repr__(self) -> str:
        return f"RetryingTransport({self._policy.attempts}, {self._inner!r})"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation`. Raises the last attempt's error, with `attempts` and `elapsed_seconds` set."""
        started = self._clock()
        try:
            # The retrying machinery is only for requests that need it: nearly all succeed at once.
            response = self._with_proof(operation, await self._inner.send(operation))
        except WrongRegion as error:
            return await self._send_elsewhere(operation, error)
        except TransferError as error:
            if not isinstance(error, RetryableError) and not is_mute(operation, error):
                error.elapsed_seconds = self._clock() - started
                await self._refused(operation, error)
                raise
            first = error
        except ConfigError as error:
            await self._refused(operation, error)
            raise
        else:
            self._traffic.successes[operation.name] += response.successes
            return response
        try:
            return await self._send_again(operation, first, started)
        except WrongRegion as error:
            return await self._send_elsewhere(operation, error)

    async def _send_elsewhere(self, operation: Operation[R], error: WrongRegion) -> R:
        """Send `operation` signed for the region that `error` names; raises `error` where that cannot be done."""
        if self._follow is None:
            raise error
        await self._follow(error)
        self._repeats(operation, 1, error, 0.0)
        return await self.send(operation)

    async def _refused(self, operation: Operation[R], error: AsyncSinkError) -> None:
        if self._availability is not None:
            # Requests of a batch are refused together, and prove no more than one of them does.
            first = getattr(operation, "first", None)
            key = (first.batch if first is not None else "") or getattr(operation, "key", "")
            await self._availability.refused(operation.name, key, error)

    def _with_proof(self, operation: Operation[R], response: R) -> R:
        """The same answer.

        Raises:
            Unproved: it has no proof that bytes were stored, unlike earlier answers of this server.
        """
        if isinstance(response, ObjectStored):
            if response.etag or response.checksum is not None:
                self._proves = True
            elif self._proves:
                raise Unproved(
                    f"{operation.name} of {one_line(getattr(operation, 'key', ''), 1200)} was answered with neither "
                    "ETag nor checksum, unlike others before.",
                    operation=operation.name,
                    status=200,
                )
        elif isinstance(response, FilesPut):
            self._proves = self._proves or response.stored > 0
        elif not self._proves and isinstance(response, (ObjectHead, ObjectPage)):
            self._proves = isinstance(response, ObjectHead) or any(listed.etag for listed in response.objects)
        return response

    async def _send_again(self, operation: Operation[R], first: TransferError, started: float) -> R:
        # Loaded on demand, in a few milliseconds: most runs retry nothing.
        from tenacity import AsyncRetrying, retry_if_exception
        from tenacity.wait import wait_random_exponential

        policy = self._policy
        jitter = wait_random_exponential(multiplier=policy.backoff_seconds_base, max=policy.backoff_seconds_max)
        succeeded = self._availability.succeeded if self._availability is not None else 0
        attempts = _Attempts(
            operation,
            most=self._attempts,
            throttled_seconds=self._throttled_seconds,
            started=started,
            clock=self._clock,
            succeeded_before=succeeded,
        )
        number = 0
        unproved = isinstance(first, Unproved)
        # A retrying object per call: tenacity keeps the state of the iteration in the object.
        retrying = AsyncRetrying(
            stop=attempts.are_over,
            wait=lambda state: self._at_least_asked(state, jitter(state)),
            retry=retry_if_exception(attempts.may_pass),
            sleep=self._sleep,
            before_sleep=lambda state: self._count(operation, state),
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    number = attempt.retry_state.attempt_number
                    response = await self._attempt(operation, first if number == 1 else None, attempts, number)
                    if not unproved:
                        unproved = True
                        self._with_proof(operation, response)
        except TransferError as error:
            error.attempts = number
            error.elapsed_seconds = self._clock() - started
            if number > 1:
                error.args = (f"{error} It was tried {number} times in {error.elapsed_seconds:.1f} s.",)
            if not isinstance(error, RetryableError):
                await self._refused(operation, error)
            raise
        except ConfigError as error:
            await self._refused(operation, error)
            raise
        response.attempts = number
        self._traffic.successes[operation.name] += response.successes
        return response

    async def _attempt(
        self, operation: Operation[R], failed: TransferError | None, attempts: _Attempts, number: int
    ) -> R:
        """One attempt, made once more after each time that the server was gone meanwhile.

        Args:
            number: of the attempt, from 1.
            failed: the error of an attempt already made; None where it is still to be made.

        Raises:
            TransferError: the failure that counts.
        """
        while True:
            if failed is None:
                try:
                    return await self._inner.send(operation)
                except RetryableError as error:
                    failed = error
            verdict = await self._verdict(operation, failed, attempts)
            if verdict is not Verdict.AGAIN:
                attempts.given_up = verdict is Verdict.OVER
                raise failed
            attempts.faults = 0
            self._repeats(operation, number, failed, 0.0)
            failed = None

    async def _verdict(self, operation: Operation[R], error: TransferError, attempts: _Attempts) -> Verdict:
        """Whether a failed attempt counts; waits while the server is gone."""
        health = self._availability
        if health is None or not isinstance(error, RetryableError):
            return Verdict.COUNT
        if isinstance(operation, AbortMultipartUpload):
            # An abort has only seconds, and a server that is gone takes none.
            return Verdict.OVER if health.paused else Verdict.COUNT
        key, last = getattr(operation, "key", ""), attempts.faults + 1 >= self._attempts
        return await health.after(error, key, last=last, succeeded_before=attempts.succeeded_before)

    @property
    def paused(self) -> bool:
        """Whether requests wait for a server that is gone."""
        return self._availability is not None and self._availability.paused

    @property
    def retries(self) -> int:
        """Attempts beyond the first, over all operations."""
        return self._traffic.retries

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    @contextmanager
    def fewer_attempts(self, attempts: int = PREPARE_ATTEMPTS_MAX) -> Iterator[None]:
        """Within the block, give up after `attempts`, and after PREPARE_THROTTLED_SECONDS_MAX where throttled."""
        before = self._attempts, self._throttled_seconds
        self._attempts = min(self._attempts, attempts)
        self._throttled_seconds = min(self._throttled_seconds, PREPARE_THROTTLED_SECONDS_MAX)
        try:
            yield
        finally:
            self._attempts, self._throttled_seconds = before

    def _at_least_asked(self, state: RetryCallState, wanted: float) -> float:
        error = state.outcome.exception() if state.outcome is not None else None
        if isinstance(error, RetryableError) and error.retry_after_seconds is not None:
            asked = min(error.retry_after_seconds, self._policy.retry_after_seconds_max)
            # Jitter is added, so that requests with the same Retry-After do not all return in the same second.
            return asked + wanted
        return wanted

    def _count(self, operation: Operation[Any], state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        assert isinstance(error, AsyncSinkError)
        pause = state.next_action.sleep if state.next_action is not None else 0.0
        self._repeats(operation, state.attempt_number, error, pause)

    def _repeats(self, operation: Operation[Any], attempt: int, error: AsyncSinkError, pause_seconds: float) -> None:
        """Count, log and report that a request is sent again."""
        traffic, failed = self._traffic, without_frames(error)
        traffic.retries += 1
        traffic.retry_causes[type(error).__name__] += 1
        traffic.last_retry_at, traffic.last_error = self._clock(), failed
        level = logging.DEBUG
        if isinstance(error, Throttled) and self._clock() - self._throttled_logged_at >= THROTTLED_LOG_SECONDS:
            self._throttled_logged_at, level = self._clock(), logging.INFO
        told = Retried(operation.name, getattr(operation, "key", ""), attempt, failed, pause_seconds)
        said = "attempt %d failed, the next one is in %.2f s: %s"
        log.log(level, said, attempt, pause_seconds, error, extra={"event": told})
        if self._availability is not None:
            self._availability.tell(told)
