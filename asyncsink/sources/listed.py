"""Files and folders of one directory that a list names: the lines of a file, or a list of Python."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import replace

from asyncsink.errors import ConfigError
from asyncsink.integrity.choice import NOT_INCLUDED, OWN_FILE
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Symlinks
from asyncsink.paths import LIST, as_text, is_below, open_directory, real_path
from asyncsink.sources.base import SourceEntry, given_path, open_description
from asyncsink.sources.directory import walk_files
from asyncsink.sources.patterns import IGNORE_FILE
from asyncsink.sources.problems import ANNEX, Seen, examine, leaving_link, refused_link, unusable
from asyncsink.sources.records import bounded_lines
from asyncsink.sources.selection import (
    FolderRules,
    Selection,
    left_out,
    read_ignore_file,
    rules_below,
)
from asyncsink.value import dataclass

_FOLDERS_KEPT = 1000


class ListedSource:
    """What a list names of a directory, with the keys that the walk of the whole directory would give.

    Blank lines are no paths, nor are those that begin with "#". A folder stands for all files below it. Patterns, links
    and .asyncsinkignore files count as in the walk of the directory. What does not exist is a problem.
    """

    replayable: bool = True
    injective: bool = False
    entries: Sequence[SourceEntry] | None = None

    def __init__(
        self,
        directory: str | os.PathLike[str],
        paths: str | Sequence[str],
        *,
        symlinks: Symlinks,
        selection: Selection,
    ) -> None:
        """Describe the source; nothing is read before `scan`.

        Args:
            directory: relative paths count from the current directory.
            paths: the path of a file of paths, or the paths; relative to `directory`.
            symlinks, selection: as for DirectorySource.
        """
        self.directory = given_path(os.fspath(directory), "Source directory")
        self.tops = (self.directory,)
        self._paths = paths
        self._symlinks = symlinks
        self.selection = selection
        self._real_root = ""
        self._folders: dict[str, _Folder | SourceProblem] = {}

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Look up every path, in order. Blocking; the directory is one entry.

        Raises:
            ConfigError: the list cannot be read, or a path of it leaves the directory.
        """
        self._real_root = self._real_root or real_path(self.directory)
        for relative in self._relatives():
            yield from self._look_up(relative)

    def _relatives(self) -> Iterator[str]:
        if not isinstance(self._paths, str):
            for number, path in enumerate(self._paths, 1):
                yield self._relative(as_text(path), f"files_from, path {number},")
            return
        name = given_path(self._paths, "files_from")
        with open_description(name, "files_from") as stream:
            for line in bounded_lines(stream):
                where = f"files_from {name!r} line {line.number}"
                if line.fault:
                    raise ConfigError(f"{where} {line.fault}; expected a path in UTF-8.")
                if line.text.strip() and not line.text.startswith("#"):
                    yield self._relative(line.text, where)

    def _relative(self, path: str, where: str) -> str:
        """The path below the directory; "" is the directory itself."""
        if "\0" in path or not path:
            raise ConfigError(f"{where} is {path!r}; expected a path below the source directory.")
        whole = os.path.normpath(os.path.join(self.directory, path))
        if not is_below(whole, self.directory):
            raise ConfigError(
                f"{where} is {path!r}, which is not below the source directory {self.directory!r}; expected a path "
                "relative to it; correct the list."
            )
        return whole[len(self.directory) :].lstrip("/")

    def _look_up(self, relative: str) -> Iterator[SourceFile | SourceProblem]:
        path = f"{self.directory.rstrip('/')}/{relative}" if relative else self.directory
        above = self._folder(os.path.dirname(relative)) if relative else _Folder(None)
        if isinstance(above, SourceProblem):
            # Its own path, not that of the folder, where the folder is left out.
            yield left_out(path, above.reason) if above.reason else above
            return
        seen = examine(path, self._symlinks if relative else "follow")
        rules = above.rules
        is_directory = isinstance(seen, Seen) and stat.S_ISDIR(seen.status.st_mode)
        if rules is not None and (pattern := rules.excluding(relative, is_directory=is_directory)) is not None:
            yield left_out(path, pattern.reason)
        elif isinstance(seen, SourceProblem):
            yield seen
        elif self._leaves(seen.real_path):
            yield leaving_link(path, self.directory)
        elif is_directory:
            yield from walk_files(
                self.directory,
                self._symlinks,
                real_root=self._real_root,
                selection=self.selection,
                at=relative,
                above=rules,
            )
        elif os.path.basename(relative) == IGNORE_FILE:
            yield left_out(path, OWN_FILE)
        elif rules is not None and not rules.includes(relative):
            yield left_out(path, NOT_INCLUDED)
        else:
            yield replace(seen.file(path, attribute="", entry=0), root=self.directory, relative=relative)

    def _leaves(self, real: str) -> bool:
        """Whether links lead out of the directory, where they must not; `real` as in SourceFile."""
        if not real or self._symlinks != "inside" or is_below(real, self._real_root):
            return False
        return not (self.selection.annexed and ANNEX in real)

    def _folder(self, relative: str) -> _Folder | SourceProblem:
        """The rules of a folder, "" is the directory itself; or why nothing in it is published."""
        found = self._folders.get(relative)
        if found is None:
            if len(self._folders) >= _FOLDERS_KEPT:
                self._folders.clear()
            found = self._folders[relative] = self._enter(relative)
        return found

    def _enter(self, relative: str) -> _Folder | SourceProblem:
        rules = None
        path = f"{self.directory.rstrip('/')}/{relative}" if relative else self.directory
        if relative:
            above = self._folder(os.path.dirname(relative))
            if isinstance(above, SourceProblem):
                return above
            rules = above.rules
            if rules is not None and (pattern := rules.excluding(relative, is_directory=True)) is not None:
                return left_out(path, pattern.reason)
        inside = f"{self._real_root.rstrip('/')}/{relative}" if relative else self._real_root
        real = real_path(inside)
        if real != inside and self._symlinks in ("skip", "error"):
            return refused_link(path, self._symlinks)
        if self._leaves(real):
            return leaving_link(path, self.directory)
        try:
            descriptor = open_directory(real, LIST)
        except OSError as error:
            return unusable(path, error)
        try:
            own = read_ignore_file(path, descriptor)
        except ConfigError as error:
            return SourceProblem(f"{path}/{IGNORE_FILE}", error, skippable=False)
        finally:
            os.close(descriptor)
        return _Folder(rules_below(self.selection, rules, relative, own))


@dataclass(frozen=True, slots=True, eq=False)
class _Folder:
    """A folder whose files may be published, and its rules, if there are any."""

    rules: FolderRules | None
