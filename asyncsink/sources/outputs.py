"""Workflow outputs as a mapping {attribute: path | [paths] | nested lists}, by DataSink's rules 1 to 7 and 13.

What an attribute may look like, and where it leads, is routing's business; here it is a name.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence

from asyncsink.config import Compat, Symlinks
from asyncsink.errors import ConfigError, SourceMissing
from asyncsink.model import SourceFile, SourceProblem
from asyncsink.paths import as_text
from asyncsink.sources.base import Entry
from asyncsink.sources.directory import walk_files
from asyncsink.sources.exclusion import Exclusion
from asyncsink.sources.paths import absolute
from asyncsink.sources.problems import examine

NO_ENTRY = -1
"""The `entry` of a problem that belongs to no top-level source: a None in a list names nothing."""


class OutputsSource:
    """The files and directories that a workflow's nodes gave out.

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
        exclude: Exclusion | None = None,
    ) -> None:
        """Flatten `outputs` in its own order; the file system is not looked at before `scan`.

        Args:
            outputs: relative paths count from the current directory of this moment.
            symlinks: for the paths named here and for what is below directories.
            compat: with "nipype", links to directories below a directory are reported and not followed (rule 27).
            exclude: what is left out of directories.

        Raises:
            ConfigError: a value is of another type, holds itself, or is "", "/" or no possible path.
        """
        if not isinstance(outputs, Mapping):
            raise ConfigError(
                f"Outputs are of type {type(outputs).__name__}; expected a mapping such as {{'motion': 'motion.par'}}."
            )
        self._symlinks = symlinks
        self._compat: Compat = compat
        self._exclude = exclude
        # What was walked first is what is walked again, whatever a name leads to by then.
        self._real_roots: dict[str, str] = {}
        self._named: list[Entry | SourceProblem] = []
        for attribute, value in outputs.items():
            if not isinstance(attribute, str):
                raise ConfigError(
                    f"Output attribute {attribute!r} is of type {type(attribute).__name__}; expected a str."
                )
            # A member of an Enum of texts, or numpy's str_, is that text.
            named = str.__str__(attribute)
            if isinstance(value, str):
                self._named.append(_name(named, value, 1))
            elif not _is_nothing(value):
                self._named.extend(_name(named, item, n) for n, item in enumerate(flatten(value, named), 1))
        self._entries = tuple(item for item in self._named if isinstance(item, Entry))

    @property
    def entries(self) -> Sequence[Entry]:
        """One for each path that was given, in the caller's order; a directory is one entry."""
        return self._entries

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        """Look at every entry in order, and walk the directories among them. Blocking; raises nothing."""
        ordinal = 0
        for item in self._named:
            if isinstance(item, SourceProblem):
                yield item
                continue
            yield from self._scan_entry(item, ordinal)
            ordinal += 1

    def _scan_entry(self, entry: Entry, ordinal: int) -> Iterator[SourceFile | SourceProblem]:
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
                exclude=self._exclude,
            )
        else:
            yield seen.file(path, attribute=attribute, entry=ordinal)


def flatten(value: object, attribute: str) -> Iterator[object]:
    """The items of nested lists and tuples, in order, at any depth (rules 3 and 4); anything else is its own item.

    Raises:
        ConfigError: a list holds itself.
    """
    if not isinstance(value, (list, tuple)):
        yield value
        return
    # An explicit stack: lists may be nested deeper than Python can recurse.
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


def _name(attribute: str, value: object, number: int) -> Entry | SourceProblem:
    """One flattened value as an entry; `number` counts the values of the attribute from 1."""
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str):
            return Entry(attribute, absolute(_text_of(path, attribute), f"Output {attribute!r}"))
    if value is None or _is_undefined(value):
        what = f"outputs[{attribute!r}], value {number}"
        error = SourceMissing(
            f"Source {what} is {value}; expected a path; leave it out of the list, or use on_missing='skip'."
        )
        return SourceProblem(what, error, NO_ENTRY, attribute)
    hint = "decode it with os.fsdecode" if isinstance(value, (bytes, os.PathLike)) else "give its paths as a list"
    raise ConfigError(
        f"Output {attribute!r} holds a value of type {type(value).__name__}; "
        f"expected a str, an os.PathLike, or lists and tuples of them; {hint}."
    )


def _text_of(path: str, attribute: str) -> str:
    try:
        return as_text(path)
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"Output {attribute!r} is {path!r}, which can be no path in the interpreter's encoding ({error.encoding}); "
            "correct it, or run Python in UTF-8 mode."
        ) from error


def _is_nothing(value: object) -> bool:
    """True for what publishes nothing as a whole value: None and Undefined (rules 1 and 2)."""
    return value is None or _is_undefined(value)


def _is_undefined(value: object) -> bool:
    """True for traits' Undefined, which is told by its look: nipype is no dependency here.

    A str or a path is never Undefined, whatever it spells: it names a file, which is there or is reported missing.
    """
    if isinstance(value, (str, bytes, os.PathLike, list, tuple, Mapping)):
        return False
    return type(value).__name__ == "_Undefined" or str(value) == "<undefined>"
