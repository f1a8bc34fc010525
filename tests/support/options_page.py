"""The guide's page of all options, made from their rows: `make options` writes it."""

from __future__ import annotations

from asyncsink.options.schema import PANELS, Option

_HEAD = """# Options

Python's names; a flag is how the command line writes one. Exports take what has `export` (`asyncsink plan`, `AsyncSink`
and Nipype's DataSink too), grabs what has `grab` (`grab_sync` and S3DataGrabber too). The environment is asked where an
option is not given. This page is made from `asyncsink/options/schema.py`.
"""


def reference() -> str:
    """The page, in Markdown."""
    return "\n".join([_HEAD, *(_table(panel, options) for panel, options in PANELS.items())])


def _table(panel: str, options: tuple[Option, ...]) -> str:
    rows = (
        (
            f"`{option.name}`",
            "<br>".join(f"`{flag}`" for flag in _flags(option)),
            option.help.replace("*", r"\*"),
            option.default_shown,
            option.variables,
            ", ".join(option.commands),
        )
        for option in options
    )
    head = ("option", "flag", "what it is", "default", "environment", "commands")
    lines = [head, ("---",) * len(head), *rows]
    cells = ([cell.replace("|", r"\|") for cell in line] for line in lines)
    return f"## {panel}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in cells)


def _flags(option: Option) -> list[str]:
    metavar = f" {option.metavar}" if option.metavar else ""
    return [f"{option.switch}{metavar}"] * bool(option.switch) + [option.off] * bool(option.off)
