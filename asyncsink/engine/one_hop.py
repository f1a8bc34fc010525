"""A large part as one hop: read, checksummed, copied and sent in one thread of the destination that can do so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from asyncsink.destinations.base import PartWriter
from asyncsink.destinations.one_hop import BlockingPartWriter, PartSender
from asyncsink.engine.legs import Leg
from asyncsink.engine.sender_slots import SenderSlots
from asyncsink.errors import AsyncSinkError, JournalError, SourceError
from asyncsink.model import Checksum
from asyncsink.s3.operations import PartSource
from asyncsink.s3.part_plan import Part

Copies = list[tuple[Leg, BlockingPartWriter]]


class OneHop:
    """One file's way through lane threads: `leg` sends, and the other legs are written to in the same thread.

    Attributes:
        threads: how many parts are sent at once at most, whatever `tokens` there are.
        tokens: one is held by whoever sends.
    """

    def __init__(self, leg: Leg, writer: PartSender, copies: Copies, source: PartSource, slots: SenderSlots) -> None:
        self.leg = leg
        self.threads = writer.threads
        self.tokens = slots.open(writer.threads)
        self._writer = writer
        self._copies = copies
        self._source = source
        self._slots = slots

    async def send(self, part: Part) -> Checksum | None:
        """Send one part while holding one of `tokens`; returns its checksum. A leg's error is left in the leg.

        Where `leg` has failed, the other legs may have the part or not: it is to be given to them once more.

        Raises:
            SourceError: it cannot be read.
        """
        copying = _Copying(part, [(leg, writer) for leg, writer in self._copies if leg.alive])
        try:
            checksum = await self._writer.send_part(part, self._source, copying.write if copying.wanted else None)
        except (SourceError, JournalError):
            raise
        except AsyncSinkError as error:
            self.leg.error = error
            return None
        finally:
            copying.settle()
        self._slots.sent(part.length)
        return checksum


class _Copying:
    """One part's local copies, written in the sender's thread; errors wait there for the event loop."""

    def __init__(self, part: Part, copies: Copies) -> None:
        self._part = part
        self._copies = copies
        self._failed: list[tuple[Leg, AsyncSinkError]] = []

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to write to."""
        return bool(self._copies)

    def write(self, body: memoryview) -> None:
        """Write to every copy; one that fails costs nobody else the part."""
        for copy in tuple(self._copies):
            leg, writer = copy
            try:
                writer.write_part_now(self._part.part_number, self._part.offset, body)
            except AsyncSinkError as error:
                self._failed.append((leg, error))
                self._copies.remove(copy)

    def settle(self) -> None:
        """End the legs whose copies failed; when the thread has ended."""
        for leg, error in self._failed:
            leg.error = leg.error or error


def find_hop(
    legs: Sequence[Leg], writers: Mapping[int, PartWriter], source: PartSource, slots: SenderSlots
) -> OneHop | None:
    """The way through lane threads, where one leg has them and all others can be written to in there.

    Args:
        legs: of the transfer.
        writers: of the legs that were started, by the leg's id.
        source: open.
        slots: of the run.
    """
    sender: tuple[Leg, PartSender] | None = None
    copies: Copies = []
    for leg in legs:
        writer = writers.get(id(leg)) if leg.alive else None
        if isinstance(writer, PartSender) and sender is None:
            sender = leg, writer
        elif isinstance(writer, BlockingPartWriter):
            copies.append((leg, writer))
        elif writer is not None:
            return None
    return OneHop(*sender, copies, source, slots) if sender is not None else None
