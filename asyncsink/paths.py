"""Paths as text that is the same in every locale, and directories opened without following links.

Inside asyncsink a path is its bytes on disk decoded as UTF-8; bytes that are not UTF-8 become surrogates (PEP 383).
Keys are made of such texts, so that a file has the same key in every locale. The interpreter's own str is another text
where its file system encoding is not UTF-8 (a Latin-1 locale, or the C locale without UTF-8 mode): `as_text` converts
such a str, `as_native` converts back, and `on_disk` makes the argument for the functions of `os`.

A directory is opened by a path whose links were resolved earlier. Where a link has replaced a part of that path since
then, opening fails (ELOOP): swapping directories during a run can make it fail, but cannot lead it to other files.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
import struct
import sys
from collections.abc import Callable, Iterator

IS_UTF8 = sys.getfilesystemencoding().lower().replace("_", "-") in ("utf-8", "utf8")

SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags of a directory whose entries are opened by name; the right to search it suffices."""
LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""Flags of a directory that is listed or synced."""

_OPENAT2 = 437
_AT_FDCWD = -100
_RESOLVE_NO_SYMLINKS = 0x04
_OPEN_HOW = struct.Struct("=QQQ")


def as_text(path: str) -> str:
    """A path of this interpreter (an argument, the current directory, an entry of a directory) as asyncsink's text.

    Raises:
        UnicodeEncodeError: the file system encoding cannot represent it, so that it names no file.
    """
    if IS_UTF8:
        return path
    try:
        name = os.fsencode(path)
    except UnicodeEncodeError:
        name = b"".join(map(_encoded, path))
    return name.decode("utf-8", "surrogateescape")


def encoded_name(name: str) -> bytes:
    """A path or key in its stored form, which keeps the order of names.

    Names that are no UTF-8 hold surrogates (PEP 383), which SQLite's TEXT refuses.
    """
    return name.encode("utf-8", "surrogatepass")


def decoded_name(name: bytes) -> str:
    """The inverse of `encoded_name`."""
    return name.decode("utf-8", "surrogatepass")


def _encoded(character: str) -> bytes:
    try:
        return os.fsencode(character)
    except UnicodeEncodeError:
        # The C library decodes arguments, and leaves bytes as control characters (EUC-JP) that Python's codec lacks.
        if "\x80" <= character <= "\x9f":
            return character.encode("latin-1")
        raise


def as_native(text: str) -> str:
    """The str by which this interpreter opens the path `text`."""
    return text if IS_UTF8 else os.fsdecode(text.encode("utf-8", "surrogateescape"))


def on_disk(text: str) -> str | bytes:
    """`text` as an argument for the functions of `os`.

    Raises:
        UnicodeEncodeError: `text` holds a surrogate that stands for no byte.
    """
    return text if IS_UTF8 else text.encode("utf-8", "surrogateescape")


def current_directory() -> str:
    """The current directory. Blocking.

    Raises:
        OSError: it was removed.
    """
    return as_text(os.getcwd())


def real_path(path: str) -> str:
    """The absolute `path` with its links followed, as far as it exists. Blocking."""
    if IS_UTF8:
        return os.path.realpath(path)
    return os.path.realpath(path.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def is_below(path: str, directory: str) -> bool:
    """Pure: whether the absolute `path` is `directory` or lies below it."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def open_directory(path: str, flags: int = SEARCH) -> int:
    """A descriptor of a directory, reached without following a link. Blocking; the caller closes it.

    Args:
        path: absolute.
        flags: SEARCH or LIST.

    Raises:
        OSError: it cannot be opened; ELOOP where a part of the path is a symbolic link.
        ValueError: the path is impossible (a NUL, a surrogate that stands for no byte).
    """
    if _open_at_once is not None:
        return _open_at_once(path, flags)
    return _open_by_steps(path, flags)


