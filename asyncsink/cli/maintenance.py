"""`asyncsink verify`, `merge`, `abort-uploads` and `devserver`."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

from asyncsink.cli.arguments import options_of
from asyncsink.cli.output import Interrupted, Output, progress_display, run_until_signalled
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.options.values import parse_duration
from asyncsink.report.report import BaseReport
from asyncsink.report.sentences import are, count, duration, inert


def verify_command(
    manifests: Sequence[str], given: Mapping[str, Any], *, read_back: bool, manifest_endpoint: bool, output: Output
) -> int:
    """Verify every object of the manifests, print the result, and return the exit code."""
    from asyncsink.engine.recording.events import Progress
    from asyncsink.maintenance.verify import verify_manifest
    from asyncsink.maintenance.verify_report import VerifyReport

    progress = Progress()
    manifest = manifests[0] if len(manifests) == 1 else f"{len(manifests):,} manifests"
    says = "says" if len(manifests) == 1 else "say"

    def checked() -> int:
        return progress.counts.objects_total

    try:
        options = options_of(given)

        async def main() -> VerifyReport:
            with progress_display(f"reading {manifest}…", progress, noun="object", quiet=output.quiet):
                return await verify_manifest(
                    manifests,
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
        found = f"{wrong:,} of them {are(wrong)} not as {manifest} {says}" if wrong else "nothing wrong so far"
        output.note(inert(f"Interrupted: looked at {of_all}, {found}."))
        output.json_object({"manifest": manifest, "ok": False, "objects_total": checked(), "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, {"manifest": manifest, "ok": False, "objects_total": checked()})
        return 1 if checked() else 2
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, {"manifest": manifest, "ok": False, "objects_total": checked()})
        return 1
    return _tell(report, output)


def _tell(report: BaseReport, output: Output, noun: str = "object") -> int:
    for notice in report.notices:
        output.notice(notice)
    output.say(report.summary())
    output.json_object({**report.as_dict(), "interrupted": False})
    output.causes(report.causes(), noun=noun, more="--json lists the first 1,000")
    return 0 if report.ok else 1


# -- Merging manifests: `asyncsink merge` ------------------------------------------------------------------------------


def merge_command(manifests: Sequence[str], out_file: str, *, output: Output) -> int:
    """Merge manifests into one, print what is wrong with them, and return the exit code."""
    from asyncsink.maintenance.merge import MergeReport, merge_manifests

    known = {"manifest": out_file, "ok": False}
    try:

        async def main() -> MergeReport:
            return await merge_manifests(manifests, out_file)

        report = run_until_signalled(main)
    except Interrupted as stop:
        output.note("Interrupted: nothing was merged.")
        output.json_object({**known, "interrupted": True})
        return stop.exit_code
    except AsyncSinkError as error:
        output.error(error, known)
        return 2 if isinstance(error, ConfigError) else 1
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, known)
        return 1
    return _tell(report, output, "problem")


# -- Aborting uploads: `asyncsink abort-uploads` -----------------------------------------------------------------------


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
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, known)
        return 1
    return _tell(report, output)


# -- The local server: `asyncsink devserver` ---------------------------------------------------------------------------

DEFAULT_BUCKET = "results"


class _End(Exception):
    """A signal ended the server."""


def devserver_command(port: int, directory: str | None, buckets: list[str]) -> int:
    """Run a server until Ctrl-C, SIGTERM or SIGHUP, each of which is its normal end.

    Returns:
        0, or 1 where the server ends by itself, 2 where it cannot start.
    """
    from asyncsink.devserver.seaweedfs import DevServer

    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(_number: int, _frame: FrameType | None) -> None:
        for number in signals:
            signal.signal(number, signal.SIG_IGN)  # stopping is bounded in time, and must not be interrupted
        raise _End

    output = Output()
    for number in signals:
        signal.signal(number, end)
    try:
        with DevServer(directory=directory, port=port, buckets=buckets) as server:
            output.say(_welcome(server, directory, buckets[0]))
            server.wait()
    except _End:
        output.note("stopped")
        return 0
    except AsyncSinkError as error:
        output.error(error)
        return 2
    output.note("asyncsink: error: The server ended by itself; start it again.")
    return 1


def _welcome(server: object, directory: str | None, bucket: str) -> str:
    """The greeting, which can be pasted into a shell as a whole."""
    from asyncsink.devserver.seaweedfs import DevServer

    assert isinstance(server, DevServer)
    kept = f"kept in {directory}" if directory is not None else "gone when the server stops"
    variables = [f"export {name}={shlex.quote(value)}" for name, value in server.environment.items()]
    return "\n".join(
        [
            f"# S3 server for development at {server.endpoint_url} (SeaweedFS), this machine only, plain HTTP.",
            f"# Its objects are {kept}. Ctrl-C stops it.",
            "# In another shell:",
            *variables,
            "# Then, for example:",
            f"# asyncsink export DIRECTORY s3://{bucket}/first-try",
        ]
    )
