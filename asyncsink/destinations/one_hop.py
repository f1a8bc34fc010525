"""What makes a large part one hop: a writer that sends from threads of its own, and writers that join in there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from asyncsink.destinations.base import ByteBody, PartWriter
from asyncsink.model import Checksum
from asyncsink.s3.operations import PartSource
from asyncsink.s3.part_plan import Part


@runtime_checkable
class PartSender(PartWriter, Protocol):
    """A PartWriter with threads of its own, in each of which a part is read, checksummed, copied and sent."""

    @property
    def threads(self) -> int:
        """How many there are at most, over all objects; a part beyond that waits for one."""
        ...

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """Store one part; returns the checksum that was sent with it.

        Args:
            part: which bytes, and the number of the part.
            source: read in the thread, and in use until this returns or raises.
            local: called in the thread with the bytes, before they are sent: once, or more often where they have to be
                sent again; what it raises is raised.

        Raises:
            SourceError: the part cannot be read.
            TransferError, IntegrityError: it is not stored.

        Cancellation closes the connection, and propagates when the thread has let go of `source`.
        """
        ...


@runtime_checkable
class BlockingPartWriter(PartWriter, Protocol):
    """A PartWriter that can be written to in somebody else's thread."""

    def write_part_now(self, part_number: int, offset: int, body: ByteBody) -> None:
        """`write_part`, blocking; several threads may write different parts at once."""
        ...
