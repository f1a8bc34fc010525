"""One local file on its way to its name: copied, hardlinked or reflinked. Blocking; called in threads only."""

from __future__ import annotations

import errno
import os
import stat

from asyncsink.config import LocalCopyMode
from asyncsink.destinations.local_errors import reading, shown, translated
from asyncsink.destinations.local_files import TemporaryFile, link_file, related_files
from asyncsink.destinations.local_places import Place
from asyncsink.errors import IntegrityError, PermanentError, SourceChanged
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import SourceFile
from asyncsink.paths import directory_of, on_disk, real_path


class Publication:
    """A file that is being written, or shared with its source.

    `begin`, `write`, `publish`, and where that says that the bytes are needed after all, both again; `discard` at the
    end, whatever happened.

    Args:
        source: the file; `size_bytes` is the size that was read, which rules where the source was seen before.
        target: where it will be; the caller closes it, after `discard`.
        how: "hardlink" and "reflink" share the source's bytes where the file system can, else the file is written.
        mode: permissions of a file that is written; a hardlink has its source's.
    """

    def __init__(self, source: SourceFile, target: Place, *, how: LocalCopyMode, size_bytes: int, mode: int) -> None:
        self._source = source
        self._target = target
        self._how = how
        self._size_bytes = size_bytes
        self._mode = mode
        self._temporary = TemporaryFile(target)
        self._linked = False
        self._link_planned = False
        self.shares_source = False
        """True where the bytes need not be written: they are the source's own."""

    def begin(self) -> None:
        """Make the temporary file, and share the source's extents where that is wanted.

        Raises:
            OSError: it cannot be written there.
            PermanentError: the source is the target.
        """
        one_file = self._look_at_target()
        if self._how == "hardlink":
            self._linked = one_file
            self._link_planned = not one_file and self._on_one_device()
            self.shares_source = self._linked or self._link_planned
        if not self.shares_source:
            self._temporary.open()
            if self._how == "reflink":
                self.shares_source = self._temporary.clone(self._source, self._size_bytes)

    def _look_at_target(self) -> bool:
        """Whether the target is a hard link of the source already."""
        there = self._target.status()
        if there is None:
            return False
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._target.path)
        try:
            source = os.stat(on_disk(self._source.path))
        except OSError:
            # The bytes are at hand; a source that is not on this machine is no obstacle.
            return False
        if not os.path.samestat(there, source):
            return False
        if real_path(self._source.path) == self._target.path:
            raise PermanentError(
                f"{shown(self._target.path)} is its own destination; choose a directory that does not hold the "
                "sources.",
                operation="local copy",
            )
        return True

    def _on_one_device(self) -> bool:
        try:
            return os.stat(on_disk(self._source.path)).st_dev == os.fstat(self._target.directory).st_dev
        except OSError:
            # Not to be linked then; what is wrong with the directory shows when the bytes are written.
            return False

    def write(self, offset: int, body: ByteBody) -> None:
        """Write all of `body` at `offset`, unless it is the source's anyway; several threads may do so at once.

        Raises:
            OSError: it cannot be written.
            UploadMissing: the publication has ended.
        """
        if self.shares_source:
            self._temporary.check()
        else:
            self._temporary.write(offset, body)

    def copy_source(self) -> None:
        """Fill the file from the source, for a link that failed after its bytes had gone by.

        Raises:
            SourceError: it cannot be read, or is another by now.
        """
        self._temporary.copy(self._source, self._size_bytes)

    def publish(self) -> bool:
        """Give the file its name, durably. False where a link was planned but is refused: the bytes must be written.

        Raises:
            OSError: it cannot be published.
            IntegrityError: the file has another length than what was read.
            UploadMissing: the publication has ended.
        """
        self._temporary.check()
        if self._linked:
            return True
        if self._link_planned:
            if link_file(self._source, self._target, self._size_bytes):
                return True
            self._link_planned = self.shares_source = False
            self._temporary.open()
            return False
        length = self._temporary.size_bytes()
        if length != self._size_bytes:
            raise IntegrityError(
                f"{shown(self._target.path)} has {length:,} bytes on disk; {self._size_bytes:,} were read. Export it "
                "again.",
                expected=str(self._size_bytes),
                actual=str(length),
            )
        self._temporary.publish(mtime_ns=self._source.mtime_ns, mode=self._mode)
        return True

    def discard(self) -> None:
        """Remove what is temporary. Harmless after `publish`, and when repeated."""
        self._temporary.discard()


def publish_companions(source: SourceFile, target: Place, *, how: LocalCopyMode, mode: int) -> None:
    """Bring the source's companions (rule 30) along; one that is there with the same size and time stays.

    Raises:
        PermanentError and its kinds, SourceError: one cannot be copied.
    """
    for companion, path in related_files(_without_links_above(source), target.path):
        place = target.beside(path.rpartition("/")[2])
        with reading(companion):
            found, seen = _look_at(companion)
        with translated(path, None):
            if not _is_there(place, seen):
                _publish_companion(Publication(found, place, how=how, size_bytes=seen.st_size, mode=mode))


def _without_links_above(source: SourceFile) -> str:
    """`source.path` with the links above its name followed: its companions lie there, also where it is a link itself.

    Raises:
        SourceChanged: the path leads to another file by now.
    """
    if not source.real_path:
        return source.path
    directory, _, name = source.path.rpartition("/")
    path = f"{real_path(directory)}/{name}"
    if real_path(path) != source.real_path:
        raise SourceChanged(f"{shown(source.path)} leads to another file by now; export it again when it is at rest.")
    return path


def _look_at(companion: str) -> tuple[SourceFile, os.stat_result]:
    """A companion as a source, its directory reached without following a link."""
    with directory_of(companion) as (directory, name):
        seen = os.stat(name, dir_fd=directory, follow_symlinks=False)
        real = ""
        if stat.S_ISLNK(seen.st_mode):
            real = real_path(companion)
            seen = os.stat(on_disk(real))
    found = SourceFile(companion, seen.st_size, seen.st_mtime_ns, inode=seen.st_ino, real_path=real)
    return found, seen


def _publish_companion(publication: Publication) -> None:
    try:
        publication.begin()
        if not (publication.shares_source and publication.publish()):
            publication.copy_source()
            publication.publish()
    finally:
        publication.discard()


def _is_there(place: Place, wanted: os.stat_result) -> bool:
    there = place.status()
    if there is None:
        return False
    alike = (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns)
    return alike and stat.S_ISREG(there.st_mode)
