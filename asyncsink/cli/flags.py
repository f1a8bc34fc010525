"""The commands' own classes of click: options from the rows of `options.schema`, and the flags for the output.

A parameter of a command has the name of its flag, with underscores. The options of a command are made when it is used:
each start of the command would make hundreds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from asyncsink.cli.configured import parameter_of, setting_of, url_in
from asyncsink.options.configuration import Takes
from asyncsink.options.schema import PANELS, Command, Option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_REPEATED = {"pairs", "mapping", "texts", "paths", "object_options", "templates", "infields"}
_OUTPUT = {
    "--json": "Write one JSON object to stdout, and nothing else.",
    "--quiet": "No progress and no summary; errors and notes only.",
    "--verbose": "Log what happens to stderr; -vv logs more.",
}
_WITH_EVENTS = ("export", "run", "grab", "verify", "check")
SHORT = {"--dry-run": "-n", "--quiet": "-q", "--verbose": "-v", "--version": "-V", "--concurrency": "-j"}
"""One letter for a flag: the same in every command. -j is the number of requests at the same time, as make(1) has it;
--json has no letter."""
EVERYDAY = {
    "--dry-run": "look and compare, but send nothing",
    "--exclude": "leave out what matches, as in .gitignore",
    "--preset": "bids or datalad: no .git, no work folders",
    "--manifest": "write a receipt of every object, for verify",
    "--template": "regular expression of the keys below SOURCE",
    "--glob": "the template is a glob: 'sub-*/func/*.nii.gz'",
    "--substitute": "replace OLD in names by NEW",
    "--profile": "profile of ~/.aws to use",
    "--endpoint-url": "S3 server other than Amazon's",
    "--anonymous": "send unsigned requests: for public buckets",
    "--concurrency": "requests at the same time (default: as many as help)",
    "--bandwidth": "most bytes sent in a second, such as 50MB",
    "--quiet": "no progress, no summary",
    "--verbose": "log what happens; -vv more",
    "--json": "one JSON object on stdout, for scripts",
}
"""The flags that `-h` shows, in this order, with a text that fits into a line. A flag of one command only has its text
where it is declared (`everyday`)."""
OWN_PANEL = "Options"
_FROM_BUCKET = {"export": False, "plan": False, "grab": True}
"""Whether SOURCE is a bucket."""


def is_bucket(word: str) -> bool:
    """Whether a word begins as the URL of a bucket."""
    return word.lower().startswith("s3:")


class Argument(click.Argument):
    """A word of the command line that stands without a flag; as many as there are where its name ends in "...".

    Args:
        place: whether the name of a destination in it, as "study:sub", is replaced by its URL.
    """

    def __init__(self, metavar: str, text: str, *, required: bool = True, place: bool = True) -> None:
        many = metavar.endswith("...")
        name = metavar.removesuffix("...").lower()
        super().__init__([name], metavar=metavar, required=required, nargs=-1 if many else 1)
        self.text = text
        self._place = place

    def make_metavar(self, ctx: click.Context) -> str:  # noqa: ARG002 - click's own method
        """The word in the line of usage."""
        return str(self.metavar) if self.required else f"[{self.metavar}]"

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """The word; the URL of a destination that it names."""
        value, source = super().consume_value(ctx, opts)
        if self._place and isinstance(value, str) and not ctx.resilient_parsing:
            value = url_in(ctx, value, needs_place=self.metavar == "DESTINATION")
        return value, source

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's own
        """Named destinations, files and directories."""
        from asyncsink.cli.completion import of_word

        return of_word(str(self.metavar), incomplete) if self._place else []

    def words(self, ctx: click.Context) -> list[str]:
        """What the command line has for it."""
        value = ctx.params.get(self.name or "")
        return [value] if isinstance(value, str) else list(value or ())


class Flag(click.Option):
    """A flag. It takes a value where it has a metavar.

    Args:
        panel: its panel of the help page.
        short: one letter for it, as "-o"; that of `SHORT` unless given.
        everyday: what `-h` says about it, in a few words; that of `EVERYDAY` unless given. Without any, `-h` does not
            show it.
    """

    def __init__(
        self,
        flag: str,
        text: str,
        *,
        metavar: str = "",
        panel: str = OWN_PANEL,
        repeated: bool = False,
        short: str = "",
        everyday: str = "",
        **more: Any,
    ) -> None:
        short = short or SHORT.get(flag, "")
        flags = [parameter_of(flag), flag, *([short] if short else [])]
        if metavar or more.get("type"):
            super().__init__(flags, help=text, metavar=metavar or None, multiple=repeated, **more)
        elif more.get("count"):
            super().__init__(flags, help=text, **more)
        else:
            super().__init__(flags, help=text, is_flag=True, default=False, **more)
        self.panel = panel
        self.everyday = everyday or EVERYDAY.get(flag, "")

    @property
    def takes(self) -> Takes:
        """What follows the flag."""
        if self.count or self.is_flag:
            return "count" if self.count else "nothing"
        if self.metavar in ("FILE", "DIR"):
            return "files" if self.multiple else "file"
        return "texts" if self.multiple else "text"

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002 - click's own
        """The known values, files or directories."""
        from asyncsink.cli.completion import of_flag

        return of_flag(self.opts, str(self.metavar), incomplete)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> tuple[Any, ParameterSource]:
        """The value of the command line, of a variable, of a file, or the default."""
        value, source = super().consume_value(ctx, opts)
        if source is ParameterSource.DEFAULT and not self.is_eager and not ctx.resilient_parsing:
            setting = setting_of(ctx, self.name or "", opts)
            if setting is not None:
                return setting.value, ParameterSource.DEFAULT_MAP
        return value, source


class HelpPage(click.Command):
    """A command with the options of the rows for `rows`, and two help pages: `-h` is short, `--help` is complete.

    Args:
        examples: command lines without "asyncsink", each with a comment where it does not speak for itself.
        aside: flags of every day that this command takes and has no use for; `-h` does not show them.
    """

    def __init__(
        self,
        name: str,
        *,
        rows: Command | None = None,
        examples: tuple[str, ...] = (),
        aside: tuple[str, ...] = (),
        **more: Any,
    ) -> None:
        super().__init__(name, context_settings={"help_option_names": ["--help"]}, **more)
        self.examples = examples
        self.aside = aside
        self._rows = rows

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The parameters, complete, with -h and --help."""
        rows, self._rows = self._rows, None
        if rows is not None:
            self.params += _options_of(rows)
        short = click.Option(
            ["-h"],
            is_flag=True,
            is_eager=True,
            expose_value=False,
            help="Show the options of every day, and examples.",
            callback=_short_help,
        )
        *others, long = super().get_params(ctx)
        return [*others, short, long]

    def _refuse_flags_as_values(self, ctx: click.Context, args: Sequence[str]) -> None:
        """Refuse `--exclude -n`: click takes the flag for the value, and what was meant as a look is sent."""
        options = [each for each in self.get_params(ctx) if isinstance(each, click.Option)]
        flags = {flag for each in options for flag in each.opts}
        taking = {flag: each for each in options if not (each.is_flag or each.count) for flag in each.opts}
        before = ""
        for word in args:
            if before in taking and word in flags:
                raise click.UsageError(
                    f"{before} needs a {taking[before].metavar or 'value'}, and {word} is a flag; write "
                    f"{before}={word} if it is one.",
                    ctx,
                )
            if word == "--":
                return
            before = "" if before in taking else word

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words of the command line.

        Raises:
            UsageError: one is wrong; it names what leads on.
        """
        self._refuse_flags_as_values(ctx, args)
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            from asyncsink.cli.foreign_words import unknown_option

            raise unknown_option(error.option_name, ctx) from None
        except click.UsageError as error:
            error.ctx = error.ctx or ctx  # click's parser leaves it out
            raise
        if ctx.resilient_parsing:  # for completion
            return rest
        places = [word for each in self.params if isinstance(each, Argument) for word in each.words(ctx)]
        from_bucket = _FROM_BUCKET.get(str(self.name))
        if from_bucket is None or len(places) < 2:
            return rest
        first, last = is_bucket(places[0]), is_bucket(places[-1])
        if (first and not from_bucket) or (last and from_bucket):
            from asyncsink.cli.foreign_words import wrong_direction

            raise wrong_direction(ctx, places)
        return rest

    def get_help(self, ctx: click.Context) -> str:
        """The help page, as wide as the terminal; without colours where it does not go to one."""
        from asyncsink.cli.help_pages import long_page

        return long_page(self, ctx, [])

    def short_page(self, ctx: click.Context) -> str:
        """The page of `-h`."""
        from asyncsink.cli.help_pages import short_page

        return short_page(self, ctx, [])


def _short_help(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        assert isinstance(ctx.command, HelpPage)
        click.echo(ctx.command.short_page(ctx), color=ctx.color)
        ctx.exit()


class HelpPages(HelpPage, click.Group):
    """The command of all commands.

    Args:
        commands_of: by command, its module in `cli/commands`, which is loaded when the command is used, and what the
            list of commands says about it.
    """

    def __init__(self, name: str, *, commands_of: Mapping[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(name, **more)
        self._commands_of = commands_of

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's own
        """The command of this name, or None."""
        module, _ = self._commands_of.get(cmd_name, ("", ""))
        if not module:
            return None
        loaded = import_module(f"asyncsink.cli.commands.{module}")
        found: click.Command = getattr(loaded, cmd_name.replace("-", "_"))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names.

        Raises:
            UsageError: there is none; it names what other tools' word for it is here.
        """
        if args[0] not in self._commands_of and not args[0].startswith("-"):
            from asyncsink.cli.foreign_words import unknown_command

            raise unknown_command(args[0], args[1:], ctx, self._commands_of)
        return super().resolve_command(ctx, args)

    def get_help(self, ctx: click.Context) -> str:
        """As of a command, with the list of commands."""
        from asyncsink.cli.help_pages import long_page

        return long_page(self, ctx, self._texts())

    def short_page(self, ctx: click.Context) -> str:
        """As of a command, with the list of commands."""
        from asyncsink.cli.help_pages import short_page

        return short_page(self, ctx, self._texts())

    def _texts(self) -> list[tuple[str, str]]:
        return [(name, text) for name, (_, text) in self._commands_of.items()]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Commands and options that begin so; no command is loaded."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=text) for name, text in self._texts() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own method
        """The commands in their order here."""
        return list(self._commands_of)


