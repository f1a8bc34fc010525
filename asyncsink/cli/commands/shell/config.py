"""`asyncsink config`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import click

from asyncsink.cli.arguments import options_of
from asyncsink.cli.configured import configuration_of, shared_of, takes_of
from asyncsink.cli.flags import EVERYDAY, Argument, Flag, HelpPage, command
from asyncsink.cli.output import Output
from asyncsink.errors import ConfigError
from asyncsink.options.configuration import (
    CONFIG_VARIABLE,
    Configuration,
    Setting,
    amazon_variables,
    value_shown,
    variable_of,
)
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import OPTIONS, PANELS
from asyncsink.options.settings_files import user_file
from asyncsink.report.sentences import inert


def _commands(ctx: click.Context) -> Iterator[HelpPage]:
    """Every command, but those that read no settings."""
    app = ctx.find_root().command
    assert isinstance(app, click.Group)
    for name in app.list_commands(ctx):
        found = app.get_command(ctx, name)
        if isinstance(found, HelpPage):
            yield found


def _settings(configuration: Configuration, ctx: click.Context, name: str, destination: str) -> dict[str, Setting]:
    """The settings of one command; those of all others are checked."""
    wanted: dict[str, Setting] | None = None
    known = []
    for each in _commands(ctx):
        known.append(str(each.name))
        inner = click.Context(each, info_name=each.name, parent=ctx.parent)
        found = configuration.settings(str(each.name), takes_of(each, inner), shared_of(each, inner), destination)
        wanted = found if each.name == name else wanted
    if wanted is None:
        raise ConfigError(f"There is no command {name!r}; expected one of {', '.join(known)}.")
    return wanted


def _check_values(settings: dict[str, Setting]) -> None:
    """Refuse what the run would refuse, whatever its destination in S3 is.

    Raises:
        ConfigError: a value is wrong.
    """
    given = options_of({key: each.value for key, each in settings.items()})
    parse_options("s3://bucket/prefix", {name: value for name, value in given.items() if name in OPTIONS})


def _defaults() -> dict[str, str]:
    rows = (option for options in PANELS.values() for option in options if option.switch)
    return {option.switch[2:].replace("-", "_"): option.default_shown for option in rows}


@command(
    Argument("COMMAND", "Whose settings; those of export unless given.", required=False, place=False),
    Argument("NAME", "A named destination, as study: its own options are among them.", required=False, place=False),
    Flag("--all", "The options that nothing sets, too, with their defaults and variables.", everyday="defaults too"),
    Flag("--json", EVERYDAY["--json"].capitalize() + "."),
    examples=(
        "config                # which files are read, and what they set",
        "config grab --all     # every option, its default and its variable",
        "config export study:  # with the options of a named destination",
    ),
)
def config(command: str | None, name: str | None, all: bool, json: bool) -> int:  # noqa: A002 - as the help page has it
    """Show each setting and where it comes from: a variable, a project's file, or your own file. Flags stand above all
    of them. Secrets are not shown.

    A value that is wrong is named with its file and line: exit code 2.
    """
    ctx, output = click.get_current_context(), Output(json=json)
    wanted, destination = command or "export", (name or "").removesuffix(":")
    settings: dict[str, Setting] = {}
    try:
        configuration = configuration_of(ctx)
        if destination and configuration.destination(destination) is None:
            raise ConfigError(f"There is no destination {destination!r} in any file of settings.")
        settings = _settings(configuration, ctx, wanted, destination)
        destinations = list(configuration.destinations())
        _check_values(settings)
    except ConfigError as error:
        replace(output, origins={key: each.origin for key, each in settings.items()}).error(error)
        return 2
    values = {key: {"value": value_shown(key, each.value), "from": each.origin} for key, each in settings.items()}
    amazon = {key: {"value": value, "from": origin} for key, value, origin in amazon_variables()}
    told: dict[str, Any] = {
        "command": wanted,
        "files": [{"path": file.path, "trusted": file.trusted} for file in configuration.files],
        "values": values,
        "variables_of_amazon": amazon,
        "destinations": {
            each.name: {"url": each.url, "from": each.origin, "options": _shown_options(each.options)}
            for each in destinations
        },
    }
    for notice in configuration.notices:
        output.notice(notice)
    output.json_object(told)
    output.say("\n".join(_lines(told, wanted, everything=all)), exact=True)
    return 0


def _shown_options(options: Any) -> dict[str, Any]:
    return {key: value_shown(key, value) for key, value in options.items()}


def _lines(told: dict[str, Any], name: str, *, everything: bool) -> Iterator[str]:
    yield "Files, the first stands above the next (variables stand above them, flags above all):"
    for file in told["files"]:
        yield inert(
            f"  {file['path']}{'' if file['trusted'] else '  (project: sets no credentials, servers or paths)'}"
        )
    if not any(file["path"] == user_file() for file in told["files"]):
        yield inert(f"  {user_file()}  (yours; not there)")
    yield f"Set for asyncsink {name}:"
    values = {**told["variables_of_amazon"], **told["values"]}
    rows = [(key, _as_text(each["value"]), each["from"]) for key, each in values.items()]
    if everything:
        defaults = _defaults()
        rest = [key for key in defaults if key not in values]
        rows += [(key, defaults[key] or "-", f"default; variable {variable_of(key)}") for key in rest]
    yield from _table(rows) if rows else ["  nothing: every option has its default (--all shows them)"]
    if told["destinations"]:
        yield "Destinations:"
        for key, each in told["destinations"].items():
            options = "".join(f", {option} {_as_text(value)}" for option, value in each["options"].items())
            yield inert(f"  {key}:  {each['url']}{options}  {each['from']}")
    yield f"{CONFIG_VARIABLE}=FILE takes the place of the project's file; {CONFIG_VARIABLE}=none reads no file."


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    for key, value, origin in rows:
        yield inert(f"  {key:<{first}}  {value:<{min(second, 40)}}  {origin}")


def _as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
