"""The commands' own classes of click: options from the rows of `options.schema`, the flags for the amount of output,
and the help page.

A parameter of a command has the name of its flag, with underscores. The options of a command are made when it is used:
each start of the command would make hundreds.
"""

from __future__ import annotations

import inspect
import io
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from asyncsink.options.schema import PANELS, Command, Option

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel

_REPEATED = {"pairs", "mapping", "texts", "templates", "infields"}
_OUTPUT = {
    "--json": "Write one JSON object to stdout, and nothing else.",
    "--quiet": "No progress and no summary; errors and notes only.",
    "--verbose": "Log what happens to stderr.",
}
_OWN_PANEL = "Options"


class Argument(click.Argument):
    """A word of the command line that stands without a flag; as many as there are where its name ends in "..."."""

    def __init__(self, metavar: str, text: str, *, required: bool = True) -> None:
        many = metavar.endswith("...")
        name = metavar.removesuffix("...").lower()
        super().__init__([name], metavar=metavar, required=required, nargs=-1 if many else 1)
        self.text = text


class Flag(click.Option):
    """A flag; `panel` is its panel of the help page. It takes a value where it has a metavar."""

    def __init__(
        self, flag: str, text: str, *, metavar: str = "", panel: str = _OWN_PANEL, repeated: bool = False, **more: Any
    ) -> None:
        flags = [parameter_of(flag), flag, *([more.pop("short")] if "short" in more else [])]
        if metavar or more.get("type"):
            super().__init__(flags, help=text, metavar=metavar or None, multiple=repeated, **more)
        else:
            super().__init__(flags, help=text, is_flag=True, default=False, **more)
        self.panel = panel


class HelpPage(click.Command):
    """A command with the options of the rows for `rows`, and a help page in panels."""

    def __init__(self, name: str, *, rows: Command | None = None, **more: Any) -> None:
        super().__init__(name, context_settings={"help_option_names": ["--help", "-h"]}, **more)
        self._rows = rows

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters, complete, and --help."""
        rows, self._rows = self._rows, None
        if rows is not None:
            self.params += _options_of(rows)
        return super().get_params(ctx)

    def get_help(self, ctx: click.Context) -> str:
        """The help page, as wide as the terminal; without colours where it does not go to one."""
        return help_page(self, ctx, ())


class HelpPages(HelpPage, click.Group):
    """The command of all commands.

    Args:
        modules: by command, its module in `cli/commands`, which is loaded when the command is used.
    """

    def __init__(self, name: str, *, modules: Mapping[str, str], **more: Any) -> None:
        super().__init__(name, **more)
        self._modules = modules

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's own
        """The command of this name, or None."""
        module = self._modules.get(cmd_name)
        if module is None:
            return None
        loaded = import_module(f"asyncsink.cli.commands.{module}")
        found: click.Command = getattr(loaded, cmd_name.replace("-", "_"))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names.

        Raises:
            NoSuchCommand: none; click's own method would look for near ones among those that are loaded.
        """
        if args[0] not in self._modules and not args[0].startswith("-"):
            raise click.exceptions.NoSuchCommand(args[0], possibilities=self._modules, ctx=ctx)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """As of a command, with the list of commands."""
        commands = [(name, self.get_command(ctx, name)) for name in self._modules]
        texts = [(name, ((each and each.help) or "").partition("\n\n")[0]) for name, each in commands]
        return help_page(self, ctx, texts)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own method
        """The commands in their order here."""
        return list(self._modules)


def parameter_of(flag: str) -> str:
    """The parameter that gets the value of a flag."""
    return flag[2:].replace("-", "_")


def _options_of(name: Command) -> Iterator[Flag]:
    for panel, options in PANELS.items():
        for option in options:
            if name in option.commands:
                yield from _flags_of(option, panel)
    for flag, text in _OUTPUT.items():
        yield Flag(flag, text, panel="Output")


def _flags_of(option: Option, panel: str) -> Iterator[Flag]:
    if option.switch:
        hidden = option.kind == "flag" and option.default is True
        repeated = option.kind in _REPEATED
        yield Flag(
            option.switch, option.sentence, metavar=option.metavar, panel=panel, repeated=repeated, hidden=hidden
        )
    if option.off:
        yield Flag(option.off, option.off_help, panel=panel)


def command(
    *parameters: click.Parameter, example: str, rows: Command | None = None, name: str = ""
) -> Callable[[Callable[..., int]], HelpPage]:
    """Make a command of a function, which gets the values of `parameters`, and of the options of `rows`, by name. Its
    docstring is the help."""

    def made(function: Callable[..., int]) -> HelpPage:
        return HelpPage(
            name or function.__name__,
            rows=rows,
            callback=function,
            params=list(parameters),
            help=inspect.cleandoc(function.__doc__ or ""),
            epilog=f"Example: asyncsink {example}",
        )

    return made


# -- The help page -----------------------------------------------------------------------------------------------------


def help_page(command: click.Command, ctx: click.Context, commands: Iterable[tuple[str, str]]) -> str:
    """The page of a command: usage, what it does, its words, its options by panel, and an example."""
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
    panels: dict[str, list[tuple[tuple[str, str], str]]] = {_OWN_PANEL: []}
    for each in parameters:
        if isinstance(each, click.Option) and not each.hidden:
            panel = each.panel if isinstance(each, Flag) else _OWN_PANEL
            flags = ", ".join(sorted(each.opts, key=len, reverse=True))
            needed = " (required)" if each.required else ""
            panels.setdefault(panel, []).append(((flags, each.metavar or ""), f"{each.help}{needed}"))
    for panel, rows in panels.items():
        _print_panel(console, panel, rows)
    _print_panel(console, "Commands", [((name, ""), text) for name, text in commands])
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
