"""One named source: a row of a manifest, or a line on stdin."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator

from asyncsink.config import Symlinks
from asyncsink.errors import ConfigError
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.sources.directory import walk_files
from asyncsink.sources.exclusion import Exclusion
from asyncsink.sources.paths import absolute
from asyncsink.sources.problems import examine, is_directory
from asyncsink.value import dataclass

_EXAMPLE = '{"source": "sub-01/anat.nii.gz", "key": "raw/sub-01/anat.nii.gz"}'


@dataclass(frozen=True, slots=True)
class Record:
    """What a line says.

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
        directory: where a relative `source` counts from; "" is the current directory.

    Raises:
        ConfigError: the source is no possible path, or key and attribute are both given.
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
    record: Record, entry: int, symlinks: Symlinks, exclude: Exclusion | None = None
) -> Iterator[SourceFile | SourceProblem]:
    """What a record's source is now. Blocking; raises nothing.

    A directory is walked where an attribute routes it (as DataSink does); a key names one object, so there it is a
    problem.
    """
    path, attribute = record.source, record.attribute
    seen = examine(path, symlinks, entry=entry, attribute=attribute)
    if isinstance(seen, SourceProblem):
        yield seen
    elif not stat.S_ISDIR(seen.status.st_mode):
        yield seen.file(path, attribute=attribute, entry=entry, key=record.key)
    elif attribute:
        yield from walk_files(path, symlinks, attribute=attribute, entry=entry, exclude=exclude)
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
