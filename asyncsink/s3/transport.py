"""The Transport protocol, with one method so that no wrapper can be bypassed; who hears of requests; their counts."""

from __future__ import annotations

import inspect
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import field
from typing import Any, Protocol, TypeVar

from asyncsink.errors import AsyncSinkError, ConfigError, TransferError
from asyncsink.model import Requested
from asyncsink.s3.operations import Operation, Response
from asyncsink.value import dataclass

R = TypeVar("R", bound=Response)


class Transport(Protocol):
    """Sends operations to one bucket.

    `send` returns the operation's own response, or raises:
        RetryableError: sending the same operation again may succeed.
        PermanentError: it cannot.
        CredentialsError, ConfigError: nothing will ever succeed with these credentials or this target.

    A transport sends each operation once; retrying is a wrapper. Cancellation closes the connection in use (no request
    goes on in the background) and propagates. No exception of botocore, aiohttp or the OS leaves a transport.
    """

    async def send(self, operation: Operation[R]) -> R:
        """Send one operation and return its answer."""
        ...

    async def aclose(self) -> None:
        """Close every connection. Calling it twice is harmless."""
        ...


# -- A caller's own transport ------------------------------------------------------------------------------------------

Wrap = Callable[[Transport], Transport]
"""Makes a transport around another one."""


def wrapped(wrap: Wrap, inner: Transport) -> Transport:
    """The transport that `wrap` makes around `inner`.

    Raises:
        ConfigError: it raises, or returns no Transport; nothing was sent.
    """
    expected = "expected an object with `async def send(self, operation)` and `async def aclose(self)`"
    try:
        made = wrap(inner)
    except Exception as error:
        raise ConfigError(
            f"The callable given as transport= failed ({type(error).__name__}: {error}); {expected}, made from one "
            "argument, the transport inside."
        ) from error
    if inspect.iscoroutine(made):
        made.close()
        raise ConfigError(f"The callable given as transport= is asynchronous; {expected}, returned by a plain one.")
    if isinstance(made, type) or not all(callable(getattr(made, name, None)) for name in ("send", "aclose")):
        raise ConfigError(f"The callable given as transport= returned a {type(made).__name__}; {expected}.")
    return made


# -- Who hears of each request, and what is measured for it ------------------------------------------------------------
# Lanes measure their own requests. Those of aioboto3 are measured here, around the client's call, whose HTTP session
# notes the beginning of the answer in `MEASURED`. Nothing is measured where nobody listens.


class Listener(Protocol):
    """Hears of the end of each request; on the event loop."""

    @property
    def hears_requests(self) -> bool:
        """Whether anybody does: asked in any thread, before an event is made."""
        ...

    def requested(self, ended: Sequence[Requested], /) -> None:
        """Take the ends of some requests, in their order."""
        ...


class NoListener:
    """Hears nothing."""

    hears_requests = False

    def requested(self, ended: Sequence[Requested], /) -> None:
        """Never called."""


class Measurement:
    """One request of aioboto3.

    Attributes:
        status: of the answer; 0 until it has begun.
        server: "host:port", or "" while it is not known.
    """

    def __init__(self) -> None:
        self.status, self.server = 0, ""
        self._sent_at = time.monotonic()
        self._first_at: float | None = None

    def began(self, status: int) -> None:
        """Note the beginning of the answer."""
        self.status, self._first_at = status, time.monotonic()

    def event(self, operation: Operation[Any], size_bytes: int) -> Requested:
        """The event, now that the request has ended; `size_bytes` is the size of its body."""
        return Requested(
            operation.name,
            self.status,
            size_bytes if 200 <= self.status < 300 else 0,
            time.monotonic() - self._sent_at,
            None if self._first_at is None else self._first_at - self._sent_at,
            getattr(operation, "key", ""),
            self.server,
        )


MEASURED: ContextVar[Measurement | None] = ContextVar("MEASURED", default=None)
"""The request that the current task sends, where somebody listens."""


async def measured(
    send: Callable[[Operation[R]], Awaitable[R]], operation: Operation[R], listener: Listener, size_bytes: int
) -> R:
    """Send one operation, and tell the listener of its end, whatever it is.

    Args:
        size_bytes: of the operation's body, or 0.
    """
    measurement = Measurement()
    token = MEASURED.set(measurement)
    try:
        response = await send(operation)
        # A caller's own client does not show the status.
        measurement.status = measurement.status or 200
        size_bytes = size_bytes or response.object_bytes_received
        return response
    except TransferError as error:
        measurement.status = measurement.status or error.status
        raise
    finally:
        MEASURED.reset(token)
        listener.requested([measurement.event(operation, size_bytes)])


# -- Request counts for the report and displays ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Outage:
    """A server that is gone. Moments are in seconds of time.monotonic().

    Attributes:
        endpoint: "127.0.0.1:9000".
        cause: its symptom ("refuses connections").
        since: the first failure. next_try_at: the next probe. give_up_at: the end of the run's patience.
        files: number of files that wait.
    """

    endpoint: str
    cause: str
    since: float
    next_try_at: float
    give_up_at: float
    files: int


@dataclass(slots=True)
class Traffic:
    """Requests to S3. Moments are in seconds of time.monotonic(); -inf is never.

    Attributes:
        requests: sent so far, including repeated ones.
        retries: requests that repeat an earlier one.
        successes: successful requests by operation, without small files that lanes store and receive in batches.
        small_stored, small_received: small files stored, and small objects received, in batches of the lanes, counted
            as answers arrive. Concurrent lanes may lose a count; it always grows.
        outage: while requests wait for a server that is gone; else None.
        retry_causes: `retries` by the class of the error that preceded each.
        last_retry_at, last_error: the last request that is sent again, and its failure.
        throttled_at: the last SlowDown. limit_before: requests in flight that were allowed before the first of the
            SlowDowns that followed each other; limit: those that are allowed now.
    """

    requests: int = 0
    retries: int = 0
    successes: Counter[str] = field(default_factory=Counter)
    small_stored: int = 0
    small_received: int = 0
    outage: Outage | None = None
    retry_causes: Counter[str] = field(default_factory=Counter)
    last_retry_at: float = -math.inf
    last_error: AsyncSinkError | None = None
    throttled_at: float = -math.inf
    limit_before: int = 0
    limit: int = 0
