"""The protocol of destinations: existing objects are looked up, and objects are written whole or in parts.

The engine reads a file once and gives the same bytes to every destination of a run (S3 and its local copy, say). Each
destination succeeds or fails by itself, so that the failure of one never stops the other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence, Set
from enum import Enum
from typing import ClassVar, Protocol

from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.sameness import Existing
from asyncsink.model import Checksum, ConfirmedBy, Transfer, UploadStep
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.routing.key_range import KeyRange
from asyncsink.s3.multipart.parts import Part, PartPlan
from asyncsink.s3.operations import FileReader, FileResult, OpenPartSource, PartSource, WithdrawnFiles
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
    """The answer of a destination that would need a request to answer.

    LIKELY_NEW: nothing that is known has the key, and keys of its kind were new lately: a write that replaces nothing
    decides, at the price of one request instead of two.
    """

    UNKNOWN = "unknown"
    LIKELY_NEW = "likely new"


@dataclass(slots=True, kw_only=True)
class Stored:
    """A destination's proof that the bytes are stored. Fields as in model.Receipt; `location` is the URL or path."""

    location: str
    etag: str = ""
    version_id: str = ""
    attempts: int = 1
    confirmed_by: ConfirmedBy


@dataclass(frozen=True, slots=True, kw_only=True)
class RunForecast:
    """The result of the survey, from which a destination prepares itself.

    Attributes:
        objects_total: number of the transfers, or None for a stream.
        unknown_total: how many of them have to be looked up; None is all.
        common_prefix: the longest prefix that all keys share (whole key space of the destination).
        sample_key: one of the keys, or "" where there is none.
        lasting: whether the run may last for months, while other programs write too.
        alike: `routing.keys.fingerprint` of the keys that some server takes for one.
        keys: the range of all keys, where it is that of a part; else None.
    """

    objects_total: int | None
    common_prefix: str
    sample_key: str
    unknown_total: int | None = None
    lasting: bool = False
    alike: frozenset[int] = frozenset()
    keys: KeyRange | None = None


class UploadLog(Protocol):
    """The record of multipart uploads, so that none is left open without an entry (wall 7)."""

    @property
    def lasting(self) -> bool:
        """Whether a later run can read what is recorded; if not, this run ends every upload that it begins."""
        ...

    async def step(self, step: UploadStep) -> None:
        """Record one step. UploadCreating and UploadOpened are on the disk on return, the others soon after.

        Raises:
            JournalError: the step cannot be written; the run stops.
        """
        ...


class PartWriter(ABC):
    """One object being written in parts. Ends in exactly one of `complete`, `abort`, and a `leave` that is True.

    A capability that only some writers have has a default, that of a writer without it.
    """

    @abstractmethod
    async def write_part(self, part_number: int, offset: int, body: ByteBody, checksum: Checksum | None) -> None:
        """Store one part; parts come in any order, several at once. Numbers start at 1."""

    @abstractmethod
    async def complete(self, checksum: Checksum | None) -> Stored:
        """Publish the object. `checksum` is the whole object's.

        Raises:
            TransferError, IntegrityError: the object is not published; the caller still owes an `abort`.
        """

    @abstractmethod
    async def abort(self) -> None:
        """Remove everything written so far. Shielded from cancellation; bounded in time; never raises for an upload
        that is gone already."""

    # -- Resumption: objects that an earlier run may have begun, and that a later one may continue ---------------------

    @property
    def stored(self) -> Mapping[int, Checksum | None]:
        """The checksums of the parts that need not be written again, by part number."""
        return {}

    @property
    def unproven(self) -> Set[int]:
        """Numbers of stored parts that may not be the file's: `write_part` compares them before it sends."""
        return frozenset()

    @property
    def bytes_resumed(self) -> int:
        """Bytes of the parts that an earlier run stored."""
        return 0

    @property
    def bytes_stored(self) -> int:
        """Bytes of all parts stored by now, as far as a later run can continue with them."""
        return 0

    def leave(self, transfer: Transfer) -> bool:  # noqa: ARG002
        """End without `complete` or `abort`: a journal has the stored parts, and a later run continues. False where
        none would: then an `abort` is owed."""
        return False

    # -- Parts in threads of the destination: each is read, checksummed, copied and sent in one ------------------------

    @property
    def threads(self) -> int:
        """Most such threads, over all objects; further parts wait. 0: there is no `send_part`."""
        return 0

    async def send_part(
        self, part: Part, source: PartSource, local: Callable[[memoryview], None] | None
    ) -> Checksum | None:
        """Store one part; returns the checksum that was sent with it.

        Args:
            part: which bytes, and the number of the part.
            source: read in the thread, and in use until this returns or raises.
            local: called in the thread with the bytes, before they are sent: once, or more often where they have to be
                sent again; its errors are raised.

        Raises:
            SourceError: the part cannot be read.
            TransferError, IntegrityError: it is not stored.

        Cancellation closes the connection, and propagates when the thread has released `source`.
        """
        raise NotImplementedError

    # -- Writing in the caller's thread --------------------------------------------------------------------------------

    blocking: ClassVar[bool] = False
    """Whether there is a `write_part_now`."""

    def write_part_now(self, part_number: int, offset: int, body: ByteBody) -> None:
        """`write_part`, blocking; several threads may write different parts at once."""
        raise NotImplementedError


