"""A directory tree, walked in bounded memory.

The walk keeps the rest of each directory on the current path, never a list of the tree. Entries are examined and sorted
in batches, so that a directory of millions of files needs no more memory than one of `SORT_ENTRIES_MAX`.

A directory is opened without following a link, and its entries are examined relative to its descriptor: directories
that are swapped during the walk cannot lead it out of the tree.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Final

from asyncsink.errors import ConfigError, SourceError
from asyncsink.integrity.choice import NOT_INCLUDED, OWN_FILE
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Compat, Symlinks
from asyncsink.paths import IS_UTF8, LIST, as_text, is_below, on_disk, open_directory, real_path
from asyncsink.sources.base import SourceEntry, given_path
from asyncsink.sources.patterns import IGNORE_FILE
from asyncsink.sources.problems import (
    ANNEX,
    absent_content,
    again_if_stale,
    broken_link,
    impossible_name,
    leaving_link,
    link_loop,
    met_in_walk,
    refused_link,
    took_its_place,
    unusable,
)
from asyncsink.sources.selection import (
    FolderRules,
    Selection,
    left_out,
    read_ignore_file,
    rules_below,
)
from asyncsink.value import dataclass

SORT_ENTRIES_MAX = 16_384
"""Most entries of a directory that is walked in the order of its names. A larger directory is walked in sorted
stretches of the file system's own order, which is stable while the directory is unchanged."""

_NAME = attrgetter("name")
_EVERYBODY = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH
_Identity = tuple[int, int]


class DirectorySource:
    """Every regular file below one directory; keys keep the path relative to it.

    The directory itself may be a symbolic link: it was named explicitly, so it is followed. Links below it obey
    `symlinks` ("inside" refuses those that lead out of it, "follow" refuses loops only, "skip" reports them, "error"
    makes each a failure). FIFOs, sockets and devices are never opened; they are left out and reported. Empty
    directories publish nothing.
    """

    replayable: bool = True
    injective: bool = True
    entries: Sequence[SourceEntry] | None = None

    def __init__(
        self, directory: str | os.PathLike[str], *, symlinks: Symlinks, selection: Selection | None = None
    ) -> None:
        """Describe the walk; the file system is not accessed before `scan`.

        Args:
            directory: relative paths count from the current directory.
            symlinks: "inside", "follow", "skip" or "error".
            selection: which files are published; None: all.

        Raises:
            ConfigError: `directory` is empty.
        """
        given = os.fspath(directory)
        if not given:
            raise ConfigError("The source directory is ''; expected a path; use '.' for the current directory.")
        self.directory = given_path(given, "Source directory")
        self._symlinks = symlinks
        self.selection = selection
        self.tops = (self.directory,)
        # The second scan walks the directory of the first, even if its name leads elsewhere by then.
        self._real_root = ""

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Find the files in a repeatable order. Blocking; closing the iterator early releases every descriptor.

        Raises:
            ConfigError: the directory is missing, is no directory, or cannot be listed.
        """
        try:
            again_if_stale(lambda: os.scandir(on_disk(self.directory)).close())
        except OSError as error:
            raise ConfigError(
                f"Source directory {self.directory!r} cannot be listed ({error.strerror or error}); "
                "expected a readable directory; check the path and its permissions."
            ) from error
        except ValueError as error:
            raise ConfigError(f"Source directory {self.directory!r} can be no path ({error}); correct it.") from error
        self._real_root = self._real_root or real_path(self.directory)
        yield from walk_files(self.directory, self._symlinks, real_root=self._real_root, selection=self.selection)


def walk_files(
    root: str,
    symlinks: Symlinks,
    *,
    attribute: str = "",
    entry: int = 0,
    compat: Compat = "strict",
    real_root: str = "",
    selection: Selection | None = None,
    at: str = "",
    above: FolderRules | None = None,
) -> Generator[SourceFile | SourceProblem, None, None]:
    """Every regular file below `root`, and a problem for every other entry.

    Args:
        root: absolute path of a directory, or of a link to one.
        symlinks: treatment of symbolic links below `root`.
        attribute, entry: copied into every result.
        compat: with "nipype", links to directories are reported and not followed, links to files are followed (rule
            27).
        real_root: `root` with its links followed, as found by an earlier walk; "" where there was none.
        selection: which files are published, the others are reported; None: all, and .asyncsinkignore means nothing.
        at, above: path below `root` of the directory where the walk starts, and the rules of the one above it.

    Blocking. Does not raise for entries: a directory that cannot be listed (never skippable), or vanishes, is one
    problem. Closing the iterator early releases every descriptor.
    """
    walk = _Walk(root, symlinks, attribute, entry, compat, real_root=real_root or real_path(root), selection=selection)
    top = walk.start(at, above)
    if isinstance(top, SourceProblem):
        yield top
        return
    try:
        while walk.stack:
            for step in walk.stack[-1].steps or ():
                if isinstance(step, _Level):
                    break
                yield step
            else:
                walk.stack.pop().close()
    finally:
        for level in reversed(walk.stack):
            level.close()


@dataclass(slots=True, eq=False)
class _Level:
    """A directory on the path from the root to the current one.

    Attributes:
        lead, real_lead: its path and a "/", as reached and with links followed.
        prefix: leads the relative paths of its entries.
        identity: device and inode.
        descriptor: open while entries remain to be examined; else -1.
        rules: which entries are published; None: all.
    """

    lead: str
    real_lead: str
    prefix: str
    identity: _Identity
    descriptor: int
    rules: FolderRules | None = None
    steps: Generator[_Step, None, None] | None = None

    def close(self) -> None:
        """Stop its generator and close its descriptor. Harmless when repeated."""
        if self.steps is not None:
            self.steps.close()
        self.release()

    def release(self) -> None:
        """Close the descriptor only: `steps` calls this itself when no entry remains to be examined."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Below:
    """A directory or a link in a directory, examined when the walk reaches it."""

    name: str
    is_link: bool


