"""`asyncsink bench`: measure an S3 server."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError, ConfigError


def bench_command(
    destination: str, given: Mapping[str, Any], *, order: Mapping[str, Any], page: str | None, output: Output
) -> int:
    """Measure, print a table as it grows, and return the exit code."""
    from asyncsink.bench.order import parse_order
    from asyncsink.bench.page import page_of
    from asyncsink.bench.report import HEADINGS, BenchReport, as_lines, table_rows
    from asyncsink.bench.run import run_bench
    from asyncsink.bench.step import StepResult

    report: BenchReport | None = None

    def show(rows: Iterable[tuple[str, ...]]) -> None:
        for line in as_lines(rows):
            output.say(line, exact=True)

    def step_ended(step: StepResult) -> None:
        show(table_rows(step))

    code = 0
    try:
        options = options_of(given)
        report = BenchReport(parse_order(**order))
        if page is not None and not Path(page).absolute().parent.is_dir():
            raise ConfigError(f"The folder of the page {page!r} does not exist; make it, or name another file.")
        show([HEADINGS])
        made = report

        async def main() -> None:
            await run_bench(destination, made.order, options, step_ended=step_ended, report=made)

        run_until_signalled(main)
        code = 0 if report.ok else 1
    except Interrupted as stop:
        output.note("Interrupted: the steps before are complete.")
        code = stop.exit_code
    except AsyncSinkError as error:
        begun = report is not None and bool(report.objects_written)
        output.error(error, {"destination": destination, "ok": False})
        if not begun:
            return 2
        code = 1
    assert report is not None
    for notice in report.notices:
        output.notice(notice)
    output.say(report.summary())
    output.json_object({**report.as_dict(), "interrupted": code > 1})
    if page is not None:
        try:
            Path(page).write_text(page_of(report), encoding="utf-8")
        except OSError as error:
            output.error(ConfigError(f"The page {page!r} cannot be written: {error.strerror or error}."))
            return code or 1
    return code


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    Argument("DESTINATION", "s3://bucket/prefix, below which a folder for the objects is made."),
    Flag("--mix", "Weights of put, get and head (default put).", metavar="MIX", default="put"),
    Flag(
        "--sizes",
        "Of the objects: 16KiB; lognormal:16KiB:1.2; or a text file with one size a line (default 16KiB).",
        metavar="SIZES",
        default="16KiB",
    ),
    Flag(
        "--ramp", "Operations at the same time, step by step (default 1,4,16,64).", metavar="N,N", default="1,4,16,64"
    ),
    Flag("--seconds", "Of each step (default 30).", metavar="N", default="30"),
    Flag(
        "--rate",
        "Operations that begin in a second (open loop: times count from when one was due); else each begins when the "
        "one before it has ended.",
        metavar="N",
    ),
    Flag("--seed", "Of sizes, contents and order (default 1).", metavar="N", default="1"),
    Flag("--cleanup", "Delete the objects at the end."),
    Flag("--report", "Also write a page with plots.", metavar="FILE"),
    rows="bench",
    examples=(
        "bench s3://my-bucket/tmp --cleanup",
        "bench s3://my-bucket/tmp --mix put:80,get:20 --seconds 10",
        "bench s3://my-bucket/tmp --ramp 1,8,64 --report bench.html",
    ),
)
def bench(
    destination: str,
    *,
    mix: str,
    sizes: str,
    ramp: str,
    seconds: str,
    rate: str | None,
    seed: str,
    cleanup: bool,
    report: str | None,
    **given: Any,
) -> int:
    """Measure a server: operations a second, and the times of each kind of operation, with synthetic objects."""
    order = {
        "mix": mix, "sizes": sizes, "ramp": ramp, "seconds": seconds, "rate": rate, "seed": seed, "cleanup": cleanup
    }  # fmt: skip
    return bench_command(destination, given, order=order, page=report, output=output_of(given))
