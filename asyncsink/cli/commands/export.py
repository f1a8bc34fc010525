"""`asyncsink export` and `asyncsink plan`."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from asyncsink.cli.flags import Flag, command
from asyncsink.cli.output import Output, output_of
from asyncsink.cli.screen.display import progress_display, tells_trouble
from asyncsink.cli.signals import Interrupted, run_until_signalled
from asyncsink.cli.tally import Tally
from asyncsink.cli.words.sources import DESTINATION, SOURCE, SourceWords, list_flags, open_words, unwanted, words_of
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.report.report import Report
from asyncsink.report.sentences import inert
from asyncsink.value import dataclass


def export_command(
    source: SourceWords,
    destination: str,
    given: Mapping[str, Any],
    *,
    dry_run: bool = False,
    output: Output,
    tell: Callable[[Report, Output], int] | None = None,
) -> int:
    """Publish (or only look), print the result, and return the exit code. Ctrl-C and SIGTERM end it in order.

    Args:
        tell: prints the report and returns the exit code; None prints that of an export.
    """
    from asyncsink.engine.export import run_source

    def prepare() -> Prepared:
        if dry_run and given.get("manifest"):
            raise ConfigError("plan writes no manifest: nothing is published; leave --manifest out, or use export.")
        settings, found, give_up = open_words(source, destination, given, output, "plan" if dry_run else "export")
        output.check_outside(found)
        return Prepared(settings.target.url, partial(run_source, settings, found, dry_run=dry_run), give_up)

    if tell is None:
        tell = partial(tell_export, files={"Receipt": given.get("manifest"), "page": given.get("report")})
    title, opening = f"{source} → {destination}", f"looking at {source}…"
    return publish(prepare, title, opening, dry_run=dry_run, output=output, tell=tell)


def export_on_cluster(
    source: SourceWords, destination: str, given: Mapping[str, Any], *, cluster: str, dry_run: bool, output: Output
) -> int:
    """As `export_command`, with the workers of a Dask cluster sending the files."""

    def prepare() -> Prepared:
        if dry_run:
            raise ConfigError("--dry-run sends nothing, so that it needs no cluster; leave --dask out.")
        try:
            from asyncsink.adapters.dask_export import run_on_cluster
        except ModuleNotFoundError as missing:
            raise ConfigError(
                f"--dask needs Dask ({missing.name} is not installed); pip install 'asyncsink[dask]'."
            ) from missing
        if not output.verbose:
            # A worker that is lost is no error here: its parts go to the others.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
        settings, found, give_up = open_words(source, destination, given, output)
        output.check_outside(found)
        return Prepared(settings.target.url, partial(run_on_cluster, cluster, settings, found), give_up)

    return publish(prepare, f"{source} → {destination}", f"looking at {source}…", output=output)


@dataclass(frozen=True, slots=True)
class Prepared:
    """An export that can begin.

    Attributes:
        destination: where to.
        run: `run_source` with its first arguments.
        give_up: ends a wait for the source's next line.
    """

    destination: str
    run: Callable[..., Awaitable[Report]]
    give_up: Callable[[], None] = lambda: None


def publish(
    prepare: Callable[[], Prepared],
    title: str,
    opening: str,
    *,
    dry_run: bool = False,
    output: Output,
    tell: Callable[[Report, Output], int] | None = None,
) -> int:
    """Publish what `prepare` has opened, print the result, and return the exit code.

    Args:
        title, opening: of its screen.
        tell: prints the report and returns the exit code; None prints that of an export.
    """
    from asyncsink.engine.recording.events import Progress

    started = time.monotonic()
    progress = Progress()
    tally = Tally(dry_run, progress, output.notice, live=tells_trouble(quiet=output.quiet))

    def so_far(*, interrupted: bool = False) -> dict[str, Any]:
        return tally.as_dict(elapsed_seconds=time.monotonic() - started, interrupted=interrupted)

    try:
        prepared = prepare()
        tally.destination = prepared.destination

        async def main() -> Report:
            with progress_display(title, opening, progress, output=output):
                return await prepared.run(
                    observe=output.watch(tally.observe),
                    failures_only=tally.failures_only,
                    recorded=output.recorded,
                    progress=progress,
                )

        def on_signal() -> None:
            prepared.give_up()
            tally.held = []
            output.note("interrupted: ending what is under way…" if progress.started and not dry_run else "interrupted")

        report = run_until_signalled(main, on_signal)
    except (Interrupted, KeyboardInterrupt) as stop:
        if stop.__cause__ is not None and output.verbose:
            output.note(f"while cleaning up: {inert(str(stop.__cause__))}")
        output.note(tally.sentence(interrupted=True))
        for notice in tally.held or ():
            output.notice(notice)
        output.json_object(so_far(interrupted=True))
        return getattr(stop, "exit_code", 130)
    except AsyncSinkError as error:
        output.error(error, so_far())
        if dry_run or not _was_sent(error, progress.started, progress.counts.objects_total + progress.bytes_moved):
            return 2
        output.note(tally.sentence(interrupted=False))
        return 1
    except Exception as error:  # noqa: BLE001 - a bug, reported as one
        output.error(error, so_far())
        return 1
    return (tell or tell_export)(report, output)


_IN_VAIN = {"PermanentError", "EntityTooLarge", "ConfigError", "RoutingError", "InvalidKey", "KeyCollision"}
"""Failures that the same command meets again: something in it, or in a file's name, has to be changed."""
FAILURES_LOOKED_AT = 1000


