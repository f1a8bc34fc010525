"""S3DataGrabber's templates: the keys that each output field selects (spec: "S3DataGrabber").

A template is filled with arguments by `%` and matched as a regular expression (or as a glob, with
template_syntax="glob"); only the keys below its longest literal prefix are listed.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from asyncsink.errors import RoutingError
from asyncsink.options.schema import Match, TemplateSyntax
from asyncsink.routing.keys import show
from asyncsink.value import dataclass

DEFAULT_FIELD = "outfiles"
"""The output field of a grab without named fields, as in Nipype."""

_T = TypeVar("_T")
_META = frozenset(".^$*+?{}[]|()\\")
_QUANTIFIERS_TO_ZERO = frozenset("*?{")
_TOO_WIDE = re.compile(r"%(?:\([^)]*\))?[#0 +-]*(?:[0-9]{5}|[0-9]*\.[0-9]{5})")
"""A conversion padded beyond 9,999 characters: longer than any key, and possibly more than memory."""
_UNFILLED = re.compile(r"(?<!%)(?:%%)*(%(?:\([^)%]*\))?(?:0[1-9])?[sdi])")
"""A conversion as templates have them: %s, %d, %02d, %(subject)s. "%20" of a key that is an encoded URL is none."""
_NAME = re.compile(r"\^?((?:[^\\^$*+?{}\[\]|()]|\\[^A-Za-z0-9])*)\$?")
"""An expression that matches one text only: plain characters, escaped ones, and dots, between "^" and "$"."""
_GLOB = re.compile(r"\*\*/|\*\*|\*|\?|\[!?+\]?+[^\]/]*+\]")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One filled template.

    Attributes:
        text: the filled template, for messages.
        base: common beginning of all keys: the bucket path with its "/", or "".
        prefix: the longest text, `base` included, that every matching key begins with.
        regex: for the part after `base`.
        full: True where the whole key has to match, not only its beginning.
        key: the only key of a template without special characters (a "." of a regular expression counts as a plain
            dot), else "".
        deeper: of a glob that stays within one folder, the same glob over any number of folders, else "".
    """

    text: str
    base: str
    prefix: str
    regex: re.Pattern[str]
    full: bool
    key: str
    deeper: str = ""

    def matches(self, key: str) -> bool:
        """Whether the field selects this key."""
        if not key.startswith(self.prefix):
            return False
        found = self.regex.fullmatch if self.full else self.regex.match
        # A slice instead of a start position, which would leave "^" at the beginning of the whole key.
        return found(key[len(self.base) :]) is not None


@dataclass(frozen=True, slots=True)
class Field:
    """One output field, and the patterns whose keys it lists.

    Attributes:
        patterns: one for each argument list and position; a single one without arguments; none where an argument is an
            empty list.
    """

    name: str
    patterns: tuple[Pattern, ...]


def plan_fields(
    bucket_path: str,
    *,
    template: str,
    field_template: Mapping[str, str],
    template_args: Mapping[str, Sequence[Sequence[Any]]],
    infields: Mapping[str, Any],
    outfields: Sequence[str],
    syntax: TemplateSyntax,
    match: Match,
) -> tuple[Field, ...]:
    """The patterns of every output field.

    Args:
        bucket_path: "" or "ds000101/raw", taken literally: neither a pattern nor filled.
        template: for fields without one of their own.
        field_template: {field: template}.
        template_args: {field: [[argument, …], …]}; an argument that names an infield stands for its value. A field
            without an entry has the values of all infields, in their order, as its one argument list.
        infields: {name: value}; lists and tuples advance together, single values are repeated for each item.
        outfields: further names of fields.

    Raises:
        RoutingError: a template cannot be filled, has a %s that nothing fills, is not a pattern or is missing, or lists
            have different lengths.
    """
    names = dict.fromkeys((*outfields, *template_args, *field_template)) or {DEFAULT_FIELD: None}
    base = f"{bucket_path}/" if bucket_path else ""
    fields = []
    for name in names:
        own = field_template.get(name, template).removeprefix("/")
        if not own:
            raise RoutingError(
                f"The output field {show(name)} has no template; give template, or field_template for it."
            )
        arguments = template_args.get(name, [list(infields)] if infields else [])
        texts = [t for each in arguments or [[]] for t in _filled(name, own, each, infields)]
        fields.append(Field(name, tuple(_pattern(name, text, base, syntax, match) for text in texts)))
    return tuple(fields)


def _filled(field: str, template: str, arguments: Sequence[Any], infields: Mapping[str, Any]) -> list[str]:
    """The template, filled once for each position of the lists among its arguments."""
    values = [infields.get(each, each) if isinstance(each, str) else each for each in arguments]
    lengths = {len(value) for value in values if isinstance(value, (list, tuple))}
    if len(lengths) > 1:
        told = " and ".join(map(str, sorted(lengths)))
        raise RoutingError(f"The arguments of field {show(field)} are lists of {told} items; give lists of one length.")
    count = lengths.pop() if lengths else 1
    if not values:
        if (unfilled := _UNFILLED.search(template)) is not None:
            raise RoutingError(
                f"The template {show(template)} of field {show(field)} has {unfilled[1]}, and nothing fills it; give "
                "infields=… or template_args=…; where keys have a % of their own, write it as [%]."
            )
        return [template]
    return [
        _fill(field, template, tuple(v[i] if isinstance(v, (list, tuple)) else v for v in values)) for i in range(count)
    ]


