"""Every command line of the guide and the README is one that the command takes: its words, flags and values."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from asyncsink.cli.app import app
from tests.support.guide import GUIDE

_BLOCK = re.compile(r"^```(?:sh|console|bash)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`(asyncsink [^`\n]+)`")
_ENDS = re.compile(r"^(?:\|\||&&|[|;&<>]|[12]?>+|\))")
PAGES = [*sorted(GUIDE.glob("*.md")), GUIDE.parents[1] / "README.md"]


def command_lines(page: Path) -> Iterator[list[str]]:
    """The words after "asyncsink" of each command in the page's shell blocks and in its running text."""
    text = page.read_text(encoding="utf-8")
    lines = [line for block in _BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in [*lines, *(span for span in _SPAN.findall(text) if "…" not in span)]:
        lexer = shlex.shlex(re.sub(r"^\$ ", "", line), posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:
            continue  # a line of a longer program, with an open quote
        for place, word in enumerate(words):
            if word == "asyncsink" and (place == 0 or not words[place - 1].startswith(("pip", "install"))):
                rest = words[place + 1 :]
                end = next((at for at, each in enumerate(rest) if _ENDS.match(each)), len(rest))
                if rest[:end] and rest[0] not in ("COMMAND", "TOPIC"):
                    yield rest[:end]
                break


def fault(words: list[str]) -> str:
    """What the command says against these words, or ""."""
    with click.Context(app, info_name="asyncsink") as ctx:
        try:
            app.make_context("asyncsink", list(words))
            name, command, rest = app.resolve_command(ctx, list(words))
            if command is not None and not {"-h", "--help"} & set(rest):
                command.make_context(name, rest, parent=ctx)
        except click.exceptions.Exit:
            return ""
        except click.UsageError as error:
            return error.format_message()
    return ""


# In running text a command may be named without its words, and another program may add the last one.
_INCOMPLETE = re.compile(r"^Missing |requires an argument\.$")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_command_lines_of_the_page_are_right(page: Path) -> None:
    faults = {" ".join(words): found for words in command_lines(page) if (found := fault(words))}
    assert {line: found for line, found in faults.items() if not _INCOMPLETE.search(found)} == {}


def test_the_guide_has_many_of_them() -> None:
    assert sum(len(list(command_lines(page))) for page in PAGES) > 60
