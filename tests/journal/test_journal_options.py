"""The options `journal` and overwrite="journal", in the library and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.arguments import options_of
from asyncsink.errors import ConfigError
from asyncsink.options.parse import parse_options
from asyncsink.options.settings import JournalChoice

BUCKET = "s3://results/study"


@pytest.mark.parametrize(
    ("options", "journal", "overwrite"),
    [
        ({}, JournalChoice(), "checksum"),
        ({"journal": None}, JournalChoice(), "checksum"),
        ({"journal": False}, JournalChoice(enabled=False), "checksum"),
        ({"journal": "/j"}, JournalChoice(path="/j", required=True), "journal"),
        ({"journal": Path("/j")}, JournalChoice(path="/j", required=True), "journal"),
        ({"journal": "/j", "overwrite": "checksum"}, JournalChoice(path="/j", required=True), "checksum"),
        ({"overwrite": "journal"}, JournalChoice(required=True), "journal"),
        ({"journal": False, "overwrite": "size"}, JournalChoice(enabled=False), "size"),
    ],
)
def test_what_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], journal: JournalChoice, overwrite: str
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    settings = parse_options(BUCKET, options)
    assert (settings.journal, settings.policies.overwrite) == (journal, overwrite)


def test_a_relative_journal_is_where_the_run_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_options(BUCKET, {"journal": "j.sqlite"}).journal.path == str(tmp_path / "j.sqlite")
    assert parse_options(str(tmp_path / "out"), {}).journal == JournalChoice(enabled=False)


@pytest.mark.parametrize(
    ("destination", "options", "message"),
    [
        (BUCKET, {"journal": True}, "journal=True names no file"),
        (BUCKET, {"journal": " "}, "journal is empty"),
        (BUCKET, {"journal": "a\0b"}, "journal holds a NUL"),
        (BUCKET, {"journal": 7}, "journal is of type int; expected a path"),
        (
            BUCKET,
            {"journal": False, "overwrite": "journal"},
            "overwrite='journal' needs a journal; leave journal=False",
        ),
        ("/out", {"journal": "/j"}, "journal is given, but the destination /out is a local directory"),
        ("/out", {"overwrite": "journal"}, "overwrite='journal' is given, but the destination /out is a local"),
    ],
)
def test_what_is_refused(destination: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(destination, options)


def test_the_command_line_says_it_with_two_flags() -> None:
    assert options_of({"journal": "j", "no_journal": False}) == {"journal": "j"}
    assert options_of({"journal": None, "no_journal": True}) == {"journal": False}
    assert options_of({"journal": None, "no_journal": False}) == {}
    with pytest.raises(ConfigError, match="--journal and --no-journal contradict each other"):
        options_of({"journal": "j", "no_journal": True})


@pytest.mark.parametrize(
    ("said", "used"), [("/state", "/state"), ("relative", "~/.local/state"), ("", "~/.local/state")]
)
def test_default_journals_are_where_the_user_keeps_state(monkeypatch: pytest.MonkeyPatch, said: str, used: str) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", said)
    assert parse_options(BUCKET, {}).journal.state_directory == used
