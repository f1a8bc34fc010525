"""What a source is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from asyncsink.model import SourceFile, SourceProblem
from asyncsink.value import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One top-level source, as the caller gave it.

    Attributes:
        attribute: the DataSink attribute it arrived on, or "".
        path: absolute path, no trailing "/".
    """

    attribute: str
    path: str


class Source(Protocol):
    """Something that can be walked for files to publish."""

    @property
    def replayable(self) -> bool:
        """True where `scan` can run twice: the first time to count and check, the second to publish."""
        ...

    @property
    def injective(self) -> bool:
        """True where two files can never have the same relative key (a directory), so no collision check is owed."""
        ...

    @property
    def entries(self) -> Sequence[Entry] | None:
        """The top-level sources in the caller's order (they become `out_file`), or None where each file is its own."""
        ...

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Walk. Blocking; memory does not grow with the number of files. Never raises for a single bad file.

        Raises:
            ConfigError: the source as a whole is unusable (missing manifest, malformed JSON, …).
        """
        ...
