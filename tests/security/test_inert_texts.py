"""Whatever a file is called, it is text on a terminal: in results, errors, logs and plans, and in what is written down.

asyncsink writes no spreadsheet. Its manifest and its --json are JSON in ASCII: a name that begins with =, +, - or @
stands behind a brace and a quote there, and no control character, direction mark or line break is in it as itself.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.cli.logs.levels import set_up_logging
from asyncsink.cli.main import main
from asyncsink.cli.output import Output
from asyncsink.report.sentences import inert

NAMES = [
    "=HYPERLINK(1)",
    "+1",
    "-rf",
    "@x",
    "esc\x1b[2J\x1b]0;title\x07",
    "bidi\u202egnp.exe\u2066",
    "zero\u200bwidth",
    "two\nlines",
    "cr\rover",
    "c1\x9b31m",
    "[red]markup",
]


def assert_inert(text: str) -> None:
    for line in text.split("\n"):
        assert line.isprintable(), line
    assert "\x1b" not in text


@given(st.text())
def test_inert_is_printable_and_leaves_printable_texts_alone(text: str) -> None:
    shown = inert(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text("content")
    return folder


@pytest.mark.parametrize("command", ["export", "plan"])
@pytest.mark.parametrize("verbose", [[], ["--verbose"]], ids=["plain", "verbose"])
def test_a_terminal_is_told_texts(
    command: str, verbose: list[str], odd: Path, tmp_path: Path, capfd: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Names with control characters are no keys: with them the run is refused, and names them.
    monkeypatch.setattr(logging.getLogger("asyncsink"), "handlers", [])
    for refused in (True, False):
        capfd.readouterr()
        code = main([command, str(odd), str(tmp_path / f"out-{refused}"), *verbose])
        told = capfd.readouterr()
        assert code == (2 if refused else 0)
        assert_inert(told.out)
        assert_inert(told.err)
        if refused:
            for name in NAMES:
                if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in name):
                    (odd / name).unlink()


def test_what_is_written_down_is_ascii_without_control_characters(odd: Path, tmp_path: Path, capfd: Any) -> None:
    for name in NAMES:
        if not name.isprintable() and not any(mark in name for mark in "\u202e\u200b"):
            (odd / name).unlink()
    manifest = tmp_path / "manifest"
    assert main(["export", str(odd), str(tmp_path / "out"), "--manifest", str(manifest), "--json"]) == 0
    for text in (manifest.read_text(), capfd.readouterr().out):
        assert text.isascii()
        assert_inert(text)
        for line in text.splitlines():
            assert line.startswith("{")
            assert isinstance(json.loads(line), dict)
    assert os.stat(manifest).st_mode & 0o077 == 0


def test_the_log_and_a_traceback_are_inert(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    logger = logging.getLogger("asyncsink")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logging.getLogger("asyncio"), "handlers", [])
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    set_up_logging(2, None)
    try:
        raise RuntimeError("bad\x1b[2Jname")
    except RuntimeError as error:
        logger.debug("published %s", "a\x1b]0;t\x07\nfake line")
        logger.exception("failed")
        Output(verbose=True).error(error)
    told = capfd.readouterr().err
    sys.stderr.flush()
    assert_inert(told)
    assert r"published a\x1b]0;t\x07\nfake line" in told
    assert "Traceback" in told


def test_failures_of_foreign_servers_are_inert(capfd: Any) -> None:
    output = Output()
    output.failures(["k\x1b[2J: AccessDenied: \u202eNo\x07"], 1)
    output.notice("bad\r\nnotice\x9b")
    output.error(ValueError("x"))
    assert_inert(capfd.readouterr().err)