_Step = SourceFile | SourceProblem | _Level


class _Walk:
    """The state of one walk: its parameters, and the directories from the root to the current one."""

    def __init__(
        self,
        root: str,
        symlinks: Symlinks,
        attribute: str,
        entry: int,
        compat: Compat,
        *,
        real_root: str,
        selection: Selection | None,
    ) -> None:
        self._selection = selection
        self._annexed = selection is not None and selection.annexed
        self.stack: list[_Level] = []
        self._root = root
        self._real_root = real_root
        self._symlinks = symlinks
        self._attribute = attribute
        self._entry = entry
        self._follows_directories = compat == "strict"
        self._above: frozenset[_Identity] | None = None
        self._user = os.geteuid()

    def start(self, at: str, above: FolderRules | None) -> _Level | SourceProblem:
        """Descend into the root, or into a directory below it."""
        if not at:
            return self.descend(self._root, self._real_root, "", None)
        return self.descend(_lead(self._root) + at, real_path(_lead(self._real_root) + at), f"{at}/", above)

    def descend(self, path: str, real: str, prefix: str, above: FolderRules | None) -> _Level | SourceProblem:
        """Push a directory onto the stack, unless it is there already: then links form a loop."""
        try:
            descriptor, identity = again_if_stale(lambda: _opened(real))
        except OSError as error:
            return self._unusable(path, error)
        except ValueError as error:
            return self._problem(path, impossible_name(path, error))
        if any(level.identity == identity for level in self.stack):
            os.close(descriptor)
            return self._loop(path)
        rules = None
        if self._selection is not None:
            try:
                own = read_ignore_file(path, descriptor)
            except ConfigError as error:
                os.close(descriptor)
                where = _lead(path) + IGNORE_FILE
                return SourceProblem(where, error, self._entry, self._attribute, skippable=False)
            rules = rules_below(self._selection, above, prefix.removesuffix("/"), own)
        level = _Level(_lead(path), _lead(real), prefix, identity, descriptor, rules)
        level.steps = self._steps(level)
        self.stack.append(level)
        return level

    def _steps(self, level: _Level) -> Generator[_Step, None, None]:
        """The entries of a directory, in order. A directory that fails is a problem after the entries that it gave."""
        begun = False
        while True:
            try:
                for batch in self._batches(level):
                    begun = True
                    for found in batch:
                        yield self._come_to(found, level) if isinstance(found, _Below) else found
                return
            except OSError as error:
                path = level.lead.rstrip("/") or "/"
                if error.errno != errno.ESTALE or begun:
                    yield self._unusable(path, error)
                    return
            # Nothing was yielded yet: the directory is listed once more, through a fresh handle.
            begun = True
            level.release()
            try:
                level.descriptor, level.identity = _opened(level.real_lead)
            except OSError as error:
                yield self._unusable(path, error)
                return

    def _batches(self, level: _Level) -> Iterator[list[SourceFile | SourceProblem | _Below]]:
        with os.scandir(level.descriptor) as entries:
            is_end = False
            while not is_end:
                found = sorted(islice(entries, SORT_ENTRIES_MAX), key=_NAME)
                batch = [self._look(entry, level) for entry in found]
                if is_end := len(found) < SORT_ENTRIES_MAX:
                    # The descriptor is closed while the walk is in a subdirectory.
                    level.release()
                yield batch

    def _look(self, found: os.DirEntry[str], level: _Level) -> SourceFile | SourceProblem | _Below:
        # The most frequent case comes first and makes one system call: scandir already gave the type.
        name = found.name if IS_UTF8 else as_text(found.name)
        try:
            if (rules := level.rules) is not None:
                is_directory = found.is_dir(follow_symlinks=False)
                if pattern := rules.excluding(level.prefix + name, is_directory=is_directory):
                    return self._left_out(level.lead + name, pattern.reason)
            if name == IGNORE_FILE and self._selection is not None:
                return self._left_out(level.lead + name, OWN_FILE)
            if found.is_file(follow_symlinks=False):
                path = level.lead + name
                if rules is not None and not rules.includes(level.prefix + name):
                    return self._left_out(path, NOT_INCLUDED)
                if self._annexed and _is_annex_pointer(found, level.descriptor):
                    return self._problem(path, absent_content(path))
                real = "" if level.real_lead == level.lead else level.real_lead + name
                return self._source(path, real, found.stat(follow_symlinks=False), level.prefix + name)
            if found.is_dir(follow_symlinks=False):
                return _Below(name, is_link=False)
            if found.is_symlink():
                return _Below(name, is_link=True)
            path = level.lead + name
            return self._special(path, found.stat(follow_symlinks=False).st_mode)
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise
            return self._unusable(level.lead + name, error)

    def _come_to(self, below: _Below, level: _Level) -> _Step:
        path, real, relative = level.lead + below.name, level.real_lead + below.name, level.prefix + below.name
        if not below.is_link:
            return self.descend(path, real, f"{relative}/", level.rules)
        try:
            return self._look_through(path, real, relative, level.rules)
        except OSError as error:
            return unusable(path, error, entry=self._entry, attribute=self._attribute)

    def _look_through(self, path: str, link: str, relative: str, rules: FolderRules | None) -> _Step:
        """The result for a symbolic link; `link` is its path with the links above it followed."""
        if self._symlinks in ("skip", "error"):
            return refused_link(path, self._symlinks, entry=self._entry, attribute=self._attribute)
        real = real_path(link)
        try:
            status = again_if_stale(lambda: os.stat(on_disk(real)))
        except FileNotFoundError:
            status = None
        if rules is not None and (status is None or stat.S_ISREG(status.st_mode)) and not rules.includes(relative):
            return self._left_out(path, NOT_INCLUDED)
        if status is None:
            return self._problem(path, broken_link(path, real))
        inside = self._symlinks != "inside" or is_below(real, self._real_root) or (self._annexed and ANNEX in real)
        if not inside:
            return leaving_link(path, self._root, entry=self._entry, attribute=self._attribute)
        if stat.S_ISREG(status.st_mode):
            return self._source(path, real, status, relative)
        if not stat.S_ISDIR(status.st_mode):
            return self._special(path, status.st_mode)
        if not self._follows_directories:
            return refused_link(path, "skip", entry=self._entry, attribute=self._attribute)
        if self._above is None:
            self._above = _identities_above(self._real_root)
        if (status.st_dev, status.st_ino) in self._above:
            return self._loop(path)
        return self.descend(path, real, f"{relative}/", rules)

    def _source(self, path: str, real: str, status: os.stat_result, relative: str) -> SourceFile:
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
            real,
            status.st_mode & _EVERYBODY == _EVERYBODY
            or (status.st_uid == self._user and status.st_mode & stat.S_IRUSR != 0),
        )

    def _loop(self, path: str) -> SourceProblem:
        return self._problem(path, link_loop(path))

    def _unusable(self, path: str, error: OSError) -> SourceProblem:
        """The problem of a directory or an entry that was not reached through a link."""
        if error.errno == errno.ELOOP:
            error_now = took_its_place(path)
            return SourceProblem(path, error_now, self._entry, self._attribute, skippable=False, unreadable=True)
        return unusable(path, error, entry=self._entry, attribute=self._attribute)

    def _left_out(self, path: str, reason: str) -> SourceProblem:
        return left_out(path, reason, entry=self._entry, attribute=self._attribute)

    def _special(self, path: str, mode: int) -> SourceProblem:
        return met_in_walk(path, mode, entry=self._entry, attribute=self._attribute)

    def _problem(self, path: str, error: SourceError) -> SourceProblem:
        return SourceProblem(path, error, self._entry, self._attribute)


def _lead(path: str) -> str:
    return path if path.endswith("/") else f"{path}/"


_POINTER: Final = b"/annex/objects/"
_POINTER_BYTES_MAX: Final = 4096


def _is_annex_pointer(found: os.DirEntry[str], directory: int) -> bool:
    """Whether a file has git-annex's pointer in the place of its content, which is not on this machine."""
    if found.stat(follow_symlinks=False).st_size > _POINTER_BYTES_MAX:
        return False
    try:
        descriptor = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return False  # whoever publishes it says so
    try:
        return os.read(descriptor, len(_POINTER)) == _POINTER
    finally:
        os.close(descriptor)


def _opened(real: str) -> tuple[int, _Identity]:
    """A descriptor of a directory whose path holds no link, and its identity."""
    descriptor = open_directory(real, LIST)
    try:
        status = os.fstat(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, (status.st_dev, status.st_ino)


def _identities_above(real_root: str) -> frozenset[_Identity]:
    """The directories above a root: a link to one of them would publish the root inside itself."""
    above: set[_Identity] = set()
    path = real_root
    while (parent := os.path.dirname(path)) != path:
        status = os.stat(on_disk(parent))
        above.add((status.st_dev, status.st_ino))
        path = parent
    return frozenset(above)
