"""Blocking primitives for files that appear whole or not at all. Called in threads only, never on the event loop.

A file is written under a temporary name in its own directory, which stays open, synced, renamed, and then that
directory is synced: after
`publish` returned, the file survives a power loss under its name; before that, the name is what it was. The kernel
merges syncs that happen at the same time, so several threads share their cost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import secrets
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import PurePath

from asyncsink.destinations.local_errors import NAME_BYTES_MAX, reading, shown
from asyncsink.destinations.local_places import Place
from asyncsink.errors import SourceChanged, SourceUnreadable, UploadMissing
from asyncsink.integrity.checksums import ByteBody
from asyncsink.model import SourceFile
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
        errno.ENOTTY,
        errno.EINVAL,
        errno.ENOENT,  # no such source on this machine
        errno.ENOTDIR,
        errno.ELOOP,
    }
)
_FICLONE = 0x40049409
"""ioctl_ficlone(2)"""

_RELATED = ((".hdr", ".img", ".mat"), (".nii", ".mat"), (".BRIK", ".HEAD"))
_MAYBE_COMPRESSED = frozenset({".hdr", ".img", ".BRIK", ".HEAD"})


def temporary_beside(place: Place) -> Place:
    """A fresh name beside `place`, hidden and short enough for every file system."""
    tail = f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    room = NAME_BYTES_MAX - len(tail) - 1
    name = place.path.rpartition("/")[2]
    stem = name.encode("utf-8", "surrogateescape")[:room].decode("utf-8", "ignore")
    return place.beside(f".{stem}{tail}")


def make_directories(directory: str) -> None:
    """Make a directory and its parents, links on the way followed, durably; several threads and processes may do so at
    once.

    Raises:
        FileExistsError, NotADirectoryError: a file stands where a directory is needed.
    """
    os.close(make_directory(real_path(directory)))


def usual_mode(place: Place) -> int:
    """The mode of a new file in the directory of `place`; proves as well that files can be made, synced and removed
    there.

    The umask cannot be read without changing it for the whole process, so a file is made and looked at.
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

    `discard` waits for the writes of other threads, so that no write ever reaches a descriptor that was closed.
    A call that comes after either raises UploadMissing.
    """

    def __init__(self, target: Place) -> None:
        """Becomes `target`; until then it is beside it."""
        self._target = target
        self._temporary = temporary_beside(target)
        self._descriptor = -1
        self._ended = False
        self._in_use = 0
        self._state = threading.Condition()

    def open(self) -> None:
        """Create the file, readable by its owner only."""
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

    def clone(self, source: SourceFile, size_bytes: int) -> bool:
        """Share the source's extents (reflink). False where that is not possible, or the source is another by now."""
        if sys.platform != "linux":
            return False
        with self._using() as descriptor:
            try:
                with _open_source(source) as file:
                    if not _unchanged(os.fstat(file.fileno()), source, size_bytes):
                        return False
                    fcntl.ioctl(descriptor, _FICLONE, file.fileno())
                    return True
            except OSError as error:
                if error.errno in _CANNOT_SHARE:
                    return False
                raise

    def copy(self, source: SourceFile, size_bytes: int) -> None:
        """Fill the file with the source's bytes.

        Raises:
            SourceMissing, SourceUnreadable: it cannot be read.
            SourceChanged: it has another size or time than was seen before, or changed while it was read.
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
        """How far the file reaches now."""
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
        """Close, and remove the temporary name if it is still there. Harmless after `publish`, and when repeated."""
        with self._state:
            self._ended = True
            self._state.wait_for(lambda: not self._in_use)
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._temporary.name, dir_fd=self._temporary.directory)


def _open_source(source: SourceFile) -> io.FileIO:
    # O_NONBLOCK: a FIFO that took the file's place in the meantime must not block the thread.
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
    """Make `target` another name of `source`, atomically and durably.

    False where links are not possible between the two, or the source is not what was read: then nothing was done.
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
        # rename(2) leaves both names where they belong to one file already.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary.name, dir_fd=temporary.directory)
    sync_directory(target.directory)
    return True


def related_files(source: str, target: str) -> list[tuple[str, str]]:
    """Companions that exist beside `source`, each with its place beside `target` (Nipype rule 30).

    Analyze and NIfTI pairs (.hdr, .img, .mat), .mat beside .nii, AFNI's .BRIK and .HEAD; the image files of the pairs
    also with .gz. None where the target has another extension than the source: its companions have no name then.
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
