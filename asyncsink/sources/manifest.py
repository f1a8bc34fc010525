"""A manifest: a table of source and key, one row for each object, read row by row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence

from asyncsink.config import Symlinks
from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.base import Entry
from asyncsink.sources.exclusion import Exclusion
from asyncsink.sources.lines import Line, bounded_lines
from asyncsink.sources.paths import given_path, open_regular
from asyncsink.sources.records import Record, look_up, make_record, parse_record

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_COLUMNS = ("source", "key")


class ManifestSource:
    """A .csv or .tsv file with the columns `source` and `key`, or a .jsonl file with objects of these names.

    UTF-8, with or without a byte order mark. Other columns and names are ignored, blank lines too. A row without a
    key publishes under the source's basename. Relative sources count from the manifest's own directory. A source that
    is missing, or a directory, is a problem; a row that cannot be understood refuses the whole manifest.
    """

    replayable: bool = True
    injective: bool = False
    entries: Sequence[Entry] | None = None

    def __init__(
        self, path: str | os.PathLike[str], *, symlinks: Symlinks = "follow", exclude: Exclusion | None = None
    ) -> None:
        """Remember which manifest to read; it is not opened before `scan`.

        Args:
            path: relative paths count from the current directory.
            symlinks: for the sources that the manifest names.
            exclude: what is left out of the directories among them.

        Raises:
            ConfigError: the name does not end in .csv, .tsv or .jsonl.
        """
        self.path = given_path(os.fspath(path), "Manifest")
        self._directory = os.path.dirname(self.path)
        self._suffix = os.path.splitext(self.path)[1].lower()
        self._symlinks = symlinks
        self._exclude = exclude
        if self._suffix not in (*_DELIMITERS, ".jsonl"):
            raise ConfigError(f"Manifest {self.path!r} is of no known kind; expected a name in .csv, .tsv or .jsonl.")

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Look up every row's source, in order. Blocking; `entry` counts the rows from 0.

        Raises:
            ConfigError: the manifest cannot be read, or a row is malformed; the message names the file and the line.
        """
        for entry, record in enumerate(self._records()):
            yield from look_up(record, entry, self._symlinks, self._exclude)

    def _records(self) -> Iterator[Record]:
        with open_regular(self.path, "Manifest") as stream:
            lines = (self._checked(line) for line in bounded_lines(stream))
            if self._suffix == ".jsonl":
                yield from self._json_records(lines)
            else:
                yield from self._table_records(lines)

    def _where(self, number: int) -> str:
        return f"Manifest {self.path!r} line {number}"

    def _checked(self, line: Line) -> Line:
        if line.fault:
            raise ConfigError(f"{self._where(line.number)} {line.fault}; expected a row in UTF-8; correct the line.")
        return line

    def _json_records(self, lines: Iterator[Line]) -> Iterator[Record]:
        for line in lines:
            if line.text.strip():
                yield parse_record(line.text, self._where(line.number), self._directory)

    def _table_records(self, lines: Iterator[Line]) -> Iterator[Record]:
        # csv counts the lines it was given, so `line_num` stays right where a quoted field goes over several lines.
        delimiter = _DELIMITERS[self._suffix]
        rows = csv.reader((line.text + "\n" for line in lines), delimiter=delimiter, strict=True)
        columns: list[str] | None = None
        while True:
            try:
                row = next(rows, None)
            except csv.Error as error:
                raise ConfigError(f"{self._where(rows.line_num)} is malformed ({error}); correct it.") from error
            if row is None:
                break
            if not row:
                continue
            if columns is None:
                columns = self._header(row, rows.line_num)
                continue
            yield self._row(row, columns, self._where(rows.line_num))
        if columns is None:
            raise ConfigError(f"Manifest {self.path!r} has no header; expected the columns {_COLUMNS}.")

    def _header(self, row: list[str], number: int) -> list[str]:
        columns = [name.strip() for name in row]
        for name in _COLUMNS:
            if columns.count(name) != 1:
                raise ConfigError(
                    f"{self._where(number)} is a header with {columns.count(name)} columns named {name!r}; "
                    f"expected exactly one, found the columns {columns}."
                )
        return columns

    def _row(self, row: list[str], columns: list[str], where: str) -> Record:
        if len(row) != len(columns):
            raise ConfigError(
                f"{where} has {len(row)} fields; expected {len(columns)}, like the header; quote fields that hold "
                "the delimiter."
            )
        source, key = (row[columns.index(name)] for name in _COLUMNS)
        return make_record(where, self._directory, source, key)
