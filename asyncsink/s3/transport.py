"""The Transport protocol, with one method so that no wrapper can be bypassed; request counts; opening on demand."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from asyncsink.errors import ConnectionLost
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


# -- Opening on demand -------------------------------------------------------------------------------------------------


class LazyTransport:
    """A Transport opened by its first operation, once: loading the aioboto3 lane takes most of a second. Belongs to the
    event loop it is used in.

    Args:
        name: for the repr.
        opener: opens the inner transport; called again after it failed or was cancelled.
    """

    def __init__(self, name: str, opener: Callable[[], Awaitable[Transport]]) -> None:
        self._name = name
        self._opener = opener
        self._opening = asyncio.Lock()
        self._transport: Transport | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"<LazyTransport {self._name}: {self._transport or 'not opened'}>"

    async def send(self, operation: Operation[R]) -> R:
        """Send `operation`; raises what opening and sending raise."""
        transport = self._transport or await self._opened()
        return await transport.send(operation)

    async def aclose(self) -> None:
        """Close the inner transport if it was opened. Calling it twice is harmless."""
        self._closed = True
        async with self._opening:
            if self._transport is not None:
                await self._transport.aclose()

    async def _opened(self) -> Transport:
        async with self._opening:
            if self._closed:
                raise ConnectionLost("The request was not sent: the transport was closed before.")
            if self._transport is None:
                self._transport = await self._opener()
            return self._transport
