"""`--delete-extraneous` on a command line: nothing is deleted that nobody was asked about."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import COMMAND

Cli = Any
Keys = Callable[[], list[str]]
KEPT = ["study/a.txt", "study/sub/b=1.nii", "study/sub/deep/c.json", "study/é.par"]


@pytest.fixture
def extraneous(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="study/gone.txt", Body=b"12345")
    s3.put_object(Bucket=bucket, Key="study2/stays.txt", Body=b"1")


def ask(cli: Cli, answer: str, *arguments: object) -> tuple[int, str]:
    """Run a command at a terminal, and answer its question; its exit code, and what the terminal showed."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=cli.environment | {"TERM": "dumb"},
            cwd=cli.directory,
            check=False,
        )
        os.set_blocking(ours, False)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 65536)
            except (BlockingIOError, OSError):
                break
    finally:
        os.close(ours)
        os.close(theirs)
    return done.returncode, shown.decode() + done.stdout.decode()


@pytest.mark.usefixtures("extraneous")
def test_without_a_terminal_it_is_refused_and_a_plan_shows_it(
    inside: Cli, results: Path, bucket: str, keys: Keys
) -> None:
    target = f"s3://{bucket}/study"
    for more in ([], ["--json"]):
        refused = inside("export", results, target, "--delete-extraneous", *more)
        assert refused.code == 2
        assert "there is no terminal to ask at" in refused.stderr + refused.stdout
    assert keys() == ["study/gone.txt", "study2/stays.txt"]
    plan = inside("plan", results, target, "--delete-extraneous")
    assert plan.code == 0
    assert "Would be deleted: 1 object (5 bytes) that no source has:\n    study/gone.txt" in plan.stdout
    assert keys() == ["study/gone.txt", "study2/stays.txt"]
    done = inside("export", results, target, "--delete-extraneous", "--yes", "--json")
    assert (done.code, done.json["extraneous"]["deleted"]) == (0, 1)
    assert keys() == [*KEPT, "study2/stays.txt"]


@pytest.mark.usefixtures("extraneous")
def test_at_a_terminal_it_asks(cli: Cli, results: Path, bucket: str, keys: Keys) -> None:
    words = ("export", results, f"s3://{bucket}/study", "--delete-extraneous")
    code, shown = ask(cli, "n", *words)
    assert code == 2
    assert "study/gone.txt" in shown
    assert "Nothing was sent, and nothing deleted." in shown
    assert keys() == ["study/gone.txt", "study2/stays.txt"]
    code, shown = ask(cli, "y", *words)
    assert code == 0
    assert "Delete them when everything is published? [y/N]" in shown
    assert "Deleted: 1 of 1 object (5 bytes) that no source has." in shown
    assert keys() == [*KEPT, "study2/stays.txt"]
