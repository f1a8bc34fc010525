"""`asyncsink abort-uploads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.flags import Argument, Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.options.values import parse_duration
from asyncsink.report.sentences import count, duration, inert


def abort_uploads_command(
    destination: str, given: Mapping[str, Any], *, older_than: str, dry_run: bool, output: Output
) -> int:
    """Abort old multipart uploads, print which, and return the exit code."""
    from asyncsink.maintenance.abort_uploads import AbandonedUpload, AbortReport, abort_uploads

    told = 0

    def observe(upload: AbandonedUpload) -> None:
        nonlocal told
        told += 1
        where = f"{duration(upload.age_seconds)}  {upload.key}  {upload.upload_id}"
        if upload.outcome == "undated":
            output.notice(f"{upload.key}, upload id {upload.upload_id}: {upload.problem}")
        elif upload.problem:
            output.notice(f"{upload.key} may still be open, upload id {upload.upload_id}: {upload.problem}")
        else:
            done = {"open": "would abort", "gone": "was gone"}.get(upload.outcome, "aborted")
            output.say(inert(f"{done}  {where}"), exact=True)

    known = {"destination": destination, "dry_run": dry_run, "ok": False}
    try:
        seconds = parse_duration(older_than, "--older-than")
        options = options_of(given)

        async def main() -> AbortReport:
            return await abort_uploads(destination, older_than=seconds, dry_run=dry_run, observe=observe, **options)

        report = run_until_signalled(main)
    except Interrupted as stop:
        output.note(f"interrupted after {count(told, 'upload')}; there may be more")
        output.json_object({**known, "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, known)
        return 1 if told else 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, known)
        return 1
    return output.report(report)


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    Argument("DESTINATION", "s3://bucket/prefix: what lies below the prefix as a folder."),
    Flag(
        "--older-than",
        "Such as 90s, 15m, 24h or 7d: longer than your longest run.",
        metavar="AGE",
        everyday="their age at the least: 90s, 15m, 24h, 7d",
        required=True,
    ),
    Flag("--dry-run", "Show them, and abort none.", everyday="show them, and abort none"),
    rows="abort-uploads",
    name="abort-uploads",
    examples=(
        "abort-uploads s3://my-bucket/study --older-than 7d --dry-run",
        "abort-uploads s3://my-bucket/study --older-than 7d",
        "abort-uploads s3://my-bucket --older-than 24h    # the whole bucket",
    ),
)
def abort_uploads(destination: str, older_than: str, dry_run: bool, **given: Any) -> int:
    """Abort multipart uploads that nobody will finish. Their parts are invisible, and cost money.

    Exit code 1 where one may still be open.
    """
    return abort_uploads_command(destination, given, older_than=older_than, dry_run=dry_run, output=output_of(given))
