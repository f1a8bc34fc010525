"""Completion in the real shells; those that are not installed are skipped."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Cli = Any

_ASK = {
    "bash": """
        source ./script; COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
        _asyncsink_completion asyncsink asyncsink; printf '%s\\n' "${{COMPREPLY[@]}}"
    """,
    # Outside of an interactive zsh its own functions for proposals do not work: what they would get is printed.
    "zsh": """
        compdef() {{ : }}; compadd() {{ print -l -- $completions }}; compopt() {{ : }}
        _describe() {{ print -l -- ${{${{completions_with_descriptions//\\\\:/@}}%%:*}} }}
        _path_files() {{ print -- files }}
        source ./script; words=({words}); CURRENT=$#words; _asyncsink_completion
    """,
    "fish": "source ./script; complete -C '{line}' | string split -f1 \\t",
}


@pytest.fixture(params=sorted(_ASK))
def proposals(request: pytest.FixtureRequest, cli: Cli, tmp_path: Path) -> Any:
    """What a shell proposes for a command line."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "asyncsink").write_text(f'#!/bin/sh\nexec {sys.executable} -m asyncsink.cli.main "$@"\n')
    (programs / "asyncsink").chmod(0o755)
    environment = cli.environment | {"PATH": f"{programs}:{cli.environment['PATH']}", "HOME": str(tmp_path)}
    script = cli("completion", shell)
    assert script.code == 0
    (tmp_path / "script").write_text(script.stdout)

    def ask(line: str) -> list[str]:
        words = line if line[-1:] != " " else f"{line}''"
        text = _ASK[shell].format(words=words, line=line)
        no_files = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
        done = subprocess.run(
            [shell, *no_files, "-c", text], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stderr == "" or shell == "bash"  # compopt complains outside of a completion
        return done.stdout.replace("@", ":").split()

    return ask


def test_commands_options_values_and_destinations_are_completed(proposals: Any, cli: Cli) -> None:
    home = Path(cli.environment["XDG_CONFIG_HOME"])
    home.mkdir()
    (home / "asyncsink.toml").write_text('[destinations.study]\nurl = "s3://b"\n')
    assert proposals("asyncsink ab") == ["abort-uploads"]
    assert proposals("asyncsink export --overwr") == ["--overwrite"]
    assert proposals("asyncsink export --overwrite size") == ["size", "size-mtime"]
    assert proposals("asyncsink export data stu") == ["study:"]


def test_a_shell_without_completion_is_refused(inside: Cli) -> None:
    ended = inside("completion", "tcsh")
    assert (ended.code, "expected one of bash, zsh, fish" in ended.stderr) == (2, True)


def test_a_broken_file_of_settings_disturbs_no_tab(inside: Cli, tmp_path: Path) -> None:
    (tmp_path / "asyncsink.toml").write_text("x = [")
    ended = inside(_ASYNCSINK_COMPLETE="bash_complete", COMP_WORDS="asyncsink export data ", COMP_CWORD="3")
    assert (ended.code, ended.stderr, ended.stdout) == (0, "", "file,\n")
    wrong = inside(_ASYNCSINK_COMPLETE="bash_complete", COMP_WORDS="asyncsink nothing ", COMP_CWORD="2")
    assert (wrong.code, wrong.stderr) == (1, "")
