"""What the command writes for people: wrapped at words on a terminal, coloured there, and as it is everywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.printer import CYAN, RED, YELLOW, laid_out
from tests.cli.conftest import COMMAND

END = "\x1b[0m"
LONG = (
    "asyncsink: error: The source '/data/sub 01/a file.nii' is a link that leads to /lab/data/elsewhere/long/path; "
    "use --symlinks follow to publish what it points to."
)


@pytest.mark.parametrize("columns", [20, 50, 80, 120])
def test_lines_are_broken_at_blanks_only(columns: int) -> None:
    lines = laid_out(LONG, columns, colours=False).split("\n")
    assert " ".join(line.strip() for line in lines) == LONG
    assert all(len(line) <= columns or " " not in line.strip() or "'" in line for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    if columns > 30:
        assert any("'/data/sub 01/a file.nii'" in line for line in lines)
    assert any("/lab/data/elsewhere/long/path;" in line for line in lines)


def test_errors_are_red_and_cures_cyan() -> None:
    assert laid_out("asyncsink: error: It is wrong; correct it.", 80, colours=True) == (
        f"{RED}asyncsink: error:{END} It is wrong; {CYAN}correct it.{END}"
    )
    assert laid_out("asyncsink: note: So it is; and so.", 80, colours=True).startswith(
        f"{YELLOW}asyncsink: note:{END} So"
    )
    assert laid_out("  try: asyncsink export", 80, colours=True) == f"{CYAN}  try: asyncsink export{END}"
    assert laid_out("asyncsink: error: It is.", 80, colours=True) == f"{RED}asyncsink: error:{END} It is."


def on_a_terminal(cli: Any, *words: str, **variables: str) -> str:
    """What a terminal of 50 columns gets on stderr."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in cli.environment.items() if name not in ("NO_COLOR", "COLUMNS")}
    done = subprocess.run(
        [*COMMAND, *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment | {"COLUMNS": "50"} | variables,
        cwd=cli.directory,
        check=False,
    )
    os.close(theirs)
    assert done.returncode == 2
    with open(ours, "rb", closefd=True) as terminal:
        try:
            return terminal.read1().decode().replace("\r\n", "\n")
        except OSError:
            return ""


def test_a_terminal_gets_colours_unless_it_wants_none(cli: Any, results: Path) -> None:
    line = ["export", "results", "s3://bucket", "--overwrite", "chekcsum"]
    coloured = on_a_terminal(cli, *line)
    assert coloured.startswith(f"{RED}asyncsink: error:{END}")
    for variables in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        plain = on_a_terminal(cli, *line, **variables)
        assert "\x1b" not in plain
        assert max(map(len, plain.splitlines())) <= 50
        assert plain.count("\n") > 1
    piped = subprocess.run(
        [*COMMAND, *line], env=cli.environment, cwd=cli.directory, capture_output=True, text=True, check=False
    )
    assert piped.stderr.count("\n") == 1
