"""A local directory as a Destination: the target of a run, or the local copy beside S3.

Files appear by rename only, after their bytes were synced; the directory is synced after each rename, so that a
reported file survives a power loss. `confirmed_by` is "size": the system wrote every byte to the disk and the file's
length was read back; no checksum was compared. A killed process may leave a hidden `.NAME.RANDOM.asyncsink-part`, never
a partial file under its own name.

Cancellation waits for a writing thread. `put` and `complete` are then either done or not begun, and a cancelled `start`
leaves nothing. (Cancelling asyncio's own task does not wait for the thread, which still ends with the whole file or
with none.)
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import TypeVar, TypeVarTuple

import anyio.from_thread
import anyio.to_thread
from anyio import CancelScope, CapacityLimiter

from asyncsink.destinations.base import Destination, Existing, PartWriter, RunForecast, Stored, Unknown
from asyncsink.destinations.local.files import (
    PIECE_BYTES,
    Publication,
    make_directories,
    publish_companions,
    usual_mode,
)
from asyncsink.destinations.local.places import Place, PlacesBelow, moved_meanwhile, shown, translated
from asyncsink.errors import AsyncSinkError, ConfigError, IntegrityError
from asyncsink.integrity.checksums import ByteBody, Digester
from asyncsink.model import Checksum, Transfer
from asyncsink.options.schema import LocalTarget
from asyncsink.options.settings import ChecksumAlgorithm
from asyncsink.paths import SEARCH, on_disk
from asyncsink.s3.multipart.parts import PartPlan

LOOK_ALGORITHM: ChecksumAlgorithm = "CRC64NVME"
_PRIVATE = 0o600
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class LocalDestination(Destination):
    """Files below one directory.

    Args:
        target: the directory, and whether files are copied or hardlinked. Links need the source on the same file
            system and unchanged; else the bytes that were read are written (rule 36). A hardlink changes only the
            source's ctime.
        limiter: bounds the threads; every call takes one token while it works on the disk.
        use_local_key: use `transfer.local` as the path below the directory, instead of `transfer.key`.
        related_files: also publish the source's companions (rule 30), before the file itself appears.
    """

    blocking = True

    def __init__(
        self, target: LocalTarget, *, limiter: CapacityLimiter, use_local_key: bool, related_files: bool = False
    ) -> None:
        self._target = target
        self._limiter = limiter
        self._use_local_key = use_local_key
        self._related_files = related_files
        self._places: PlacesBelow | None = None
        self._mode: int | None = None
        self._writers: set[LocalPartWriter] = set()

    def __repr__(self) -> str:
        return f"LocalDestination({self.name!r})"

    @property
    def name(self) -> str:
        """The directory as the user wrote it."""
        return self._target.url or self._target.directory

    @property
    def lane(self) -> str:
        """Always "local"."""
        return "local"

    def url(self, transfer: Transfer) -> str:
        """The absolute path of the file."""
        return os.path.join(self._target.directory, self._relative(transfer))

    def check_size(self, transfer: Transfer) -> None:
        """Accept any size: the file system reports its limit on writing (EFBIG, as EntityTooLarge)."""

    async def prepare(self, forecast: RunForecast) -> None:  # noqa: ARG002 - part of the protocol
        """Create a missing directory, and prove that files can be created, synced and removed in it.

        Raises:
            ConfigError: a file has the directory's name.
            AccessDenied, DestinationFull, PermanentError: files cannot be created in it.
        """
        await self._in_thread(self._prepare_now)

    def _prepare_now(self) -> None:
        directory = self._target.directory
        path = on_disk(directory)
        if os.path.lexists(path) and not os.path.isdir(path):
            raise ConfigError(f"{shown(directory)} is no directory; move it, or choose another directory.")
        with translated(directory, None):
            make_directories(directory)
            with self._places_now().open("probe") as place:
                self._mode = usual_mode(place)

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        """Size and mtime of the file, `closely` its CRC64NVME too. None for a link: a copy replaces it.

        Raises:
            AccessDenied, PermanentError: the file cannot be examined. Cancellation ends the reading between two pieces.
        """
        return await self._in_thread(self._look_now, transfer, closely)

    async def look_many(self, transfers: Sequence[Transfer]) -> Sequence[Existing | Unknown | None]:
        """As `look`, for several files in one call to a thread; Unknown where `look` raises."""

        def look() -> list[Existing | Unknown | None]:
            return [self._look_or_unknown(transfer) for transfer in transfers]

        return await self._in_thread(look)

    def has_now(self, transfer: Transfer) -> bool:
        """Whether the file exists with the source's size and time. Blocking."""
        existing = self._look_or_unknown(transfer)
        if not isinstance(existing, Existing) or existing.modified is None:
            return False
        microseconds = (existing.modified - _EPOCH) // timedelta(microseconds=1)
        return existing.size_bytes == transfer.source.size_bytes and microseconds == transfer.source.mtime_ns // 1000

    def _look_or_unknown(self, transfer: Transfer) -> Existing | Unknown | None:
        try:
            return self._look_now(transfer, closely=False)
        except AsyncSinkError:
            return Unknown.UNKNOWN

    def _look_now(self, transfer: Transfer, closely: bool) -> Existing | None:
        with translated(self.url(transfer), transfer, verb="looked at"):
            try:
                place = self._places_now().open(self._relative(transfer), transfer, flags=SEARCH)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with place:
                seen = place.status()
                if seen is None or not stat.S_ISREG(seen.st_mode):
                    return None
                digester = Digester([LOOK_ALGORITHM] if closely else [])
                if closely:
                    seen = _digest(place, digester)
        return Existing(
            size_bytes=seen.st_size,
            modified=_EPOCH + timedelta(microseconds=seen.st_mtime_ns // 1000),
            checksums={LOOK_ALGORITHM: digester.result(LOOK_ALGORITHM).value} if closely else {},
            looked_closely=closely,
            etag_is_md5=False,
            keeps_mtime=True,
        )

    async def put(
        self,
        transfer: Transfer,
        body: ByteBody,
        checksum: Checksum | None,  # noqa: ARG002 - part of the protocol
    ) -> Stored:
        """Write a whole file: one call to a thread. See `put_now`."""
        return await self._in_thread(self.put_now, transfer, body)

    def put_now(self, transfer: Transfer, body: ByteBody) -> Stored:
        """`put` for a thread that has the bytes. Blocking.

        Raises:
            AccessDenied, DestinationFull, PermanentError: nothing appeared under the name.
            SourceError: a companion cannot be copied; nothing appeared under the name.
            IntegrityError: the file on disk has another length than the body.
        """
        with translated(self.url(transfer), transfer), self._place(transfer) as target:
            publication = self._publication(transfer, target, len(body))
            try:
                publication.begin()
                self._bring_companions(transfer, target)
                publication.write(0, body)
                if not publication.publish():
                    publication.write(0, body)
                    publication.publish()
                if not target.is_there():
                    raise moved_meanwhile(self.url(transfer))
            finally:
                publication.discard()
        return self._stored(transfer)

    async def start(
        self,
        transfer: Transfer,
        plan: PartPlan,
        algorithm: ChecksumAlgorithm | None,  # noqa: ARG002 - part of the protocol
    ) -> LocalPartWriter:
        """Begin a file in parts.

        Raises:
            AccessDenied, DestinationFull, PermanentError: it cannot be begun; nothing remains.
        """
        writer = LocalPartWriter(self, transfer, plan)
        self._writers.add(writer)
        try:
            await self._in_thread(writer.begin_now)
        except BaseException:
            await writer.abort()
            raise
        return writer

    async def aclose(self) -> None:
        """Remove the temporary files of writers that neither completed nor aborted."""
        for writer in tuple(self._writers):
            await writer.abort()

    # -- Used by the part writer too ----------------------------------------------------------------------------

    async def _in_thread(self, function: Callable[[*_Args], _T], *args: *_Args) -> _T:
        return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)

    def _relative(self, transfer: Transfer) -> str:
        return transfer.local if self._use_local_key else transfer.key

    def _stored(self, transfer: Transfer) -> Stored:
        return Stored(location=self.url(transfer), confirmed_by="size")

    def _places_now(self) -> PlacesBelow:
        if self._places is None:
            self._places = PlacesBelow(self._target.directory)
        return self._places

    def _place(self, transfer: Transfer) -> Place:
        """The place of the file; the caller closes it."""
        place = self._places_now().open(self._relative(transfer), transfer, make=True)
        try:
            if self._mode is None:
                self._mode = usual_mode(place)
        except BaseException:
            place.close()
            raise
        return place

    def _publication(self, transfer: Transfer, target: Place, size_bytes: int) -> Publication:
        return Publication(
            transfer.source, target, how=self._target.mode, size_bytes=size_bytes, mode=self._mode or _PRIVATE
        )

    def _bring_companions(self, transfer: Transfer, target: Place) -> None:
        # Companions come first: a later run that finds the file finds them too.
        if self._related_files and transfer.source.is_file:
            publish_companions(transfer.source, target, how=self._target.mode, mode=self._mode or _PRIVATE)


