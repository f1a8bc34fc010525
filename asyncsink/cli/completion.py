"""What the shell proposes behind a Tab: by click's own scripts and protocol."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.shell_completion import CompletionItem, get_completion_class

from asyncsink.errors import ConfigError
from asyncsink.options.configuration import read_configuration
from asyncsink.options.schema import PANELS
from asyncsink.report.sentences import inert

VARIABLE = "_ASYNCSINK_COMPLETE"
"""Set by the shell's script to ask for proposals: "bash_complete", "zsh_complete" or "fish_complete"."""
SHELLS = ("bash", "zsh", "fish")


def script_for(app: click.Command, shell: str) -> str:
    """The script that a shell reads.

    Raises:
        ConfigError: there is none for this shell.
    """
    kind = get_completion_class(shell) if shell in SHELLS else None
    if kind is None:
        raise ConfigError(f"There is no completion for {shell!r}; expected one of {', '.join(SHELLS)}.")
    return kind(app, {}, "asyncsink", VARIABLE).source()


def answer(app: click.Command, asked: str) -> int:
    """Print the proposals for the command line in the shell's variables. A command line that is wrong has none."""
    shell, _, what = asked.partition("_")
    kind = get_completion_class(shell)
    if kind is None or what != "complete":
        return 1
    try:
        text = kind(app, {}, "asyncsink", VARIABLE).complete()
    except (click.UsageError, ConfigError, KeyError, ValueError):
        return 1
    click.echo(text)
    return 0


def of_flag(flags: list[str], metavar: str, incomplete: str) -> list[CompletionItem]:
    """The values of an option that begin so; files or directories where it takes these."""
    if metavar in ("FILE", "DIR"):
        return [CompletionItem(incomplete, type="file" if metavar == "FILE" else "dir")]
    rows = (option for options in PANELS.values() for option in options)
    choices = next((option.choices for option in rows if option.choices and option.switch in flags), ())
    return [CompletionItem(choice) for choice in choices if choice.lower().startswith(incomplete.lower())]


def of_word(metavar: str, incomplete: str) -> list[CompletionItem]:
    """The named destinations that begin so, then files and directories."""
    named = [CompletionItem(name, help=url) for name, url in _destinations() if name.startswith(incomplete)]
    if named and incomplete:
        return named
    return [*named, CompletionItem(incomplete, type="dir" if metavar in ("DIR", "DIRECTORY") else "file")]


def _destinations() -> Iterator[tuple[str, str]]:
    try:
        for each in read_configuration().destinations():
            yield f"{each.name}:", inert(each.url)
    except ConfigError:
        return  # a Tab is no place for an error; the command has it
    except OSError:
        return  # the present directory is gone
