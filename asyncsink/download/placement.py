"""Received objects become files: whole and proven first, and only then under their names. Blocking; in threads.

Files are not synced to the disk, as with every other copy: the object is still in S3, and the next grab compares the
content of a file, not its size, so that a file which a power loss has torn is received again.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count, groupby
from typing import Final

import anyio.from_thread
import anyio.to_thread
from anyio import CapacityLimiter
from anyio.abc import TaskGroup

from asyncsink.destinations.local.files import PIECE_BYTES, make_directories, usual_mode
from asyncsink.destinations.local.places import Place, PlacesBelow, moved_meanwhile, shown, translated
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.file_locks import lock
from asyncsink.integrity.checksums import ByteBody
from asyncsink.integrity.sameness import Existing, Proof, prove
from asyncsink.paths import LIST, SEARCH, on_disk
from asyncsink.value import dataclass

# -- The staging directory: a hidden folder in the target directory, where files wait until they are whole
# -------------- Every run holds a shared lock on it. The last run to leave sweeps it: files of a killed run are removed
# at once, unfinished large files after a week without a continuation, and the folder once it is empty. The folder stays
# open, and every operation in it is relative to its descriptor, so that a changed path does no harm. Blocking; in
# threads only.

FOLDER = ".asyncsink-grab"
UNFINISHED_SECONDS_MAX = 7 * 24 * 3600
"""Seconds that an unfinished large file is kept for a run that continues it."""
_LOCK, _WHOLE, _PART, _STATE = "lock", ".whole", ".part", ".state"


class StagingDirectory:
    """The staging directory as one run uses it.

    Attributes:
        directory: absolute path of the target.
        fresh: whether the target was empty when the run began.
        places: below the target's descriptor, which a later change of its path does not affect.
        mode: permissions of the files when they appear: those that new files get in the target.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.folder = f"{directory.rstrip('/')}/{FOLDER}"
        self.fresh = False
        self.mode = 0o600
        self.places: PlacesBelow
        self._root = self._folder = self._lock = -1
        self._locked = False
        self._token = secrets.token_hex(8)
        self._numbers = count(1)

    def open(self) -> None:
        """Make the target and the folder where they are missing.

        Raises:
            ConfigError: a file stands in the place of either, or the folder is another user's.
            AccessDenied, DestinationFull, PermanentError: nothing can be written there.
        """
        for path in (self.directory, self.folder):
            if os.path.lexists(on_disk(path)) and not os.path.isdir(on_disk(path)):
                raise ConfigError(f"{shown(path)} is no directory; move it, or choose another directory.")
        if os.path.islink(on_disk(self.folder)):
            raise ConfigError(f"{shown(self.folder)} is a symbolic link; remove it, or choose another directory.")
        with translated(self.directory, None):
            make_directories(self.directory)
            self.places = PlacesBelow(self.directory)
            with self.places.open(FOLDER) as place:
                self.mode = usual_mode(place)
                self._root = os.dup(place.directory)
            while not self._enter():
                continue  # another run was just removing the folder
            self.fresh = set(os.listdir(self._root)) == {FOLDER} and set(os.listdir(self._folder)) == {_LOCK}

    def _enter(self) -> bool:
        """Lock the folder; False where it was removed meanwhile."""
        with contextlib.suppress(FileExistsError):
            os.mkdir(FOLDER, 0o700, dir_fd=self._root)
        try:
            self._folder = os.open(FOLDER, LIST | os.O_NOFOLLOW, dir_fd=self._root)
            if os.fstat(self._folder).st_uid != os.geteuid():
                raise ConfigError(
                    f"{shown(self.folder)} belongs to another user, who could exchange what is received there; remove "
                    "it, or choose another directory."
                )
            self._lock = self.open_file(_LOCK, os.O_RDWR | os.O_CREAT)
            self._locked = lock(self._lock, fcntl.LOCK_SH)
            if self._is_at(FOLDER, self._root, self._folder) and self.holds(_LOCK, self._lock):
                return True
        except FileNotFoundError:
            pass
        except BaseException:
            self._let_go()
            raise
        self._let_go(keep_root=True)
        return False

    def _let_go(self, *, keep_root: bool = False) -> None:
        for descriptor in (self._lock, self._folder, *(() if keep_root else (self._root,))):
            if descriptor >= 0:
                os.close(descriptor)
        self._lock = self._folder = -1
        if not keep_root:
            self._root = -1

    def whole(self) -> str:
        """A new name for a file that is written in one go."""
        return f"{self._token}-{next(self._numbers)}{_WHOLE}"

    def unfinished(self, relative: str) -> tuple[str, str]:
        """The names of a large file and of its state, the same in every run."""
        stem = hashlib.sha256(relative.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        return stem + _PART, stem + _STATE

    def open_file(self, name: str, flags: int) -> int:
        """A descriptor of a file in the folder; a link is not followed. The caller closes it."""
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600, dir_fd=self._folder)

    def holds(self, name: str, descriptor: int) -> bool:
        """Whether `name` is that open file."""
        return self._is_at(name, self._folder, descriptor)

    @staticmethod
    def _is_at(name: str, directory: int, descriptor: int) -> bool:
        try:
            there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))

    def publish(self, name: str, place: Place) -> None:
        """Give a file in the folder its place.

        Raises:
            OSError, PermanentError: as `Place.take`.
        """
        place.take(name, self._folder)

    def remove(self, name: str) -> None:
        """Remove a file of the folder; harmless where there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

    def close(self) -> None:
        """Release the folder; the last run sweeps it. Harmless when repeated, or where `open` failed.

        Raises:
            PermanentError and its kinds: remaining files cannot be removed.
        """
        if self._lock < 0:
            return
        try:
            if self._locked and lock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB):
                with translated(self.folder, None, verb="removed"):
                    self._sweep()
        finally:
            self._let_go()

    def _sweep(self) -> None:
        with os.scandir(self._folder) as entries:
            modified = {entry.name: entry.stat(follow_symlinks=False).st_mtime for entry in entries}
        oldest, kept = time.time() - UNFINISHED_SECONDS_MAX, False
        for name in modified:
            stem, suffix = os.path.splitext(name)
            part, state = (modified.get(stem + each, 0.0) for each in (_PART, _STATE))
            unfinished = suffix in {_PART, _STATE}
            # A file that could not get its name has the object's time already; its state has the time of writing.
            if unfinished and part and max(part, state) > oldest:
                kept = True
            elif unfinished or suffix == _WHOLE:
                self.remove(name)
        if not kept:
            self.remove(_LOCK)
            try:
                os.rmdir(FOLDER, dir_fd=self._root)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # files of another program are in it
                    raise


# -- Whole objects become files ----------------------------------------------------------------------------------------

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Body:
    """A received object, whole and in memory.

    Attributes:
        relative: path below the target directory.
        data: its bytes.
        existing: the server's description of it.
        url: of the object, for messages.
        received_before: as in `integrity.sameness.prove`.
    """

    relative: str
    data: ByteBody
    existing: Existing
    url: str
    received_before: str = ""


class FileWriter:
    """Puts files below the target directory of one run."""

    def __init__(self, staging: StagingDirectory) -> None:
        self._staging = staging
        self._directory = staging.directory
        self._places = staging.places

    def path(self, relative: str) -> str:
        """The path of a file, below the directory as the user named it."""
        return f"{self._directory.rstrip('/')}/{relative}"

    def size(self, relative: str) -> int | None:
        """The size of the existing file, or None where there is none (a link does not count).

        Raises:
            AccessDenied, PermanentError: its place must not be written to, or cannot be looked at.
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
        """A descriptor of the existing file, for reading; the caller closes it.

        Raises:
            OSError, AccessDenied: it cannot be opened.
        """
        with self._places.open(relative, flags=SEARCH) as place:
            flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
            return os.open(place.name, flags, dir_fd=place.directory)

    def place(self, relative: str) -> Place:
        """The place of a file; its parents exist. The caller closes it.

        Raises:
            AccessDenied, PermanentError: the parents cannot be made, or lead out of the directory.
        """
        with translated(self.path(relative), None):
            return self._places.open(relative, make=True, flags=SEARCH)

    def check(self, relative: str) -> None:
        """Make a file's parents, and raise what `place` raises."""
        self.place(relative).close()

    def land(self, bodies: Sequence[Body]) -> list[Proof | AsyncSinkError]:
        """Prove and publish whole objects; the failure of one leaves an existing file of its name unchanged."""
        results: list[Proof | AsyncSinkError] = []
        for _, neighbours in groupby(bodies, key=_folder):
            results += self._land_in_one(list(neighbours))
        return results

    def _land_in_one(self, bodies: Sequence[Body]) -> Sequence[Proof | AsyncSinkError]:
        """Prove and publish objects of one directory, which is opened once."""
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
                    # A network file system may report here that it is full.
                    os.close(descriptor)
                staging.publish(temporary, place)
            except BaseException:
                staging.remove(temporary)
                raise
        return proof


