"""Sources named one by one: records, the lines they are read from, manifests, and streams of JSON lines."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
from collections.abc import Iterator, Sequence
from typing import IO

from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Symlinks
from asyncsink.sources.base import SourceEntry, absolute, given_path, open_description
from asyncsink.sources.directory import walk_files
from asyncsink.sources.problems import examine, is_directory
from asyncsink.sources.selection import Selection
from asyncsink.value import dataclass

_EXAMPLE = '{"source": "sub-01/anat.nii.gz", "key": "raw/sub-01/anat.nii.gz"}'


@dataclass(frozen=True, slots=True)
class Record:
    """One named source.

    Attributes:
        source: absolute path.
        key: relative to the destination; None where `attribute` decides.
        attribute: the DataSink attribute, or "".
    """

    source: str
    key: str | None
    attribute: str = ""


def make_record(where: str, directory: str, source: str, key: str, attribute: str = "") -> Record:
    """A record from its texts. Without key and attribute, the key is the source's basename.

    Args:
        where: for messages: "stdin line 7".
        directory: base of a relative `source`; "" is the current directory.

    Raises:
        ConfigError: the source cannot be a path, or key and attribute are both given.
    """
    path = absolute(source, f"{where}: the source", directory)
    if attribute and key:
        raise ConfigError(f"{where} has a key and an attribute; expected one of them; remove the other.")
    return Record(path, None if attribute else key or os.path.basename(path), attribute)


def parse_record(text: str, where: str, directory: str = "") -> Record:
    """A record from one JSON object with "source" and "key" (or "source" and "attribute"); other names are ignored.

    Raises:
        ConfigError: the text is no such object; the message begins with `where` and has the column of a syntax error.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}, column {error.colno}: {error.msg}; expected JSON such as {_EXAMPLE}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where}: {error}; expected JSON such as {_EXAMPLE}.") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{where} holds a JSON {type(value).__name__}; expected an object such as {_EXAMPLE}.")
    texts = [_text(value, name, where) for name in ("source", "key", "attribute")]
    if not texts[0]:
        raise ConfigError(f"{where} names no source; expected an object such as {_EXAMPLE}.")
    return make_record(where, directory, *texts)


def look_up(
    record: Record, entry: int, symlinks: Symlinks, selection: Selection | None = None
) -> Iterator[SourceFile | SourceProblem]:
    """The files and problems of a record's source. Blocking; raises nothing.

    A directory is walked where an attribute routes it (as DataSink does). With a key it is a problem, because a key
    names one object.
    """
    path, attribute = record.source, record.attribute
    seen = examine(path, symlinks, entry=entry, attribute=attribute)
    if isinstance(seen, SourceProblem):
        yield seen
    elif not stat.S_ISDIR(seen.status.st_mode):
        yield seen.file(path, attribute=attribute, entry=entry, key=record.key)
    elif attribute:
        yield from walk_files(path, symlinks, attribute=attribute, entry=entry, selection=selection)
    else:
        yield SourceProblem(path, is_directory(path), entry)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _text(value: dict[str, object], name: str, where: str) -> str:
    text = value.get(name)
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ConfigError(f"{where}: {name!r} is of type {type(text).__name__}; expected a text.")
    return text


# -- Lines of a stream in bounded memory: an overlong line is a fault, not an allocation -------------------------------

LINE_SIZE_MAX = 1 << 20
"""Longest line: 1 MiB of a binary stream, or as many characters of a text stream."""

_DISCARD_SIZE = 1 << 16


@dataclass(frozen=True, slots=True)
class Line:
    """A line: its number from 1, its text without the line end, and its fault ("" for none)."""

    number: int
    text: str
    fault: str = ""


def bounded_lines(stream: IO[str] | IO[bytes]) -> Iterator[Line]:
    """The lines of a stream, decoded as UTF-8 where it is binary; a byte order mark at the start is dropped.

    Blocking. An overlong line, or one that is not UTF-8, is a fault, and the next line follows. A stream that fails
    (OSError, or a UnicodeDecodeError of its own decoder) is a fault and the last line: the rest cannot be read.
    """
    number = 0
    while True:
        number += 1
        try:
            raw = stream.readline(LINE_SIZE_MAX + 1)
            if not raw:
                return
            whole = len(raw) <= LINE_SIZE_MAX or raw[-1] in ("\n", 10)
            if not whole:
                _discard_rest(stream)
        except UnicodeDecodeError as error:
            yield Line(number, "", f"is no text in the stream's encoding ({error.encoding}); nothing after it was read")
            return
        except OSError as error:
            yield Line(number, "", f"cannot be read ({error.strerror or error}); nothing after it was read")
            return
        yield _line(number, raw) if whole else Line(number, "", f"is longer than {LINE_SIZE_MAX} bytes")


