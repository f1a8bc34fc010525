"""Several directories and files, or a single file, each by its path."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

from asyncsink.errors import ConfigError
from asyncsink.integrity.choice import NOT_INCLUDED
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Symlinks
from asyncsink.sources.base import SourceEntry, given_path
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.problems import examine
from asyncsink.sources.selection import Selection, left_out


class SeveralSources:
    """Directories and files under their own names, as cp(1) puts them into a directory.

    Patterns count from each directory; to a file, its name is compared with them.

    Attributes:
        injective: whether the names are all different.
    """

    replayable: bool = True
    entries: Sequence[SourceEntry] | None = None

    def __init__(
        self,
        paths: Sequence[str],
        *,
        symlinks: Symlinks,
        selection: Selection,
    ) -> None:
        """Describe the sources.

        Args:
            paths: relative ones count from the current directory.
            symlinks: for what is below the directories; a path itself may be a link.
            selection: which files are published.

        Raises:
            ConfigError: a path is the root of the file system, which has no name.
        """
        self.tops = tuple(given_path(path, "SOURCE") for path in paths)
        names = [os.path.basename(path) for path in self.tops]
        if not all(names):
            raise ConfigError("SOURCE '/' has no name, under which it could go beside others; export it alone.")
        self.injective = len(set(names)) == len(names)
        self._selection = selection
        self._directories = {
            path: DirectorySource(path, symlinks=symlinks, selection=selection)
            for path in self.tops
            if os.path.isdir(path)
        }

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Find the files, source by source. Blocking; `entry` counts the sources from 0.

        Raises:
            ConfigError: a directory cannot be listed.
        """
        for entry, path in enumerate(self.tops):
            name = os.path.basename(path)
            directory = self._directories.get(path)
            if directory is None:
                yield self._file(path, name, entry)
                continue
            above = os.path.dirname(path)
            for found in directory.scan():
                if isinstance(found, SourceFile):
                    yield replace(found, entry=entry, root=above, relative=f"{name}/{found.relative}")
                else:
                    yield replace(found, entry=entry)

    def _file(self, path: str, name: str, entry: int) -> SourceFile | SourceProblem:
        rules = self._selection.top(None)
        if rules is not None and (pattern := rules.excluding(name, is_directory=False)) is not None:
            return left_out(path, pattern.reason, entry=entry)
        if rules is not None and not rules.includes(name):
            return left_out(path, NOT_INCLUDED, entry=entry)
        seen = examine(path, "follow", entry=entry)
        if isinstance(seen, SourceProblem):
            return seen
        return replace(seen.file(path, attribute="", entry=entry), root=os.path.dirname(path), relative=name)
