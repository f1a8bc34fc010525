"""`asyncsink help`: the guide, in the terminal."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from importlib.resources import files

import click
from click.shell_completion import CompletionItem

from asyncsink.cli.flags import Argument, command
from asyncsink.cli.output import usage_error
from asyncsink.value import dataclass

_SECTION = re.compile(r"^## (.+)$")
_TOPIC = re.compile(r"^\| \[(?P<name>[\w-]+)\]\((?P=name)\.md\) \| (?P<text>.+) \|$")
_CODE = re.compile(r"^(```.*?^```[^\S\n]*)$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\n?", re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<page>[\w-]+)\.md(?:#[^)]*)?\)")
_WIDE_TABLE = re.compile(r"(?:^\|(?:[^\n]*(?<!\\)\|){5,}\n)+", re.MULTILINE)
"""Of five columns or more."""
_PUBLIC_NAME = re.compile(r"^::: (asyncsink\.\w+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Topic:
    """A page of the guide, as the guide's index has it."""

    name: str
    text: str
    section: str


def topics_of_the_guide() -> list[Topic]:
    """The pages in the order of the index."""
    found, section = [], ""
    for line in _read("index").splitlines():
        if heading := _SECTION.match(line):
            section = heading[1]
        elif row := _TOPIC.match(line):
            found.append(Topic(row["name"], row["text"].replace("`", ""), section))
    return found


class _TopicArgument(Argument):
    """The word TOPIC, which the shell completes."""

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's own
        """The pages that begin so."""
        return [
            CompletionItem(each.name, help=each.text)
            for each in topics_of_the_guide()
            if each.name.startswith(incomplete)
        ]


def for_a_terminal(page: str) -> str:
    """A page in Markdown without what only a site or a repository can show. Pure.

    Links to other pages name their topic, a picture is its caption, and a table too wide for columns is a list. Code
    stays as it is.
    """
    pieces = _CODE.split(page)
    pieces[::2] = (_WIDE_TABLE.sub(_as_list, _without_links(piece)) for piece in pieces[::2])
    return "".join(pieces)


def _as_list(table: re.Match[str]) -> str:
    head, _, *rows = (re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in table[0].splitlines())
    items = []
    for first, *others in rows:
        named = zip(head[1:], others, strict=False)
        told = " · ".join(f"*{name.strip()}* {cell.strip()}" for name, cell in named if cell.strip())
        items.append(f"- {first.strip()} · {told}\n")
    return "".join(items)


def _without_links(text: str) -> str:
    text = _PICTURE.sub(r"(Picture: \1)", _COMMENT.sub("", text)).replace("<br>", ", ")
    return _LINK.sub(_named, text)


def _named(link: re.Match[str]) -> str:
    text, topic = link["text"], f"`asyncsink help {link['page']}`"
    return topic if text in (link["page"], f"{link['page']}.md") else f"{text} ({topic})"


def with_docstrings(page: str) -> str:
    """A page whose public names (`::: asyncsink.export`, for the site) have their docstrings."""
    return _PUBLIC_NAME.sub(_documented, page)


def _documented(name: re.Match[str]) -> str:
    import inspect

    import asyncsink

    value = getattr(asyncsink, name[1].partition(".")[2])
    try:
        parameters = str(inspect.signature(value))
    except (TypeError, ValueError):  # of a type, such as Outcome
        parameters = ""
    return f"### {name[1]}\n\n```text\n{name[1]}{parameters}\n\n{inspect.getdoc(value) or ''}\n```"


def _read(name: str) -> str:
    return files("asyncsink").joinpath("guide", f"{name}.md").read_text(encoding="utf-8")


def _show(page: str) -> None:
    page = with_docstrings(page)
    if not sys.stdout.isatty():
        print(page, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(width=min(100, shutil.get_terminal_size().columns))
    with console.capture() as written:
        console.print(Markdown(for_a_terminal(page), hyperlinks=False))
    _page_through(written.get())


def _page_through(text: str) -> None:
    if text.count("\n") < shutil.get_terminal_size().lines:
        print(text, end="")
    else:
        click.echo_via_pager(text, color=True)


def _list(topics: Iterable[Topic]) -> Iterator[str]:
    import textwrap

    width = max(40, min(100, shutil.get_terminal_size().columns))
    section = ""
    yield "The guide. A page: asyncsink help TOPIC"
    for topic in topics:
        if topic.section != section:
            section = topic.section
            yield f"\n{section}"
        first, *more = textwrap.wrap(topic.text, width - 19)
        yield f"  {topic.name:<16} {first}"
        yield from (f"{'':19}{line}" for line in more)


@command(
    _TopicArgument(
        "TOPIC", "A page of the guide, or a command. Without it, the list of pages.", required=False, place=False
    ),
    examples=("help    # the list of pages", "help tutorial", "help verify    # a command"),
)
def help(topic: str | None) -> int:  # noqa: A001 - the command's name
    """Show a page of the guide; without TOPIC, list the pages.

    On a terminal the page is laid out, in a pager where it is long. Elsewhere it is its Markdown.
    """
    topics = topics_of_the_guide()
    if topic is None:
        print("\n".join(_list(topics)))
        return 0
    names = [each.name for each in topics]
    wanted = topic.lower().removesuffix(".md")
    if wanted in names:
        _show(_read(wanted))
        return 0
    parent = click.get_current_context().parent
    assert parent is not None
    assert isinstance(parent.command, click.Group)
    found = parent.command.get_command(parent, wanted)
    if found is not None:
        with click.Context(found, info_name=wanted, parent=parent) as ctx:
            click.echo(found.get_help(ctx))
        return 0
    from asyncsink.cli.foreign_words import COMMANDS_ELSEWHERE

    if wanted in ("rclone", "s5cmd", "s3cmd", "rsync", "minio", "mc", "boto3", *COMMANDS_ELSEWHERE):
        hints = ["  Its words, and what takes their place here: asyncsink help coming-from"]
        usage_error(f"The guide has no page {topic!r}.", hints, as_json=False)
        return 2
    near = get_close_matches(wanted, [*names, *parent.command.list_commands(parent)], cutoff=0.6)
    hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    usage_error(f"The guide has no page {topic!r}.{hint}", ["The list of pages: asyncsink help"], as_json=False)
    return 2