def _folder(body: Body) -> str:
    return body.relative.rpartition("/")[0]


def finish(descriptor: int, mode: int, modified: datetime | None) -> None:
    """Give a whole file its permissions and the object's time."""
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
    """The bytes of an open file in pieces, each valid until the next. Ends early where the caller is cancelled."""
    buffer = memoryview(bytearray(PIECE_BYTES))
    offset = 0
    while length := os.preadv(descriptor, [buffer], offset):
        anyio.from_thread.check_cancelled()
        yield buffer[:length]
        offset += length


# -- Whole objects of many workers are written together ----------------------------------------------------------------
# A thread that writes small files releases and takes the interpreter's lock several times for each: on a fast file
# system, one thread writes 20,000 files in two thirds of the time and of the CPU that several threads need. Where each
# file waits for a server, further threads begin.

BATCH_BODIES_MAX: Final = 64
"""Most bodies that one call to a thread takes."""
SLOW_SECONDS: Final = 0.1
"""Seconds after which a call that has not returned is waiting for the file system: above a millisecond for a file."""

Landed = list[Proof | AsyncSinkError]


class FileWriterBatcher:
    """Passes received objects of the workers to threads, which write them.

    Args:
        file_writer: writes the files in the threads.
        threads: bounds the threads.
        group: its tasks wait for the threads; it must end after the workers that call `land`.
    """

    def __init__(self, file_writer: FileWriter, threads: CapacityLimiter, group: TaskGroup) -> None:
        self._file_writer = file_writer
        self._threads = threads
        self._group = group
        self._waiting: list[tuple[Sequence[Body], asyncio.Future[Landed]]] = []
        self._bodies = 0
        self._calls = self._returned = 0
        self._watching = False

    def __repr__(self) -> str:
        return f"<FileWriterBatcher {self._bodies} bodies waiting, {self._calls} calls>"

    async def land(self, bodies: Sequence[Body]) -> Landed:
        """As `FileWriter.land`. Cancelled, it does not wait for the threads at work; the group does."""
        landed: asyncio.Future[Landed] = asyncio.get_running_loop().create_future()
        self._waiting.append((bodies, landed))
        self._bodies += len(bodies)
        if not self._calls:
            self._begin()
        elif self._helps and not self._watching:
            self._watching = True
            self._group.start_soon(self._watch)
        return await landed

    @property
    def _helps(self) -> bool:
        """Whether a further call would have enough to do, and may begin."""
        return self._bodies >= BATCH_BODIES_MAX and self._calls < self._threads.total_tokens

    def _begin(self) -> None:
        self._calls += 1
        self._group.start_soon(self._write_all)

    async def _watch(self) -> None:
        """Begin a further call whenever none has returned for `SLOW_SECONDS`, until no more are needed."""
        try:
            while self._helps:
                returned = self._returned
                await anyio.sleep(SLOW_SECONDS)
                if self._helps and self._returned == returned:
                    self._begin()
        finally:
            self._watching = False

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                taken = self._taken()
                bodies = [body for group, _ in taken for body in group]
                results = await anyio.to_thread.run_sync(partial(self._file_writer.land, bodies), limiter=self._threads)
                self._returned += 1
                start = 0
                for group, landed in taken:
                    if not landed.done():  # cancelled otherwise
                        landed.set_result(results[start : start + len(group)])
                    start += len(group)
        finally:
            self._calls -= 1

    def _taken(self) -> list[tuple[Sequence[Body], asyncio.Future[Landed]]]:
        count = bodies = 0
        for group, _ in self._waiting:
            if count and bodies + len(group) > BATCH_BODIES_MAX:
                break
            count += 1
            bodies += len(group)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        self._bodies -= bodies
        return taken
