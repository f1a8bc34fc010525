"""What a survey found, kept for the run that follows: in memory while it is little, else in a temporary file.

A tree is walked once, however large it is, and what is published is what was checked.
"""

from __future__ import annotations

import marshal
import os
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

from asyncsink import errors
from asyncsink.model import SourceFile, SourceProblem, Transfer
from asyncsink.temporary import file_fault

IN_MEMORY_MAX: Final = 25_000
"""Entries that are kept in memory: about 15 MB."""


class Kept:
    """What was found, in its order; iterating blocks, and may be done again. `add` and iterating are for one thread at
    a time. What comes from the file is equal; a problem's error is of the same class, with the same sentence.

    Attributes:
        whole: False where the directory for temporary files could not take it: then it is of no use.
    """

    def __init__(self) -> None:
        self.whole = True
        self._recent: list[Transfer | SourceProblem] = []
        self._file: IO[bytes] | None = None
        self._pieces: list[int] = []

    def __repr__(self) -> str:
        return f"<Kept {len(self._recent)} entries in memory, {sum(self._pieces):,} bytes in a file>"

    @property
    def in_memory(self) -> bool:
        """Whether iterating reads no file."""
        return self._file is None

    def add(self, found: Sequence[Transfer | SourceProblem]) -> None:
        """Keep more. Blocks where there is much already."""
        if not self.whole:
            return
        self._recent += found
        if len(self._recent) > IN_MEMORY_MAX or self._file is not None:
            try:
                self._write_out()
            except OSError:
                self.whole = False
                self.close()

    def __iter__(self) -> Iterator[Transfer | SourceProblem]:
        """Raises JournalError where the file cannot be read."""
        start = 0
        for size in self._pieces:
            assert self._file is not None
            try:
                piece = os.pread(self._file.fileno(), size, start)
            except OSError as error:
                raise file_fault("The files that were found", error) from error
            for row in marshal.loads(piece):  # noqa: S302 - written by this process
                yield _found(row)
            start += size
        yield from self._recent

    def close(self) -> None:
        """Release the file. Harmless when repeated."""
        self._recent.clear()
        self._pieces.clear()
        if self._file is not None:
            self._file.close()

    def _write_out(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="asyncsink-", buffering=0)  # noqa: SIM115 - see close
        piece = marshal.dumps([_row(found) for found in self._recent])
        written = 0
        while written < len(piece):
            written += self._file.write(piece[written:])
        self._pieces.append(len(piece))
        self._recent.clear()


def _row(found: Transfer | SourceProblem) -> tuple[Any, ...]:
    if isinstance(found, SourceProblem):
        return (
            None,
            type(found.error).__name__,
            str(found.error),
            found.path,
            found.entry,
            found.attribute,
            found.skippable,
            found.skipped,
            found.unreadable,
            found.reason,
        )
    file = found.source
    return (
        found.key,
        found.local,
        file.path,
        file.size_bytes,
        file.mtime_ns,
        file.attribute,
        file.entry,
        file.root,
        file.relative,
        file.key,
        file.ctime_ns,
        file.inode,
        file.real_path,
        file.readable,
    )


def _found(row: tuple[Any, ...]) -> Transfer | SourceProblem:
    if row[0] is None:
        _, kind, message, path, *rest = row
        return SourceProblem(path, getattr(errors, kind)(message), *rest)
    key, local, *file = row
    return Transfer(SourceFile(*file), key, local)