class LocalPartWriter(PartWriter):
    """One file written in parts. `abort` after `complete` is harmless."""

    blocking = True

    def __init__(self, destination: LocalDestination, transfer: Transfer, plan: PartPlan) -> None:
        self._destination = destination
        self._transfer = transfer
        self._plan = plan
        self._target: Place
        self._publication: Publication | None = None
        self._written: set[int] = set()

    def begin_now(self) -> None:
        """Create the temporary file, and missing directories. Blocking."""
        with self._translated():
            self._target = self._destination._place(self._transfer)
            self._publication = self._destination._publication(self._transfer, self._target, self._plan.size_bytes)
            self._publication.begin()
            self._target.rest()

    @property
    def _begun(self) -> Publication:
        assert self._publication is not None  # `start` has begun it before it returns the writer
        return self._publication

    async def write_part(
        self,
        part_number: int,
        offset: int,
        body: ByteBody,
        checksum: Checksum | None,  # noqa: ARG002 - part of the protocol
    ) -> None:
        """Write one part at its offset: one call to a thread. See `write_part_now`."""
        await self._destination._in_thread(self.write_part_now, part_number, offset, body)

    def write_part_now(self, part_number: int, offset: int, body: ByteBody) -> None:
        """`write_part` for a thread that has the bytes. Blocking; several parts may be written at once.

        Raises:
            DestinationFull, PermanentError: the part is not written.
            IntegrityError: the part differs from that of the plan with this number.
        """
        part = self._plan.part(part_number)
        if not 1 <= part_number <= self._plan.count or (part.offset, part.length) != (offset, len(body)):
            raise IntegrityError(
                f"Part {part_number} of {shown(self._url)} is to have {part.length:,} bytes at {part.offset:,}, and "
                f"{len(body):,} bytes at {offset:,} were given; export the file again.",
                expected=f"{part.length} bytes at {part.offset}",
                actual=f"{len(body)} bytes at {offset}",
            )
        with self._translated():
            self._begun.write(offset, body)
        self._written.add(part_number)

    async def complete(self, checksum: Checksum | None) -> Stored:  # noqa: ARG002 - part of the protocol
        """Check that every part is written, sync, rename.

        Raises:
            AccessDenied, DestinationFull, PermanentError, IntegrityError: nothing appeared; `abort` is still required.
            SourceError: a link was refused, and the source differs from what was read; `abort` is still required.
        """
        return await self._destination._in_thread(self.complete_now)

    def complete_now(self) -> Stored:
        """`complete` for a thread. Blocking."""
        if len(self._written) != self._plan.count:
            raise IntegrityError(
                f"{shown(self._url)} lacks {self._plan.count - len(self._written):,} of {self._plan.count:,} parts; "
                "export the file again.",
                expected=f"{self._plan.count} parts",
                actual=f"{len(self._written)} parts",
            )
        with self._translated():
            self._destination._bring_companions(self._transfer, self._target)
            publication = self._begun
            if not publication.publish(self._plan.size_bytes):
                publication.copy_source()
                publication.publish()
            moved = not self._target.is_there()
            self._end()
            if moved:
                raise moved_meanwhile(self._url)
        self._destination._writers.discard(self)
        return self._destination._stored(self._transfer)

    async def abort(self) -> None:
        """Remove the temporary file, after parts in other threads are written. Shielded from cancellation.

        Raises:
            AccessDenied, DestinationFull, PermanentError: the temporary file cannot be removed.
        """
        with CancelScope(shield=True):
            await self._destination._in_thread(self._discard_now)
        self._destination._writers.discard(self)

    def _discard_now(self) -> None:
        with self._translated():
            self._end()

    def _end(self) -> None:
        if self._publication is not None:
            try:
                self._publication.discard()
            finally:
                self._target.close()

    @property
    def _url(self) -> str:
        return self._destination.url(self._transfer)

    def _translated(self) -> AbstractContextManager[None]:
        return translated(self._url, self._transfer)


def _digest(place: Place, digester: Digester) -> os.stat_result:
    """Feed a file's bytes to `digester`; its status afterwards. Ends early on cancellation of the caller."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    with open(os.open(place.name, flags, dir_fd=place.directory), "rb", buffering=0) as file:
        buffer = memoryview(bytearray(PIECE_BYTES))
        while count := file.readinto(buffer):
            anyio.from_thread.check_cancelled()
            digester.update(buffer[:count])
        return os.fstat(file.fileno())
