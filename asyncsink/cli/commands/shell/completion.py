"""`asyncsink completion`."""

from __future__ import annotations

import click

from asyncsink.cli.flags import Argument, command
from asyncsink.cli.output import Output
from asyncsink.errors import ConfigError


@command(
    Argument("SHELL", "bash, zsh or fish.", place=False),
    examples=(
        'completion bash    # ~/.bashrc: eval "$(asyncsink completion bash)"',
        'completion zsh     # ~/.zshrc:  eval "$(asyncsink completion zsh)"',
        "completion fish > ~/.config/fish/completions/asyncsink.fish",
    ),
)
def completion(shell: str) -> int:
    """Print the script with which a shell completes commands, options, their values, and named destinations."""
    from asyncsink.cli.completion import script_for

    output = Output()
    try:
        output.say(script_for(click.get_current_context().find_root().command, shell), exact=True)
    except ConfigError as error:
        output.error(error)
        return 2
    return 0
