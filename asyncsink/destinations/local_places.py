"""Where a relative name lies below a directory, and that it lies nowhere else. Blocking; called in threads only."""

from __future__ import annotations

import errno
import os
from types import TracebackType

from asyncsink.destinations.local_errors import shown
from asyncsink.errors import AccessDenied
from asyncsink.paths import LIST, is_below, make_directory, on_disk, open_directory, real_path


class _Directory:
    """A directory that is open, or rests: closed until it is needed again, and then it must be the same."""

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
    """A name in a directory that is open: what is done there is done in that directory, whatever its path leads to by
    then. Close it at the end.

    Attributes:
        path: where it lay when it was opened, links followed; for messages and comparisons.
        name: as the functions of `os` take it, with `dir_fd=directory`.
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
            OSError: it rested, and its path leads to another directory by now (ELOOP), or to none.
        """
        return self._directory.wake()

    def rest(self) -> None:
        """Close the directory until it is needed again: a large file is hours on its way."""
        self._directory.rest()

    def status(self) -> os.stat_result | None:
        """Of what is there, a link itself; None where nothing is."""
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_there(self) -> bool:
        """Whether its path still leads to this directory, without a link on the way."""
        try:
            now = open_directory(self._directory.path)
        except (OSError, ValueError):
            return False
        try:
            return os.path.samestat(os.fstat(now), os.fstat(self.directory))
        finally:
            os.close(now)

    def beside(self, name: str) -> Place:
        """Another name in the same directory, to be used while this one is open."""
        return Place(f"{self.path.rpartition('/')[0]}/{name}", self._directory)

    def close(self) -> None:
        """Release the directory. Harmless when repeated."""
        self._directory.close()

    def __enter__(self) -> Place:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PlacesBelow:
    """The places below one directory. Links on the way to a place are followed where they stay below it.

    Args:
        directory: absolute path, as the user knows it; it is there.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._real_root = real_path(directory)

    def open(self, relative: str, transfer: object | None = None, *, make: bool = False, flags: int = LIST) -> Place:
        """The place of a name.

        Args:
            relative: below the directory, "/"-separated.
            transfer: for the error.
            make: make the directories that are missing.
            flags: of the directory, as in `paths.open_directory`.

        Raises:
            AccessDenied: the name has an empty part, ".", ".." or NUL, or a link on the way leads out of the directory.
            OSError: its directory cannot be opened or made.
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
            return Place(place, _Directory(parent or "/", open_it(parent or "/", flags)))
        except OSError:
            real = real_path(parent)
            if real == parent:
                raise
        if not is_below(real, self._real_root):
            raise AccessDenied(
                f"{shown(f'{self._directory}/{relative}')} would be written outside {shown(self._directory)}, to "
                f"{shown(real)}; remove the symbolic link on the way.",
                transfer=transfer,
                operation="local copy",
            )
        return Place(f"{real}/{name}", _Directory(real, open_it(real, flags)))
