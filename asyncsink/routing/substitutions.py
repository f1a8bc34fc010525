"""Substitutions: validated when they are made, applied one after another (Nipype rules 19 to 21)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from asyncsink.errors import ConfigError
from asyncsink.routing.keys import show

Pairs = Iterable[tuple[str, str]]
_Step = tuple[str, Callable[[str], str]]


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
        for _, step in self._steps:
            text = step(text)
        return text

    def breaker(self, text: str, keeps: Callable[[str], bool]) -> str:
        """The substitution after which `keeps` stays false, as a user would write it; "" where it holds at the end.

        A later substitution may restore what an earlier one broke, so only the last break counts.
        """
        culprit, kept = "", keeps(text)
        for name, step in self._steps:
            text = step(text)
            still_kept = keeps(text)
            if kept and not still_kept:
                culprit = name
            kept = still_kept
        return "" if kept else culprit


def _literal_steps(pairs: Pairs) -> Iterator[_Step]:
    for name, old, new in _named_pairs("substitutions", pairs):
        if old:
            yield name, _replacer(old, new)
        elif new:
            raise ConfigError(f"{name} replaces an empty text, which would insert {show(new)} between all characters.")


def _regexp_steps(pairs: Pairs) -> Iterator[_Step]:
    for name, pattern, replacement in _named_pairs("regexp_substitutions", pairs):
        yield name, _regexp_replacer(name, pattern, replacement)


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
