"""Workflow outputs as a mapping {attribute: path | [paths] | nested lists}, by DataSink's rules 1 to 7 and 13.

`OutputsSource` takes the mapping, `load_outputs_file` reads it from a file. Routing checks attributes and derives keys.
"""

from __future__ import annotations

import json
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from asyncsink.errors import ConfigError, SourceMissing
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.options.schema import Compat, Symlinks
from asyncsink.options.settings import MIB
from asyncsink.paths import as_native, as_text
from asyncsink.sources.base import SourceEntry, absolute, given_path, open_description
from asyncsink.sources.directory import walk_files
from asyncsink.sources.problems import examine
from asyncsink.sources.selection import Selection
from asyncsink.value import dataclass

NO_ENTRY = -1
"""The `entry` of a problem without a top-level source: a None in a list."""


class OutputsSource:
    """The files and directories in the outputs of a workflow's nodes.

    Values: a str or os.PathLike; lists and tuples of them, nested to any depth; None, nipype's Undefined and empty
    lists, which publish nothing. A None (or Undefined) inside a list is a SourceMissing, so that `on_missing` decides.
    A directory publishes the files below it; `SourceFile.root` is the directory.
    """

    replayable: bool = True
    injective: bool = False

    def __init__(
        self,
        outputs: Mapping[str, object],
        *,
        symlinks: Symlinks,
        compat: Compat = "strict",
        selection: Selection | None = None,
    ) -> None:
        """Flatten `outputs` in its own order; the file system is not accessed before `scan`.

        Args:
            outputs: relative paths count from the directory that is current now.
            symlinks: for these paths and for files below directories.
            compat: with "nipype", links to directories below a directory are reported and not followed (rule 27).
            selection: which files of directories are published; None: all.

        Raises:
            ConfigError: a value is of another type, holds itself, or is "", "/" or no possible path.
        """
        if not isinstance(outputs, Mapping):
            raise ConfigError(
                f"Outputs are of type {type(outputs).__name__}; expected a mapping such as {{'motion': 'motion.par'}}."
            )
        self._symlinks = symlinks
        self._compat: Compat = compat
        self._selection = selection
        # The second scan walks the directories of the first, even if a name leads elsewhere by then.
        self._real_roots: dict[str, str] = {}
        self._named: list[SourceEntry | SourceProblem] = []
        for attribute, value in outputs.items():
            if not isinstance(attribute, str):
                raise ConfigError(
                    f"Output attribute {attribute!r} is of type {type(attribute).__name__}; expected a str."
                )
            # A str subclass (a member of an Enum, numpy's str_) becomes its plain text.
            named = str.__str__(attribute)
            if isinstance(value, str):
                self._named.append(_name(named, value, 1))
            elif not _is_nothing(value):
                self._named.extend(_name(named, item, n) for n, item in enumerate(flatten(value, named), 1))
        self._entries = tuple(item for item in self._named if isinstance(item, SourceEntry))

    @property
    def entries(self) -> Sequence[SourceEntry]:
        """One entry for each given path, in the caller's order; a directory is one entry."""
        return self._entries

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Examine every entry in order, and walk the directories among them. Blocking; raises nothing."""
        ordinal = 0
        for item in self._named:
            if isinstance(item, SourceProblem):
                yield item
                continue
            yield from self._scan_entry(item, ordinal)
            ordinal += 1

    def _scan_entry(self, entry: SourceEntry, ordinal: int) -> Iterator[SourceFile | SourceProblem]:
        path, attribute = entry.path, entry.attribute
        seen = examine(path, self._symlinks, entry=ordinal, attribute=attribute)
        if isinstance(seen, SourceProblem):
            yield seen
        elif stat.S_ISDIR(seen.status.st_mode):
            real_root = self._real_roots.setdefault(path, seen.real_path or path)
            yield from walk_files(
                path,
                self._symlinks,
                attribute=attribute,
                entry=ordinal,
                compat=self._compat,
                real_root=real_root,
                selection=self._selection,
            )
        else:
            yield seen.file(path, attribute=attribute, entry=ordinal)


def flatten(value: object, attribute: str) -> Iterator[object]:
    """The items of nested lists and tuples, in order, at any depth (rules 3 and 4); anything else is its own item.

    Raises:
        ConfigError: a list contains itself.
    """
    if not isinstance(value, (list, tuple)):
        yield value
        return
    # An explicit stack, because lists may be nested deeper than Python can recurse.
    open_lists: dict[int, Iterator[object]] = {id(value): iter(value)}
    while open_lists:
        innermost = next(reversed(open_lists))
        for item in open_lists[innermost]:
            if not isinstance(item, (list, tuple)):
                yield item
                continue
            if id(item) in open_lists:
                raise ConfigError(f"Output {attribute!r} is a list that holds itself; expected paths; correct it.")
            open_lists[id(item)] = iter(item)
            break
        else:
            open_lists.popitem()


def _name(attribute: str, value: object, number: int) -> SourceEntry | SourceProblem:
    """One flattened value as an entry; `number` counts the values of the attribute from 1."""
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str):
            return SourceEntry(attribute, absolute(_text_of(path, attribute), f"Output {attribute!r}"))
    if value is None or _is_undefined(value):
        what = f"outputs[{attribute!r}], value {number}"
        error = SourceMissing(
            f"Source {what} is {value}; expected a path; leave it out of the list, or use on_missing='skip'."
        )
        return SourceProblem(what, error, NO_ENTRY, attribute)
    raise ConfigError(
        f"Output {attribute!r} holds a value of type {type(value).__name__}; "
        f"expected a str, an os.PathLike, or lists and tuples of them; {_hint(value)}."
    )


def _hint(value: object) -> str:
    """What to do with a value that is no path."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "decode a path with os.fsdecode; content goes to AsyncSink.put_bytes"
    if isinstance(value, os.PathLike):
        return "decode it with os.fsdecode"
    if hasattr(value, "read") or hasattr(value, "__aiter__"):
        return "content goes to AsyncSink.put_stream"
    return "give its paths as a list"


