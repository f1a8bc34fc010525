"""A part as a source: its files are known, and the file system is asked nothing until they are opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.paths import is_below, real_path
from asyncsink.routing.key_range import KeyRange, RangeFinder
from asyncsink.sources.base import SourceEntry
from asyncsink.splitting.files import SplitPart, file_of


class SplitPartSource:
    """The files of one part.

    Args:
        directory: of the split.
        part: which one.
        prefix: of the destination, without which keys are handed on.
        roots: directories at the split, and where this machine has them.
    """

    replayable: bool = True
    injective: bool = True
    entries: Sequence[SourceEntry] | None = None

    def __init__(self, directory: str, part: SplitPart, *, prefix: str, roots: Mapping[str, str]) -> None:
        self.path = os.path.join(directory, part.file)
        self._part = part
        self._below = f"{prefix}/" if prefix else ""
        self._roots = roots
        self._real_roots: dict[str, str] = {}

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """The files, in the order of their keys. Blocking.

        Raises:
            ConfigError: the part's file cannot be read, or is damaged.
        """
        for key, source, _ in self._lines():
            if not key.startswith(self._below):
                raise ConfigError(f"{self.path!r} has the key {key!r}, which is not below the destination.")
            yield replace(self._moved(source), key=key.removeprefix(self._below))

    def look(self) -> KeyRange:
        """Read the whole file; the range of its keys. Blocking.

        Raises:
            ConfigError: the file cannot be read, or is not the one that the split wrote.
        """
        digest = sha256()
        try:
            with open(self.path, "rb") as file:
                while piece := file.read(1 << 20):
                    digest.update(piece)
        except OSError as error:
            raise ConfigError(f"The part {self.path!r} cannot be read: {error.strerror or error}.") from error
        if f"sha256:{digest.hexdigest()}" != self._part.digest:
            raise ConfigError(
                f"The part {self.path!r} is not the one that was split: its digest differs; copy it again, or split "
                "the source again."
            )
        finder, alike = RangeFinder(), dict[str, tuple[str, ...]]()
        for key, _, others in self._lines():
            finder.add(key)
            if others:
                alike[key] = others
        return finder.found(alike)

    def _lines(self) -> Iterator[tuple[str, SourceFile, tuple[str, ...]]]:
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        yield file_of(line)
                    except (ValueError, KeyError, TypeError) as error:
                        raise ConfigError(f"{self.path!r}, line {number}: {error}; split the source again.") from error
        except OSError as error:
            raise ConfigError(f"The part {self.path!r} cannot be read: {error.strerror or error}.") from error

    def _moved(self, source: SourceFile) -> SourceFile:
        """The file where this machine has it."""
        for old, new in self._roots.items():
            if not is_below(source.path, old):
                continue
            inside = source.path[len(old) :]
            real = self._real_roots.get(new) or self._real_roots.setdefault(new, real_path(new))
            # A file behind a link inside of the root is looked for here; its inode proves that it is the same one.
            linked = source.real_path and not source.real_path.endswith(inside)
            path = new + inside
            return replace(source, path=path, root=path, real_path=real_path(path) if linked else real + inside)
        return source
