"""An object as a stream of chunks, received at the speed of its reader, proven before the last chunk is given.

Nothing is under way between two chunks: while the reader works, no request waits and no task runs, so that a stream can
be left at any time. What is received at once grows with what the reader takes: from a MiB to WINDOW_BYTES_MAX, in
several ranges at once. A range whose connection is lost is asked for again, for the same ETag only.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Final

from asyncsink.download.object_reads import FIRST_BYTES, RANGES_AT_ONCE, Extent, ObjectReads, ReadRequest, pieces_in
from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.sameness import Existing, SamenessDigester, comparison, conclude_proof
from asyncsink.model import Checksum, ConfirmedBy
from asyncsink.options.settings import KIB, MIB

CHUNK_BYTES: Final = 256 * KIB
WINDOW_BYTES_MAX: Final = 16 * MIB
WINDOW_BYTES_MIN: Final = CHUNK_BYTES
"""What a stream may hold beside the budget: it has to go on also where others hold all of that, since their reader may
wait for this one."""
RANGE_BYTES_MIN: Final = MIB


class ObjectStream(AsyncIterator[bytes]):
    """The chunks of one object, of at most 256 KiB, for one task at a time.

    The last chunk is given when all bytes are proven to be the object's; otherwise the iteration ends with the error
    before it. `aclose` ends the stream early; nothing is under way between two chunks.

    Attributes:
        size_bytes, etag, version_id: of the object, from the first chunk on.
        checksum, confirmed_by: as in ObjectContent, when the last chunk is given; `confirmed_by` is "nothing" before.
    """

    def __init__(self, bounds: Callable[[], AbstractContextManager[object]]) -> None:
        """`bounds` makes the block in which each chunk is waited for."""
        self.size_bytes = 0
        self.etag = self.version_id = ""
        self.checksum: Checksum | None = None
        self.confirmed_by: ConfirmedBy = "nothing"
        self._bounds = bounds
        self._chunks: AsyncGenerator[bytes, None]

    def __repr__(self) -> str:
        return f"<ObjectStream of {self.size_bytes:,} bytes, confirmed by {self.confirmed_by}>"

    def begin(self, chunks: AsyncGenerator[bytes, None]) -> ObjectStream:
        """Give these chunks; returns the stream."""
        self._chunks = chunks
        return self

    def __aiter__(self) -> ObjectStream:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk.

        Raises:
            IntegrityError: the bytes given so far, and the last chunk, are not the object's.
            PreconditionFailed: the object was replaced while it was read.
            TransferError: the rest cannot be read.
        """
        with self._bounds():
            return await anext(self._chunks)

    async def aclose(self) -> None:
        """End the stream. Harmless when repeated."""
        await self._chunks.aclose()


async def chunks_of(reads: ObjectReads, request: ReadRequest, told: ObjectStream) -> AsyncGenerator[bytes, None]:
    """The chunks of an object, or of a range of it; `told` is called with what they are of."""
    memory = _WindowMemory(reads)
    try:
        room = memory.hold(reads.first_bytes)
        extent = await reads.begin(request, room)
        told.size_bytes, told.etag, told.version_id = extent.size_bytes, extent.first.etag, extent.first.version_id
        proof = _RunningProof(reads, extent, await reads.existing(extent)) if extent.whole else None
        window: ByteBody = extent.first.data
        position, size = extent.start + len(window), max(room, FIRST_BYTES)
        extent.first.data = b""
        last = b""
        while True:
            if proof is not None:
                await proof.add(window)
            for chunk in _cut(window):
                if last:
                    yield last
                last = chunk
            memory.let_go()
            if position >= extent.stop:
                break
            size = memory.hold(min(2 * size, WINDOW_BYTES_MAX, extent.stop - position))
            window = await _window(reads, extent, position, size)
            position += size
        if proof is not None:
            told.checksum, told.confirmed_by = await proof.conclude()
        if last:
            yield last
    finally:
        memory.let_go()


async def _window(reads: ObjectReads, extent: Extent, position: int, size: int) -> bytes:
    buffer = io.BytesIO(bytes(size))
    with buffer.getbuffer() as view:
        await reads.receive(extent, position, view, max(RANGE_BYTES_MIN, -(-size // RANGES_AT_ONCE)))
    return buffer.getvalue()


def _cut(window: ByteBody) -> Iterator[bytes]:
    view = memoryview(window)
    return (bytes(view[start : start + CHUNK_BYTES]) for start in range(0, len(view), CHUNK_BYTES))


class _WindowMemory:
    """The memory of the window that a stream's reader is being given.

    Half of the budget is never held this way: a reader who waits for another object meanwhile gets it.
    """

    def __init__(self, reads: ObjectReads) -> None:
        self._budget = reads.budget
        self._held = 0

    def hold(self, wanted: int) -> int:
        """Hold memory for as much of `wanted` as there is room for; returns how much that is."""
        while wanted > WINDOW_BYTES_MIN:
            if self._budget.hold_now(wanted, most_bytes=self._budget.total_bytes // 2):
                self._held = wanted
                return wanted
            wanted = max(WINDOW_BYTES_MIN, wanted // 2)
        return wanted

    def let_go(self) -> None:
        """Give it back. Harmless when repeated."""
        held, self._held = self._held, 0
        if held:
            self._budget.let_go(held)


class _RunningProof:
    """The proof of a whole object, whose bytes come in order."""

    def __init__(self, reads: ObjectReads, extent: Extent, existing: Existing) -> None:
        self._reads = reads
        self._url = reads.url(extent.key)
        self._existing = existing
        self._compare = comparison(existing)
        self._digester = SamenessDigester(self._compare) if self._compare is not None else None

    async def add(self, window: ByteBody) -> None:
        """Add the next bytes, in a thread where that takes long."""
        if self._digester is None:
            return
        if len(window) <= CHUNK_BYTES:
            self._digester.update(window)
        else:
            await self._reads.in_thread(partial(self._update, window))

    def _update(self, window: ByteBody) -> None:
        assert self._digester is not None
        for piece in pieces_in(window):
            self._digester.update(piece)

    async def conclude(self) -> tuple[Checksum | None, ConfirmedBy]:
        """The proof.

        Raises:
            IntegrityError: the bytes are not the object's.
        """
        if self._compare is None or self._digester is None:
            return None, "size"
        return conclude_proof(self._existing, self._compare, self._digester.digests(), self._url)
