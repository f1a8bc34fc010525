"""`asyncsink split`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.output import Interrupted, Output, progress_display, run_until_signalled
from asyncsink.errors import AsyncSinkError, ConfigError


def split_command(
    source: str,
    destination: str,
    directory: str,
    given: Mapping[str, Any],
    *,
    cutting: tuple[str | None, str | None, str | None],
    output: Output,
) -> int:
    """Cut a source into parts, tell what was made, and return the exit code."""
    from asyncsink.engine.recording.events import Progress
    from asyncsink.splitting.split import Cutting, SplitReport, split_settings, split_source

    progress = Progress()
    known = {"source": source, "directory": directory, "ok": False}
    try:
        settings = split_settings(destination, options_of(given))
        how = Cutting.of(*cutting)
        if source == "-":
            raise ConfigError("SOURCE is -, which can be read only once, by one machine; give a file of its lines.")

        async def main() -> SplitReport:
            with progress_display(f"looking at {source}…", progress, quiet=output.quiet):
                return await split_source(settings, source, directory, how, progress)

        report = run_until_signalled(main)
    except Interrupted as stop:
        output.note("interrupted: nothing was split")
        output.json_object({**known, "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, known)
        return 2
    except Exception as error:  # noqa: BLE001 - a bug, told as one
        output.error(error, known)
        return 1
    for notice in report.notices:
        output.notice(notice)
    output.say(report.summary())
    output.json_object({**report.as_dict(), "interrupted": False})
    output.failures(report.failures, report.objects_failed, more="--json lists the first 1,000")
    return 0 if report.ok else 1
