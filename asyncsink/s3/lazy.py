"""The aioboto3 lane, opened by the first operation that needs it: loading it takes most of a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from asyncsink.errors import ConnectionLost
from asyncsink.s3.operations import Operation, Response
from asyncsink.s3.transport import Transport

R = TypeVar("R", bound=Response)


class LazyTransport:
    """A Transport that is opened when it is first needed, once. Belongs to the event loop it is used in.

    Args:
        name: for the repr.
        opener: opens the transport behind it; asked again after it failed or was cancelled.
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
        """Close it where it was opened. Calling it twice is harmless."""
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
