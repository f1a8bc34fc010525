"""The help pages: `-h` is one screen of what people use every day, `--help` is everything."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from asyncsink.cli.app import COMMANDS

Cli = Any


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda words: "".join(words) or "app")
def test_h_is_one_screen_with_three_examples(inside: Cli, command: list[str]) -> None:
    ended = inside(*command, "-h", COLUMNS="80")
    assert (ended.code, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    assert len(lines) <= 32
    assert max(map(len, lines)) <= 80
    examples = lines[lines.index("Examples") + 1 :]
    assert [line.startswith("  asyncsink ") for line in examples[:4]] == [True, True, True, False]


@pytest.mark.parametrize("columns", ["80", "120"])
@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda words: "".join(words) or "app")
def test_help_pages_have_examples_and_no_cut_words(inside: Cli, columns: str, command: list[str]) -> None:
    ended = inside(*command, "--help", COLUMNS=columns)
    assert (ended.code, ended.stderr) == (0, "")
    assert "Examples\n   asyncsink " in "\n".join(map(str.rstrip, ended.stdout.splitlines()))
    assert "…" not in ended.stdout
    assert max(map(len, ended.stdout.splitlines())) <= int(columns)


def test_one_letter_stands_for_a_flag(inside: Cli, results: Any, tmp_path: Any) -> None:
    looked = inside("export", results, tmp_path / "out", "-nqj", "3", "--json")
    assert (looked.code, looked.json["dry_run"], (tmp_path / "out").exists()) == (0, True, False)
    assert inside("export", results, tmp_path / "out", "-n", "-vv").code == 0
    assert inside("-V").stdout == inside("--version").stdout


def test_no_words_at_all_show_the_short_page(inside: Cli) -> None:
    ended = inside()
    assert (ended.code, ended.stdout) == (0, inside("-h").stdout)
    assert "devserver" in ended.stdout


def test_help_and_version_import_no_s3_client(cli: Cli) -> None:
    code = (
        "import sys; from asyncsink.cli.main import main; "
        "assert main(['export', '--help']) == 0 and main(['--version']) == 0; "
        "slow = {'aioboto3', 'aiobotocore', 'botocore', 'aiohttp', 'yaml', 'nibabel', 'numpy'} & set(sys.modules); "
        "assert not slow, slow"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=cli.environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1].startswith("asyncsink ")


@pytest.mark.parametrize("words", [["help"], ["help", "tutorial"], ["export", "--help"], ["--help"], ["ls", "-h"]])
def test_a_reader_that_has_read_enough_is_no_error(cli: Any, words: list[str]) -> None:
    """As `| head` is."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        ended = subprocess.run(
            [sys.executable, "-m", "asyncsink.cli.main", *words],
            env=cli.environment, stdout=nobody, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (0, b"")