def make_directory(path: str, flags: int = SEARCH) -> int:
    """As `open_directory`; missing parts of the path are created, durably. Safe in several threads and processes at
    once.

    Raises:
        OSError: it cannot be created or opened; ENOTDIR where a file has the name of a directory.
    """
    try:
        return open_directory(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        # Step by step, so that an error names the directory that it concerns.
        return _open_by_steps(path, flags, make=True)


@contextlib.contextmanager
def directory_of(path: str) -> Iterator[tuple[int, str | bytes]]:
    """A descriptor of the directory of `path`, reached without following a link, and the last name of `path`.

    Raises:
        OSError, ValueError: as `open_directory`.
    """
    directory, _, name = path.rpartition("/")
    descriptor = open_directory(directory or "/")
    try:
        yield descriptor, on_disk(name)
    finally:
        os.close(descriptor)


class Folder:
    """The directory of the last opened file, kept open for further files in it.

    For one thread and a short time: a directory that is renamed meanwhile stays the opened one.

        with Folder() as folder:
            descriptor = folder.open_file("/data/a", os.O_RDONLY)
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self) -> None:
        self._path = ""
        self._descriptor = -1

    def open_file(self, path: str, flags: int) -> int:
        """A descriptor of a file, reached without following a link. Blocking; the caller closes it.

        Raises:
            OSError: it cannot be opened; ELOOP where it, or a part of its path, is a symbolic link.
            ValueError: as `open_directory`.
        """
        directory, _, name = path.rpartition("/")
        if directory != self._path or self._descriptor < 0:
            self.close()
            self._descriptor = open_directory(directory or "/")
            self._path = directory
        return os.open(on_disk(name), flags | os.O_NOFOLLOW, dir_fd=self._descriptor)

    def close(self) -> None:
        """Close the directory. Harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def sync_directory(descriptor: int) -> None:
    """Make the names in a directory, opened with LIST, durable. Blocking."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FUSE file systems have durable names and no sync of directories.
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise


def sync_directory_of(path: str) -> None:
    """Make the name of a file durable. Blocking."""
    descriptor = os.open(os.path.dirname(path), LIST)
    try:
        sync_directory(descriptor)
    finally:
        os.close(descriptor)


def _open_by_steps(path: str, flags: int, *, make: bool = False) -> int:
    """Open one directory after the other, each relative to the one before."""
    names = [name for name in path.split("/") if name]
    descriptor = os.open("/", SEARCH if names else flags)
    try:
        for number, name in enumerate(names, 1):
            entry = on_disk(name)
            try:
                if make:
                    _make_if_missing(entry, descriptor)
                below = _open_entry(entry, flags if number == len(names) else SEARCH, descriptor)
            except OSError as error:
                error.filename = "/" + "/".join(names[:number])
                raise
            os.close(descriptor)
            descriptor = below
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _make_if_missing(name: str | bytes, directory: int) -> None:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, dir_fd=directory)
        listed = os.open(".", LIST, dir_fd=directory)
        try:
            sync_directory(listed)
        finally:
            os.close(listed)


def _open_entry(name: str | bytes, flags: int, directory: int) -> int:
    try:
        return os.open(name, flags | os.O_NOFOLLOW, dir_fd=directory)
    except NotADirectoryError:
        # open(2) reports ENOTDIR for a link too, where only directories are wanted.
        if stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
        raise


def _find_openat2() -> Callable[[str, int], int] | None:
    """openat2(2), which Python lacks: one system call instead of one for each part of a path. None where the kernel is
    older than Linux 5.6, or a sandbox forbids it."""
    if sys.platform != "linux":
        return None
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    call.restype = ctypes.c_long
    ways = {flags: _OPEN_HOW.pack(flags, 0, _RESOLVE_NO_SYMLINKS) for flags in (SEARCH, LIST)}

    def open_at_once(path: str, flags: int) -> int:
        name = path.encode("utf-8", "surrogateescape")
        if b"\0" in name:
            raise ValueError("embedded null byte")
        while True:
            descriptor = call(_OPENAT2, _AT_FDCWD, name, ways[flags], _OPEN_HOW.size)
            if descriptor >= 0:
                return int(descriptor)
            number = ctypes.get_errno()
            if number != errno.EINTR:
                raise OSError(number, os.strerror(number), path)

    try:
        os.close(open_at_once("/", SEARCH))
    except OSError:
        return None
    return open_at_once


_open_at_once = _find_openat2()