def _options_of(name: Command) -> Iterator[Flag]:
    for panel, options in PANELS.items():
        for option in options:
            if name in option.commands:
                yield from _flags_of(option, panel)
    for flag, text in _OUTPUT.items():
        yield Flag(flag, text, panel="Output", count=flag == "--verbose")
    log_file = "Append the log to FILE, as -v shows it; with -vv, as that."
    yield Flag("--log-file", log_file, metavar="FILE", panel="Output")
    if name in _WITH_EVENTS:
        events = "Write the events of the run to FILE as JSON lines; - is standard output."
        yield Flag("--events", events, metavar="FILE", panel="Output")


def _flags_of(option: Option, panel: str) -> Iterator[Flag]:
    variables = f" [{option.variables.replace(', ', ' or ')}]" if option.variables else ""
    if option.switch:
        hidden = option.kind == "flag" and option.default is True
        repeated = option.kind in _REPEATED
        text = option.sentence + variables
        yield Flag(option.switch, text, metavar=option.metavar, panel=panel, repeated=repeated, hidden=hidden)
    if option.off:
        yield Flag(option.off, option.off_help, panel=panel)


def command(
    *parameters: click.Parameter,
    examples: tuple[str, ...],
    rows: Command | None = None,
    aside: tuple[str, ...] = (),
    name: str = "",
) -> Callable[[Callable[..., int]], HelpPage]:
    """Make a command of a function, which gets the values of `parameters`, and of the options of `rows`, by name. Its
    docstring is the help.

    Args:
        examples: three command lines without "asyncsink", the simplest first; "# why" behind one explains it.
        aside: as in HelpPage.
    """

    def made(function: Callable[..., int]) -> HelpPage:
        return HelpPage(
            name or function.__name__,
            rows=rows,
            callback=function,
            params=list(parameters),
            help=inspect.cleandoc(function.__doc__ or ""),
            examples=examples,
            aside=aside,
        )

    return made
