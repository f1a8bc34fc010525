"""The command of all commands; each is loaded when it is used."""

from __future__ import annotations

from collections.abc import Sequence

import click

from asyncsink.cli.flags import Flag, HelpPages
from asyncsink.cli.output import usage_error

EXIT_CODES = (
    "Exit codes: 0 all published (or grabbed) or already there; 1 something was not; 2 wrong usage or configuration, "
    "nothing was sent; 130 interrupted (143 by SIGTERM)."
)
COMMANDS = {
    "export": "export",
    "plan": "export",
    "split": "split",
    "run": "run",
    "recipe": "split",
    "grab": "grab",
    "verify": "receipts",
    "merge": "receipts",
    "abort-uploads": "uploads",
    "bench": "bench",
    "devserver": "servers",
    "demo": "servers",
}
"""The modules of `cli/commands` by command, in the order of the help page."""


def _version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"asyncsink {version('asyncsink')}")
        ctx.exit()


app = HelpPages(
    "asyncsink",
    modules=COMMANDS,
    help="Publish the outputs of workflows to S3 and bring them back, with proof for every object.",
    epilog=EXIT_CODES,
    params=[Flag("--version", "Show the version and leave.", callback=_version, is_eager=True, expose_value=False)],
)


def run_app(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    try:
        # Not `main` of click, which makes another error of KeyboardInterrupt.
        with app.make_context("asyncsink", list(arguments) or ["--help"]) as ctx:
            code: int = app.invoke(ctx)
            return code
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "asyncsink"
        usage_error(_sentence(error.format_message()), f"Try: {path} --help", as_json="--json" in arguments)
        return 2


def _sentence(message: str) -> str:
    return message if message.endswith((".", "?", ")")) else f"{message}."
