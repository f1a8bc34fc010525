"""Pure: failures grouped by what caused them, so that one cause is one line however many files it struck."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import field

from asyncsink.model import Failure
from asyncsink.report.wording import count, failure_line, inert
from asyncsink.value import dataclass

CAUSES_MAX = 50
"""Causes that are kept apart; failures of further ones are counted together."""
CAUSES_SHOWN = 5
EXAMPLES_SHOWN = 3
_PREFIX = re.compile(r"^\w+ of (?:part \d+ of )?… failed: ")
_TRIED = re.compile(r" It was tried \d+ times in [\d.]+ s\.")


@dataclass(slots=True)
class Cause:
    """Failures that one thing caused.

    Attributes:
        sentence: the error's class and message, without what differs from file to file.
        line: the first failure as a whole.
        examples: whose failures they are, the first three of them.
    """

    sentence: str
    line: str
    examples: list[str] = field(default_factory=list)
    failures: int = 0


def cause_of(failure: Failure) -> str:
    """The error's class and message with everything left out that belongs to the one file: names, parts, attempts."""
    message = failure.message
    for own in sorted({failure.url, failure.source, failure.key} - {""}, key=len, reverse=True):
        message = message.replace(repr(own), "…").replace(own, "…")
    return f"{failure.error}: {_TRIED.sub('', _PREFIX.sub('', message))}"


def causes_of(failures: Iterable[Failure]) -> list[Cause]:
    """Failures by cause, the commonest first; the last may be a Cause without a sentence: all other ones."""
    return grouped((cause_of(each), failure_line(each), each.source or each.key) for each in failures)


def grouped(failures: Iterable[tuple[str, str, str]]) -> list[Cause]:
    """As `causes_of`, from the cause, the line and the name of each failure."""
    causes: dict[str, Cause] = {}
    others = Cause("", "")
    for sentence, line, name in failures:
        if len(causes) < CAUSES_MAX:
            cause = causes.setdefault(sentence, Cause(sentence, line))
        else:
            cause = causes.get(sentence, others)
        cause.failures += 1
        if len(cause.examples) < EXAMPLES_SHOWN:
            cause.examples.append(name)
    found = sorted(causes.values(), key=lambda cause: -cause.failures)
    return [*found, others] if others.failures else found


def cause_lines(
    causes: list[Cause], *, noun: str = "file", shown: int = CAUSES_SHOWN, word: Callable[[str], str] = str
) -> Iterator[str]:
    """Lines for a person: a cause with one failure as it is, the others with their number and a few names.

    Args:
        word: brings a sentence into the words of who reads it.
    """
    for cause in causes[:shown]:
        if not cause.sentence:
            yield f"{count(cause.failures, noun)} for other causes"
        elif cause.failures == 1:
            yield inert(word(cause.line))
        else:
            yield inert(word(f"{count(cause.failures, noun)}: {cause.sentence}"))
            more = cause.failures - len(cause.examples)
            yield inert(f"  {', '.join(cause.examples)}{f' and {more:,} more' if more else ''}")
    left = sum(cause.failures for cause in causes[shown:])
    if left:
        yield f"… and {count(left, noun)} for other causes."
