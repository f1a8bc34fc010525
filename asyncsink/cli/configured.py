"""The options of a command line from variables and files, and destinations by name: where each value comes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from asyncsink.options.configuration import (
    Configuration,
    NamedDestination,
    Setting,
    Takes,
    alternatives_of,
    read_configuration,
)
from asyncsink.options.schema import PANELS
from asyncsink.options.values import bucket_meant

if TYPE_CHECKING:
    from asyncsink.cli.flags import HelpPage

_SETTINGS, _NOTICES = "asyncsink.settings", "asyncsink.notices"
SHARED_FLAGS = ("dry_run", "json", "quiet", "verbose", "log_file", "events")
"""Flags beside the library's options that mean the same in every command that has them."""
_NAMED = re.compile(r"([A-Za-z][A-Za-z0-9_-]*):(?!//)(.*)", re.DOTALL)


def parameter_of(flag: str) -> str:
    """The parameter that gets the value of a flag."""
    return flag[2:].replace("-", "_")


def shared_names() -> list[str]:
    """The options that mean the same in every command that has them."""
    rows = [option for options in PANELS.values() for option in options]
    flags = [flag for option in rows for flag in (option.switch, option.off) if flag]
    return [*map(parameter_of, flags), *SHARED_FLAGS]


def takes_of(command: HelpPage, ctx: click.Context) -> dict[str, Takes]:
    """The options of a command, and what each takes."""
    from asyncsink.cli.flags import Flag

    return {each.name: each.takes for each in command.get_params(ctx) if isinstance(each, Flag) and each.name}


def shared_of(command: HelpPage, ctx: click.Context) -> list[str]:
    """The options of a command that mean the same in every command that has them: not its own ones."""
    from asyncsink.cli.flags import OWN_PANEL, Flag

    return [
        str(each.name)
        for each in command.get_params(ctx)
        if isinstance(each, Flag) and (each.panel != OWN_PANEL or each.name in SHARED_FLAGS)
    ]


def setting_of(ctx: click.Context, name: str, words: Mapping[str, Any]) -> Setting | None:
    """The value of an option from a variable or a file, unless the command line excludes it.

    Args:
        words: what the command line gives, by parameter.

    Raises:
        ConfigError: a variable or a file is wrong.
    """
    if any(other in words for other in alternatives_of(name)):
        return None
    setting = _settings(ctx, words).get(name)
    if setting is not None:
        origins_of(ctx)[name] = setting.origin
    return setting


def _settings(ctx: click.Context, words: Mapping[str, Any]) -> Mapping[str, Setting]:
    found: Mapping[str, Setting] | None = ctx.meta.get(_SETTINGS)
    if found is None:
        configuration = configuration_of(ctx)
        command: Any = ctx.command
        places = [words.get(each.name or "") for each in command.params if isinstance(each, click.Argument)]
        named = [named for word in places for named in _named_in(configuration, word)]
        destination = named[0].name if named else ""
        found = configuration.settings(command.name, takes_of(command, ctx), shared_of(command, ctx), destination)
        ctx.meta[_SETTINGS] = found
    return found


def configuration_of(ctx: click.Context) -> Configuration:
    """The variables and files of this process, read once for a command line.

    Raises:
        ConfigError: a file is wrong.
    """
    from asyncsink.cli.app import COMMANDS

    key = "asyncsink.configuration"
    if key not in ctx.meta:
        configuration = read_configuration()
        configuration.check(COMMANDS, shared_names())
        notices_of(ctx).extend([*configuration.notices, *configuration.unknown_variables(COMMANDS, shared_names())])
        ctx.meta[key] = configuration
    found: Configuration = ctx.meta[key]
    return found


def _named_in(configuration: Configuration, word: Any) -> list[NamedDestination]:
    match = _NAMED.fullmatch(word) if isinstance(word, str) else None
    found = configuration.destination(match[1]) if match is not None else None
    return [found] if found is not None else []


def url_in(ctx: click.Context, word: str, *, needs_place: bool) -> str:
    """A word of the command line, in which the name of a destination, as in "study:sub", is replaced by its URL.

    Args:
        needs_place: whether the word is a destination, so that an unknown name is an error.

    Raises:
        ConfigError: a file is wrong.
        UsageError: there is no destination of this name.
    """
    match = _NAMED.fullmatch(word)
    if needs_place and _looks_like_a_bucket(word):
        notices_of(ctx).append(f"{word!r} is a directory of this machine; the bucket is s3://{word}.")
    if match is None or match[1].lower() == "s3" or bucket_meant(word) or os.path.lexists(word):
        return word
    configuration = configuration_of(ctx)
    named = _named_in(configuration, word)
    if not named:
        if not needs_place:
            return word
        known = ", ".join(f"{each.name}:" for each in configuration.destinations()) or "none"
        raise click.UsageError(
            f"There is no destination {match[1]!r}; settings files name: {known}. For a bucket write s3://…, for a "
            f"local directory ./{word}",
            ctx,
        )
    rest = match[2].strip("/")
    url = f"{named[0].url.rstrip('/')}/{rest}" if rest else named[0].url
    notices_of(ctx).append(f"{named[0].name}: is {named[0].url} ({named[0].origin}).")
    return url


def _looks_like_a_bucket(word: str) -> bool:
    """Whether a destination without a scheme has the form of bucket/prefix, and is no path that people write."""
    first, _, rest = word.partition("/")
    return bool(rest) and re.fullmatch(r"[a-z0-9][a-z0-9.-]{2,62}", first) is not None and not os.path.lexists(first)


def origins_of(ctx: click.Context | None) -> dict[str, str]:
    """Where the values of options come from that no flag gives, by parameter."""
    found: dict[str, str] = {} if ctx is None else ctx.meta.setdefault("asyncsink.origins", {})
    return found


def notices_of(ctx: click.Context | None) -> list[str]:
    """Sentences about the settings, to be said when the command begins."""
    found: list[str] = [] if ctx is None else ctx.meta.setdefault(_NOTICES, [])
    return found
