"""From a SourceFile to its Route: the rules in the order in which DataSink applies them.

    container / attribute / "_" folders / basename  ─► substitutions ─► / path inside a directory source ─► check

The same input always gives the same Route: no disk, clock or network is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from asyncsink.errors import ConfigError, InvalidKey, RoutingError
from asyncsink.model import Route, SourceFile
from asyncsink.options.schema import RoutingOptions
from asyncsink.routing.attributes import End, SourceNames, make_end, parse_attribute
from asyncsink.routing.keys import check_key, join_key, show

Pairs = Iterable[tuple[str, str]]
_Step = tuple[str, str, tuple[str, str], Callable[[str], str]]
"""The name in messages, the option, the pair, and what replaces."""


class Router:
    """Routes the sources of one run.

    Args:
        options: the rules.
        base: the destination as the user wrote it (rule 25), without a trailing "/": "s3://bucket/prefix" or an
            absolute directory.
        local_base: the absolute local_copy directory, or "".

    Attributes:
        plain: True where a directory export's keys are container + relative path, unchanged by substitutions, so that
            two files of one directory can never share a key.
        folder: the container and a "/", or "".
        bytes_max: the longest key, in bytes of UTF-8.

    Raises:
        ConfigError: substitutions or directories of `options` are malformed.
        RoutingError: container has a ".." (rule 12), or starts with "/" (rule 11; with compat="nipype" that is allowed
            where it names a folder below the base, the only case in which no file is misplaced).
    """

    def __init__(self, options: RoutingOptions, *, base: str, local_base: str = "") -> None:
        self._options = options
        self._substitutions = Substitutions(options.substitutions, options.regexp_substitutions)
        self._names = SourceNames(options)
        self._ends = tuple(make_end(options, text) for text in ([base, local_base] if local_base else [base]))
        self.bytes_max = min(end.bytes_max for end in self._ends)
        container = self._ends[0].container
        self.plain: bool = not self._substitutions and all(end.container == container for end in self._ends)
        self.folder = f"{container}/" if container else ""
        # The files of one directory source follow each other and share the names computed for it.
        self._latest: tuple[str, str, tuple[str, ...]] = ("", "", ())
        # Callers of a sink often have one attribute for many files.
        self._latest_folders: tuple[str | None, list[str]] = (None, [])

    def route(self, source: SourceFile) -> Route:
        """The key and local path of `source`.

        An explicit key is used unchanged; a file of a directory export has its relative path below the container as
        key; a file on a DataSink attribute follows DataSink's rules.

        Raises:
            RoutingError: the attribute is malformed or reserved, or a substitution changes the destination itself.
            InvalidKey: the key is not legal (`keys.check_key`), or substitutions leave the file without a name.
        """
        key = source.key
        if key is None:
            if source.attribute:
                return self._checked(source, self._datasink_names(source))
            if not self.plain:
                return self._checked(source, self._export_names(source))
            key = self.folder + (source.relative or basename_of(source))
        return self._checked(source, (key,))

    def check_attribute(self, attribute: str) -> None:
        """Raise RoutingError where no source could be routed on `attribute` (rules 8 to 12)."""
        parse_attribute(attribute, self._options.compat)

    def out_file(self, attribute: str, path: str) -> tuple[str, str]:
        """The `out_file` entry of DataSink for one top-level source: its URL, and its local copy or "" (rule 34).

        Args:
            attribute: the DataSink attribute; "" for the directory of a directory export, whose files go into the
                container itself.
            path: absolute path of the file or directory.

        Raises:
            RoutingError, InvalidKey: as `route`.
        """
        names = self._heads(attribute, path) if attribute else self._export_heads(path)
        for end, name in zip(self._ends, names, strict=True):
            if name:
                _check(name, end.bytes_max, path)
        urls = [end.url(name) for end, name in zip(self._ends, names, strict=True)]
        return urls[0], urls[1] if len(urls) > 1 else ""

    def _checked(self, source: SourceFile, names: tuple[str, ...]) -> Route:
        key, local = names[0], names[-1]
        if key == local:
            _check(key, self.bytes_max, source.path)
        else:
            for end, name in zip(self._ends, names, strict=True):
                _check(name, end.bytes_max, source.path)
        return Route(key, local)

    def _datasink_names(self, source: SourceFile) -> tuple[str, ...]:
        root = source.root or source.path
        inside = source.relative
        if inside:
            latest = self._latest
            if latest[0] != source.attribute or latest[1] != root:
                latest = self._latest = (source.attribute, root, self._heads(source.attribute, root))
            return tuple([f"{head}/{inside}" if head else inside for head in latest[2]])
        heads = self._plain_heads(source.attribute, root)
        return tuple([self._file_name(end, head, source) for end, head in zip(self._ends, heads, strict=True)])

    def _export_names(self, source: SourceFile) -> tuple[str, ...]:
        inside = source.relative or basename_of(source)
        texts = [f"{end.container}/{inside}" if end.container else inside for end in self._ends]
        return tuple([self._file_name(end, text, source) for end, text in zip(self._ends, texts, strict=True)])

    def _heads(self, attribute: str, root: str) -> tuple[str, ...]:
        """The top-level source's name below each end, after substitutions; "" where these remove a directory's name."""
        heads = self._plain_heads(attribute, root)
        return tuple(
            [join_key(self._substituted(end, head, root)) for end, head in zip(self._ends, heads, strict=True)]
        )

    def _plain_heads(self, attribute: str, root: str) -> list[str]:
        """Container / attribute / "_" folders / basename, below each end (the order of DataSink's code)."""
        latest = self._latest_folders
        if latest[0] != attribute:
            components = parse_attribute(attribute, self._options.compat)
            latest = attribute, [end.folder(components, attribute) for end in self._ends]
            self._latest_folders = latest
        name = self._names.name(root)
        return [join_key(folder, name) for folder in latest[1]]

    def _export_heads(self, path: str) -> tuple[str, ...]:
        # The "/" lets a substitution match the container as it precedes the files' names.
        texts = [f"{end.container}/" if end.container else "" for end in self._ends]
        return tuple(
            [join_key(text and self._substituted(end, text, path)) for end, text in zip(self._ends, texts, strict=True)]
        )

    def _file_name(self, end: End, text: str, source: SourceFile) -> str:
        name = self._substituted(end, text, source.path)
        # Folding would make "motion/" a file named "motion".
        if not name or name.endswith("/"):
            raise InvalidKey(
                f"The source {show(source.path)} is left without a file name: substitutions turn {show(text)} into "
                f"{show(name)}; they must leave a name behind the last '/'."
            )
        return join_key(name)

    def _substituted(self, end: End, text: str, path: str) -> str:
        """`text` (below the end) after substitutions, below the end again (rules 19 to 21); not folded yet."""
        if not self._substitutions:
            return text
        if self._options.compat == "strict":
            return self._substitutions.apply(text)
        url = end.url(text)
        name = end.below(self._substitutions.apply(url))
        if name is None:
            culprit = self._substitutions.breaker(url, lambda text: end.below(text) is not None)
            raise RoutingError(
                f"{culprit} changes the destination {show(end.base)} itself, for the source {show(path)}; "
                "make it match only what comes behind the destination, or set compat='strict'."
            )
        return name


def basename_of(source: SourceFile) -> str:
    """The name of a source's top-level file or directory."""
    return (source.root or source.path).rstrip("/").rpartition("/")[2]


def _check(name: str, bytes_max: int, path: str) -> None:
    try:
        check_key(name, bytes_max=bytes_max)
    except InvalidKey as error:
        raise InvalidKey(f"The source {show(path)} cannot be published: {error}") from error


# -- Substitutions: validated when they are made, applied one after another (Nipype rules 19 to 21) --------------------


class Substitutions:
    """All substitutions of a run, ready to apply.

    `substitutions` are str.replace; then come `regexp_substitutions`, re.sub with groups, every occurrence. Each is
    applied to the result of the one before, so they cascade (rule 19).

    Raises:
        ConfigError: an item is not a pair of str, a pattern does not compile, a replacement refers to a group that the
            pattern lacks, or an empty text is to be replaced (it would match between all characters).
    """

    __slots__ = ("_steps",)

    def __init__(self, substitutions: Pairs = (), regexp_substitutions: Pairs = ()) -> None:
        self._steps: tuple[_Step, ...] = (*_literal_steps(substitutions), *_regexp_steps(regexp_substitutions))

    def __bool__(self) -> bool:
        return bool(self._steps)

    def apply(self, text: str) -> str:
        """The text after all substitutions."""
        for _, _, _, step in self._steps:
            text = step(text)
        return text

    def applied(self, text: str) -> Iterator[tuple[str, tuple[str, str], str, str]]:
        """Each substitution in its order: the option, the pair, and the text before and after it."""
        for _, option, pair, step in self._steps:
            before, text = text, step(text)
            yield option, pair, before, text

    def breaker(self, text: str, keeps: Callable[[str], bool]) -> str:
        """The substitution after which `keeps` stays false, as a user would write it; "" where it holds at the end.

        A later substitution may restore what an earlier one broke, so only the last break counts.
        """
        culprit, kept = "", keeps(text)
        for name, _, _, step in self._steps:
            text = step(text)
            still_kept = keeps(text)
            if kept and not still_kept:
                culprit = name
            kept = still_kept
        return "" if kept else culprit


def _literal_steps(pairs: Pairs) -> Iterator[_Step]:
    option = "substitutions"
    for name, old, new in _named_pairs(option, pairs):
        if old:
            yield name, option, (old, new), _replacer(old, new)
        elif new:
            raise ConfigError(f"{name} replaces an empty text, which would insert {show(new)} between all characters.")


def _regexp_steps(pairs: Pairs) -> Iterator[_Step]:
    option = "regexp_substitutions"
    for name, pattern, replacement in _named_pairs(option, pairs):
        yield name, option, (pattern, replacement), _regexp_replacer(name, pattern, replacement)


def _named_pairs(option: str, pairs: Pairs) -> Iterator[tuple[str, str, str]]:
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        raise ConfigError(f"{option}={pairs!r} is no list; expected pairs of str such as [('old', 'new')].")
    for index, pair in enumerate(pairs):
        # A str of two characters would unpack like a pair: [("ab", "cd")] written as ("ab", "cd") must be refused.
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise ConfigError(f"{option}[{index}]={pair!r} is no pair of str; expected pairs such as [('old', 'new')].")
        yield f"{option}[{index}]=({show(pair[0])}, {show(pair[1])})", pair[0], pair[1]


def _replacer(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new)


def _regexp_replacer(name: str, pattern: str, replacement: str) -> Callable[[str], str]:
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{name}: the pattern is no valid regular expression of Python: {error}.") from error
    try:
        _check_template(compiled, replacement)
    except (re.error, IndexError) as error:
        raise ConfigError(
            f"{name}: the replacement does not fit the pattern: {error}; write a group as \\1 or \\g<name> and a "
            "backslash as \\\\."
        ) from error
    return lambda text: compiled.sub(replacement, text)


def _check_template(compiled: re.Pattern[str], replacement: str) -> None:
    r"""Expand the replacement once, on a match with the pattern's groups, so that a bad one raises now.

    "PATTERN|" matches the empty text for any PATTERN, and has its groups. The line break ends a comment of a verbose
    pattern, in which the "|" would be lost.
    """
    separator = "\n|" if compiled.flags & re.VERBOSE else "|"
    match = re.compile(compiled.pattern + separator).match("")
    if match is not None:
        match.expand(replacement)
