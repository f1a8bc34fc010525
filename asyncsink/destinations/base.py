"""What a destination is: something that can be looked at, given whole bodies, and given bodies in parts.

The engine reads a file once and hands the same bytes to every destination of a run (S3 and its local copy, say); each
destination answers for itself, so that one's failure never costs the other its file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum
from typing import ClassVar, Protocol

from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.sameness import Existing
from asyncsink.model import Checksum, ChecksumAlgorithm, ConfirmedBy, Transfer, UploadStep
from asyncsink.s3.multipart.parts import Part, PartPlan
from asyncsink.s3.operations import FileReader, FileResult, OpenPartSource, PartSource
from asyncsink.value import dataclass

__all__ = [
    "ByteBody",
    "Destination",
    "Existing",
    "PartWriter",
    "RunForecast",
    "Stored",
    "Unknown",
    "UploadLog",
]


class Unknown(Enum):
    """The answer of a destination that would have to ask."""

    UNKNOWN = "unknown"


@dataclass(slots=True, kw_only=True)
class Stored:
    """A destination's proof that it has the bytes. Fields as in model.Receipt; `location` is the URL or path."""

    location: str
    etag: str = ""
    version_id: str = ""
    attempts: int = 1
    confirmed_by: ConfirmedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """What the preflight learned, for a destination to prepare itself.

    Attributes:
        objects_total: how many transfers will come, or None for a stream.
        unknown_total: how many of them are to be looked for; None is all.
        common_prefix: the longest prefix that all keys share (whole key space of the destination).
        sample_key: one of the keys, or "" where there is none.
        lasting: the run may go on for months, in which others write too.
        alike: `routing.spelling.fingerprint` of the keys that some server takes for one.
    """

    objects_total: int | None
    common_prefix: str
    sample_key: str
    unknown_total: int | None = None
    lasting: bool = False
    alike: frozenset[int] = frozenset()


class UploadLog(Protocol):
    """Who remembers multipart uploads, so that none is ever left open that nobody knows (wall 7)."""

    async def step(self, step: UploadStep) -> None:
        """Write one step down. UploadCreating and UploadOpened are on the disk on return, the others soon after.

        Raises:
            JournalError: it cannot be written; the run stops.
        """
        ...


class PartWriter(ABC):
    """One object being written in parts. Ends in exactly one of `complete`, `abort`, and a `leave` that is True.

    What only some writers can do has a default, which is that of a writer that cannot.
    """

    @abstractmethod
    async def write_part(self, part_number: int, offset: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Store one part; parts come in any order, several at once. Numbers start at 1."""

    @abstractmethod
    async def complete(self, checksum: Checksum | None) -> Stored:
        """Publish the object. `checksum` is the whole object's.

        Raises:
            TransferError, IntegrityError: it is not published; the caller still owes an `abort`.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Forget everything written so far; leaves nothing behind. Runs shielded; bounded in time; never raises
        for an upload that is gone already."""

    # -- an object that an earlier run may have begun, and that a later one may go on with

    @property
    def stored(self) -> Mapping[int, Checksum | None]:
        """The parts that need not be written again, and their checksums, by part number."""
        return {}

    @property
    def unproven(self) -> Set[int]:
        """Numbers of parts that are there, not known to be the file's: `write_part` compares them before it sends."""
        return frozenset()

    @property
    def bytes_resumed(self) -> int:
        """Bytes of the parts that an earlier run stored."""
        return 0

    @property
    def bytes_stored(self) -> int:
        """Bytes of all parts that are stored by now, as far as a later run can go on with them."""
        return 0

    def leave(self, transfer: Transfer) -> bool:  # noqa: ARG002
        """End without `complete` or `abort`: a journal has what is stored, and a later run goes on from there. False
        where none would: then an `abort` is owed."""
        return False

    # -- threads of the destination's own, in each of which a part is read, checksummed, copied and sent

    @property
    def threads(self) -> int:
        """How many there are at most, over all objects; a part beyond that waits. 0: there is no `send_part`."""
        return 0

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
        raise NotImplementedError

    # -- writing in the caller's thread

    blocking: ClassVar[bool] = False
    """Whether there is a `write_part_now`."""

    def write_part_now(self, part_number: int, offset: int, body: ByteBody) -> None:
        """`write_part`, blocking; several threads may write different parts at once."""
        raise NotImplementedError


class Destination(ABC):
    """Where objects go. Conformance: asyncsink.testing.destination_suite.

    What only some destinations can do has a default, which is that of a destination that cannot.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """For messages: "s3://bucket/prefix" or a directory."""

    @property
    @abstractmethod
    def lane(self) -> str:
        """What the report calls `transport`: "aioboto3", "local", "memory"."""

    @abstractmethod
    async def prepare(self, forecast: RunForecast) -> None:
        """Check that the destination is there and may be written to, and learn what it holds already. Sends no object.

        Raises:
            ConfigError, PermanentError, RetryableError: the run cannot start.
        """

    @abstractmethod
    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """What is stored under the transfer's key, or None. `closely` asks for checksums too."""

    @abstractmethod
    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """What is stored under each transfer's key as far as it can be said without a request for each; Unknown where
        `look` has to be asked."""

    @abstractmethod
    def check_size(self, transfer: Transfer) -> None:
        """Raise EntityTooLarge where the destination cannot hold a file of this size."""

    @abstractmethod
    def url(self, transfer: Transfer) -> str:
        """The URL or path the transfer will have."""

    @abstractmethod
    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        """Store a whole body. Returns when the destination confirmed it.

        Raises:
            TransferError, IntegrityError: it is not stored.
        """

    @abstractmethod
    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> PartWriter:
        """Begin an object in parts."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections and temporary files."""

    # -- uploads that an earlier run left open

    async def discard(self, transfer: Transfer) -> None:  # noqa: B027
        """Abort the upload that `transfer.known` has: nothing of it is needed. One that these credentials may not abort
        becomes a notice. Nothing to do where none stays open.

        Raises:
            TransferError: it may still be open.
            JournalError: that it is gone cannot be written down.

        An abort under way is shielded from cancellation, and bounded in time.
        """

    # -- threads of the destination's own, in each of which a whole file is read, copied and sent

    @property
    def senders(self) -> int:
        """How many there are at most, over all objects. 0: there is no `send`."""
        return 0

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
        raise NotImplementedError

    # -- lanes that read the small files that they send, many to a batch

    def takes_files(self, algorithm: ChecksumAlgorithm | None) -> bool:  # noqa: ARG002
        """Whether there is a `put_files` for this checksum, as things are."""
        return False

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
        raise NotImplementedError

    # -- working in the caller's thread

    blocking: ClassVar[bool] = False
    """Whether there are `put_now` and `has_now`."""

    def put_now(self, transfer: Transfer, body: ByteBody) -> Stored:
        """`put`, blocking; several threads may put different files at once."""
        raise NotImplementedError

    def has_now(self, transfer: Transfer) -> bool:
        """Whether the file is there, with the source's size and time. Blocking."""
        raise NotImplementedError
