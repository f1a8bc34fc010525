"""What the command line says in its own words: options as flags, and the tally of a run that ended early."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from asyncsink.cli.app import export, grab, verify
from asyncsink.cli.flags import parameter_of
from asyncsink.cli.output import FLAGS, in_flags
from asyncsink.cli.progress import Tally
from asyncsink.engine.recording.events import Progress
from asyncsink.model import Failure, Finished, Notice, Outcome, Planned, Receipt, Skip, Started
from asyncsink.options.schema import GRAB_OPTIONS, OPTIONS
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.report import Report, RunEnd

SENT = Receipt("/d/a", "p/a", "s3://b/p/a", 2048, None, "e", "", 1, 0.1, "", "server-checksum")
SAME = Skip("/d/b", "p/b", "s3://b/p/b", 10, "same checksum")
GONE = Skip("/d/c", "", "", 0, "source is missing", already_there=False)
DENIED = Failure("/d/d", "p/d", "s3://b/p/d", "AccessDenied", "no permission", "upload", 1)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("check the path, or use on_missing='skip'.", "check the path, or use --on-missing skip."),
        ("use symlinks='follow' to", "use --symlinks follow to"),
        ("needs parameterization=True.", "needs --parameterization."),
        ("with parameterization=False", "with --no-parameterization"),
        ("anonymous=True sends", "--anonymous sends"),
        ("fit into memory_bytes=268,435,456. Give", "fit into --memory 268,435,456. Give"),
        ("(why); give ca_bundle=.", "(why); give --ca-bundle."),
        ("Give creds_path= or profile=, set", "Give --creds-path or --profile, set"),
        ("part_size_bytes='8 apples' is no size", "--part-size '8 apples' is no size"),
        ("leave creds_path and profile out", "leave --creds-path and profile out"),
        ("only with that key (sse=…).", "only with that key (--sse file:KEY)."),
        ("regexp_substitutions[0]=('(', 'x'): bad", "--regexp-substitute '('='x': bad"),
        ("substitutions[12] changes", "--substitute changes"),
        ("Source '/d/my region=eu/x' is", "Source '/d/my region=eu/x' is"),
        ("s3://b/region=eu/x and /d/local_copy/x", "s3://b/region=eu/x and /d/local_copy/x"),
        ("'creds_path' is S3's and the user's", "'creds_path' is S3's and the user's"),
        ("leave journal=False out", "leave --no-journal out"),
        ("use overwrite='journal' with", "use --overwrite journal with"),
        ("--overwrite='x' is not known", "--overwrite='x' is not known"),
    ],
)
def test_options_are_named_as_a_command_line_writes_them(said: str, told: str) -> None:
    assert in_flags(said) == told


def test_every_flag_that_is_named_exists() -> None:
    named = inspect.signature(export).parameters.keys() | inspect.signature(verify).parameters.keys()
    assert {parameter_of(flag) for flag in FLAGS.values()} <= named
    # One that only verify_manifest has is no option of an export.
    without_flag = {name for name, option in OPTIONS.items() if option.no_flag}
    assert {*OPTIONS, "manifest_endpoint"} == FLAGS.keys() | without_flag
    assert without_flag == {"remove_dest_dir", "parameterization_root", "retry"}


def test_a_grab_shows_no_flag_that_it_does_not_take() -> None:
    flags = {flag for option in GRAB_OPTIONS.values() for flag in (option.switch, option.off) if flag}
    own = {"source", "directory", "json", "quiet", "verbose"}
    assert inspect.signature(grab).parameters.keys() - own == {parameter_of(flag) for flag in flags}


def tally_of(*outcomes: Outcome, total: int | None, dry_run: bool = False) -> tuple[Tally, list[str]]:
    told: list[str] = []
    tally = Tally(dry_run, Progress(objects_total=total, started=True), told.append, destination="s3://b/p")
    tally.observe(Started(total, None, "wire"))
    for outcome in outcomes:
        tally.progress.counts.add(outcome)
        tally.observe(Finished(outcome))
    return tally, told


def test_what_was_not_sent_is_counted_and_what_is_there_is_not_called_unsent() -> None:
    tally, _ = tally_of(SENT, SAME, GONE, DENIED, total=10)
    assert tally.sentence(interrupted=True) == (
        "Interrupted: 2 of 10 files (2.0 KiB) are in s3://b/p, 1 failed, 1 left out, 6 not tried. Run the same command "
        "again to publish the rest."
    )
    stream, _ = tally_of(SENT, total=None)
    assert stream.sentence(interrupted=False).startswith(
        "Stopped: 1 file (2.0 KiB) is in s3://b/p, not everything was tried. "
    )
    tally.progress.started = False
    assert tally.sentence(interrupted=True) == "Interrupted: nothing was sent. Run the same command again."


def test_an_early_end_has_the_names_of_a_report() -> None:
    log = OutcomeLog()
    log.extend([SENT, SAME, GONE, DENIED])
    report: dict[str, Any] = Report(log, "s3://b/p", RunEnd(elapsed_seconds=1.0, transport="wire")).as_dict()
    tally, _ = tally_of(SENT, SAME, GONE, DENIED, total=10)
    early = tally.as_dict(elapsed_seconds=1.0, interrupted=True)
    different = {name for name in report.keys() | early.keys() if report.get(name) != early.get(name)}
    assert report.keys() == early.keys()
    assert different == {"interrupted", "objects_total", "objects_unfinished", "requests", "retries"}
    assert (early["objects_total"], early["bytes_skipped"]) == (10, 10)


def test_notices_are_passed_on_once() -> None:
    tally, told = tally_of(Planned("/d/e", "p/e", "s3://b/p/e", 1, "not there"), total=1, dry_run=True)
    tally.observe(Notice("the server ignores checksums"))
    assert told == tally.notices == ["the server ignores checksums"]
    assert tally.sentence(interrupted=True) == "Interrupted: looked at 1 file; nothing was sent."
