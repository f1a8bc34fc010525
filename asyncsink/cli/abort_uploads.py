"""`asyncsink abort-uploads`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.output import Output
from asyncsink.cli.running import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.report.wording import count, duration, inert
from asyncsink.values import parse_duration


def abort_uploads_command(
    destination: str, given: Mapping[str, Any], *, older_than: str, dry_run: bool, output: Output
) -> int:
    """Abort old multipart uploads, tell which, and return the exit code."""
    from asyncsink.engine.abandoned import AbandonedUpload, AbortReport, abort_uploads

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
            output.say(inert(f"{done}  {where}"))

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
    except Exception as error:  # noqa: BLE001 - a bug, told as one
        output.error(error, known)
        return 1
    for notice in report.notices:
        output.notice(notice)
    output.say(report.summary())
    output.json_object({**report.as_dict(), "interrupted": False})
    return 0 if report.ok else 1
