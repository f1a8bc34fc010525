"""The interpreters that contenders written in Python run under: this one, and perhaps a second beside it."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.lineup import python_build

_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("obstore", "uvloop")
"""What contenders import that are run under a second Python, beside asyncsink itself."""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter with asyncsink and its contenders installed.

    Attributes:
        tag: "" for the one that runs the benchmarks; marks the other's contenders in results.
        build: from `python_build.py`.
    """

    tag: str
    executable: Path
    build: Mapping[str, Any] = field(repr=False)

    @property
    def title(self) -> str:
        """For tables: "CPython 3.11.2 (PGO: yes)"."""
        return f"{self.build['version']} (PGO: {self.build['pgo']})"

    def compile(self) -> None:
        """Write the bytecode of asyncsink and of the scripts, as installing does for every other package. Blocking."""
        places = [str(_ROOT / name) for name in ("asyncsink", "benchmarks")]
        subprocess.run([self.executable, "-m", "compileall", "-q", *places], check=True)


@functools.cache
def this_python() -> Python:
    """The interpreter that runs the benchmarks."""
    return Python("", Path(sys.executable), _build_of(Path(sys.executable)))


def second_python(interpreter: Path) -> Python:
    """Another interpreter, in an environment of its own, which is made where it is missing, with the same versions of
    packages as here. Blocking; takes a minute the first time.

    Raises:
        RuntimeError: it is none that asyncsink runs under, or the environment could not be made.
    """
    build = _build_of(interpreter)
    environment = Path(sys.prefix) / "pythons" / hashlib.sha256(str(interpreter.resolve()).encode()).hexdigest()[:12]
    executable, done = environment / "bin" / "python", environment / ".installed"
    project = _ROOT / "pyproject.toml"
    if not done.exists() or done.stat().st_mtime < project.stat().st_mtime:
        constraints = environment / "constraints.txt"
        _must([interpreter, "-m", "venv", environment], "its venv module (on Debian: apt-get install python3-venv)")
        frozen = _must([sys.executable, "-m", "pip", "freeze", "--exclude-editable"], "pip")
        constraints.write_text("".join(line for line in frozen.splitlines(True) if "==" in line))
        pip = [executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", constraints]
        _must([*pip, "-e", _ROOT, *_PACKAGES], "to install asyncsink and its contenders")
        done.touch()
    return Python(_tag(build), executable, build)


def _tag(build: Mapping[str, Any]) -> str:
    version = str(build["version"]).rpartition(" ")[2]
    return version if build["version"] != this_python().build["version"] else f"{version}-second"


def _build_of(interpreter: Path) -> dict[str, Any]:
    told = _must([interpreter, "-I", python_build.__file__], "to be Python 3.11 or newer")
    build: dict[str, Any] = json.loads(told)
    return build


def _must(command: list[str | Path], needs: str) -> str:
    """What a command of an interpreter prints."""
    environment = {**os.environ, "PYTHONPATH": ""}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        problem = done.stderr.strip()[-2000:]
    except OSError as error:
        raise RuntimeError(f"{command[0]} cannot be run ({error.strerror}); expected the path of a Python.") from error
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} cannot be a second Python; it needs {needs}. It says: {problem}")
    return done.stdout
