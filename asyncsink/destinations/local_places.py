"""Where a relative name lies below a directory, and that it lies nowhere else. Blocking; called in threads only."""

from __future__ import annotations

import os
from types import TracebackType

from asyncsink.destinations.local_errors import shown
from asyncsink.errors import AccessDenied
from asyncsink.paths import LIST, is_below, make_directory, on_disk, open_directory, real_path


class Place:
    """A name in a directory that is open: what is done there is done in that directory, whatever its path leads to by
    then. Close it at the end; threads may share it.

    Attributes:
        path: where it lay when it was opened, links followed; for messages and comparisons.
        directory: descriptor of the directory.
        name: as the functions of `os` take it, with `dir_fd=directory`.
    """

    __slots__ = ("directory", "name", "path")

    def __init__(self, path: str, directory: int) -> None:
        self.path = path
        self.directory = directory
        self.name = on_disk(path.rpartition("/")[2])

    def status(self) -> os.stat_result | None:
        """Of what is there, a link itself; None where nothing is."""
        try:
            return os.stat(self.name, dir_fd=self.directory, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def is_there(self) -> bool:
        """Whether its path still leads to this directory, without a link on the way."""
        try:
            now = open_directory(self.path.rpartition("/")[0] or "/")
        except (OSError, ValueError):
            return False
        try:
            return os.path.samestat(os.fstat(now), os.fstat(self.directory))
        finally:
            os.close(now)

    def beside(self, name: str) -> Place:
        """Another name in the same directory, to be used while this one is open."""
        return Place(f"{self.path.rpartition('/')[0]}/{name}", self.directory)

    def close(self) -> None:
        """Release the directory. Harmless when repeated."""
        descriptor, self.directory = self.directory, -1
        if descriptor >= 0:
            os.close(descriptor)

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
            return Place(place, open_it(parent or "/", flags))
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
        return Place(f"{real}/{name}", open_it(real, flags))
