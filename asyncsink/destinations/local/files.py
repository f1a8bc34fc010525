"""Blocking primitives for files that appear whole or not at all. For threads only, never on the event loop.

A file is written under a temporary name in its own directory, which stays open; it is synced and renamed, and then that
directory is synced. After `publish` the file survives a power loss under its name; before, the name is unchanged. The
kernel merges simultaneous syncs, so several threads share their cost.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import stat
import threading
from collections.abc import Iterator
from pathlib import PurePath

from asyncsink.destinations.local.places import NAME_BYTES_MAX, Place, reading, shown, translated
from asyncsink.errors import IntegrityError, PermanentError, SourceChanged, SourceUnreadable, UploadMissing
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import SourceFile
from asyncsink.options.schema import LocalCopyMode
from asyncsink.paths import Folder, directory_of, make_directory, on_disk, real_path, sync_directory

TEMPORARY_SUFFIX = ".asyncsink-part"
PIECE_BYTES = 1 << 20
_CANNOT_SHARE = frozenset(
    {
        errno.EXDEV,  # another file system
        errno.EPERM,  # fs.protected_hardlinks, or a file system without links
        errno.EACCES,
        errno.EMLINK,
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        errno.EINVAL,
        errno.ENOENT,  # the source is not on this machine
        errno.ENOTDIR,
        errno.ELOOP,
    }
)

_RELATED = ((".hdr", ".img", ".mat"), (".nii", ".mat"), (".BRIK", ".HEAD"))
_MAYBE_COMPRESSED = frozenset({".hdr", ".img", ".BRIK", ".HEAD"})


def temporary_beside(place: Place) -> Place:
    """A new name beside `place`, hidden and short enough for every file system."""
    tail = f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    room = NAME_BYTES_MAX - len(tail) - 1
    name = place.path.rpartition("/")[2]
    stem = name.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "ignore")
    return place.beside(f".{stem}{tail}")


def make_directories(directory: str) -> None:
    """Create a directory and its parents durably, links on the way followed; safe in several threads and processes at
    once.

    Raises:
        FileExistsError, NotADirectoryError: a file has the name of a needed directory.
    """
    os.close(make_directory(real_path(directory)))


def usual_mode(place: Place) -> int:
    """The mode of a new file in the directory of `place`. It also proves that files can be created, synced and removed
    there.

    The umask cannot be read without changing it for the whole process, so a file is created and examined.
    """
    probe = temporary_beside(place.beside("probe"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(probe.name, flags, 0o666, dir_fd=probe.directory)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o666
    finally:
        os.close(descriptor)
        os.unlink(probe.name, dir_fd=probe.directory)
    sync_directory(probe.directory)
    return mode


class TemporaryFile:
    """The file that becomes `target`. Ends in exactly one of `publish` and `discard`; threads may share it.

    `discard` waits for the writes of other threads, so that no write reaches a closed descriptor. A call after either
    raises UploadMissing.
    """

    def __init__(self, target: Place) -> None:
        """Describe the file; it is created by `open`, beside `target`."""
        self._target = target
        self._temporary = temporary_beside(target)
        self._descriptor = -1
        self._ended = False
        self._in_use = 0
        self._state = threading.Condition()

    def open(self) -> None:
        """Create the file with mode 0600."""
        with self._state:
            self.check()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._temporary.name, flags, 0o600, dir_fd=self._temporary.directory)

    def check(self) -> None:
        """Raise UploadMissing after the end."""
        if self._ended:
            raise UploadMissing(
                f"{shown(self._target.path)} is not being written any more: it was completed or aborted; start it "
                "again.",
                operation="local copy",
            )

    @contextlib.contextmanager
    def _using(self) -> Iterator[int]:
        with self._state:
            self.check()
            self._in_use += 1
        try:
            yield self._descriptor
        finally:
            with self._state:
                self._in_use -= 1
                self._state.notify_all()

    def write(self, offset: int, body: ByteBody) -> None:
        """Write all of `body` at `offset`."""
        view = memoryview(body)
        with self._using() as descriptor:
            while view.nbytes:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written

    def copy(self, source: SourceFile, size_bytes: int) -> None:
        """Copy the source's bytes into the file.

        Raises:
            SourceMissing, SourceUnreadable: the source cannot be read.
            SourceChanged: its size or time differs from the first look, or it changed while it was read.
        """
        path = source.path
        with reading(path):
            file = _open_source(source)
        with file:
            before, offset = os.fstat(file.fileno()), 0
            buffer = memoryview(bytearray(PIECE_BYTES))
            while count := _read(file, buffer, path):
                self.write(offset, buffer[:count])
                offset += count
            after = os.fstat(file.fileno())
        at_rest = all(_unchanged(seen, source, size_bytes) for seen in (before, after))
        if at_rest and offset != size_bytes:
            raise SourceUnreadable(
                f"{shown(path)} has {offset:,} bytes, and its file system says {size_bytes:,}; copy it to an "
                "ordinary file and export that."
            )
        if not at_rest:
            raise SourceChanged(f"{shown(path)} changed while it was copied; export it again when it is at rest.")

    def size_bytes(self) -> int:
        """The present length of the file."""
        with self._using() as descriptor:
            return os.fstat(descriptor).st_size

    def publish(self, *, mode: int, mtime_ns: int) -> None:
        """Sync, rename to the target, sync the directory."""
        with self._using() as descriptor:
            os.fchmod(descriptor, mode)
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            os.fsync(descriptor)
            self._target.take(self._temporary.name, self._temporary.directory)
            sync_directory(self._target.directory)

    def discard(self) -> None:
        """Close the file, and remove its temporary name. Harmless after `publish`, and when repeated."""
        with self._state:
            self._ended = True
            self._state.wait_for(lambda: not self._in_use)
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary.name, dir_fd=self._temporary.directory)


def _open_source(source: SourceFile) -> io.FileIO:
    # O_NONBLOCK: opening a FIFO that replaced the file must not block the thread.
    with Folder() as folder:
        descriptor = folder.open_file(source.real_path or source.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    return io.FileIO(descriptor)


def _read(file: io.FileIO, buffer: memoryview, source: str) -> int:
    with reading(source):
        return file.readinto(buffer)


def _unchanged(seen: os.stat_result, source: SourceFile, size_bytes: int) -> bool:
    return (
        seen.st_size == size_bytes
        and seen.st_mtime_ns == source.mtime_ns
        and (not source.inode or seen.st_ino == source.inode)
    )


def link_file(source: SourceFile, target: Place, size_bytes: int) -> bool:
    """Link `target` to `source`, atomically and durably.

    False, and no change, where the two cannot be linked, or the source differs from what was read.
    """
    temporary = temporary_beside(target)
    try:
        with directory_of(source.real_path or source.path) as (directory, name):
            os.link(name, temporary.name, src_dir_fd=directory, dst_dir_fd=temporary.directory, follow_symlinks=False)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    try:
        seen = temporary.status()
        if seen is None or not stat.S_ISREG(seen.st_mode) or not _unchanged(seen, source, size_bytes):
            return False
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
        descriptor = os.open(temporary.name, flags, dir_fd=temporary.directory)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        target.take(temporary.name, temporary.directory)
    finally:
        # rename(2) leaves both names where they are links of one file already.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary.name, dir_fd=temporary.directory)
    sync_directory(target.directory)
    return True


def related_files(source: str, target: str) -> list[tuple[str, str]]:
    """Companions that exist beside `source`, each with its path beside `target` (Nipype rule 30).

    Analyze and NIfTI pairs (.hdr, .img, .mat), .mat beside .nii, AFNI's .BRIK and .HEAD; the image files of the pairs
    also with .gz. None where the target has another extension than the source, because companions have no name then.
    """
    plain, target_plain = source.removesuffix(".gz"), target.removesuffix(".gz")
    extension = PurePath(plain).suffix
    if extension != PurePath(target_plain).suffix or (plain != source and extension not in _MAYBE_COMPRESSED):
        return []
    others = dict.fromkeys(
        other for family in _RELATED if extension in family for other in family if other != extension
    )
    endings = [
        ending for other in others for ending in ((other, f"{other}.gz") if other in _MAYBE_COMPRESSED else (other,))
    ]
    stem, target_stem = plain.removesuffix(extension), target_plain.removesuffix(extension)
    return [(stem + ending, target_stem + ending) for ending in endings if os.path.isfile(on_disk(stem + ending))]


# -- Publication of one local file: copied or hardlinked. Blocking; for threads only -----------------------------------


class Publication:
    """A file that is being written, or that shares its source's bytes.

    Call `begin`, `write`, `publish`; where `publish` returns False, both again; `discard` at the end in any case.

    Args:
        source: the file; `size_bytes` is the size that was read, which counts where the source was examined before.
        target: its place; the caller closes it, after `discard`.
        how: "hardlink" shares the source's bytes where the file system can; else the file is written.
        mode: permissions of a written file; a hardlink has its source's.
    """

    def __init__(self, source: SourceFile, target: Place, *, how: LocalCopyMode, size_bytes: int, mode: int) -> None:
        self._source = source
        self._target = target
        self._how: LocalCopyMode = how if source.is_file else "copy"
        self._size_bytes = size_bytes
        self._mode = mode
        self._temporary = TemporaryFile(target)
        self._linked = False
        self._link_planned = False
        self.shares_source = False
        """True where the bytes need not be written, because they are the source's own."""

    def begin(self) -> None:
        """Create the temporary file, unless a hard link is planned or there already.

        Raises:
            OSError: the file cannot be created.
            PermanentError: the source is the target.
        """
        one_file = self._look_at_target()
        if self._how == "hardlink":
            self._linked = one_file
            self._link_planned = not one_file and self._on_one_device()
            self.shares_source = self._linked or self._link_planned
        if not self.shares_source:
            self._temporary.open()

    def _look_at_target(self) -> bool:
        """Whether the target is a hard link of the source already."""
        there = self._target.status()
        if there is None:
            return False
        if stat.S_ISDIR(there.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), self._target.path)
        if not self._source.is_file:
            return False
        try:
            source = os.stat(on_disk(self._source.path))
        except OSError:
            # The bytes have been read already, so a source that is not on this machine is no obstacle.
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
            # Not linked then; a fault of the directory is reported when the bytes are written.
            return False

    def write(self, offset: int, body: ByteBody) -> None:
        """Write all of `body` at `offset`, unless the source's bytes are shared; several threads may write at once.

        Raises:
            OSError: the bytes cannot be written.
            UploadMissing: the publication has ended.
        """
        if self.shares_source:
            self._temporary.check()
        else:
            self._temporary.write(offset, body)

    def copy_source(self) -> None:
        """Copy the source into the file, for a link that failed after its bytes were discarded.

        Raises:
            SourceError: the source cannot be read, or has changed.
        """
        self._temporary.copy(self._source, self._size_bytes)

    def publish(self, size_bytes: int | None = None) -> bool:
        """Rename the file, durably. False where a planned link is refused: the bytes must be written.

        Args:
            size_bytes: of all that was written, where that was not known before.

        Raises:
            OSError: the file cannot be published.
            IntegrityError: its length differs from what was read.
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
        length, expected = self._temporary.size_bytes(), self._size_bytes if size_bytes is None else size_bytes
        if length != expected:
            raise IntegrityError(
                f"{shown(self._target.path)} has {length:,} bytes on disk; {expected:,} were read. Export it again.",
                expected=str(expected),
                actual=str(length),
            )
        self._temporary.publish(mtime_ns=self._source.mtime_ns, mode=self._mode)
        return True

    def discard(self) -> None:
        """Remove the temporary file. Harmless after `publish`, and when repeated."""
        self._temporary.discard()


def publish_companions(source: SourceFile, target: Place, *, how: LocalCopyMode, mode: int) -> None:
    """Publish the source's companions (rule 30); one that exists with the same size and time stays.

    Raises:
        PermanentError and its kinds, SourceError: a companion cannot be copied.
    """
    for companion, path in related_files(_without_links_above(source), target.path):
        place = target.beside(path.rpartition("/")[2])
        with reading(companion):
            found, seen = _look_at(companion)
        with translated(path, None):
            if not _is_there(place, seen):
                _publish_companion(Publication(found, place, how=how, size_bytes=seen.st_size, mode=mode))


def _without_links_above(source: SourceFile) -> str:
    """`source.path` with the links above its name followed: companions of a link lie beside the link itself.

    Raises:
        SourceChanged: the path leads to another file now.
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
