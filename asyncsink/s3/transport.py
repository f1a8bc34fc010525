"""The Transport protocol, with one method so that no wrapper can be bypassed; and request counts."""

from __future__ import annotations

from typing import Protocol, TypeVar

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
