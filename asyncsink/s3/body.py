"""A request body that is sent in slices, without a copy, and says when a slice has left.

botocore takes a body that has `read`; aiohttp iterates it with `async for` and waits for the socket between slices, so
asking for the next slice means that the last one moved. botocore has no write timeout (a stalled upload would hang for
ever): the callback is what the progress watchdog listens to. `seek` keeps botocore's signers from wrapping the body in
a BytesIO, which would copy it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable

ByteBody = bytes | bytearray | memoryview

SLICE_BYTES = 256 * 1024
"""Large enough that the loop is not the limit, small enough that a slow link shows progress."""

SMALL_BODY_BYTES = 64 * 1024
"""Up to here one copy into a bytearray costs less than an iteration through aiohttp's payload machinery."""


class WatchedBody:
    """A rewindable view of bytes for botocore (`read`, `seek`, `tell`, `len`) and aiohttp (`async for`).

    Args:
        data: the body; not copied, and not to be changed until the request ended.
        progress: called with the number of bytes of a slice once that slice was taken by the connection.

    Iterating always starts at the first byte, so a body can be sent again; `read` and `seek` serve signers that want
    the payload's SHA-256 and report no progress.

    Attributes:
        slice_bytes: handed to the connection at a time.
        turn: awaited with the size of each slice before it is handed over, or None.
    """

    __slots__ = ("_position", "_progress", "_view", "slice_bytes", "turn")

    def __init__(self, data: ByteBody, progress: Callable[[int], None]) -> None:
        self._view = memoryview(data).cast("B")
        self._progress = progress
        self._position = 0
        self.slice_bytes = SLICE_BYTES
        self.turn: Callable[[int], Awaitable[None]] | None = None

    def __repr__(self) -> str:
        return f"<WatchedBody {len(self._view)} bytes>"

    def __len__(self) -> int:
        return len(self._view)

    def __bool__(self) -> bool:
        # An empty body is still a body: botocore must not take it for none.
        return True

    def tell(self) -> int:
        """Where `read` goes on, in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move `read` to an absolute position, relative to here, or relative to the end; returns the position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._view)}[whence]
        self._position = max(0, base + offset)
        return self._position

    def read(self, size: int | None = -1) -> memoryview:
        """The next `size` bytes (all that are left for None or a negative size), as a view."""
        end = len(self._view) if size is None or size < 0 else self._position + size
        piece = self._view[self._position : end]
        self._position += len(piece)
        return piece

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for start in range(0, len(self._view), self.slice_bytes):
            piece = self._view[start : start + self.slice_bytes]
            if self.turn is not None:
                await self.turn(len(piece))
            yield piece
            self._progress(len(piece))


def request_body(data: ByteBody, progress: Callable[[int], None]) -> bytearray | WatchedBody:
    """What is handed to botocore for `data`: a bytearray where it is small, else a WatchedBody.

    A bytearray, and not bytes: botocore wraps bytes in a BytesIO and asks for a 100-continue round trip.
    """
    if len(data) <= SMALL_BODY_BYTES:
        return data if isinstance(data, bytearray) else bytearray(data)
    return WatchedBody(data, progress)
