"""S3DataGrabber's templates: which keys each output field wants (spec: "S3DataGrabber").

A template is filled with arguments by `%`, matched as a regular expression (or as a glob, where that is said), and
asks S3 for nothing but the keys below its longest literal prefix.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from asyncsink.errors import RoutingError
from asyncsink.routing.keys import show
from asyncsink.value import dataclass

TemplateSyntax = Literal["regex", "glob"]
Match = Literal["full", "start"]
DEFAULT_FIELD = "outfiles"
"""The output of a grab that names none, as in Nipype."""

_T = TypeVar("_T")
_META = frozenset(".^$*+?{}[]|()\\")
_QUANTIFIERS_TO_ZERO = frozenset("*?{")
_TOO_WIDE = re.compile(r"%(?:\([^)]*\))?[#0 +-]*(?:[0-9]{5}|[0-9]*\.[0-9]{5})")
"""A conversion that would be padded to more than any key has, and more than memory may have."""
_NAME = re.compile(r"\^?((?:[^\\^$*+?{}\[\]|()]|\\[^A-Za-z0-9])*)\$?")
"""An expression that names one text: plain characters, escaped ones, and dots, between "^" and "$"."""
_GLOB = re.compile(r"\*\*/|\*\*|\*|\?|\[!?+\]?+[^\]/]*+\]")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One filled template.

    Attributes:
        text: the filled template, for messages.
        base: what all keys begin with: the bucket path with its "/", or "".
        prefix: the longest text, `base` included, that every matching key begins with.
        regex: of what comes after `base`.
        full: the whole key has to match, not only its beginning.
        key: the one key that the template names where no character in it stands for others (a "." of a regular
            expression is taken for itself), else "".
    """

    text: str
    base: str
    prefix: str
    regex: re.Pattern[str]
    full: bool
    key: str

    def matches(self, key: str) -> bool:
        """Whether the field wants this key."""
        if not key.startswith(self.prefix):
            return False
        found = self.regex.fullmatch if self.full else self.regex.match
        # A position instead of a slice would leave "^" at the key's own beginning.
        return found(key[len(self.base) :]) is not None


@dataclass(frozen=True, slots=True)
class Field:
    """One output, and the patterns whose keys it lists.

    Attributes:
        patterns: one for each argument list and position; just one where there are no arguments; none where an argument
            is an empty list.
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
    """What every output field asks for.

    Args:
        bucket_path: "" or "ds000101/raw", taken literally, never as a pattern and never filled.
        template: for the fields without one of their own.
        field_template: {field: template}.
        template_args: {field: [[argument, …], …]}; an argument that is the name of an infield stands for its value.
            A field without an entry has the values of all infields, in their order, as its one argument list.
        infields: {name: value}; lists and tuples are gone through together, single values go with each item.
        outfields: further names of fields.

    Raises:
        RoutingError: a template that cannot be filled or is no pattern; lists of different lengths; no template.
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
        texts = [own] if not arguments else [t for each in arguments for t in _filled(name, own, each, infields)]
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
    return Pattern(
        text, base, base + literal, regex, match == "full" or syntax == "glob", base + named if named else ""
    )


def regex_name(expression: str) -> str:
    """The text that the (valid) expression is where it has no special character but ".", or ""."""
    found = _NAME.fullmatch(expression)
    return re.sub(r"\\(.)", r"\1", found[1]) if found is not None else ""


def regex_prefix(expression: str) -> str:
    """A text that every match of the (valid) expression begins with: as long as plain characters go."""
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
    """Whether a "|" stands outside of every group, so that nothing before it is sure."""
    depth, index = 0, 0
    while index < len(expression):
        char = expression[index]
        if char == "\\":
            index += 1
        elif char == "[":
            # What comes first stands for itself, also a "]"; an escaped one ends nothing.
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
            # fnmatch knows what ranges mean; a "/" ends a name whatever they say.
            one = fnmatch.translate(wild).removeprefix("(?s:").rpartition(")")[0]
            pieces.append(f"(?!/)(?:{one})")
    return "".join((*pieces, re.escape(text[end:])))


def glob_prefix(text: str) -> str:
    """The text before the first wildcard."""
    found = _GLOB.search(text)
    return text if found is None else text[: found.start()]


def covering(prefixes: Iterable[str]) -> tuple[str, ...]:
    """The fewest of the prefixes below which everything lies that lies below any of them, sorted."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


def natural_order(key: str) -> tuple[Any, ...]:
    """A sort key by which "run-2" comes before "run-10", as Nipype's human_order_sorted has it."""
    parts = re.split(r"(\d+)", key)
    # The key itself, where only leading zeros differ, stands apart: beside the parts its text would meet a number.
    return tuple(int(part) if number % 2 else part for number, part in enumerate(parts)), key


def shaped(entries: Sequence[Sequence[_T]], *, with_arguments: bool) -> Any:
    """The value of an output, in S3DataGrabber's shape: what one pattern found is a scalar, a list, or None; with
    arguments, the output lists that for each pattern, unless there is just one.

    A pattern that found nothing keeps its place: the others stay beside the arguments they belong to. No pattern at all
    (an argument was an empty list) found nothing: None.
    """
    each = [None if not found else found[0] if len(found) == 1 else list(found) for found in entries]
    if with_arguments and len(each) > 1:
        return each
    return each[0] if each else None
