"""`asyncsink help TOPIC`: the guide, in the terminal."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from typing import Any

from asyncsink.cli.commands.help import topics_of_the_guide
from tests.cli.conftest import COMMAND
from tests.support.guide import GUIDE

Cli = Any


def test_the_list_of_topics_names_each_page(inside: Callable[..., Any]) -> None:
    ended = inside("help")
    assert (ended.code, ended.stderr) == (0, "")
    listed = [line.split()[0] for line in ended.stdout.splitlines() if line.startswith("  ") and line[2] != " "]
    assert listed == [topic.name for topic in topics_of_the_guide()]
    assert max(map(len, ended.stdout.splitlines())) <= 100


def test_a_page_is_its_markdown_where_no_terminal_is(inside: Callable[..., Any]) -> None:
    ended = inside("help", "names")
    assert (ended.code, ended.stdout) == (0, (GUIDE / "names.md").read_text(encoding="utf-8"))


def test_a_command_has_its_own_page(inside: Callable[..., Any]) -> None:
    assert inside("help", "merge").stdout == inside("merge", "--help").stdout


def test_an_unknown_topic_gets_near_names(inside: Callable[..., Any]) -> None:
    ended = inside("help", "nippype")
    assert (ended.code, ended.stdout) == (2, "")
    assert "The guide has no page 'nippype'. Did you mean 'nipype'?" in ended.stderr
    assert "asyncsink help" in ended.stderr.splitlines()[-1]
    assert "Did you mean" not in inside("help", "zzz").stderr


def test_a_page_on_a_terminal_is_laid_out_in_the_pager(cli: Cli) -> None:
    master, terminal = pty.openpty()
    environment = cli.environment | {"COLUMNS": "60", "LINES": "20", "PAGER": "cat", "TERM": "xterm"}
    process = subprocess.Popen(
        [*COMMAND, "help", "names"], stdin=terminal, stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    shown = b""
    try:
        while data := os.read(master, 4096):
            shown += data
    except OSError:
        pass  # the other side is closed
    assert process.wait(60) == 0
    os.close(master)
    lines = shown.decode().splitlines()
    assert any("How names are made" in line and "#" not in line for line in lines)
    assert "asyncsink help nipype" in shown.decode()
    assert all(len(line) <= 60 for line in lines if "\x1b" not in line)


def test_the_shell_completes_topics(inside: Callable[..., Any]) -> None:
    asked = {"_ASYNCSINK_COMPLETE": "bash_complete", "COMP_WORDS": "asyncsink help tro", "COMP_CWORD": "2"}
    assert inside(**asked).stdout == "plain,troubleshooting\n"
