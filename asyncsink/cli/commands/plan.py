"""`asyncsink plan`, and the question before an export that deletes."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any

import click

from asyncsink.cli.commands.export import export_command
from asyncsink.cli.flags import Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.printer import locale_is_utf8, write_lines
from asyncsink.cli.words.sources import DESTINATION, SOURCE, SourceWords, list_flags, words_of
from asyncsink.errors import ConfigError
from asyncsink.report.plan import PRICES, Prices, prices_of
from asyncsink.report.plan_lines import Paper, list_line, plan_heading, plan_rows
from asyncsink.report.report import Report

LINES_AT_ONCE = 500
"""Lines of the list that are written together."""
HINT = "Add --list for every file, --prices for the cost, --json for scripts."


def plan_command(
    source: SourceWords,
    destination: str,
    given: Mapping[str, Any],
    *,
    output: Output,
    lists: bool = False,
    prices: Prices | None = None,
) -> int:
    """Look, print what an export would do, and return the exit code."""
    tell = partial(tell_plan, title=str(source), lists=lists, prices=prices)
    return export_command(source, destination, given, dry_run=True, output=output, tell=tell)


def tell_plan(report: Report, output: Output, *, title: str, lists: bool, prices: Prices | None) -> int:
    """Print a plan: every file first, where that is wanted, so that the figures stay on the screen."""
    if output.json:
        values = report.as_dict()
        if prices is not None:
            values["plan"]["cost"] = _cost_of(prices, values["plan"]["requests"], report.counts.bytes_planned)
        output.json_object(values, long="planned", items=(asdict(planned) for planned in report.planned))
    elif not output.quiet:
        _print_plan(report, output, title=title, lists=lists, prices=prices)
    output.causes(report.causes(), more="--list and --json list all of them")
    return 0 if report.ok else 1


def _print_plan(report: Report, output: Output, *, title: str, lists: bool, prices: Prices | None) -> None:
    paper = paper_of_stdout()
    if lists:
        from asyncsink.report.plan_list import planned_files

        files = planned_files(report)
        while lines := [list_line(file, paper) for file in islice(files, LINES_AT_ONCE)]:
            output.say("\n".join(lines), exact=True)
        output.say("", exact=True)
    lines = [report.headline()] if report.interrupted else plan_heading(title, report.destination, paper)
    figures = report.figures()
    lines += plan_rows(figures, report.counts, paper, prices=prices)
    lines += (f"  {line}" for line in report.closing.lines(dry_run=True))
    if not report.objects_planned and report.ok:
        lines.append("  An export would send nothing.")
    elif not lists:
        hint = HINT if figures.requests else HINT.replace(" --prices for the cost,", "")
        lines += textwrap.wrap(hint, paper.width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
    output.say("\n".join(lines), exact=True)


def paper_of_stdout() -> Paper:
    """Where results are printed. Names are shortened for a terminal only."""
    stream = sys.stdout
    utf8 = (getattr(stream, "encoding", None) or "utf-8").lower().startswith("utf") and locale_is_utf8()
    terminal = stream is not None and stream.isatty()
    return Paper(columns=shutil.get_terminal_size().columns, ascii_only=not utf8, whole_names=not terminal)


def _cost_of(prices: Prices, requests: Mapping[str, int], size_bytes: int) -> dict[str, Any]:
    return {
        "requests": prices.requests(requests),
        "storage_month": prices.month(size_bytes),
        "currency": prices.currency,
    }


def read_prices(text: str) -> Prices:
    """The prices of a command line: pairs, or a file of TOML with the same names.

    Raises:
        ConfigError: the file cannot be read, or something is no price.
    """
    if "=" in text:
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        return prices_of({name.strip(): value.strip() for name, _, value in pairs}, "--prices")
    if not os.path.lexists(text):
        raise ConfigError(
            f"--prices {text!r} is neither prices nor a file; expected some of {PRICES}, or a TOML file of these."
        )
    import tomllib

    from asyncsink.sources.base import given_path, open_description

    what = "The file of --prices"
    with open_description(given_path(text, what), what) as file:
        try:
            found = tomllib.load(file)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{what}, {text!r}, is no TOML ({error}); expected lines such as put = 0.005, get = 0.0004 and "
                "storage = 0.023."
            ) from error
    return prices_of(found, f"{what}, {text!r},")


# -- The question before extraneous objects are deleted ----------------------------------------------------------------

_NOT_ASKED = (
    "--delete-extraneous deletes objects, and there is no terminal to ask at; look at what it would delete with "
    "asyncsink plan, and then give --yes."
)


def confirmed(
    source: SourceWords, destination: str, given: Mapping[str, Any], *, output: Output
) -> Mapping[str, Any] | int:
    """Look what would be deleted, and ask. Returns the options of the export, which then deletes no more objects than
    were shown; or an exit code, where nothing is to be sent."""
    if output.json or not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr)):
        output.error(ConfigError(_NOT_ASKED), {})
        return 2
    plans: list[Report] = []

    def keep(report: Report, _: Output) -> int:
        plans.append(report)
        return 0 if report.ok else 1

    # Contents need not be compared to know which keys the sources have.
    looking = {**given, "overwrite": "never", "manifest": None, "report": None}
    if code := export_command(source, destination, looking, dry_run=True, output=output, tell=keep):
        return code
    extraneous = plans[0].closing.extraneous
    if extraneous is None or not extraneous.objects:
        return given
    if extraneous.excess:
        output.error(ConfigError(extraneous.excess), {})
        return 2
    write_lines(sys.stderr, "\n".join(extraneous.lines(dry_run=True)))
    try:
        meant, code = click.confirm("Delete them when everything is published?", err=True), 2
    except click.Abort:  # Ctrl-C, or the end of the input
        click.echo(err=True)
        meant, code = False, 130
    if not meant:
        output.note("Nothing was sent, and nothing deleted.")
        return code
    return {**given, "delete_max": str(extraneous.objects)}


@command(
    SOURCE,
    DESTINATION,
    *list_flags(),
    Flag(
        "--list",
        "List every file, sorted by name: new, changed, unchanged, left out.",
        everyday="every file, sorted by name",
    ),
    Flag(
        "--prices",
        "Show the cost: prices of 1,000 PUT or LIST requests (put), of 1,000 others (get), and of a GiB in a month "
        "(storage), such as put=0.005,storage=0.023; or a TOML file with these names.",
        metavar="PRICES",
        everyday="the cost, by prices such as put=0.005,storage=0.023",
    ),
    rows="export",
    aside=("--manifest",),
    examples=(
        "plan derivatives s3://my-bucket/study",
        "plan --outputs outputs.yaml s3://my-bucket/study",
        "plan derivatives s3://my-bucket/study --list    # every file",
    ),
)
def plan(
    source: Sequence[str],
    destination: str,
    *,
    outputs: str | None,
    source_manifest: str | None,
    prices: str | None,
    **given: Any,
) -> int:
    """Show what export would do, and send nothing."""
    output = output_of(given)
    try:
        asked = read_prices(prices) if prices is not None else None
    except ConfigError as error:
        output.error(error)
        return 2
    words = words_of(source, outputs, source_manifest)
    return plan_command(words, destination, given, output=output, lists=given["list"], prices=asked)
