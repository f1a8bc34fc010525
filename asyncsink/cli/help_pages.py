"""The two help pages of a command: the short one of `-h`, which fits on a screen, and the complete one of `--help`."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from asyncsink.cli.flags import EVERYDAY, OWN_PANEL, Argument, Flag, HelpPage

if TYPE_CHECKING:  # only the complete page needs rich
    from rich.console import Console
    from rich.panel import Panel

COLUMNS_MAX = 100
"""Widest short page: longer lines are hard to read."""

SETTINGS = (
    "Options can come from variables and files too: --part-size from ASYNCSINK_PART_SIZE, or from asyncsink.toml. See: "
    "asyncsink help shell."
)

Texts = Sequence[tuple[str, str]]
"""Commands, each with what it does in a few words."""


def short_page(command: HelpPage, ctx: click.Context, commands: Texts) -> str:
    """Usage, the options of every day in a line each, and examples."""
    columns = min(COLUMNS_MAX, shutil.get_terminal_size().columns)
    page = click.HelpFormatter(width=columns)
    pieces = " ".join(command.collect_usage_pieces(ctx))
    page.write(f"{_title('Usage:')} {ctx.command_path} {pieces}\n")
    page.write(click.wrap_text(" ".join((command.help or "").partition("\n\n")[0].split()), columns) + "\n")
    parameters = command.get_params(ctx)
    words = [(each.metavar or "", each.text) for each in parameters if isinstance(each, Argument)]
    _write_rows(page, "", words)
    _write_rows(page, "Commands", commands)
    shown = [each for each in parameters if isinstance(each, Flag) and each.everyday and not each.hidden]
    shown = [flag for flag in shown if _long(flag) not in command.aside]
    order = list(EVERYDAY)
    shown.sort(key=lambda flag: order.index(long) if (long := _long(flag)) in order else -1)
    _write_rows(page, "Options of every day", [(_names(flag), flag.everyday) for flag in shown])
    page.write(f"\n{_title('Examples')}\n" if command.examples else "")
    for example in command.examples:
        page.write(f"  asyncsink {example}\n")
    what = "asyncsink COMMAND -h" if commands else f"{ctx.command_path} --help"
    page.write(f"\n{_title('A command:' if commands else 'All options:')} {what}\n")
    return page.getvalue().rstrip("\n")


def _title(text: str) -> str:
    return click.style(text, bold=True)


def _write_rows(page: click.HelpFormatter, title: str, rows: Texts) -> None:
    if rows:
        page.write(f"\n{_title(title)}\n" if title else "\n")
        page.indent()
        page.write_dl([(name, " ".join(text.split())) for name, text in rows])
        page.dedent()


def _long(flag: click.Option) -> str:
    return max(flag.opts, key=len)


def _names(flag: click.Option) -> str:
    """ "-n, --dry-run"; those without a letter are in line with those that have one."""
    short = [name for name in flag.opts if len(name) == 2]
    value = f" {flag.metavar}" if flag.metavar else ""
    return f"{short[0]}, {_long(flag)}{value}" if short else f"    {_long(flag)}{value}"


def long_page(command: HelpPage, ctx: click.Context, commands: Texts) -> str:
    """Usage, what the command does, its words, all its options by panel, and examples."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    written = io.StringIO()
    # click.echo takes the colours out where the page goes to no terminal.
    console = Console(file=written, width=shutil.get_terminal_size().columns, force_terminal=True, highlight=False)
    parameters = command.get_params(ctx)
    usage = Text.assemble(
        ("Usage: ", "yellow"), (ctx.command_path, "bold"), " ", " ".join(command.collect_usage_pieces(ctx))
    )
    for text in (usage, *map(Text, (command.help or "").split("\n\n"))):
        console.print(Padding(text, (1, 1, 0, 1)))
    console.print()
    words = [(each.metavar or "", each.text) for each in parameters if isinstance(each, Argument)]
    _print_panel(console, "Arguments", [((name, ""), text) for name, text in words])
    _print_panel(console, "Commands", [((name, ""), text) for name, text in commands])
    panels: dict[str, list[tuple[tuple[str, str], str]]] = {OWN_PANEL: []}
    for each in parameters:
        if isinstance(each, click.Option) and not each.hidden:
            panel = each.panel if isinstance(each, Flag) else OWN_PANEL
            flags = ", ".join(sorted(each.opts, key=len))
            needed = " (required)" if each.required else ""
            panels.setdefault(panel, []).append(((flags, each.metavar or ""), f"{each.help}{needed}"))
    for panel, rows in panels.items():
        _print_panel(console, panel, rows)
    if command.examples:
        examples = [Text.assemble(("Examples", "bold"))]
        examples += [Text(f"  asyncsink {example}") for example in command.examples]
        console.print(Padding(Text("\n").join(examples), (1, 1, 0, 1)))
    if any(isinstance(each, Flag) and not each.is_eager for each in parameters):
        console.print(Padding(Text(SETTINGS), (1, 1, 0, 1)))
    if command.epilog:
        console.print(Padding(Text(command.epilog), (1, 1, 0, 1)))
    return written.getvalue()


def _print_panel(console: Console, title: str, rows: list[tuple[tuple[str, str], str]]) -> None:
    if rows:
        console.print(_panel(title, rows))


def _panel(title: str, rows: list[tuple[tuple[str, str], str]]) -> Panel:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    if any(metavar for (_, metavar), _ in rows):
        table.add_column(no_wrap=True)
    table.add_column(ratio=1)
    for (name, metavar), text in rows:
        middle = [Text(metavar, "yellow")] * (len(table.columns) - 2)
        table.add_row(Text(name, "bold cyan"), *middle, Text(" ".join(text.split())))
    return Panel(table, title=title, title_align="left", border_style="dim")