class Destination(ABC):
    """A place for objects: S3, a directory, memory, or one of your own (guide/extending.md). Conformance:
    asyncsink.testing.destination_suite.

    A run prepares it, and closes it at its end. A capability that only some destinations have has a default, that of a
    destination without it.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name for messages: "s3://bucket/prefix" or a directory."""

    @property
    def lane(self) -> str:
        """The `transport` of the report: "wire", "aioboto3", "local", "memory", or "own"."""
        return "own"

    @abstractmethod
    async def prepare(self, forecast: RunForecast) -> None:
        """Check that the destination exists and may be written to, and find its existing objects. Sends no object, and
        is called in a dry run too.

        Raises:
            ConfigError, PermanentError, RetryableError: the run cannot start.
        """

    @abstractmethod
    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """The object under the transfer's key, or None. `closely` asks for checksums too."""

    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """The object under each transfer's key, as far as it is known without a request for each; UNKNOWN where `look`
        is needed."""
        return [Unknown.UNKNOWN] * len(transfers)

    def check_size(self, transfer: Transfer) -> None:  # noqa: B027
        """Raise EntityTooLarge where the destination cannot hold a file of this size."""

    def url(self, transfer: Transfer) -> str:
        """The URL or path that the transfer will have."""
        return f"{self.name}/{transfer.key}"

    @abstractmethod
    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        """Store a whole body. Returns when the destination has confirmed it.

        Raises:
            TransferError, IntegrityError: it is not stored.
        """

    @abstractmethod
    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> PartWriter:
        """Begin an object in parts. The plan of a stream (`StreamPlan`) grows: a part is in it before it is written.
        All are when `complete` is called."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release connections and temporary files."""

    # -- Uploads that an earlier run left open -------------------------------------------------------------------------

    async def discard(self, transfer: Transfer) -> None:  # noqa: B027
        """Abort the upload that `transfer.known` has, since it is not needed any more; does nothing where there is
        none. One that these credentials may not abort becomes a notice.

        Raises:
            TransferError: it may still be open.
            JournalError: its end cannot be written to the journal.

        An abort under way is shielded from cancellation, and bounded in time.
        """

    # -- Whole files in threads of the destination: each is read, copied and sent in one -------------------------------

    @property
    def senders(self) -> int:
        """Most such threads, over all objects. 0: there is no `send`."""
        return 0

    async def send(
        self,
        transfer: Transfer,
        source: OpenPartSource,
        algorithm: ChecksumAlgorithm | None,
        local: Callable[[memoryview], None] | None,
    ) -> tuple[Stored, Checksum | None]:
        """Store a whole file; returns the proof once it is confirmed, and the checksum that was sent.

        Args:
            transfer: which file, and where to.
            source: opens the file in the thread; leaving its block raises where the bytes must not be published. Opened
                once, or more often where the file has to be sent again.
            algorithm: of the checksum to send, or None.
            local: called in the thread with the bytes, after the source was closed and before they are sent; as often
                as the source is opened. Its errors are raised.

        Raises:
            SourceError: the file cannot be read, or changed; nothing was sent in this attempt.
            TransferError, IntegrityError: it is not stored.

        Cancellation closes the connection, and propagates when the thread has closed the source.
        """
        raise NotImplementedError

    # -- Small files, read by the lanes that send them, many in a batch ------------------------------------------------

    def takes_files(self, algorithm: ChecksumAlgorithm | None) -> bool:  # noqa: ARG002
        """Whether `put_files` can be used with this checksum at present."""
        return False

    async def guess_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """As `look_many`, with LIKELY_NEW instead of some requests; `put_files` then gets `only_new`."""
        return await self.look_many(transfers)

    async def put_files(
        self,
        transfers: Sequence[Transfer],
        algorithm: ChecksumAlgorithm,
        reader: FileReader,
        results: list[FileResult],
        *,
        only_new: bool = False,
        withdrawn: WithdrawnFiles | None = None,
    ) -> None:
        """Store small files whose keys come only once. `results` gets one for each, also where this is cancelled. With
        `only_new`, nothing is replaced: a file whose key has an object is left for the ordinary way. Files that are
        `withdrawn` meanwhile are not stored.

        Raises:
            TransferError, CredentialsError: nothing of the batch was begun.
        """
        raise NotImplementedError

    # -- Working in the caller's thread --------------------------------------------------------------------------------

    blocking: ClassVar[bool] = False
    """Whether there are `put_now` and `has_now`."""

    def put_now(self, transfer: Transfer, body: ByteBody) -> Stored:
        """`put`, blocking; several threads may put different files at once."""
        raise NotImplementedError

    def has_now(self, transfer: Transfer) -> bool:
        """Whether the file is there, with the source's size and time. Blocking."""
        raise NotImplementedError
