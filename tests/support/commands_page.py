"""The guide's page of all commands, made from their declarations: `make options` writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable

import click

from asyncsink.cli.app import EXIT_CODES, app
from asyncsink.cli.flags import Argument, Flag
from asyncsink.options.schema import PANELS

_HEAD = f"""# Commands

Every command with its own options, made from their declarations. Options of the library are named here and explained
in [options.md](options.md). `asyncsink COMMAND --help` shows both on one page.

{EXIT_CODES}
"""
_OF_ROWS = {flag for options in PANELS.values() for option in options for flag in (option.switch, option.off) if flag}


def reference() -> str:
    """The page, in Markdown."""
    with click.Context(app, info_name="asyncsink") as ctx:
        found = [(name, app.get_command(ctx, name)) for name in app.list_commands(ctx)]
        return "\n".join([_HEAD, *(_sections(name, each, ctx) for name, each in found if each and not each.hidden)])


def _sections(name: str, command: click.Command, parent: click.Context) -> str:
    """The section of a command, and those of the commands below it."""
    sections = [_section(name, command, parent)]
    if isinstance(command, click.Group):
        with click.Context(command, info_name=name, parent=parent) as ctx:
            below = [(each, command.get_command(ctx, each)) for each in command.list_commands(ctx)]
            sections += [_sections(each, found, ctx) for each, found in below if found is not None]
    return "\n".join(sections)


def _section(name: str, command: click.Command, parent: click.Context) -> str:
    with click.Context(command, info_name=name, parent=parent) as ctx:
        parameters = [each for each in command.get_params(ctx) if not getattr(each, "hidden", False)]
        usage = " ".join([ctx.command_path, *command.collect_usage_pieces(ctx)])
    own = [each for each in parameters if isinstance(each, click.Option) and not _is_of_a_row(each)]
    rows = [each for each in parameters if isinstance(each, click.Option) and _is_of_a_row(each)]
    words = [(f"`{each.metavar}`", each.text) for each in parameters if isinstance(each, Argument)]
    words += [(_flags(each), each.help or "") for each in own if not {"--help", "-h"} & set(each.opts)]
    pieces = [f"## {ctx.command_path.partition(' ')[2]}", f"```text\n{usage}\n```", command.help or ""]
    if words:
        pieces.append(_table(words))
    if rows:
        pieces.append("Options of the library: " + ", ".join(f"`{max(each.opts, key=len)}`" for each in rows) + ".")
    if examples := getattr(command, "examples", ()):
        pieces.append("```sh\n" + "\n".join(f"asyncsink {each}" for each in examples) + "\n```")
    return "\n\n".join(pieces) + "\n"


def _is_of_a_row(option: click.Option) -> bool:
    return isinstance(option, Flag) and any(flag in _OF_ROWS for flag in option.opts) and option.panel in PANELS


def _flags(option: click.Option) -> str:
    metavar = f" {option.metavar}" if option.metavar else ""
    return ", ".join(f"`{flag}{metavar}`" for flag in sorted(option.opts, key=len, reverse=True))


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = ((name, re.sub(r"([|*])", r"\\\1", " ".join(text.split()))) for name, text in rows)
    return "\n".join(["| word | what it is |", "| --- | --- |", *(f"| {name} | {text} |" for name, text in cells)])
