"""`asyncsink runs`: the journals and receipts of earlier runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from asyncsink.cli.flags import Argument, Flag, HelpPages, command
from asyncsink.cli.output import Output, output_of
from asyncsink.errors import AsyncSinkError, ConfigError
from asyncsink.options.values import parse_duration
from asyncsink.report.sentences import count, goes_on, inert, size

if TYPE_CHECKING:
    from asyncsink.journal.at_rest import JournalAtRest, Removal
    from asyncsink.maintenance.runs import ReceiptAtRest, Runs

UPLOADS_SHOWN = 10
_STATES = {
    "complete": "complete",
    "failed": "not everything was published",
    "interrupted": "interrupted",
    "killed": "killed before its end",
    "running": "a run is writing it",
}


def runs_command(folder: str, *, output: Output) -> int:
    """List journals and receipts; returns the exit code."""
    from asyncsink.maintenance.runs import list_runs

    try:
        found = list_runs(folder)
    except AsyncSinkError as error:
        output.error(error)
        return 2
    lines = ["Journals: with one, the next run to its destination sends what is missing, and nothing else."]
    lines += [_journal_line(each) for each in found.journals] or ["  none"]
    lines += ["", f"Receipts in {folder}: asyncsink verify proves that their objects are still there."]
    lines += [_receipt_line(each) for each in found.receipts] or ["  none"]
    output.say("\n".join(map(inert, lines)))
    output.json_object(_as_dict(found))
    return 0


def show_command(name: str, folder: str, *, output: Output) -> int:
    """Show what a destination, a journal or a receipt has; returns the exit code."""
    from asyncsink.maintenance.runs import runs_of
    from asyncsink.report.manifest import read_manifest

    try:
        found = runs_of(name, folder)
        details = [*map(_journal_details, found.journals), *map(_receipt_details, found.receipts)]
        output.say("\n\n".join("\n".join(map(inert, lines)) for lines in details))
        failures = (f for receipt in found.receipts for f in read_manifest(receipt.path).failures)
        if output.json:
            output.json_object(_as_dict(found), long="failures", items=(asdict(each) for each in failures))
        else:
            from asyncsink.report.sentences import causes_of

            output.causes(causes_of(failures), more="--json lists all of them")
    except AsyncSinkError as error:
        output.error(error)
        return 2
    return 0


def rm_command(
    names: Sequence[str], *, older_than: str | None, with_uploads: bool, dry_run: bool, output: Output
) -> int:
    """Remove journals, print what became of each, and return the exit code: 1 where one is left."""
    from asyncsink.maintenance.runs import remove_runs

    told: list[dict[str, str]] = []
    left = 0

    def observe(journal: JournalAtRest, what: Removal) -> None:
        nonlocal left
        told.append({"path": journal.path, "destination": _destination(journal), "outcome": what})
        where = f"{_destination(journal)} ({journal.path})"
        if what == "removed":
            output.say(inert(f"{'would remove' if dry_run else 'removed'}  {where}"))
            return
        left += 1
        why = {
            "in use": "a run has it now; wait for its end",
            "no journal": "the file is damaged, or no journal of this version; remove it by its name",
            "open uploads": (
                f"{count(journal.uploads_total, 'open upload')} would stay at the server. Run the export again, which "
                "goes on with them; or asyncsink abort-uploads, then --with-uploads"
            ),
        }
        output.notice(f"left  {where}: {why[what]}.")

    try:
        if not names and older_than is None:
            raise ConfigError("Nothing is named; give destinations, or --older-than such as 30d.")
        seconds = None if older_than is None else parse_duration(older_than, "--older-than")
        remove_runs(
            list(names), older_than_seconds=seconds, with_uploads=with_uploads, dry_run=dry_run, observe=observe
        )
    except AsyncSinkError as error:
        output.error(error)
        return 2
    removed = len(told) - left
    number = count(removed, "journal") if removed else "No journal"
    output.say(f"{number} would be removed." if dry_run else f"{number} removed.")
    output.json_object({"dry_run": dry_run, "ok": not left, "journals": told})
    return 1 if left else 0


# -- Lines -------------------------------------------------------------------------------------------------------------


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _destination(journal: JournalAtRest) -> str:
    return "destination not known" if journal.identity is None else str(journal.identity)


def _journal_line(journal: JournalAtRest) -> str:
    if journal.in_use:
        has = "in use by a run"
    elif journal.problem:
        has = journal.problem
    else:
        has = count(journal.objects_total, "object")
        if journal.uploads_total:
            has += f"; {goes_on(journal.uploads).rstrip('.')}"
    return f"  {_date(journal.used_seconds)}  {_destination(journal)}  {has}"


def _receipt_line(receipt: ReceiptAtRest) -> str:
    parts = [_date(receipt.used_seconds), receipt.path, receipt.header.destination, _ended(receipt)]
    return "  " + "  ".join(parts)


def _ended(receipt: ReceiptAtRest) -> str:
    state, end = _STATES[receipt.state], receipt.end
    if end is None:
        return state
    said = [f"{count(end.receipts, 'object')} sent"]
    said += [f"{end.skips:,} already there or left out"] if end.skips else []
    said += [f"{end.failures:,} failed"] if end.failures else []
    return f"{', '.join(said)}: {state}"


def _journal_details(journal: JournalAtRest) -> Iterator[str]:
    yield f"journal      {journal.path}"
    yield f"destination  {_destination(journal)}"
    yield f"last used    {_date(journal.used_seconds)}{', in use by a run now' if journal.in_use else ''}"
    if journal.problem or journal.in_use:
        yield from [f"problem      {journal.problem}"] if journal.problem else []
        return
    yield f"made by      asyncsink {journal.asyncsink}"
    yield f"remembers    {count(journal.objects_total, 'object')}"
    yield f"to resume    {count(journal.uploads_total, 'large file')}"
    for each in journal.uploads[:UPLOADS_SHOWN]:
        share = 100 * each.bytes_stored // (each.size_bytes or 1)
        yield f"  {share:>3} %  of {size(each.size_bytes)}  {each.source} -> {each.key}"
    if journal.uploads_total > UPLOADS_SHOWN:
        yield f"  … and {journal.uploads_total - UPLOADS_SHOWN:,} more."


def _receipt_details(receipt: ReceiptAtRest) -> Iterator[str]:
    header, end = receipt.header, receipt.end
    at = f" at {header.endpoint_url}" if header.endpoint_url else ""
    yield f"receipt      {receipt.path}"
    yield f"destination  {header.destination}{at}"
    yield f"run          began {header.started}{f', ended {end.ended}' if end is not None and end.ended else ''}"
    yield f"made by      asyncsink {header.asyncsink}"
    yield f"objects      {_ended(receipt)}"


def _as_dict(found: Runs) -> dict[str, Any]:
    journals = []
    for each in found.journals:
        told = asdict(each)
        if each.identity is not None:
            told["identity"] = asdict(each.identity)
        journals.append(told)
    return {"journals": journals, "receipts": [each.as_dict() for each in found.receipts]}


# -- The command line --------------------------------------------------------------------------------------------------

FOLDER = Flag(
    "--in", "Look for receipts in this folder (default: the current one).", metavar="DIR", everyday="folder of receipts"
)


def _list(ctx: click.Context, **given: Any) -> int:
    return 0 if ctx.invoked_subcommand else runs_command(given["in"] or ".", output=output_of(given))


runs = HelpPages(
    "runs",
    rows="runs",
    commands_of={
        "show": ("runs", "Show a journal or a receipt, its open uploads and failures"),
        "rm": ("runs", "Remove journals"),
    },
    callback=click.pass_context(_list),
    invoke_without_command=True,
    params=[FOLDER],
    help="List what earlier runs have left here: journals, which the next run goes on from, and receipts.",
    examples=(
        "runs",
        "runs show s3://my-bucket/study",
        "runs rm --older-than 90d",
    ),
)


@command(
    Argument("NAME", "s3://bucket/prefix, a receipt, or the file of a journal."),
    FOLDER,
    rows="runs",
    examples=(
        "runs show s3://my-bucket/study",
        "runs show study.jsonl             # with its failures, by cause",
        "runs show study.jsonl --json      # with each of them",
    ),
)
def show(name: str, **given: Any) -> int:
    """Show a journal or a receipt: its destination, its objects, what the next run resumes, and what failed."""
    return show_command(name, given["in"] or ".", output=output_of(given))


@command(
    Argument("NAME...", "s3://bucket/prefix, or the file of a journal.", required=False),
    Flag(
        "--older-than", "Those that no run has used for so long.", metavar="AGE", everyday="not used for so long: 30d"
    ),
    Flag(
        "--with-uploads",
        "Also those with open uploads, whose parts then stay at the server until asyncsink abort-uploads.",
        everyday="also those with open uploads",
    ),
    Flag("--dry-run", "Show them, and remove none.", everyday="show them, and remove none"),
    rows="runs",
    examples=(
        "runs rm s3://my-bucket/study",
        "runs rm --older-than 90d -n",
        "runs rm --older-than 90d",
    ),
)
def rm(name: Sequence[str], older_than: str | None, with_uploads: bool, dry_run: bool, **given: Any) -> int:
    """Remove journals: the next run to such a destination compares everything with the server.

    One that a run has is never removed, nor is one with open uploads unless --with-uploads says so. Exit code 1 where
    one is left.
    """
    return rm_command(name, older_than=older_than, with_uploads=with_uploads, dry_run=dry_run, output=output_of(given))
