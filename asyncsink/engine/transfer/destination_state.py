"""One transfer at one destination: the existing object, the decision, the result; and how its source is read.

A transfer has one state for each destination (S3, and the local copy if there is one). The states share the bytes that
are read and nothing else: the failure of one destination never ends another.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import anyio

from asyncsink.destinations.base import Destination, Existing, Stored
from asyncsink.errors import AsyncSinkError, ConfigError, JournalError, SourceChanged, SourceError, SourceUnreadable
from asyncsink.integrity.checksums import ByteBody, checksum_of
from asyncsink.integrity.sameness import (
    UNCHANGED_REASON,
    CompareWith,
    Decision,
    Digests,
    LookCloser,
    SamenessDigester,
    SkipIt,
    Upload,
    conclude,
    decide,
)
from asyncsink.model import Checksum, JournalEntry, SourceFile, Transfer
from asyncsink.options.schema import Policies
from asyncsink.options.settings import MIB, ChecksumAlgorithm
from asyncsink.paths import Folder, on_disk
from asyncsink.s3.operations import PARTS_MAX
from asyncsink.sources.content import OpenContent, in_memory, opened
from asyncsink.sources.reader import OpenSource, look_again, read_at_rest
from asyncsink.value import dataclass

CHEAP_MD5_BYTES_MAX = 8 * MIB
"""Up to this size, an MD5 of the file costs less than asking the server for another checksum."""


@dataclass(slots=True)
class DestinationState:
    """State of one transfer at one destination.

    Attributes:
        known: the journal's row of the transfer at this destination, or None.
        decision: whether to send; None until the destination was looked at.
        stored: the destination's proof, or None.
        error: why there is no proof, or None.
    """

    destination: Destination
    known: JournalEntry | None = None
    existing: Existing | None = None
    decision: Decision | None = None
    stored: Stored | None = None
    error: AsyncSinkError | None = None

    @property
    def alive(self) -> bool:
        """Whether bytes are still to be sent to this destination."""
        return self.error is None and self.stored is None and isinstance(self.decision, Upload)

    @property
    def comparing(self) -> CompareWith | None:
        """The comparison that needs the file's bytes before the decision, or None."""
        return self.decision if self.error is None and isinstance(self.decision, CompareWith) else None

    @property
    def same(self) -> bool:
        """Whether the destination has the file already."""
        return isinstance(self.decision, SkipIt)

    @property
    def published_etag(self) -> str:
        """The ETag of the object when this file, unchanged since, was published; or ""."""
        return self.known.etag if self.known is not None and self.known.published else ""

    def outgoing(self, transfer: Transfer) -> Transfer:
        """The transfer for the destination: with the ETag of a differing object, which the new one cannot have."""
        known_to_differ = isinstance(self.decision, Upload) and self.decision.differs
        if not known_to_differ or self.existing is None or not self.existing.etag:
            return transfer
        return replace(transfer, replaces=self.existing.etag)

    def by_journal(self, transfer: Transfer, policies: Policies) -> Decision | None:
        """The decision of the journal alone, or None."""
        known = self.known
        if known is None:
            return None
        if known.published and (transfer.overwrite or policies.overwrite) == "journal":
            return SkipIt(UNCHANGED_REASON)
        if known.upload is not None and known.upload.completing and known.upload.same_source:
            # The object may be there already, or may appear: only its upload shows which (see s3.multipart.resume).
            return Upload("its upload was being completed")
        return None

    def check_size(self, transfer: Transfer) -> None:
        """Set `error` where the destination cannot hold a file of this size."""
        try:
            self.destination.check_size(transfer)
        except AsyncSinkError as error:
            self.error = error

    async def look(
        self, transfer: Transfer, policies: Policies, part_sizes: Sequence[int], *, closely: bool = False
    ) -> None:
        """Look, and decide whether to send; an error while looking becomes `error`."""
        if self.error is not None:
            return
        self.decision = self.by_journal(transfer, policies)
        try:
            while self.decision is None or isinstance(self.decision, LookCloser):
                closely = closely or self.decision is not None
                existing = None
                if (transfer.overwrite or policies.overwrite) != "always":
                    existing = await self.destination.look(transfer, closely=closely)
                self.decide(existing, transfer, policies, part_sizes)
        except AsyncSinkError as error:
            self.error = error

    def decide(
        self, existing: Existing | None, transfer: Transfer, policies: Policies, part_sizes: Sequence[int]
    ) -> None:
        """Decide whether to send, from the existing object; `part_sizes` are tried first on a multipart ETag."""
        self.existing = existing
        self.decision = decide(
            existing,
            policy=transfer.overwrite or policies.overwrite,
            size_bytes=transfer.source.size_bytes,
            mtime_ns=transfer.source.mtime_ns,
            wanted=policies.algorithm,
            cheap_md5_bytes_max=CHEAP_MD5_BYTES_MAX,
            part_sizes=part_sizes,
            published_etag=self.published_etag,
        )

    def settle(self, digests: Digests) -> None:
        """Decide by the digests of the file's bytes, after a comparison."""
        assert self.comparing is not None
        assert self.existing is not None  # something is there: it is being compared
        self.decision = conclude(self.comparing, self.existing, digests)

    async def attempt(self, action: Callable[[], Awaitable[Stored | None]]) -> None:
        """Run one step of this destination; its error becomes `error`, and ends no other destination.

        Raises:
            JournalError: a fault of the run, which it stops.
        """
        try:
            stored = await action()
        except JournalError:
            raise  # concerns no single file: the run stops
        except AsyncSinkError as error:
            self.error = error
        else:
            if stored is not None:
                self.stored = stored


