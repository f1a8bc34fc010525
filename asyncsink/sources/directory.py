"""A directory tree, walked in bounded memory.

The walk keeps one iterator for each directory on the way down, never a list of the tree. Names are sorted in batches,
so that a directory of millions of files takes no more memory than one of `SORT_ENTRIES_MAX`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

from asyncsink.config import Compat, Symlinks
from asyncsink.errors import ConfigError, SourceError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.base import Entry
from asyncsink.sources.problems import broken_link, leaving_link, link_loop, not_regular, refused_link, unusable

SORT_ENTRIES_MAX = 16_384
"""A directory of up to so many entries is walked in the order of its names; a larger one in sorted stretches of the
file system's own order, which stays the same while nobody changes the directory."""

_NAME = attrgetter("name")
_Identity = tuple[int, int]


class DirectorySource:
    """Every regular file below one directory; keys keep the path relative to it.

    The directory itself may be a symbolic link: it was named, so it is followed. Links below it obey `symlinks`
    ("inside" refuses those that lead out of it, "follow" refuses loops only, "skip" reports them, "error" makes each a
    failure). FIFOs, sockets and devices are
    problems and are never opened. Empty directories publish nothing.
    """

    replayable: bool = True
    injective: bool = True
    entries: Sequence[Entry] | None = None

    def __init__(self, directory: str | os.PathLike[str], *, symlinks: Symlinks) -> None:
        """Remember what to walk; nothing is looked at before `scan`.

        Args:
            directory: relative paths count from the current directory.
            symlinks: "inside", "follow", "skip" or "error".

        Raises:
            ConfigError: `directory` is empty.
        """
        given = os.fspath(directory)
        if not given:
            raise ConfigError("The source directory is ''; expected a path; use '.' for the current directory.")
        self.directory = os.path.abspath(given)
        self._symlinks = symlinks

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Walk the tree in a repeatable order. Blocking; closing the iterator early releases every descriptor.

        Raises:
            ConfigError: the directory is missing, is no directory, or cannot be listed.
        """
        try:
            with os.scandir(self.directory):
                pass
        except OSError as error:
            raise ConfigError(
                f"Source directory {self.directory!r} cannot be listed ({error.strerror or error}); "
                "expected a readable directory; check the path and its permissions."
            ) from error
        except ValueError as error:
            raise ConfigError(f"Source directory {self.directory!r} can be no path ({error}); correct it.") from error
        yield from walk_files(self.directory, self._symlinks)


def walk_files(
    root: str, symlinks: Symlinks, *, attribute: str = "", entry: int = 0, compat: Compat = "strict"
) -> Generator[SourceFile | SourceProblem, None, None]:
    """Every regular file below `root`, and a problem for whatever else is met.

    Args:
        root: absolute path of a directory, or of a link to one.
        symlinks: what to do with symbolic links below `root`.
        attribute, entry: copied into every result.
        compat: with "nipype", links to directories are reported and not followed, links to files are (rule 27).

    Blocking. Never raises for what it finds: a directory that cannot be listed (never skippable), or vanishes, is one
    problem. Closing the iterator early releases every descriptor.
    """
    walk = _Walk(root, symlinks, attribute, entry, compat)
    top = walk.descend(root, "")
    if isinstance(top, SourceProblem):
        yield top
        return
    try:
        while walk.stack:
            for step in walk.stack[-1].steps:
                if isinstance(step, _Level):
                    break
                yield step
            else:
                walk.stack.pop()
    finally:
        for level in reversed(walk.stack):
            level.steps.close()


@dataclass(slots=True, eq=False)
class _Level:
    """A directory on the way down: `prefix` leads the relative paths of its entries, `steps` yields what is in it."""

    path: str
    prefix: str
    identity: _Identity
    steps: Generator[_Step, None, None]


_Step = SourceFile | SourceProblem | _Level


class _Walk:
    """The state of one walk: its parameters, and the directories from the root down to the current one."""

    def __init__(self, root: str, symlinks: Symlinks, attribute: str, entry: int, compat: Compat) -> None:
        self.stack: list[_Level] = []
        self._root = root
        self._symlinks = symlinks
        self._attribute = attribute
        self._entry = entry
        self._follows_directories = compat == "strict"
        self._above: frozenset[_Identity] | None = None
        self._real_root = ""

    def descend(self, path: str, prefix: str) -> _Level | SourceProblem:
        """Put a directory on the stack, unless it is there already: then links led in a circle."""
        try:
            identity = _identity(path)
        except OSError as error:
            return unusable(path, error, entry=self._entry, attribute=self._attribute)
        if any(level.identity == identity for level in self.stack):
            return self._loop(path)
        level = _Level(path, prefix, identity, self._steps(path, prefix))
        self.stack.append(level)
        return level

    def _steps(self, path: str, prefix: str) -> Generator[_Step, None, None]:
        """What is in a directory, in order. A directory that fails is a problem after what it gave so far."""
        try:
            with os.scandir(path) as entries:
                while batch := sorted(islice(entries, SORT_ENTRIES_MAX), key=_NAME):
                    for found in batch:
                        yield self._look(found, prefix)
        except OSError as error:
            yield unusable(path, error, entry=self._entry, attribute=self._attribute)

    def _look(self, found: os.DirEntry[str], prefix: str) -> _Step:
        # The commonest case stands first and asks the file system once: the directory already told the type.
        path = found.path
        try:
            if found.is_file(follow_symlinks=False):
                return self._file(path, found.stat(follow_symlinks=False), prefix + found.name)
            if found.is_dir(follow_symlinks=False):
                return self.descend(path, f"{prefix}{found.name}/")
            if found.is_symlink():
                return self._look_through(path, prefix + found.name)
            return self._problem(path, not_regular(path, found.stat(follow_symlinks=False).st_mode))
        except OSError as error:
            return unusable(path, error, entry=self._entry, attribute=self._attribute)

    def _look_through(self, path: str, relative: str) -> _Step:
        """What a symbolic link becomes."""
        if self._symlinks in ("skip", "error"):
            return refused_link(path, self._symlinks, entry=self._entry, attribute=self._attribute)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return self._problem(path, broken_link(path))
        if self._symlinks == "inside" and self._leads_out(path):
            return leaving_link(path, self._root, entry=self._entry, attribute=self._attribute)
        if stat.S_ISREG(status.st_mode):
            return self._file(path, status, relative)
        if not stat.S_ISDIR(status.st_mode):
            return self._problem(path, not_regular(path, status.st_mode))
        if not self._follows_directories:
            return refused_link(path, "skip", entry=self._entry, attribute=self._attribute)
        if self._above is None:
            self._above = _identities_above(self._root)
        if (status.st_dev, status.st_ino) in self._above:
            return self._loop(path)
        return self.descend(path, f"{relative}/")

    def _leads_out(self, path: str) -> bool:
        if not self._real_root:
            self._real_root = os.path.realpath(self._root)
        return os.path.commonpath((self._real_root, os.path.realpath(path))) != self._real_root

    def _file(self, path: str, status: os.stat_result, relative: str) -> SourceFile:
        return SourceFile(
            path,
            status.st_size,
            status.st_mtime_ns,
            self._attribute,
            self._entry,
            self._root,
            relative,
            None,
            status.st_ctime_ns,
            status.st_ino,
        )

    def _loop(self, path: str) -> SourceProblem:
        return self._problem(path, link_loop(path))

    def _problem(self, path: str, error: SourceError) -> SourceProblem:
        return SourceProblem(path, error, self._entry, self._attribute)


def _identity(path: str) -> _Identity:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def _identities_above(root: str) -> frozenset[_Identity]:
    """The directories that hold `root`, up to the top: a link to one of them would publish `root` inside itself."""
    above: set[_Identity] = set()
    path = os.path.realpath(root)
    while (parent := os.path.dirname(path)) != path:
        above.add(_identity(parent))
        path = parent
    return frozenset(above)
