"""`asyncsink verify`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.displays import progress_display
from asyncsink.cli.output import Output
from asyncsink.cli.running import Interrupted, run_until_signalled
from asyncsink.errors import AsyncSinkError
from asyncsink.report.sentences import are
from asyncsink.report.wording import count, inert


def verify_command(
    manifest: str, given: Mapping[str, Any], *, read_back: bool, manifest_endpoint: bool, output: Output
) -> int:
    """Look at every object of a manifest, tell what was found, and return the exit code."""
    from asyncsink.engine.progress import Progress
    from asyncsink.engine.verifying import VerifyReport, verify_manifest

    progress = Progress()

    def checked() -> int:
        return progress.counts.objects_total

    try:
        options = options_of(given)

        async def main() -> VerifyReport:
            with progress_display(f"reading {manifest}…", progress, noun="object", quiet=output.quiet):
                return await verify_manifest(
                    manifest,
                    read_back=read_back,
                    options=options,
                    progress=progress,
                    manifest_endpoint=manifest_endpoint,
                    tell=lambda event: output.notice(f"{event}."),
                )

        report = run_until_signalled(main)
    except Interrupted as stop:
        total = progress.objects_total
        of_all = count(checked(), "object") if total is None else f"{checked():,} of {count(total, 'object')}"
        wrong = progress.counts.objects_failed
        found = f"{wrong:,} of them {are(wrong)} not as {manifest} says" if wrong else "nothing wrong so far"
        output.note(inert(f"Interrupted: looked at {of_all}, {found}."))
        output.json_object({"manifest": manifest, "ok": False, "objects_total": checked(), "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, {"manifest": manifest, "ok": False, "objects_total": checked()})
        return 1 if checked() else 2
    except Exception as error:  # noqa: BLE001 - a bug, told as one
        output.error(error, {"manifest": manifest, "ok": False, "objects_total": checked()})
        return 1
    for notice in report.notices:
        output.notice(notice)
    output.say(report.summary())
    output.json_object({**report.as_dict(), "interrupted": False})
    output.causes(report.causes(), noun="object", more="--json lists the first 1,000")
    return 0 if report.ok else 1