async def each(
    states: Sequence[DestinationState], step: Callable[[DestinationState], Coroutine[Any, Any, None]]
) -> None:
    """Run `step` for every destination, several destinations at the same time."""
    if len(states) == 1:
        await step(states[0])
        return
    async with anyio.create_task_group() as group:
        for state in states:
            group.start_soon(step, state)


# -- Reading a source once: its bytes, its checksum, and the digests of each comparison --------------------------------
# Every function here blocks, and runs in a reader thread; no thread works on after its call.


class Outgrown(Exception):
    """The file is no longer as the walk found it; `found` describes it now. Nothing was read, and nothing has
    failed."""

    def __init__(self, found: SourceFile) -> None:
        super().__init__(found.path)
        self.found = found


def outdated(known: JournalEntry | None) -> JournalEntry | None:
    """What stays of a transfer's row when its source has changed since the walk: an upload to end, or None."""
    if known is None or known.upload is None:
        return None
    return JournalEntry(upload=replace(known.upload, same_source=False))


@dataclass(frozen=True, slots=True)
class Reading:
    """A whole small file: its bytes, the checksum that will be sent, and the digests of each comparison."""

    body: ByteBody
    checksum: Checksum | None
    digests: tuple[Digests, ...]


def open_as_found(file: SourceFile) -> OpenSource | OpenContent:
    """Open `file`.

    Raises:
        SourceError: it cannot be opened, or it is pinned and not as it was found.
        Outgrown: its size, times or inode differ from those of the walk, so that its plan may not fit.
    """
    try:
        return opened(file)
    except SourceChanged:
        if file.pinned:
            raise
        now = look_again(file)
        raise Outgrown(
            replace(file, size_bytes=now.st_size, mtime_ns=now.st_mtime_ns, ctime_ns=now.st_ctime_ns, inode=now.st_ino)
        ) from None


def read_whole_file(
    file: SourceFile, into: memoryview, algorithm: ChecksumAlgorithm | None, compares: Sequence[CompareWith]
) -> Reading:
    """Read the file into `into` (of the file's size), checksum it, and check that it has not changed meanwhile.

    Raises:
        SourceError: it is unreadable, or changed while it was read.
        Outgrown: see `open_as_found`.
    """
    with open_as_found(file) as source:
        body = source.read_all(into)
        source.check_unchanged()
    return reading_of(body, algorithm, compares)


