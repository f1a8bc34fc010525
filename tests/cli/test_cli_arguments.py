"""The words of a command line: pairs, customer keys, and a standard input that can be given up."""

from __future__ import annotations

import base64
import io
import os
import threading
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.cli.arguments import options_of, read_customer_key, split_pair
from asyncsink.cli.commands.export import export
from asyncsink.cli.commands.grab import grab
from asyncsink.cli.commands.receipts import verify
from asyncsink.cli.commands.run import run
from asyncsink.cli.commands.split import split
from asyncsink.cli.commands.trying.bench import bench
from asyncsink.cli.configured import parameter_of
from asyncsink.cli.flags import Argument, Flag
from asyncsink.cli.output import FLAGS, in_flags
from asyncsink.cli.tally import Tally
from asyncsink.cli.words.sources import InterruptibleStdin
from asyncsink.engine.recording.events import Progress
from asyncsink.errors import ConfigError
from asyncsink.model import Failure, Finished, Notice, Outcome, Planned, Receipt, Skip, Started
from asyncsink.options.schema import GRAB_OPTIONS, OPTIONS
from asyncsink.report.outcomes import OutcomeLog
from asyncsink.report.report import Report, RunEnd

NAMES = st.text(min_size=1).filter(lambda text: not text.endswith("\\") and r"\=" not in text)
VALUES = st.text().filter(lambda text: r"\=" not in text)


@given(NAMES, VALUES)
def test_every_pair_can_be_written(old: str, new: str) -> None:
    written = old.replace("=", r"\=")
    assert split_pair(f"{written}={new}", "--x", "A=B") == (old, new)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("a=b", ("a", "b")),
        ("a=b=c", ("a", "b=c")),
        (r"a\=b=c", ("a=b", "c")),
        (r"a=b\=c", ("a", "b=c")),
        (r"\===", ("=", "=")),
        ("a=", ("a", "")),
        (r"\.nii\.gz$=.nii", (r"\.nii\.gz$", ".nii")),
    ],
)
def test_the_first_bare_equals_sign_splits(text: str, pair: tuple[str, str]) -> None:
    assert split_pair(text, "--substitute", "OLD=NEW") == pair


@pytest.mark.parametrize("text", ["", "a", "=", "=b", r"a\=b"])
def test_a_pair_without_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--substitute .* expected OLD=NEW"):
        split_pair(text, "--substitute", "OLD=NEW")


def test_what_was_not_given_is_left_to_the_library() -> None:
    nothing = {
        "container": None,
        "tag": None,
        "anonymous": False,
        "parameterization": False,
        "json": True,
        "quiet": False,
    }
    assert options_of(nothing) == {}
    assert options_of({"no_parameterization": True, "memory": "1GiB"}) == {
        "parameterization": False,
        "memory_bytes": "1GiB",
    }


@pytest.mark.parametrize("form", ["raw", "base64", "base64 line"])
def test_a_customer_key_is_read(tmp_path: Path, form: str) -> None:
    key = os.urandom(32)
    text = base64.b64encode(key)
    content = {"raw": key, "base64": text, "base64 line": text + b"\n"}[form]
    (tmp_path / "key").write_bytes(content)
    assert read_customer_key(str(tmp_path / "key")) == key


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33, b"x" * 5000, base64.b64encode(b"short"), b"\xff" * 44])
def test_anything_else_is_no_key_and_is_not_shown(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError, match="holds no key; expected 32 bytes") as refusal:
        read_customer_key(str(tmp_path / "key"))
    assert "xxx" not in str(refusal.value)


def test_a_reader_of_stdin_gets_its_lines_and_is_sent_home() -> None:
    ours, theirs = os.pipe()
    stdin = InterruptibleStdin(ours)
    reader = io.BufferedReader(stdin)
    os.write(theirs, b"one\ntw")
    assert reader.readline() == b"one\n"
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(reader.readline()))
    thread.start()
    stdin.give_up()
    thread.join(60)
    assert found == [b"tw"]
    assert reader.readline() == b""
    os.close(theirs)
    os.close(ours)


def test_a_file_as_stdin_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"1\n" * 100_000)
    with (tmp_path / "lines").open("rb", buffering=0) as file:
        assert len(io.BufferedReader(InterruptibleStdin(file.fileno())).readlines()) == 100_000


# -- What the command line says in its own words: options as flags, and the tally of a run that ended early ------------


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
        ("regexp_substitutions[0]=('(', 'x'): bad", "--regexp-substitute '(=x': bad"),
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


def parameters_of(command: click.Command) -> set[str]:
    own = (Flag, Argument)
    return {each.name or "" for each in command.get_params(click.Context(command)) if isinstance(each, own)}


def test_every_flag_that_is_named_exists() -> None:
    named = set().union(*map(parameters_of, (export, grab, verify, bench, split, run)))
    assert {parameter_of(flag) for flag in FLAGS.values()} <= named
    # One that only verify_manifest has is no option of an export.
    rows = {**OPTIONS, **GRAB_OPTIONS}
    without_flag = {name for name, option in rows.items() if option.no_flag and not option.off}
    measuring = {"mix", "sizes", "ramp", "seconds", "rate", "seed"}
    cutting = {"part", "parts", "part_bytes", "part_objects"}
    assert {*rows, "manifest_endpoint", *measuring, *cutting} == FLAGS.keys() | without_flag
    assert without_flag == {"remove_dest_dir", "parameterization_root", "retry", "observe", "progress", "limits"} | {
        "outfields",
        "sort_filelist",
    }


def test_a_grab_shows_no_flag_that_it_does_not_take() -> None:
    flags = {flag for option in GRAB_OPTIONS.values() for flag in (option.switch, option.off) if flag}
    own = {"source", "directory", "json", "quiet", "verbose", "log_file", "events"}
    assert parameters_of(grab) - own == {parameter_of(flag) for flag in flags}


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
