"""The command of all commands; each is loaded when it is used."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from asyncsink.cli.configured import origins_of
from asyncsink.cli.flags import Flag, HelpPage, HelpPages
from asyncsink.cli.output import Output, from_where, usage_error
from asyncsink.errors import ConfigError
from asyncsink.options.settings import VERSION

EXIT_CODES = (
    "Exit codes: 0 all published (or grabbed) or already there; 1 something was not; 2 wrong usage or configuration, "
    "nothing was sent; 130 interrupted (143 by SIGTERM)."
)
COMMANDS = {
    "export": ("export", "Publish to S3, or to a local directory"),
    "plan": ("plan", "Show what export would do"),
    "explain": ("explain", "Show how a file gets its key, or why it is left out"),
    "grab": ("grab", "Bring objects from S3 into a directory"),
    "ls": ("ls", "List objects and folders, with sizes, dates and totals"),
    "check": ("check", "Compare a source with a bucket, without a receipt"),
    "verify": ("receipts", "Prove that all that was published is still there"),
    "split": ("split", "Cut a source into parts for many machines"),
    "run": ("run", "Publish parts of a split"),
    "recipe": ("split", "Print a script for Slurm, AWS Batch or Dask"),
    "runs": ("runs", "List the journals and receipts of earlier runs"),
    "merge": ("receipts", "Make one receipt manifest of several"),
    "abort-uploads": ("uploads", "Abort multipart uploads that nobody will finish"),
    "config": ("shell.config", "Show each setting, and where it comes from"),
    "completion": ("shell.completion", "Complete commands and options in bash, zsh or fish"),
    "bench": ("trying.bench", "Measure a server"),
    "devserver": ("trying.servers", "Run an S3 server on this machine, to try things out"),
    "demo": ("trying.servers", "Show the whole story in half a minute"),
    "help": ("help", "Show a page of the guide"),
}
"""By command, in the order of the help page: its module in `cli/commands`, and what the list of commands says."""


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        print(f"asyncsink {VERSION}")
        ctx.exit()


app = HelpPages(
    "asyncsink",
    commands_of=COMMANDS,
    help="Publish the outputs of workflows to S3 and bring them back, with proof for every object.",
    epilog=EXIT_CODES,
    examples=(
        "demo                                     # no bucket needed",
        "plan derivatives s3://my-bucket/study    # look first",
        "export derivatives s3://my-bucket/study --manifest study.jsonl",
    ),
    params=[Flag("--version", "Show the version and leave.", callback=_version, is_eager=True, expose_value=False)],
)


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    if asked := os.environ.get("_ASYNCSINK_COMPLETE"):
        from asyncsink.cli.completion import answer

        return answer(app, asked)
    try:
        # Not `main` of click, which makes another error of KeyboardInterrupt.
        with app.make_context("asyncsink", list(arguments) or ["-h"]) as ctx:
            code: int = app.invoke(ctx)
            return code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "asyncsink"
        hints = [f"  {hint}" for hint in getattr(error, "hints", ())]
        command = error.ctx.command if error.ctx is not None else None
        if isinstance(error, click.MissingParameter) and isinstance(command, HelpPage):
            hints = [f"  for example: asyncsink {command.examples[0].partition('  #')[0].rstrip()}"]
        hints = hints or [f"Try: {path} -h"]
        if origin := origins_of(error.ctx).get(getattr(getattr(error, "param", None), "name", None) or ""):
            hints.insert(0, from_where(origin))
        usage_error(_sentence(error.format_message()), hints, as_json="--json" in arguments)
        return 2
    except ConfigError as error:  # in a variable or a file of settings
        Output(json="--json" in arguments).error(error)
        return 2


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?", ")")) else f"{message}."
