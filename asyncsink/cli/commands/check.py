"""`asyncsink check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.screen.display import note_printer, progress_display
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.cli.words.sources import SOURCE, SourceWords, list_flags, words_of
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.report.sentences import count, inert

if TYPE_CHECKING:
    from asyncsink.maintenance.check_report import CheckReport


def check_command(
    source: SourceWords,
    destination: str,
    given: Mapping[str, Any],
    *,
    size_only: bool,
    one_way: bool,
    combined: bool,
    output: Output,
) -> int:
    """Compare, print what differs, and return the exit code. Ctrl-C and SIGTERM end it in order."""
    from asyncsink.engine.recording.events import Progress
    from asyncsink.maintenance.check import check_settings, check_source

    progress = Progress()
    known = {"source": str(source), "destination": destination, "ok": False}

    try:
        if source.paths and source.paths[0].lower().startswith("s3://"):
            raise ConfigError(
                f"SOURCE is {str(source)!r}; a check names the folder first: asyncsink check {destination} {source}."
            )
        source.check(destination, "check")
        settings = check_settings(destination, options_of(given), size_only=size_only)
        found, give_up = source.open(settings)

        async def main() -> CheckReport:
            title, observe = f"check {source} against {destination}", output.watch(note_printer(output))
            with progress_display(title, f"looking at {source}…", progress, output=output):
                return await check_source(
                    settings, found, str(source), one_way=one_way, observe=observe, progress=progress
                )

        report = run_until_signalled(main, give_up)
    except (Interrupted, KeyboardInterrupt) as stop:
        output.note(inert(f"Interrupted: {count(progress.objects_done, 'file')} compared, nothing was sent."))
        output.json_object({**known, "interrupted": True})
        return getattr(stop, "exit_code", 130)
    except AsyncSinkError as error:
        output.error(error, known)
        return 1 if progress.counts.objects_total else 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, known)
        return 1
    try:
        return _tell(report, combined=combined, output=output)
    finally:
        report.close()


def _tell(report: CheckReport, *, combined: bool, output: Output) -> int:
    report.incomplete = report.incomplete.replace("one_way=True", "--one-way")
    if output.json or output.events is not None:
        values = {**report.as_dict(), "interrupted": False}
        output.json_object(values, long="files", items=map(asdict, report.files.each(differing=not combined)))
    if not output.json and not output.quiet:
        for each in report.files.each(differing=not combined):
            why = f"  ({each.reason})" if each.reason and not combined else ""
            output.say(inert(f"{each.marker} {each.key}{why}"), exact=True)
    if combined:
        output.note(report.summary())  # stdout has the list alone, for other programs
    else:
        if report.differing:
            output.say("")
        output.result(report.summary(), ok=report.ok)
    return 0 if report.ok else 1


# -- The command line --------------------------------------------------------------------------------------------------


@command(
    SOURCE,
    Argument("DESTINATION", "s3://bucket/prefix."),
    *list_flags(),
    Flag(
        "--combined",
        "List every file, in the form of rclone check --combined; the summary goes to stderr.",
        everyday="list every file, as rclone check --combined",
    ),
    Flag(
        "--one-way",
        "Do not look for objects that only DESTINATION has.",
        everyday="do not look for objects that only DESTINATION has",
    ),
    Flag("--size-only", "Compare sizes, and read no file.", everyday="compare sizes, and read no file"),
    rows="check",
    examples=(
        "check derivatives s3://my-bucket/study",
        "check derivatives s3://my-bucket/study --size-only  # reads no file",
        "check derivatives s3://my-bucket/study --combined > all.txt",
    ),
)
def check(
    source: Sequence[str],
    destination: str,
    *,
    outputs: str | None,
    source_manifest: str | None,
    combined: bool,
    one_way: bool,
    size_only: bool,
    **given: Any,
) -> int:
    """Compare SOURCE with what is in the bucket, without a receipt. Nothing is sent or changed.

    What differs is listed: + only in SOURCE, - only at DESTINATION, * different, ! could not be
    compared; = is the same.
    Give the same options for names as to asyncsink export. Exit code 1 where anything differs.
    """
    return check_command(
        words_of(source, outputs, source_manifest),
        destination,
        given,
        size_only=size_only,
        one_way=one_way,
        combined=combined,
        output=output_of(given),
    )
