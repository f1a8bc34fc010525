"""Many small files as one operation: each is read, checksummed, signed and sent by the lane that takes it.

An operation for each of them would cost more than sending it. Whatever is not "200 with the checksum that was sent" is
given back for the ordinary way, which goes on from how its sending failed: a small fast way has no exceptions to it.
The first of these ends the batch, so that what every file would get is not asked for with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from asyncsink.errors import AsyncSinkError
from asyncsink.model import Checksum, ChecksumAlgorithm
from asyncsink.s3.operations import ObjectAttributes, Operation, Response
from asyncsink.value import dataclass


class FileReader(Protocol):
    """Reads the files of a batch."""

    def read(self, source: Any, room: memoryview) -> bool:
        """Read a file into `room`, which has one byte more than the file was found to have; whether it is still what
        was found. Raises an AsyncSinkError where it changed meanwhile."""
        ...

    def close(self) -> None:
        """There are no more files. Calling it twice is harmless."""
        ...


class FileToPut(NamedTuple):
    """One small file.

    Attributes:
        key: where it goes.
        size_bytes: as it was found.
        attributes: of the object; the same value for all of a kind, so that headers are laid out once.
        source: for `FileReader.read`.
    """

    key: str
    size_bytes: int
    attributes: ObjectAttributes
    source: Any


class FileStored(NamedTuple):
    """What the server answered to one file: 200, and the checksum that was sent.

    Attributes:
        etag: without quotes, or "".
        checksum: that was sent, and that the server repeated.
        version_id, sse: as in `operations.ObjectStored`.
        seconds: from reading to the answer.
    """

    etag: str
    checksum: Checksum
    version_id: str
    sse: str
    seconds: float


class Ordinary(NamedTuple):
    """A file that needs the ordinary way.

    Attributes:
        failed: how sending it ended; None where it was not sent, or nothing is proven by the answer.
    """

    failed: AsyncSinkError | None = None


FileResult = FileStored | AsyncSinkError | Ordinary | None
"""Stored and proven; or why it cannot be read as it was found; or it needs the ordinary way; or None: it was not begun,
because another file of the batch needs the ordinary way, or nobody wants the results any more."""


@dataclass(slots=True, kw_only=True)
class FilesPut(Response):
    """Answer to PutFiles, beside its `results`: how many files are stored, and whether one was answered with 200, but
    without its checksum."""

    stored: int = 0
    unproven: bool = False

    @property
    def successes(self) -> int:
        """0: lanes count files as they are stored (`Traffic.small_stored`)."""
        return 0


@dataclass(slots=True, frozen=True, kw_only=True)
class PutFiles(Operation[FilesPut]):
    """PutObject of many small files, unconditionally; sending raises for the whole batch only where nothing was begun.

    Attributes:
        files: at least one.
        algorithm: of the checksum, one that servers repeat.
        reader: reads them; used in the lane's thread, and closed there when all are read.
        results: filled as answers come, one for each file, so that a caller who is cancelled knows what is stored.
    """

    name: ClassVar[str] = "PutObject"
    files: Sequence[FileToPut]
    algorithm: ChecksumAlgorithm
    reader: FileReader
    results: list[FileResult]