def _text_of(path: str, attribute: str) -> str:
    try:
        return as_text(path)
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"Output {attribute!r} is {path!r}, which can be no path in the interpreter's encoding ({error.encoding}); "
            "correct it, or run Python in UTF-8 mode."
        ) from error


def _is_nothing(value: object) -> bool:
    """True for a whole value that publishes nothing: None and Undefined (rules 1 and 2)."""
    return value is None or _is_undefined(value)


def _is_undefined(value: object) -> bool:
    """True for traits' Undefined, recognized by its repr because nipype is no dependency here.

    A str or a path is never Undefined, whatever its text: it names a file, which exists or is reported missing.
    """
    if isinstance(value, (str, bytes, os.PathLike, list, tuple, Mapping)):
        return False
    return type(value).__name__ == "_Undefined" or str(value) == "<undefined>"


# -- Outputs files: .json, .yaml or .yml with {attribute: path | [paths] | nested lists} -------------------------------

FILE_BYTES_MAX = 64 * MIB
"""Largest outputs file: some 500,000 paths."""
VALUES_MAX = 1_000_000
"""Most lists and paths of an outputs file. Each alias of a YAML file counts as its target, because a few lines of
aliases can expand to gigabytes."""
_EXPECTED = "expected a mapping of attributes to paths, such as {motion: [sub-01/motion.par]}"


def load_outputs_file(path: str | os.PathLike[str]) -> dict[str, object]:
    """The outputs in a file, in its order, ready for OutputsSource.

    Relative paths inside count from the file's own directory, and are returned absolute. null (and ~ in YAML) stays
    None. Blocking: the file is read whole, FILE_BYTES_MAX of it at most.

    Args:
        path: ends in .json, .yaml or .yml; relative paths count from the current directory.

    Raises:
        ConfigError: the file is missing or malformed, an attribute occurs twice, the top level is no mapping, or a
            value is not a path. The message names the file, the line and the column.
    """
    name = given_path(os.fspath(path), "Outputs file")
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"Outputs file {name!r} is of no known kind; expected a name in .json, .yaml or .yml.")
    with open_description(name, "Outputs file") as stream:
        try:
            data = stream.read(FILE_BYTES_MAX + 1)
            if len(data) > FILE_BYTES_MAX:
                raise ConfigError(
                    f"Outputs file {name!r} has more than {FILE_BYTES_MAX:,} bytes; write a manifest (.jsonl), whose "
                    "lines are read one by one."
                )
            text = data.decode("utf-8-sig")
        except OSError as error:
            raise ConfigError(f"Outputs file {name!r} cannot be read ({error.strerror or error}).") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError(f"Outputs file {name!r} line {line} is not UTF-8; save it as UTF-8.") from error
    outputs: dict[str, object] = {}
    try:
        for member in _json_members(text) if suffix == ".json" else _yaml_members(text):
            if member.attribute in outputs:
                raise _Fault(member.place, f"the attribute {member.attribute!r} stands twice; keep one of them")
            outputs[member.attribute] = _resolve(member.value, member, os.path.dirname(name))
    except _Fault as fault:
        line, column = fault.place
        raise ConfigError(f"Outputs file {name!r}, line {line}, column {column}: {fault.message}.") from fault
    except RecursionError as error:
        raise ConfigError(f"Outputs file {name!r} nests its lists too deeply; flatten them.") from error
    return outputs


_SEPARATORS = re.compile(r"[ \t\r\n]*[{:,]?[ \t\r\n]*")
_Place = tuple[int, int]
"""Line and column, from 1."""


@dataclass(frozen=True, slots=True)
class _Member:
    """An attribute and its value (str, None and lists), and the position of each."""

    attribute: str
    value: object
    place: _Place
    value_place: _Place


