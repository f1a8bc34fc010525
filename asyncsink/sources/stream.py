"""Sources as they are named by another program: JSON lines on a stream, one object for each."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from typing import IO

from asyncsink.config import Symlinks
from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.base import Entry
from asyncsink.sources.exclusion import Exclusion
from asyncsink.sources.lines import bounded_lines
from asyncsink.sources.records import look_up, parse_record


class StreamSource:
    """Lines such as {"source": "a.nii", "key": "raw/a.nii"} or {"source": "a.nii", "attribute": "motion"}.

    With an attribute, routing decides, and a directory publishes what is below it. Without key and attribute, the key
    is the source's basename. Relative sources count from the current directory. A line that cannot be understood, or
    is longer than 1 MiB, is a problem of its own, never skippable, and the next line follows.
    """

    replayable: bool = False
    injective: bool = False
    entries: Sequence[Entry] | None = None

    def __init__(
        self,
        stream: IO[str] | IO[bytes],
        *,
        symlinks: Symlinks = "follow",
        name: str = "stdin",
        exclude: Exclusion | None = None,
    ) -> None:
        """Remember the stream; nothing is read before `scan`, and it is never closed here.

        Args:
            stream: binary (UTF-8) or text. Prefer sys.stdin.buffer: a text stream ends at a byte it cannot decode.
            symlinks: for the sources that the lines name.
            exclude: what is left out of the directories among them.
            name: for messages: "stdin line 7".
        """
        self._stream = stream
        self._symlinks = symlinks
        self._exclude = exclude
        self._name = name
        self._read = False

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Look up each line's source as it arrives; blank lines are passed over. Blocks until the stream has a line.

        `entry` counts the lines that are not blank, from 0.

        Raises:
            ConfigError: the stream was read before, or is in non-blocking mode, where a pause would look like its end.
        """
        if self._read:
            raise ConfigError(f"{self._name} can be read once only; write a .jsonl manifest to publish it again.")
        self._read = True
        if _is_non_blocking(self._stream):
            raise ConfigError(f"{self._name} is in non-blocking mode; expected a blocking stream; pipe it through cat.")
        entry = -1
        for line in bounded_lines(self._stream):
            where = f"{self._name} line {line.number}"
            if not line.fault and not line.text.strip():
                continue
            entry += 1
            try:
                if line.fault:
                    raise ConfigError(f"{where} {line.fault}; expected one JSON object in UTF-8; correct the line.")
                record = parse_record(line.text, where)
            except ConfigError as error:
                yield SourceProblem(where, error, entry, skippable=False)
            else:
                yield from look_up(record, entry, self._symlinks, self._exclude)


def _is_non_blocking(stream: IO[str] | IO[bytes]) -> bool:
    try:
        return not os.get_blocking(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return False  # no descriptor below: a stream in memory