def _discard_rest(stream: IO[str] | IO[bytes]) -> None:
    while (piece := stream.readline(_DISCARD_SIZE)) and piece[-1] not in ("\n", 10):
        pass


def _line(number: int, raw: str | bytes) -> Line:
    if isinstance(raw, bytes):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return Line(number, "", f"is not UTF-8 (byte {error.start + 1} of the line)")
    else:
        text = raw
    if number == 1:
        text = text.removeprefix("\ufeff")
    return Line(number, text.removesuffix("\n").removesuffix("\r"))


# -- Manifests as sources: a table of source and key, one row per object, read row by row ------------------------------

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_COLUMNS = ("source", "key")


class ManifestSource:
    """A .csv or .tsv file with the columns `source` and `key`, or a .jsonl file with objects of these names.

    UTF-8, with or without a byte order mark. Other columns and names are ignored, blank lines too. A row without a key
    publishes under the source's basename. Relative sources count from the manifest's own directory. A source that is
    missing, or a directory, is a problem; a malformed row makes the whole manifest unusable.
    """

    replayable: bool = True
    injective: bool = False
    entries: Sequence[SourceEntry] | None = None

    def __init__(
        self, path: str | os.PathLike[str], *, symlinks: Symlinks = "follow", selection: Selection | None = None
    ) -> None:
        """Describe the manifest; it is not opened before `scan`.

        Args:
            path: relative paths count from the current directory.
            symlinks: for the sources that the manifest names.
            selection: which files of the directories among them are published; None: all.

        Raises:
            ConfigError: the name does not end in .csv, .tsv or .jsonl.
        """
        self.path = given_path(os.fspath(path), "Manifest")
        self._directory = os.path.dirname(self.path)
        self._suffix = os.path.splitext(self.path)[1].lower()
        self._symlinks = symlinks
        self._selection = selection
        if self._suffix not in (*_DELIMITERS, ".jsonl"):
            raise ConfigError(f"Manifest {self.path!r} is of no known kind; expected a name in .csv, .tsv or .jsonl.")

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Examine every row's source, in order. Blocking; `entry` counts the rows from 0.

        Raises:
            ConfigError: the manifest cannot be read, or a row is malformed; the message names the file and the line.
        """
        for entry, record in enumerate(self.records()):
            yield from look_up(record, entry, self._symlinks, self._selection)

    def records(self) -> Iterator[Record]:
        """The rows, in order. Blocking; raises as `scan`."""
        with open_description(self.path, "Manifest") as stream:
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
        # csv counts the lines it receives, so `line_num` stays correct where a quoted field spans several lines.
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


def first_record(path: str) -> Record | None:
    """The first record of a source manifest, or None where it has none. Blocking.

    Raises:
        ConfigError: it is no source manifest.
    """
    return next(ManifestSource(path).records(), None)


# -- Streams as sources: JSON lines from another program, one object per line ------------------------------------------


class StreamSource:
    """Lines such as {"source": "a.nii", "key": "raw/a.nii"} or {"source": "a.nii", "attribute": "motion"}.

    With an attribute, routing derives the key, and a directory publishes the files below it. Without key and attribute,
    the key is the source's basename. Relative sources count from the current directory. A line that is malformed, or
    longer than 1 MiB, is a problem, never skippable, and the next line follows.
    """

    replayable: bool = False
    injective: bool = False
    entries: Sequence[SourceEntry] | None = None

    def __init__(
        self,
        stream: IO[str] | IO[bytes],
        *,
        symlinks: Symlinks = "follow",
        name: str = "stdin",
        selection: Selection | None = None,
    ) -> None:
        """Describe the stream; nothing is read before `scan`, and the caller closes it.

        Args:
            stream: binary (UTF-8) or text. Prefer sys.stdin.buffer: a text stream ends at a byte it cannot decode.
            symlinks: for the sources that the lines name.
            selection: which files of the directories among them are published; None: all.
            name: for messages: "stdin line 7".
        """
        self._stream = stream
        self._symlinks = symlinks
        self._selection = selection
        self._name = name
        self._read = False

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Examine each line's source as it arrives; blank lines are ignored. Blocks until the stream has a line.

        `entry` counts the lines that are not blank, from 0.

        Raises:
            ConfigError: the stream was read before, or is in non-blocking mode, where a pause looks like its end.
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
                yield from look_up(record, entry, self._symlinks, self._selection)


def _is_non_blocking(stream: IO[str] | IO[bytes]) -> bool:
    try:
        return not os.get_blocking(stream.fileno())
    except (AttributeError, io.UnsupportedOperation):
        return False  # a stream in memory has no descriptor
