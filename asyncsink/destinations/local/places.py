"""Places of names inside a directory, and the errors of local files. Blocking; for threads only."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import unicodedata
from collections.abc import Iterable, Iterator
from types import TracebackType

from asyncsink.errors import (
    AccessDenied,
    DestinationFull,
    EntityTooLarge,
    PermanentError,
    SourceChanged,
    SourceMissing,
    SourceUnreadable,
)
from asyncsink.model import Transfer
from asyncsink.os_errors import remedy
from asyncsink.paths import LIST, as_text, is_below, make_directory, on_disk, open_directory, real_path

# -- Errors of local files ---------------------------------------------------------------------------------------------

NAME_BYTES_MAX = 255

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_DIRECTORY = frozenset({errno.ENOTDIR, errno.EEXIST})


def shown(path: str) -> str:
    """A path for a message: bytes that are not UTF-8 as \\xNN."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


@contextlib.contextmanager
def translated(path: str, transfer: Transfer | None, *, verb: str = "written") -> Iterator[None]:
    """Translate the OSErrors of writing `path` (or of another `verb`) into errors of this package.

    Raises:
        DestinationFull, AccessDenied, EntityTooLarge, PermanentError: with the file, the reason and the remedy.
    """
    try:
        yield
    except OSError as error:
        raise _translate(error, path, transfer, verb) from error


def _translate(error: OSError, path: str, transfer: Transfer | None, verb: str) -> PermanentError:
    target, directory, number = shown(path), shown(os.path.dirname(path)), error.errno
    kind: type[PermanentError] = PermanentError
    if number in _FULL:
        kind = DestinationFull
        text = f"No space, or no quota, is left for {target}; free some, or choose another directory."
    elif number in _DENIED:
        kind = AccessDenied
        text = (
            f"{target} cannot be {verb} ({error.strerror}); change the permissions of it and of {directory}, "
            "or choose another directory."
        )
    elif number == errno.EFBIG:
        kind = EntityTooLarge
        text = f"{target} is larger than its file system stores; choose another file system, or split the file."
    elif number == errno.EISDIR:
        text = f"{target} is a directory and a file was expected there; move the directory, or choose another key."
    elif number in _NO_DIRECTORY:
        text = f"{target} needs a directory where a file stands ({_named(error, directory)}); move it."
    elif number == errno.ELOOP:
        text = (
            f"{target} is not {verb}: a symbolic link took the place of a directory on the way to it, or links lead in "
            "a circle; run it again when nobody moves them."
        )
    elif number == errno.ENAMETOOLONG:
        text = f"{target} has a name longer than its file system allows ({NAME_BYTES_MAX} bytes); choose a shorter key."
    else:
        what = remedy(number) or "check the disk and the mount, then run it again"
        text = f"{target} cannot be {verb}: {error.strerror}; {what}."
    return kind(text, transfer=transfer, operation="local copy")


def moved_meanwhile(path: str) -> PermanentError:
    """The error for a file whose directory has moved since the file was begun."""
    return PermanentError(
        f"The directory of {shown(path)} was moved, or a symbolic link took its place, while the file was written; "
        "run it again when nobody moves directories there.",
        operation="local copy",
    )


def _named(error: OSError, directory: str) -> str:
    name = error.filename
    path = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else str(name or directory)
    return shown(path) if path.startswith("/") else directory


