"""The one door to S3: a Transport has one method, so no wrapper can be bypassed."""

from __future__ import annotations

from typing import Protocol, TypeVar

from asyncsink.s3.operations import Operation, Response

R = TypeVar("R", bound=Response)


class Transport(Protocol):
    """Sends operations to one bucket.

    `send` returns the operation's own response, or raises:
        RetryableError: sending the same operation again may succeed.
        PermanentError: it cannot.
        CredentialsError, ConfigError: nothing will ever succeed with these credentials or this target.

    A transport sends each operation once; retrying is a wrapper. Cancellation closes the connection in use (no
    request goes on in the background) and propagates. No exception of botocore, aiohttp or the OS leaves a transport.
    """

    async def send(self, operation: Operation[R]) -> R:
        """Send one operation and return its answer."""
        ...

    async def aclose(self) -> None:
        """Close every connection. Calling it twice is harmless."""
        ...
