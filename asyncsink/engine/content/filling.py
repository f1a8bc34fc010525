"""One part of a stream while it is filled: its bytes, within the byte budget until they are confirmed."""

from __future__ import annotations

from contextlib import ExitStack

import anyio.lowlevel

from asyncsink.engine.limits.memory import BufferPool, ByteBudget, PartMemory
from asyncsink.integrity.checksums import ByteBody
from asyncsink.options.settings import MIB

COPY_BYTES = 4 * MIB
"""Bytes that are copied before other tasks run: about a millisecond."""


class FillingPart:
    """The bytes of a part, in order, until `release`.

    Args:
        size_bytes: of the full part.
    """

    def __init__(self, budget: ByteBudget, buffers: BufferPool, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.filled_bytes = 0
        self._memory = PartMemory(budget, size_bytes)
        self._buffers = buffers
        self._exits = ExitStack()
        self._begun = bytearray()
        self._body: memoryview | None = None

    def __repr__(self) -> str:
        return f"<FillingPart {self.filled_bytes} of {self.size_bytes} bytes>"

    @property
    def body(self) -> ByteBody:
        """The bytes so far."""
        return self._begun if self._body is None else self._body[: self.filled_bytes]

    @property
    def holds_memory(self) -> bool:
        """Whether it holds memory that others may be waiting for."""
        return self._memory.whole

    async def add(self, piece: memoryview, *, stable: bool) -> None:
        """Take a piece that fits; waits while the budget has no memory left. Cancelled, it may have a part of it.

        Args:
            piece: flat bytes.
            stable: whether they cannot change: a whole part of such bytes is not copied.
        """
        await self._memory.hold(self.filled_bytes + piece.nbytes)
        if stable and piece.nbytes == self.size_bytes:
            self._body = piece
            self.filled_bytes = piece.nbytes
            return
        if self._memory.whole and self._body is None:
            self._body = self._exits.enter_context(self._buffers.lend(self.size_bytes))
            self._body[: self.filled_bytes] = self._begun
            self._begun = bytearray()
        while piece.nbytes:
            some = piece[:COPY_BYTES]
            if self._body is None:
                self._begun += some
            else:
                self._body[self.filled_bytes : self.filled_bytes + some.nbytes] = some
            self.filled_bytes += some.nbytes
            piece = piece[some.nbytes :]
            if piece.nbytes:
                await anyio.lowlevel.checkpoint()

    def release(self) -> None:
        """Drop the bytes, and give their memory back. Harmless when repeated."""
        self._body = None
        self._begun = bytearray()
        self._exits.close()
        self._memory.release()
