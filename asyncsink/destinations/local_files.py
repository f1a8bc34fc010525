"""Blocking primitives for files that appear whole or not at all. Called in threads only, never on the event loop.

A file is written under a temporary name in its own directory, synced, renamed, and then its directory is synced: after
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
from asyncsink.errors import SourceChanged, SourceUnreadable, UploadMissing
from asyncsink.integrity.checksums import ByteBody

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


def temporary_path(target: str) -> str:
    """A fresh name beside `target`, hidden and short enough for every file system."""
    directory, name = os.path.split(target)
    tail = f".{secrets.token_hex(8)}{TEMPORARY_SUFFIX}"
    room = NAME_BYTES_MAX - len(tail) - 1
    stem = os.fsencode(name)[:room].decode("utf-8", "ignore")
    return os.path.join(directory, f".{stem}{tail}")


def sync_directory(directory: str) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems keep names durable by themselves and know no sync of a directory.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def make_directories(directory: str) -> None:
    """Make a directory and its parents, durably; several threads and processes may do so at once.

    Raises:
        FileExistsError, NotADirectoryError: a file stands where a directory is needed.
    """
    missing: list[str] = []
    while not os.path.isdir(directory):
        missing.append(directory)
        parent = os.path.dirname(directory)
        if parent == directory:
            break
        directory = parent
    for path in reversed(missing):
        try:
            os.mkdir(path)
        except FileExistsError:
            if not os.path.isdir(path):
                raise
        sync_directory(os.path.dirname(path))


def usual_mode(directory: str) -> int:
    """The mode a new file gets in `directory`; proves as well that files can be made, synced and removed there.

    The umask cannot be read without changing it for the whole process, so a file is made and looked at.
    """
    path = temporary_path(os.path.join(directory, "probe"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o666
    finally:
        os.close(descriptor)
        os.unlink(path)
    sync_directory(directory)
    return mode


class TemporaryFile:
    """The file that becomes `target`. Ends in exactly one of `publish` and `discard`; threads may share it.

    `discard` waits for the writes of other threads, so that no write ever reaches a descriptor that was closed.
    A call that comes after either raises UploadMissing.
    """

    def __init__(self, target: str, path: str = "") -> None:
        """Becomes `target`; until then it is at `path`, on the same file system, or beside the target."""
        self._target = target
        self.path = path or temporary_path(target)
        self._descriptor = -1
        self._ended = False
        self._in_use = 0
        self._state = threading.Condition()

    def open(self) -> None:
        """Create the file, readable by its owner only."""
        with self._state:
            self.check()
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self.path, flags, 0o600)

    def check(self) -> None:
        """Raise UploadMissing after the end."""
        if self._ended:
            raise UploadMissing(
                f"{shown(self._target)} is not being written any more: it was completed or aborted; start it again.",
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

    def clone(self, source: str, size_bytes: int, mtime_ns: int) -> bool:
        """Share the source's extents (reflink). False where that is not possible, or the source is another by now."""
        if sys.platform != "linux":
            return False
        with self._using() as descriptor:
            try:
                with io.FileIO(source, opener=_without_waiting) as file:
                    if not _unchanged(os.fstat(file.fileno()), size_bytes, mtime_ns):
                        return False
                    fcntl.ioctl(descriptor, _FICLONE, file.fileno())
                    return True
            except OSError as error:
                if error.errno in _CANNOT_SHARE:
                    return False
                raise

    def copy(self, source: str, size_bytes: int, mtime_ns: int) -> None:
        """Fill the file with the source's bytes.

        Raises:
            SourceMissing, SourceUnreadable: it cannot be read.
            SourceChanged: it has another size or time than was seen before, or changed while it was read.
        """
        with _open_source(source) as file:
            before, offset = os.fstat(file.fileno()), 0
            buffer = memoryview(bytearray(PIECE_BYTES))
            while count := _read(file, buffer, source):
                self.write(offset, buffer[:count])
                offset += count
            after = os.fstat(file.fileno())
        at_rest = all(_unchanged(seen, size_bytes, mtime_ns) for seen in (before, after))
        if at_rest and offset != size_bytes:
            raise SourceUnreadable(
                f"{shown(source)} has {offset:,} bytes, and its file system says {size_bytes:,}; copy it to an "
                "ordinary file and export that."
            )
        if not at_rest:
            raise SourceChanged(f"{shown(source)} changed while it was copied; export it again when it is at rest.")

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
            os.rename(self.path, self._target)
            sync_directory(os.path.dirname(self._target))

    def discard(self) -> None:
        """Close, and remove the temporary name if it is still there. Harmless after `publish`, and when repeated."""
        with self._state:
            self._ended = True
            self._state.wait_for(lambda: not self._in_use)
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path)


def _without_waiting(path: str, flags: int) -> int:
    # A FIFO that took the file's place in the meantime must not block the thread.
    return os.open(path, flags | os.O_NONBLOCK)


def _open_source(source: str) -> io.FileIO:
    with reading(source):
        return io.FileIO(source, opener=_without_waiting)


def _read(file: io.FileIO, buffer: memoryview, source: str) -> int:
    with reading(source):
        return file.readinto(buffer)


def _unchanged(seen: os.stat_result, size_bytes: int, mtime_ns: int) -> bool:
    return seen.st_size == size_bytes and seen.st_mtime_ns == mtime_ns


def link_file(source: str, target: str, size_bytes: int, mtime_ns: int) -> bool:
    """Make `target` another name of `source`, atomically and durably.

    False where links are not possible between the two, or the source is not what was read: then nothing was done.
    """
    # link(2) would take a symbolic link itself, not what it leads to.
    source = os.path.realpath(source)
    temporary = temporary_path(target)
    try:
        os.link(source, temporary)
    except OSError as error:
        if error.errno in _CANNOT_SHARE:
            return False
        raise
    try:
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not _unchanged(os.fstat(descriptor), size_bytes, mtime_ns):
                return False
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.rename(temporary, target)
    finally:
        # rename(2) leaves both names where they belong to one file already.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    sync_directory(os.path.dirname(target))
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
    return [(stem + ending, target_stem + ending) for ending in endings if os.path.isfile(stem + ending)]