def _fill(field: str, template: str, values: tuple[Any, ...]) -> str:
    try:
        if _TOO_WIDE.search(template.replace("%%", "")):
            raise ValueError("a width of more than 9999 characters")
        return template % values
    except (TypeError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        raise RoutingError(
            f"The template {show(template)} of field {show(field)} cannot be filled with {len(values)} "
            f"{'value' if len(values) == 1 else 'values'} ({error}); give one argument for each %s, and write % as %%."
        ) from None


def _pattern(field: str, text: str, base: str, syntax: TemplateSyntax, match: Match) -> Pattern:
    expression = translate_glob(text) if syntax == "glob" else text
    try:
        regex = re.compile(expression, re.DOTALL if syntax == "glob" else 0)
    except (re.error, OverflowError, RecursionError) as error:
        raise RoutingError(
            f"The template {show(text)} of field {show(field)} is no regular expression ({error}); correct it, or say "
            "template_syntax='glob' where * stands for any name."
        ) from None
    literal = glob_prefix(text) if syntax == "glob" else regex_prefix(text)
    named = (text if literal == text else "") if syntax == "glob" else regex_name(text)
    folder, slash, name = text.rpartition("/")
    return Pattern(
        text,
        base,
        base + literal,
        regex,
        match == "full" or syntax == "glob",
        base + named if named else "",
        f"{folder}{slash}**/{name}" if syntax == "glob" and "**" not in text and name else "",
    )


def glob_pattern(text: str, base: str) -> Pattern:
    """The pattern of a glob for the whole key after `base`.

    Raises:
        RoutingError: it holds a set that is none, such as [z-a].
    """
    try:
        regex = re.compile(translate_glob(text), re.DOTALL)
    except (re.error, OverflowError, RecursionError) as error:
        raise RoutingError(f"{show(text)} is no glob ({error}); expected *, ?, **, or sets such as [abc].") from None
    literal = glob_prefix(text)
    return Pattern(text, base, base + literal, regex, full=True, key=base + text if literal == text else "")


def regex_name(expression: str) -> str:
    """The text that a (valid) expression without special characters but "." matches, or ""."""
    found = _NAME.fullmatch(expression)
    return re.sub(r"\\(.)", r"\1", found[1]) if found is not None else ""


def regex_prefix(expression: str) -> str:
    """A text with which every match of the (valid) expression begins: its leading plain characters."""
    if _has_alternatives(expression):
        return ""
    literals: list[str] = []
    index = 1 if expression.startswith("^") else 0
    while index < len(expression):
        char, step = expression[index], 1
        if char == "\\":
            char, step = expression[index + 1], 2
            if char.isascii() and char.isalnum():
                break  # a class, an anchor or a reference
        elif char in _META:
            break
        literals.append(char)
        index += step
    if index < len(expression) and expression[index] in _QUANTIFIERS_TO_ZERO and literals:
        literals.pop()
    return "".join(literals)


def _has_alternatives(expression: str) -> bool:
    """Whether a "|" occurs outside of every group, so that no beginning is certain."""
    depth, index = 0, 0
    while index < len(expression):
        char = expression[index]
        if char == "\\":
            index += 1
        elif char == "[":
            # The first character of a class is literal, even "]"; an escaped "]" does not end the class.
            index += 1 + expression.startswith("^", index + 1)
            first = index
            while index < len(expression) and (index == first or expression[index] != "]"):
                index += 2 if expression[index] == "\\" else 1
        elif char == "|" and not depth:
            return True
        depth += (char == "(") - (char == ")")
        index += 1
    return False


def translate_glob(text: str) -> str:
    """A glob as a regular expression: * and ? within one name, ** over any number of folders, [abc], [!abc]."""
    pieces, end = [], 0
    for found in _GLOB.finditer(text):
        pieces.append(re.escape(text[end : found.start()]))
        wild, end = found[0], found.end()
        if wild == "**/":
            pieces.append("(?:[^/]+/)*")
        elif wild == "**":
            pieces.append(".*")
        elif wild == "*":
            pieces.append("[^/]*")
        elif wild == "?":
            pieces.append("[^/]")
        else:
            # fnmatch translates ranges; the lookahead keeps "/" out of every class.
            one = fnmatch.translate(wild).removeprefix("(?s:").rpartition(")")[0]
            pieces.append(f"(?!/)(?:{one})")
    return "".join((*pieces, re.escape(text[end:])))


def glob_prefix(text: str) -> str:
    """The text before the first wildcard."""
    found = _GLOB.search(text)
    return text if found is None else text[: found.start()]


def covering(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The fewest prefixes that cover the same keys as `prefixes`, sorted."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def natural_order(key: str) -> tuple[Any, ...]:
    """A sort key by which "run-2" comes before "run-10", as Nipype's human_order_sorted has it."""
    parts = re.split(r"(\d+)", key)
    # The key breaks ties (leading zeros) as a separate element: among the parts a text would meet a number.
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts)), key


def shaped(entries: Sequence[Sequence[_T]], *, with_arguments: bool) -> Any:
    """The value of an output in S3DataGrabber's shape: a pattern's keys are a scalar, a list, or None; with arguments
    and several patterns, the output is a list of these.

    A pattern without keys keeps its position, so that values stay beside their arguments. Without any pattern (an
    argument was an empty list) the value is None.
    """
    each = [None if not found else found[0] if len(found) == 1 else list(found) for found in entries]
    if with_arguments and len(each) > 1:
        return each
    return each[0] if each else None