def reading_of(body: ByteBody, algorithm: ChecksumAlgorithm | None, compares: Sequence[CompareWith]) -> Reading:
    """The reading of a body that is in memory."""
    checksum = None if algorithm is None else checksum_of(body, algorithm)
    return Reading(body, checksum, digest_body(body, compares))


NewReading = tuple[ByteBody, Checksum | None] | SourceError | None


def read_new(files: Sequence[SourceFile], algorithm: ChecksumAlgorithm | None) -> list[NewReading]:
    """Body and checksum of several small files. A file that changed while it was read (or whose handle is stale for
    good) gives its error; one that is not as it was found gives None."""
    with Folder() as folder:
        bodies = [_at_rest(file, folder) for file in files]
    return [
        body if body is None or isinstance(body, SourceError) else (body, algorithm and checksum_of(body, algorithm))
        for body in bodies
    ]


def _at_rest(file: SourceFile, folder: Folder) -> ByteBody | SourceError | None:
    if (content := in_memory(file)) is not None:
        return content
    try:
        return read_at_rest(file, folder)
    except SourceError as error:
        return error


def read_small(file: SourceFile, algorithm: ChecksumAlgorithm | None, compares: Sequence[CompareWith]) -> Reading:
    """As `read_whole_file`, for a small file, with new memory; raises the same."""
    content = in_memory(file)
    body = content if content is not None else read_at_rest(file)
    if body is None:
        return read_whole_file(file, memoryview(bytearray(file.size_bytes)), algorithm, compares)
    return reading_of(body, algorithm, compares)


def digest_body(body: ByteBody, compares: Sequence[CompareWith]) -> tuple[Digests, ...]:
    """The digests that each comparison asks for."""
    digesters = [SamenessDigester(compare) for compare in compares]
    for digester in digesters:
        digester.update(body)
    return tuple(digester.digests() for digester in digesters)


def read_part(
    source: OpenSource | OpenContent, offset: int, into: memoryview, algorithm: ChecksumAlgorithm | None
) -> Checksum | None:
    """Fill `into` with the part at `offset`; returns its checksum."""
    body = source.read_part(offset, len(into), into)
    return None if algorithm is None else checksum_of(body, algorithm)


def compare_piece(
    source: OpenSource | OpenContent, offset: int, into: memoryview, digesters: Sequence[SamenessDigester]
) -> None:
    """Feed the piece at `offset`, read into `into`, to the digesters."""
    piece = source.read_part(offset, len(into), into)
    for digester in digesters:
        digester.update(piece)


def unreadable(file: SourceFile) -> SourceUnreadable | None:
    """The error of a file that this process may not read, or None. The file is not opened; where its mode is enough,
    access(2) is not called, which on a network file system is a request for each file."""
    if file.readable:
        return None
    path = on_disk(file.path)
    effective = os.access in os.supports_effective_ids
    # Twice: access(2) gives no reason here, and the first refusal may be a handle that an NFS server has dropped.
    if any(os.access(path, os.R_OK, effective_ids=effective) for _ in range(2)):
        return None
    if not os.path.lexists(path):
        return None
    return SourceUnreadable(f"{file.path} may not be read by this user; look at its permissions.")


def too_large_for_memory(file: SourceFile, memory_bytes: int) -> ConfigError | None:
    """The error for a file whose parts, 10,000 at most, are larger than the byte budget; None where they fit."""
    if file.size_bytes <= memory_bytes * PARTS_MAX:
        return None
    needed = -(-file.size_bytes // PARTS_MAX)
    return ConfigError(
        f"{file.path} has {file.size_bytes:,} bytes; its {PARTS_MAX:,} parts do not fit into memory_bytes="
        f"{memory_bytes:,}. Give at least {-(-needed // MIB)}MiB."
    )


def still_outgrown(file: SourceFile) -> SourceChanged:
    """The error for a file whose size changes between every two looks."""
    return SourceChanged(
        f"{file.path} changes faster than it can be opened (expected {file.size_bytes:,} bytes); nothing was "
        "published; export it again when its writer is done."
    )
