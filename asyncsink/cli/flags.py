"""The options of the commands, from the rows of `options.schema`, and the flags for the amount of output.

A parameter of a command has the name of its flag, with underscores.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeVar

from typer import Option as Flag

from asyncsink.options.schema import PANELS, Command, Option

F = TypeVar("F", bound=Callable[..., int])

_NOTHING = " "
"""The value in the help page for an option without one."""
_REPEATED = {"pairs", "mapping", "texts", "templates", "infields"}
_OUTPUT = {
    "--json": "Write one JSON object to stdout, and nothing else.",
    "--quiet": "No progress and no summary; errors and notes only.",
    "--verbose": "Log what happens to stderr.",
}


def takes(name: Command) -> Callable[[F], F]:
    """Add the options of a command to its function, which is declared with `**given` and gets them there by name."""

    def declare(command: F) -> F:
        own = inspect.signature(command)
        parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        for panel, options in PANELS.items():
            for option in options:
                if name in option.commands:
                    parameters += _parameters(option, panel)
        parameters += [_parameter(flag, bool, text, "Output") for flag, text in _OUTPUT.items()]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": int}
        return command

    return declare


def parameter_of(flag: str) -> str:
    """The parameter that gets the value of a flag."""
    return flag[2:].replace("-", "_")


def _parameters(option: Option, panel: str) -> Iterator[inspect.Parameter]:
    bare = option.kind in ("flag", "payer") or option.sets is not None
    taken: Any = bool if bare else list[str] | None if option.kind in _REPEATED else str | None
    if option.switch:
        hidden = option.kind == "flag" and option.default is True
        yield _parameter(option.switch, taken, option.sentence, panel, metavar=option.metavar, hidden=hidden)
    if option.off:
        yield _parameter(option.off, bool, option.off_help, panel)


def _parameter(
    flag: str, taken: Any, text: str, panel: str, *, metavar: str = "", hidden: bool = False
) -> inspect.Parameter:
    declared = Flag(
        flag, metavar=metavar or _NOTHING, help=text, rich_help_panel=panel, show_default=False, hidden=hidden
    )
    return inspect.Parameter(
        parameter_of(flag),
        inspect.Parameter.KEYWORD_ONLY,
        default=False if taken is bool else None,
        annotation=Annotated[taken, declared],
    )