@contextlib.contextmanager
def reading(source: str) -> Iterator[None]:
    """Translate the OSErrors of reading `source` into SourceMissing, SourceChanged and SourceUnreadable."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceMissing(f"{shown(source)} does not exist any more; export it again when it is at rest.") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise SourceChanged(
                f"{shown(source)} changed: a symbolic link took its place, or that of a directory on the way to it; "
                "export it again when it is at rest."
            ) from error
        raise SourceUnreadable(
            f"{shown(source)} cannot be read: {error.strerror}; make it readable, then export it again."
        ) from error


# -- Places below a directory ------------------------------------------------------------------------------------------


class _Directory:
    """A directory that is open, or rests: closed until its next use, when it must be the same one."""

    __slots__ = ("_identity", "descriptor", "path")

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._identity: os.stat_result | None = None

    def rest(self) -> None:
        self._identity = os.fstat(self.descriptor)
        self.close()

    def wake(self) -> int:
        if self.descriptor < 0 and self._identity is not None:
            descriptor = open_directory(self.path, LIST)
            if not os.path.samestat(self._identity, os.fstat(descriptor)):
                os.close(descriptor)
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self.path)
            self.descriptor = descriptor
        return self.descriptor

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Place:
    """A name in an open directory: operations apply to that directory, even if its path leads elsewhere by then. To be
    closed at the end.

    Attributes:
        path: at the time of opening, links followed; for messages and comparisons.
        name: for the functions of `os`, with `dir_fd=directory`.
    """

    __slots__ = ("_directory", "name", "path")

    def __init__(self, path: str, directory: _Directory) -> None:
        self.path = path
        self.name = on_disk(path.rpartition("/")[2])
        self._directory = directory

    @property
    def directory(self) -> int:
        """Descriptor of the directory.

        Raises:
            OSError: it rested, and its path leads to another directory now (ELOOP), or to none.
        """
        return self._directory.wake()

    def rest(self) -> None:
        """Close the directory until its next use, because a large file may take hours."""
        self._directory.rest()

    def status(self) -> os.stat_result | None:
        """Status of the file, a link itself; None where there is none."""
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_there(self) -> bool:
        """Whether the path still leads to this directory, without a link."""
        try:
            now = open_directory(self._directory.path)
        except (OSError, ValueError):
            return False
        try:
            return os.path.samestat(os.fstat(now), os.fstat(self.directory))
        finally:
            os.close(now)

    def beside(self, name: str) -> Place:
        """Another name in the same directory, for use while this one is open."""
        return Place(f"{self.path.rpartition('/')[0]}/{name}", self._directory)

    def take(self, name: str | bytes, directory: int) -> None:
        """Rename the file `name` in `directory` to this place; an existing file is replaced.

        Raises:
            PermanentError: the existing file has another name, which this file system equates with this one.
            OSError: the file cannot be renamed.
        """
        # Of two names that a file system may fold, the second must see the first.
        with _LOCKS[hash(_folded(self.path)) % len(_LOCKS)]:
            if (seen := self.status()) is not None:
                folder, _, own = self.path.rpartition("/")
                if (other := _other_name(own, seen, folder, self.directory)) is not None:
                    raise _not_kept_apart(self.path, f"{folder}/{other}")
            os.rename(name, self.name, src_dir_fd=directory, dst_dir_fd=self.directory)

    def close(self) -> None:
        """Close the directory. Harmless when repeated."""
        self._directory.close()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


CHECKED_MAX = 4096
"""Directories remembered as checked: their names are those in their paths."""
_LOCKS = [threading.Lock() for _ in range(64)]


def _not_kept_apart(path: str, other: str) -> PermanentError:
    return PermanentError(
        f"{shown(path)} is not written: its file system does not keep that name apart from {shown(other)}, which is "
        "there already; write into a directory of another file system, or rename one of the two.",
        operation="local copy",
    )


def _folded(path: str) -> str:
    """The same text for all names that some file system treats as equal."""
    return unicodedata.normalize("NFKD", path).casefold().replace(". ", "").rstrip(". ")


def _spellings(name: str) -> Iterable[str]:
    """Names that folding file systems treat as `name`: by case, composed letters, and dots or spaces at the end."""
    found = (name.swapcase(), *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")), f"{name}.", f"{name} ")
    return dict.fromkeys(each for each in found if each != name)


def _other_name(name: str, seen: os.stat_result, folder: str, directory: int | None) -> str | None:
    """The real name of the entry to which `name` leads, where it differs.

    The directory is read only where another spelling leads to the same entry: then it folds names, or the entry has
    several.

    Args:
        seen: status of the entry.
        folder, directory: the path of its directory, and a descriptor of it, if there is one.
    """
    prefix = "" if directory is not None else f"{folder}/"
    for spelling in _spellings(name):
        try:
            same = os.path.samestat(os.stat(on_disk(prefix + spelling), dir_fd=directory, follow_symlinks=False), seen)
        except (OSError, ValueError):
            continue
        if same:
            break
    else:
        return None
    descriptor = os.open("." if directory is not None else on_disk(folder or "/"), LIST, dir_fd=directory)
    try:
        with os.scandir(descriptor) as entries:
            inodes = {as_text(entry.name): entry.inode() for entry in entries}
    finally:
        os.close(descriptor)
    if name in inodes:
        return None
    return next((each for each, inode in inodes.items() if inode == seen.st_ino), None)


class PlacesBelow:
    """The places below one directory. Links on the way to a place are followed where they stay below it.

    Args:
        directory: absolute path of an existing directory, as the user wrote it.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._real_root = real_path(directory)
        self._checked: dict[str, None] = {}

    def open(self, relative: str, transfer: Transfer | None = None, *, make: bool = False, flags: int = LIST) -> Place:
        """The place of a name.

        Args:
            relative: below the directory, "/"-separated.
            transfer: for the error.
            make: create missing directories, and refuse those whose real names differ.
            flags: of the directory, as in `paths.open_directory`.

        Raises:
            AccessDenied: the name has an empty part, ".", ".." or NUL, or a link on the way leads out of the directory.
            OSError: its directory cannot be opened or created.
        """
        if "\0" in relative or any(part in ("", ".", "..") for part in relative.split("/")):
            raise AccessDenied(
                f"{relative!r} is no path below {shown(self._directory)}; give a key without empty parts, '.', '..' "
                "and NUL.",
                transfer=transfer,
                operation="local copy",
            )
        open_it = make_directory if make else open_directory
        place = f"{self._real_root.rstrip('/')}/{relative}"
        parent, _, name = place.rpartition("/")
        try:
            opened = Place(place, _Directory(parent or "/", open_it(parent or "/", flags)))
        except OSError:
            real = real_path(parent)
            if real == parent:
                raise
        else:
            if make and parent not in self._checked:
                self._check_names(opened, parent)
            return opened
        if not is_below(real, self._real_root):
            raise AccessDenied(
                f"{shown(f'{self._directory}/{relative}')} would be written outside {shown(self._directory)}, to "
                f"{shown(real)}; remove the symbolic link on the way.",
                transfer=transfer,
                operation="local copy",
            )
        return Place(f"{real}/{name}", _Directory(real, open_it(real, flags)))

    def _check_names(self, opened: Place, folder: str) -> None:
        """Refuse a directory whose real name differs from its path, because its file system folds names.

        Raises:
            PermanentError: a name differs; the place is closed.
        """
        above, _, name = folder.rpartition("/")
        while len(above) >= len(self._real_root.rstrip("/")) and folder not in self._checked:
            try:
                seen = os.stat(on_disk(folder), follow_symlinks=False)
                other = _other_name(name, seen, above, None)
            except OSError:
                other = None  # moved meanwhile, which is detected elsewhere
            if other is not None:
                opened.close()
                raise _not_kept_apart(folder, f"{above}/{other}")
            if len(self._checked) >= CHECKED_MAX:
                self._checked.clear()
            self._checked[folder] = None
            folder = above
            above, _, name = folder.rpartition("/")