def _was_sent(error: AsyncSinkError, started: bool, done: int) -> bool:
    """Whether an object may have been sent before `error` ended the run."""
    return done > 0 or (started and not isinstance(error, ConfigError))


def tell_export(report: Report, output: Output, files: Mapping[str, str | None] = MappingProxyType({})) -> int:
    """Print the report of an export and the files that it has written, by what they are; returns the exit code."""
    # Notices were printed when they came; failures go to stderr.
    written = [f"{what}: {file}" for what, file in files.items() if file]
    output.result("\n".join([report.brief(), *([inert(f"{' · '.join(written)}.")] if written else [])]), ok=report.ok)
    output.json_object(report.as_dict())
    output.causes(report.causes())
    if report.objects_failed and not all(each.error in _IN_VAIN for each in report.failures[:FAILURES_LOOKED_AT]):
        output.note("Run the same command again to publish what is missing.")
    if not output.quiet:
        first, total = unwanted(report.counts)
        left_out = (f"{source}: not sent: {reason}" for source, reason in first)
        output.failures(left_out, total, more="--json lists the first 1,000")
    return 0 if report.ok else 1


# -- The command line ------------------------------------------------------------------------------------------------


@command(
    SOURCE,
    DESTINATION,
    *list_flags(),
    Flag("--dry-run", "Look and compare, but send nothing (as asyncsink plan)."),
    Flag(
        "--dask",
        "Have the workers of a Dask cluster send the files: its address, its scheduler file, or local:N for N "
        "processes of this machine.",
        metavar="CLUSTER",
    ),
    Flag("--yes", "Delete extraneous objects without asking (with --delete-extraneous)."),
    rows="export",
    examples=(
        "export derivatives s3://my-bucket/study --manifest study.jsonl",
        "export derivatives s3://my-bucket/study --dry-run --exclude .git",
        "export derivatives /mnt/backup/study    # a local directory",
    ),
)
def export(
    source: Sequence[str],
    destination: str,
    *,
    outputs: str | None,
    source_manifest: str | None,
    dry_run: bool,
    dask: str | None,
    yes: bool,
    **given: Any,
) -> int:
    """Publish SOURCE below DESTINATION. What is there already with the same checksum is not sent again."""
    words = words_of(source, outputs, source_manifest)
    if dask is not None:
        return export_on_cluster(words, destination, given, cluster=dask, dry_run=dry_run, output=output_of(given))
    if dry_run:
        from asyncsink.cli.commands.plan import plan_command

        return plan_command(words, destination, given, output=output_of(given))
    if given.get("delete_extraneous") and not yes:
        from asyncsink.cli.commands.plan import confirmed

        asked = confirmed(words, destination, given, output=output_of(given))
        if isinstance(asked, int):
            return asked
        given = dict(asked)
    return export_command(words, destination, given, output=output_of(given))
