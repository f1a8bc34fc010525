"""What makes a large body one hop: whoever sends it from threads of its own, and whoever can be written to in there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from asyncsink.destinations.base import ByteBody, PartWriter, Stored
from asyncsink.model import Checksum, ChecksumAlgorithm, Transfer
from asyncsink.s3.operations import OpenPartSource, PartSource
from asyncsink.s3.part_plan import Part
from asyncsink.s3.put_files import FileReader, FileResult


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


@runtime_checkable
class ObjectSender(Protocol):
    """A Destination that may have threads of its own, in each of which a whole file is read, copied and sent."""

    @property
    def senders(self) -> int:
        """How many threads there are at most, over all objects; 0 where there are none, and `send` must not be used."""
        ...

    async def send(
        self,
        transfer: Transfer,
        source: OpenPartSource,
        algorithm: ChecksumAlgorithm | None,
        local: Callable[[memoryview], None] | None,
    ) -> tuple[Stored, Checksum | None]:
        """Store a whole file; returns the proof when it was confirmed, and the checksum that was sent.

        Args:
            transfer: which file, and where to.
            source: opens the file in the thread; leaving its block raises where what was read must not be published.
                Opened once, or more often where the file has to be sent again.
            algorithm: of the checksum to send, or None for none.
            local: called in the thread with the bytes, after the source was closed and before they are sent; as often
                as the source is opened. What it raises is raised.

        Raises:
            SourceError: the file cannot be read, or changed; nothing was sent in this attempt.
            TransferError, IntegrityError: it is not stored.

        Cancellation closes the connection, and propagates when the thread has closed the source.
        """
        ...


@runtime_checkable
class BlockingDestination(Protocol):
    """A Destination that can be given whole bodies in somebody else's thread."""

    def put_now(self, transfer: Transfer, body: ByteBody) -> Stored:
        """`put`, blocking; several threads may put different files at once."""
        ...


@runtime_checkable
class FileTaker(Protocol):
    """A destination whose lanes read the small files that they send, many to a batch."""

    def takes_files(self, algorithm: ChecksumAlgorithm | None) -> bool:
        """Whether it does so with this checksum, as things are."""
        ...

    async def put_files(
        self,
        transfers: Sequence[Transfer],
        algorithm: ChecksumAlgorithm,
        reader: FileReader,
        results: list[FileResult],
    ) -> None:
        """Store small files whose keys come once. `results` gets one for each, also where this is cancelled.

        Raises:
            TransferError, CredentialsError: nothing of the batch was begun.
        """
        ...

    def url(self, transfer: Transfer) -> str:
        """Where the object is."""
        ...
