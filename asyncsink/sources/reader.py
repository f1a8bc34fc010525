"""Reading of one source file through one descriptor, with proof that the file stayed the same.

The file is opened without following a link (`SourceFile.real_path`): directories or links that are swapped during a run
cannot lead it to another file. Its size, mtime, ctime and inode by fstat must be equal before the first byte and after
the last, and the path must still name that inode. Two changes escape every reader: one that keeps the size and falls
into the same tick of the file system's clock (up to 10 ms on Linux before 6.13) as the change before it; and a store
into a shared mapping whose page was already dirty, because the kernel updates the times when a clean page is first
written to (mmap(2)).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from types import TracebackType

from asyncsink.errors import SourceChanged, SourceError
from asyncsink.model import SourceFile
from asyncsink.paths import Folder, on_disk
from asyncsink.sources.problems import (
    again_if_stale,
    false_size,
    impossible_name,
    not_regular,
    status_of,
    took_its_place,
    translate,
)

# O_NONBLOCK: opening a FIFO that replaced the file returns at once; regular files ignore the flag. O_NOCTTY: a terminal
# that replaced the file does not become the controlling terminal.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_REPLACED = "another file took its place (another inode has its name now)"

Buffer = bytearray | memoryview


class OpenSource:
    """One regular file, open for reading. All methods block and belong in reader or lane threads.

    Several threads may call `read_part` at once: reads are positional, and release the GIL. `close` comes after the
    last of them has returned. Making a hard link of the file changes its ctime: call `check_unchanged` before.

        with OpenSource(source) as file:
            body = file.read_all()
            file.check_unchanged()
    """

    __slots__ = ("_descriptor", "_first", "_reopened", "_reopening", "_source")

    def __init__(self, source: SourceFile) -> None:
        """Open `source.path` and compare it with its state at discovery.

        Raises:
            SourceMissing: the file no longer exists.
            SourceUnreadable: the file is not readable or not regular, or no descriptor is free.
            SourceChanged: its size, modification time, ctime or inode differs, or a link replaced it.
        """
        self._source = source
        self._descriptor = -1
        self._reopened = False
        self._reopening = threading.Lock()
        self._descriptor, self._first = self._open()
        try:
            self._check_as_found()
        except BaseException:
            self.close()
            raise

    @property
    def size_bytes(self) -> int:
        """Size at opening, equal to the size at discovery."""
        return self._first.st_size

    def read_all(self, into: Buffer | None = None) -> Buffer:
        """The whole content: a new bytearray, or a view of the first `size_bytes` of `into`.

        Raises:
            SourceChanged: the file ended early.
            SourceUnreadable: the storage failed, or the content differs in length from the file's size.
            ValueError: `into` is smaller than the file.
        """
        return self.read_part(0, self.size_bytes, into)

    def read_part(self, offset: int, length: int, into: Buffer | None = None) -> Buffer:
        """Exactly `length` bytes from `offset`: a new bytearray, or a view of the first `length` of `into`.

        Raises:
            SourceChanged: the file ended early.
            SourceUnreadable: the storage failed, or the content differs in length from the file's size.
            ValueError: the part is not inside the file, `into` is smaller than `length`, or the file is closed.
        """
        if offset < 0 or length < 0 or offset + length > self.size_bytes:
            raise ValueError(f"bytes {offset} to {offset + length} are not inside a file of {self.size_bytes} bytes")
        if into is None:
            buffer = bytearray(length)
            with memoryview(buffer) as view:
                self._fill(view, offset)
            return buffer
        whole = memoryview(into).cast("B")
        if len(whole) < length:
            raise ValueError(f"a buffer of {len(whole)} bytes cannot hold {length} bytes")
        view = whole[:length]
        self._fill(view, offset)
        return view

    def check_unchanged(self) -> None:
        """Prove that the bytes read are those of the file at the path, then and now. Called after the last read.

        Raises:
            SourceChanged: the file was written to, truncated, replaced, removed, or its mode or links changed.
            SourceUnreadable: the storage failed.
            ValueError: the file is closed.
        """
        path = self._source.path
        now = self._status()
        if _fingerprint(now) != _fingerprint(self._first) and not _only_linked(self._first, now):
            raise self._changed(_differences(self._first, now))
        try:
            named = again_if_stale(lambda: os.stat(on_disk(path)))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._changed("it was removed or renamed") from error
        except OSError as error:
            raise translate(path, error) from error
        if (named.st_dev, named.st_ino) != (self._first.st_dev, self._first.st_ino):
            raise self._changed(_REPLACED)

    def close(self) -> None:
        """Close the descriptor. Harmless when repeated.

        Raises:
            SourceUnreadable: the storage failed.
        """
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor == -1:
            return
        try:
            os.close(descriptor)
        except OSError as error:
            raise translate(self._source.path, error) from error

    def __enter__(self) -> OpenSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<OpenSource {self._source.path!r}, {self.size_bytes} bytes>"

    def _open(self) -> tuple[int, os.stat_result]:
        path = self._source.path
        try:
            with Folder() as folder:
                return again_if_stale(lambda: _opened(self._source, folder))
        except OSError as error:
            raise _not_opened(path, error) from error
        except ValueError as error:
            raise impossible_name(path, error) from error

    def _status(self) -> os.stat_result:
        reopened = self._reopened
        try:
            return os.fstat(self._open_descriptor())
        except OSError as error:
            self._reopen(error, reopened)
            return os.fstat(self._open_descriptor())

    def _reopen(self, error: OSError, reopened: bool) -> None:
        """Replace a stale handle by a fresh one, once: an NFS server may drop a handle while the path is still valid.

        Args:
            reopened: whether the file had been reopened when the failed call began.

        Raises:
            SourceUnreadable: `error` is not ESTALE, or the handle is stale for the second time.
            SourceChanged: the path names another file now.
        """
        if error.errno != errno.ESTALE:
            raise translate(self._source.path, error) from error
        with self._reopening:
            if self._reopened:
                if reopened:
                    raise translate(self._source.path, error) from error
                return  # another thread has reopened it
            descriptor, status = self._open()
            try:
                if _fingerprint(status)[:-1] != _fingerprint(self._first)[:-1]:
                    raise self._changed(_REPLACED)
                # Atomic and under the same number, because other threads may be reading.
                os.dup2(descriptor, self._open_descriptor(), inheritable=False)
            finally:
                os.close(descriptor)
            self._reopened = True

    def _check_as_found(self) -> None:
        first, source = self._first, self._source
        if not stat.S_ISREG(first.st_mode):
            raise not_regular(source.path, first.st_mode)
        if first.st_size != source.size_bytes:
            raise self._changed(f"its size was {source.size_bytes} bytes when it was found, now {first.st_size}")
        if not _is_as_found(first, source):
            raise self._changed("it was modified or replaced after it was found")

    def _open_descriptor(self) -> int:
        if self._descriptor == -1:
            raise ValueError(f"source {self._source.path!r} is closed")
        return self._descriptor

    def _fill(self, view: memoryview, offset: int) -> None:
        # One read may return less than requested: at a signal, on some network file systems, beyond 2 GiB (read(2)).
        descriptor, filled, length = self._open_descriptor(), 0, len(view)
        # Some file systems report size 0 for files with content (proc(5)), so one byte beyond the expected end is
        # requested.
        beyond = [bytearray(1)] if offset + length == self.size_bytes else []
        while filled < length or beyond:
            reopened = self._reopened
            try:
                count = os.preadv(descriptor, [view[filled:], *beyond], offset + filled)
            except OSError as error:
                self._reopen(error, reopened)
                continue
            if filled + count > length:
                raise self._not_its_size(descriptor, "more")
            if not count and filled < length:
                raise self._not_its_size(
                    descriptor, "fewer", f"expected {length} bytes from offset {offset}, found only {filled}: truncated"
                )
            filled += count
            if filled == length:
                return

    def _not_its_size(self, descriptor: int, found: str, change: str = "") -> SourceError:
        """The error for content of another length than the size: the file changed, or its size was never correct."""
        try:
            now = os.fstat(descriptor)
        except OSError as error:
            return translate(self._source.path, error)
        if _fingerprint(now) == _fingerprint(self._first):
            return false_size(self._source.path, self.size_bytes, found)
        return self._changed(change or _differences(self._first, now))

    def _changed(self, what: str) -> SourceChanged:
        return _changed(self._source.path, what)


def read_at_rest(source: SourceFile, folder: Folder | None = None) -> bytearray | None:
    """As `read_at_rest_into`, into a new bytearray; None where that returns False.

    Args:
        folder: shared by a caller that reads files of one directory in sequence.
    """
    if folder is None:
        with Folder() as own:
            return read_at_rest(source, own)
    body = bytearray(source.size_bytes + 1)
    if not read_at_rest_into(source, memoryview(body), folder):
        return None
    del body[-1]
    return body


def read_at_rest_into(source: SourceFile, room: memoryview, folder: Folder) -> bool:
    """Read a small file that is and stays as it was found, in the fewest possible system calls. Blocking.

    False where the file differs, or cannot be read in one go: `OpenSource` then reports the reason. The last `stat`
    proves what `check_unchanged` proves: the path still names the inode that was read, with the same times and size.

    Args:
        source: the file as it was found.
        room: one byte more than the file's size: see `OpenSource`.
        folder: shared by a caller that reads files of one directory in sequence.

    Raises:
        SourceChanged: the file changed while it was read.
        SourceUnreadable: its handle was stale twice.
    """
    try:
        return _read_at_rest(source, room, folder)
    except (OSError, ValueError) as error:
        if not isinstance(error, OSError) or error.errno != errno.ESTALE:
            return False
    folder.close()
    try:
        return _read_at_rest(source, room, folder)
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise translate(source.path, error) from error
        return False


class AtRest:
    """Reader of small files at rest for a lane, which calls it in one thread; see `read_at_rest_into`."""

    __slots__ = ("_folder",)

    def __init__(self) -> None:
        self._folder = Folder()

    def read(self, source: SourceFile, room: memoryview) -> bool:
        """As `read_at_rest_into`."""
        return read_at_rest_into(source, room, self._folder)

    def close(self) -> None:
        """Close the last directory."""
        self._folder.close()


def _read_at_rest(source: SourceFile, room: memoryview, folder: Folder) -> bool:
    path, size = source.path, source.size_bytes
    descriptor = folder.open_file(source.real_path or path, _FLAGS)
    try:
        first = os.fstat(descriptor)
        if first.st_size != size or not _is_as_found(first, source) or not stat.S_ISREG(first.st_mode):
            return False
        count = os.preadv(descriptor, (room,), 0)
        now = os.stat(on_disk(path))
    finally:
        os.close(descriptor)
    if _fingerprint(now) == _fingerprint(first):
        return count == size
    if (now.st_dev, now.st_ino) != (first.st_dev, first.st_ino):
        raise _changed(path, _REPLACED)
    if _only_linked(first, now):
        return False
    raise _changed(path, _differences(first, now))


def look_again(source: SourceFile) -> os.stat_result:
    """The current status of `source.path`, reached without following a link, as when it is opened. Blocking.

    Raises:
        SourceError: as `OpenSource`.
    """
    try:
        now = again_if_stale(lambda: status_of(source.real_path or source.path))
    except OSError as error:
        raise _not_opened(source.path, error) from error
    if stat.S_ISLNK(now.st_mode):
        raise took_its_place(source.path)
    return now


def _opened(source: SourceFile, folder: Folder) -> tuple[int, os.stat_result]:
    try:
        descriptor = folder.open_file(source.real_path or source.path, _FLAGS)
    except OSError:
        folder.close()  # its own handle may be the stale one
        raise
    try:
        return descriptor, os.fstat(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _not_opened(path: str, error: OSError) -> SourceError:
    return took_its_place(path) if error.errno == errno.ELOOP else translate(path, error)


def _is_as_found(first: os.stat_result, source: SourceFile) -> bool:
    """Whether times and inode equal those at discovery. An editor can restore size and mtime (utime(2)), but not the
    ctime. Values that were not recorded at discovery are not compared."""
    return (
        first.st_mtime_ns == source.mtime_ns
        and (not source.ctime_ns or first.st_ctime_ns == source.ctime_ns)
        and (not source.inode or first.st_ino == source.inode)
    )


def _fingerprint(status: os.stat_result) -> tuple[int, ...]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev


def _only_linked(before: os.stat_result, now: os.stat_result) -> bool:
    """Whether only a hard link was made or removed (a local copy may be one): that changes the ctime alone."""
    same = before.st_size == now.st_size and before.st_mtime_ns == now.st_mtime_ns and before.st_ino == now.st_ino
    return same and before.st_nlink != now.st_nlink


def _changed(path: str, what: str) -> SourceChanged:
    return SourceChanged(
        f"Source {path!r} changed while it was being published: {what}; expected a file at rest; "
        "nothing was published under its key; export again when its writer is done."
    )


def _differences(before: os.stat_result, now: os.stat_result) -> str:
    if before.st_size != now.st_size:
        return f"expected {before.st_size} bytes, found {now.st_size}"
    if before.st_mtime_ns != now.st_mtime_ns:
        return "it was written to (its modification time moved)"
    return "its status changed (content, mode, owner or links; its ctime moved)"