class _Fault(Exception):
    """A fault at a position in the file."""

    def __init__(self, place: _Place, message: str) -> None:
        super().__init__(message)
        self.place = place
        self.message = message


class _Count:
    """The number of values that a file may still have."""

    def __init__(self) -> None:
        self._left = VALUES_MAX

    def one(self, place: _Place) -> None:
        """Count one value.

        Raises:
            _Fault: the file has too many.
        """
        self._left -= 1
        if self._left < 0:
            raise _Fault(
                place,
                f"the file has more than {VALUES_MAX:,} values, its aliases written out; write a manifest (.jsonl)",
            )


def _resolve(value: object, member: _Member, directory: str) -> object:
    if isinstance(value, list):
        return [_resolve(item, member, directory) for item in value]
    if value is None:
        return None
    if not isinstance(value, str):
        raise _Fault(
            member.value_place,
            f"the attribute {member.attribute!r} holds {value!r:.60}; expected a path, a list of paths, or null",
        )
    try:
        # The file is UTF-8; OutputsSource takes paths in the interpreter's encoding.
        return as_native(absolute(value, f"the attribute {member.attribute!r}", directory))
    except UnicodeEncodeError as error:
        raise _Fault(member.value_place, f"the attribute {member.attribute!r} holds no path ({error})") from error
    except ConfigError as error:
        raise _Fault(member.value_place, str(error).rstrip(".")) from error


def _json_members(text: str) -> Iterator[_Member]:
    """The members of the top-level object. The JSON decoder checks the whole text first; the scan can be simple."""
    try:
        if not isinstance(json.loads(text), dict):
            place = _place(_line_starts(text), _next_token(text, 0))
            raise _Fault(place, f"the top level is no JSON object; {_EXPECTED}")
    except json.JSONDecodeError as error:
        raise _Fault((error.lineno, error.colno), f"{error.msg}; {_EXPECTED}") from error
    except ValueError as error:
        raise _Fault((1, 1), f"{error}; {_EXPECTED}") from error
    decoder = json.JSONDecoder()
    starts = _line_starts(text)
    position = _next_token(text, 0)
    while text[position] != "}":
        key_position = position
        attribute, position = decoder.raw_decode(text, position)
        value_position = _next_token(text, position)
        value, position = decoder.raw_decode(text, value_position)
        yield _Member(attribute, value, _place(starts, key_position), _place(starts, value_position))
        position = _next_token(text, position)


def _next_token(text: str, position: int) -> int:
    """The position of the next name, value or closing brace: past white space and separators (RFC 8259, 2)."""
    found = _SEPARATORS.match(text, position)
    return found.end() if found else position


def _line_starts(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer("\n", text))]


def _place(starts: list[int], position: int) -> _Place:
    line = bisect_right(starts, position)
    return line, position - starts[line - 1] + 1


def _yaml_members(text: str) -> Iterator[_Member]:
    """The members of the top-level mapping, from YAML's nodes, which keep their positions and construct no objects."""
    import yaml  # imported only by runs that read YAML

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise _Fault(_mark(mark) if mark else (1, 1), f"{error.problem or error.context}; {_EXPECTED}") from error
    except yaml.YAMLError as error:
        # A character that YAML forbids: the only fault without a mark.
        place = _place(_line_starts(text), getattr(error, "position", 0))
        raise _Fault(place, f"{getattr(error, 'reason', error)}; {_EXPECTED}") from error
    if not isinstance(root, yaml.MappingNode):
        raise _Fault(_mark(root.start_mark) if root else (1, 1), f"the top level is no mapping; {_EXPECTED}")
    values = _Count()
    for key, value in root.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise _Fault(_mark(key.start_mark), f"{_shown(key)} is no attribute's name; write it in quotes")
        yield _Member(key.value, _yaml_value(value, (), values), _mark(key.start_mark), _mark(value.start_mark))


def _yaml_value(node: Any, inside: tuple[Any, ...], values: _Count) -> object:
    """A node as str, None or list. Values that YAML reads as other types (2024-01-31, 12, yes) are refused."""
    import yaml

    values.one(_mark(node.start_mark))
    if isinstance(node, yaml.SequenceNode):
        if any(node is outer for outer in inside):
            raise _Fault(_mark(node.start_mark), "the list holds itself; expected paths; remove the alias")
        return [_yaml_value(item, (*inside, node), values) for item in node.value]
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null":
        return None
    if isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:str":
        return str(node.value)
    raise _Fault(_mark(node.start_mark), f"{_shown(node)} is no path; expected a path, a list of paths, or null")


def _shown(node: Any) -> str:
    kind = node.tag.rpartition(":")[2]
    return f"{node.value!r} (a YAML {kind}; write text in quotes)" if isinstance(node.value, str) else f"a YAML {kind}"


def _mark(mark: Any) -> _Place:
    return mark.line + 1, mark.column + 1
