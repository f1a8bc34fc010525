"""A whole file as one hop: opened, read, checksummed, copied and sent in one thread of the destination that can do so.

For files that are worth a thread of their own and are not worth parts. Nothing of a file that changed while it was
read is sent or copied; a file that is sent again is read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from asyncsink.destinations.base import Stored
from asyncsink.destinations.one_hop import BlockingDestination, ObjectSender
from asyncsink.engine.budget import ByteBudget
from asyncsink.engine.buffers import SMALL_BYTES, BufferPool
from asyncsink.engine.legs import Leg
from asyncsink.engine.outcomes import Ending
from asyncsink.engine.reading import open_as_found
from asyncsink.engine.sender_slots import SenderSlots
from asyncsink.errors import AsyncSinkError, SourceError
from asyncsink.model import ChecksumAlgorithm, Transfer
from asyncsink.sources.reader import OpenSource

Copies = list[tuple[Leg, BlockingDestination]]


class WholeHop:
    """The way of whole files through lane threads, for all transfers of a run.

    Args:
        algorithm: of the checksums to send, or None for none.
        budget: takes what the threads' buffers cost.
        buffers: of the ordinary way; they make room for the threads'.
        slots: of the run.
    """

    def __init__(
        self, algorithm: ChecksumAlgorithm | None, budget: ByteBudget, buffers: BufferPool, slots: SenderSlots
    ) -> None:
        self._algorithm = algorithm
        self._budget = budget
        self._buffers = buffers
        self._slots = slots

    async def send(self, ending: Ending) -> None:
        """Send the file this way if it can be; results and errors are left in the legs.

        Legs that are alive afterwards are to be given the file in the ordinary way: all of them where this way is not
        for it, and the copy where sending ended before the file was read.

        Raises:
            SourceError: it cannot be read, or changed; nothing of what was read last was sent or copied.
            Outgrown: see `open_as_found`; nothing was read.

        Cancellation propagates when the thread has let go of the file.
        """
        transfer, primary = ending.transfer, ending.legs[0]
        size, sender = transfer.source.size_bytes, primary.destination
        if size <= SMALL_BYTES or not primary.alive or not isinstance(sender, ObjectSender) or not sender.senders:
            return
        copies = _copies(ending.legs)
        if copies is None:
            return
        # The token comes before the memory: none is held for a thread that is still busy.
        async with self._slots.open(sender.senders), self._budget.reserve(self._buffers.cost(size)):
            # The thread keeps a buffer of its own.
            self._buffers.trim()
            attempts = _Attempts(transfer, copies)
            try:
                primary.stored, ending.checksum = await sender.send(
                    primary.outgoing(transfer), attempts.open, self._algorithm, attempts.copy if copies else None
                )
            except SourceError:
                raise
            except AsyncSinkError as error:
                primary.error = error
                return
            finally:
                attempts.settle()
            self._slots.sent(size)


def _copies(legs: Sequence[Leg]) -> Copies | None:
    """The legs beside the first that are to be written to in the thread; None where that cannot be, or not yet."""
    copies: Copies = []
    for leg in legs[1:]:
        if leg.comparing is not None:
            return None
        if leg.alive:
            if not isinstance(leg.destination, BlockingDestination):
                return None
            copies.append((leg, leg.destination))
    return copies


class _Attempts:
    """What one file's attempts do in the sender's thread, one after another; results wait there for the event loop."""

    def __init__(self, transfer: Transfer, copies: Copies) -> None:
        self._transfer = transfer
        self._copies = copies
        self._ended: list[tuple[Leg, Stored | AsyncSinkError]] = []
        self._opened = False

    @contextmanager
    def open(self) -> Iterator[OpenSource]:
        """The file, for one attempt; leaving the block proves that it stayed the same meanwhile."""
        # The server and the copy may have the file by now: another one that took its place is not sent under its name.
        # Its ctime is not asked for again: a copy that is a hard link has moved it.
        found = self._transfer.source
        opened = OpenSource(replace(found, ctime_ns=0)) if self._opened else open_as_found(found)
        self._opened = True
        with opened as source:
            yield source
            source.check_unchanged()

    def copy(self, body: memoryview) -> None:
        """Make every copy, in each attempt from the bytes that it sends; one that fails costs nobody else the file."""
        self._ended = [(leg, end) for leg, end in self._ended if isinstance(end, AsyncSinkError)]
        for copy in tuple(self._copies):
            leg, destination = copy
            try:
                self._ended.append((leg, destination.put_now(self._transfer, body)))
            except AsyncSinkError as error:
                self._ended.append((leg, error))
                self._copies.remove(copy)

    def settle(self) -> None:
        """Tell the legs how their copies ended; when the thread is done."""
        for leg, end in self._ended:
            if isinstance(end, AsyncSinkError):
                leg.error = end
            else:
                leg.stored = end
