"""Where received objects become files: whole, proven, and only then under their names. Blocking; in threads.

When a file reaches the disk is left to the system, as with every other copy: the object is still in S3, and the next
grab compares what is here by its content, not by its size, so that a file which a power loss tore is received again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import anyio.from_thread

from asyncsink.destinations.local_errors import translated
from asyncsink.destinations.local_files import PIECE_BYTES, make_directories
from asyncsink.destinations.local_places import real_parent
from asyncsink.errors import AsyncSinkError
from asyncsink.grabbing.staging import Staging, regular_size
from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.received import Proof, prove

PARENTS_MAX = 4096
"""Directories whose real paths are remembered."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Body:
    """A whole object that was received.

    Attributes:
        relative: path below the target directory.
        data: its bytes.
        existing: what the server told of it.
        url: of the object, for messages.
        received_before: as in `integrity.received.prove`.
    """

    relative: str
    data: ByteBody
    existing: Existing
    url: str
    received_before: str = ""


class Landing:
    """Puts files below the target directory of one run."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._directory = staging.directory
        self._real_root = os.path.realpath(staging.directory)
        self._parents: dict[str, str] = {}

    def path(self, relative: str) -> str:
        """The path a file has, as the user knows it."""
        return os.path.join(self._directory, relative)

    def size(self, relative: str) -> int | None:
        """The size of the file that is there already, or None where there is none.

        Raises:
            AccessDenied, PermanentError: its place is not to be written to, or cannot be looked at.
        """
        with translated(self.path(relative), None, verb="looked at"):
            parent, name = real_parent(self._directory, self._real_root, relative)
            return regular_size(os.path.join(parent, name))

    def place(self, relative: str) -> str:
        """The real path of a file; its parents exist.

        Raises:
            AccessDenied, PermanentError: they cannot be made, or lead out of the directory.
        """
        folder, _, name = relative.rpartition("/")
        parent = self._parents.get(folder)
        if parent is None:
            with translated(self.path(relative), None):
                parent, _ = real_parent(self._directory, self._real_root, relative)
                make_directories(parent)
            if len(self._parents) >= PARENTS_MAX:
                self._parents.clear()
            self._parents[folder] = parent
        return os.path.join(parent, name)

    def land(self, bodies: Sequence[Body]) -> list[Proof | AsyncSinkError]:
        """Prove and publish whole objects; one that fails leaves what was under its name as it was."""
        results: list[Proof | AsyncSinkError] = []
        for body in bodies:
            try:
                results.append(self._land(body))
            except AsyncSinkError as error:
                results.append(error)
        return results

    def _land(self, body: Body) -> Proof:
        proof = prove(body.existing, (body.data,), body.url, received_before=body.received_before)
        target, temporary = self.place(body.relative), self._staging.whole()
        with translated(target, None):
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                try:
                    write_all(descriptor, 0, body.data)
                    finish(descriptor, self._staging.mode, body.existing.modified)
                finally:
                    # A network file system tells here that it has no room.
                    os.close(descriptor)
                os.rename(temporary, target)
            except BaseException:
                os.unlink(temporary)
                raise
        return proof


def finish(descriptor: int, mode: int, modified: datetime | None) -> None:
    """Give a file that is whole its permissions and the object's time."""
    os.fchmod(descriptor, mode)
    if modified is not None:
        nanoseconds = (modified - _EPOCH) // timedelta(microseconds=1) * 1000
        os.utime(descriptor, ns=(nanoseconds, nanoseconds))


def write_all(descriptor: int, offset: int, data: ByteBody) -> None:
    """Write all of `data` at `offset`."""
    view = memoryview(data)
    while view.nbytes:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def pieces_of(path: str) -> Iterator[memoryview]:
    """The bytes of a file, piece by piece; each is valid until the next. Ends early where the caller is cancelled."""
    with open(path, "rb", buffering=0) as file:
        buffer = memoryview(bytearray(PIECE_BYTES))
        while length := file.readinto(buffer):
            anyio.from_thread.check_cancelled()
            yield buffer[:length]
