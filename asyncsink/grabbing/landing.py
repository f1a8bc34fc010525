"""Where received objects become files: whole, proven, and only then under their names. Blocking; in threads.

When a file reaches the disk is left to the system, as with every other copy: the object is still in S3, and the next
grab compares what is here by its content, not by its size, so that a file which a power loss tore is received again.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby

import anyio.from_thread

from asyncsink.destinations.local_errors import moved_meanwhile, translated
from asyncsink.destinations.local_files import PIECE_BYTES
from asyncsink.destinations.local_places import Place
from asyncsink.errors import AsyncSinkError
from asyncsink.grabbing.staging import Staging
from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.existing import Existing
from asyncsink.integrity.received import Proof, prove
from asyncsink.paths import SEARCH
from asyncsink.value import dataclass

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
        self._places = staging.places

    def path(self, relative: str) -> str:
        """The path a file has, as the user knows it."""
        return f"{self._directory.rstrip('/')}/{relative}"

    def size(self, relative: str) -> int | None:
        """The size of the file that is there already, or None where there is none (a link is none).

        Raises:
            AccessDenied, PermanentError: its place is not to be written to, or cannot be looked at.
        """
        with translated(self.path(relative), None, verb="looked at"):
            try:
                place = self._places.open(relative, flags=SEARCH)
            except (FileNotFoundError, NotADirectoryError):
                return None
            with place:
                seen = place.status()
        return seen.st_size if seen is not None and stat.S_ISREG(seen.st_mode) else None

    def open_file(self, relative: str) -> int:
        """A descriptor of the file that is there, for reading; the caller closes it.

        Raises:
            OSError, AccessDenied: it cannot be opened.
        """
        with self._places.open(relative, flags=SEARCH) as place:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            return os.open(place.name, flags, dir_fd=place.directory)

    def place(self, relative: str) -> Place:
        """The place of a file; its parents exist. The caller closes it.

        Raises:
            AccessDenied, PermanentError: they cannot be made, or lead out of the directory.
        """
        with translated(self.path(relative), None):
            return self._places.open(relative, make=True, flags=SEARCH)

    def check(self, relative: str) -> None:
        """Make a file's parents, and raise what `place` raises."""
        self.place(relative).close()

    def land(self, bodies: Sequence[Body]) -> list[Proof | AsyncSinkError]:
        """Prove and publish whole objects; one that fails leaves what was under its name as it was."""
        results: list[Proof | AsyncSinkError] = []
        for _, neighbours in groupby(bodies, key=_folder):
            results += self._land_in_one(list(neighbours))
        return results

    def _land_in_one(self, bodies: Sequence[Body]) -> Sequence[Proof | AsyncSinkError]:
        """Objects that have one directory: it is opened once."""
        try:
            first = self.place(bodies[0].relative)
        except AsyncSinkError:
            return [self._land_alone(body) for body in bodies]
        with first:
            results = [self._landed(body, first) for body in bodies]
            if first.is_there():
                return results
        return [
            result if isinstance(result, AsyncSinkError) else moved_meanwhile(self.path(body.relative))
            for body, result in zip(bodies, results, strict=True)
        ]

    def _land_alone(self, body: Body) -> Proof | AsyncSinkError:
        try:
            with self.place(body.relative) as place:
                return self._land(body, place)
        except AsyncSinkError as error:
            return error

    def _landed(self, body: Body, first: Place) -> Proof | AsyncSinkError:
        try:
            return self._land(body, first.beside(body.relative.rpartition("/")[2]))
        except AsyncSinkError as error:
            return error

    def _land(self, body: Body, place: Place) -> Proof:
        proof = prove(body.existing, (body.data,), body.url, received_before=body.received_before)
        staging = self._staging
        temporary = staging.whole()
        with translated(self.path(body.relative), None):
            descriptor = staging.open_file(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                try:
                    write_all(descriptor, 0, body.data)
                    finish(descriptor, staging.mode, body.existing.modified)
                finally:
                    # A network file system tells here that it has no room.
                    os.close(descriptor)
                staging.publish(temporary, place)
            except BaseException:
                staging.remove(temporary)
                raise
        return proof


def _folder(body: Body) -> str:
    return body.relative.rpartition("/")[0]


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


def pieces_of(descriptor: int) -> Iterator[memoryview]:
    """The bytes of an open file, piece by piece; each is valid until the next. Ends early where the caller is
    cancelled."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = 0
    while length := os.preadv(descriptor, [buffer], offset):
        anyio.from_thread.check_cancelled()
        yield buffer[:length]
        offset += length
