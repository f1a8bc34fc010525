"""The Transport protocol, with one method so that no wrapper can be bypassed; and request counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Protocol, TypeVar

from asyncsink.errors import ConfigError
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


# -- Request counts for the report and displays ------------------------------------------------------------------------


@dataclass(slots=True)
class Traffic:
    """Requests to S3.

    Attributes:
        requests: sent so far, including repeated ones.
        retries: requests that repeat an earlier one.
        small_stored, small_received: small files stored, and small objects received, in batches of the lanes, counted
            as answers arrive. Concurrent lanes may lose a count; it always grows.
    """

    requests: int = 0
    retries: int = 0
    small_stored: int = 0
    small_received: int = 0
