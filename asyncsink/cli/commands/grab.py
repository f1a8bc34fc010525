"""`asyncsink grab`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.screen.display import note_printer, progress_display
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.report.sentences import GRAB, early_end, goes_on


def grab_command(source: str, directory: str, given: Mapping[str, Any], *, output: Output) -> int:
    """Grab, print the result, and return the exit code. Ctrl-C and SIGTERM end it in order."""
    from asyncsink.download.report import GrabReport, counts_as_dict
    from asyncsink.engine.recording.events import Progress
    from asyncsink.grabber import S3Grabber

    progress = Progress()
    counts, observe = progress.counts, note_printer(output)

    def partial(*, interrupted: bool = False) -> dict[str, Any]:
        resumable = [asdict(each) for each in progress.resumable.values()]
        return {"directory": directory, "interrupted": interrupted, **counts_as_dict(counts), "resumable": resumable}

    try:
        grabber = S3Grabber(source, directory, **options_of(given))

        async def main() -> GrabReport:
            title, opening = f"{source} → {directory}", f"looking at {source}…"
            with progress_display(title, opening, progress, output=output):
                return await grabber.run(observe=output.watch(observe), recorded=output.recorded, progress=progress)

        report = run_until_signalled(main)
    except (Interrupted, KeyboardInterrupt) as stop:
        going_on = goes_on(progress.resumable.values())
        total = progress.objects_total
        output.note(early_end(counts, directory, GRAB, total=total, reason="Interrupted", going_on=going_on))
        output.json_object(partial(interrupted=True))
        return getattr(stop, "exit_code", 130)
    except AsyncSinkError as error:
        output.error(error, partial())
        if not progress.counts.objects_total:
            from asyncsink.cli.foreign_words import pattern_hint

            if hint := pattern_hint("grab", source):
                output.note(f"  {hint}")
        return 1 if progress.started else 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, partial())
        return 1
    output.result(report.brief(), ok=report.ok)
    output.json_object(report.as_dict())
    output.causes(report.causes(), noun="object", more="--json lists all of them")
    return 0 if report.ok else 1


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    Argument("SOURCE", "s3://bucket/prefix, or a single object."),
    Argument("DIRECTORY", "Where the files go, without the prefix."),
    rows="grab",
    examples=(
        "grab s3://my-bucket/raw data",
        "grab s3://my-bucket/raw data --template 'sub-0[1-3]/func/.*'",
        "grab s3://openneuro.org/ds000114 data --anonymous",
    ),
)
def grab(source: str, directory: str, **given: Any) -> int:
    """Bring objects from S3 into DIRECTORY. What is here already with the same content is not received again."""
    return grab_command(source, directory, given, output=output_of(given))
