"""Programs of users under the strict type checkers: what is right passes, what is wrong is refused, line by line."""

from __future__ import annotations

import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.processes import run

PROGRAMS = Path(__file__).parent / "programs"
MARK = "# refused"
Refused = dict[str, set[int]]
"""Numbers of the lines that a type checker refuses, by program."""


def by_mypy(folder: Path) -> Refused:
    programs = sorted(path.name for path in folder.glob("*.py"))
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-error-summary", "--output=json"]
    done = run([*words, f"--cache-dir={folder}/cache", *programs], cwd=folder)
    refused: Refused = defaultdict(set)
    for line in done.stdout.splitlines():
        told = json.loads(line)
        if told["severity"] == "error":
            refused[told["file"]].add(told["line"])
    assert done.returncode == 1, done.stdout + done.stderr
    return refused


def by_pyright(folder: Path) -> Refused:
    settings = {"include": ["."], "typeCheckingMode": "strict", "reportUnusedExpression": False}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    words = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    done = run(words, cwd=folder)
    refused: Refused = defaultdict(set)
    for told in json.loads(done.stdout)["generalDiagnostics"]:
        if told["severity"] == "error":
            refused[Path(told["file"]).name].add(told["range"]["start"]["line"] + 1)
    return refused


@pytest.mark.parametrize("checker", [by_mypy, by_pyright])
def test_type_checkers_refuse_the_marked_lines_of_programs_and_no_others(checker: object, tmp_path: Path) -> None:
    assert callable(checker)
    folder = Path(shutil.copytree(PROGRAMS, tmp_path / "programs"))
    marked: Refused = {
        path.name: {number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith(MARK)}
        for path in folder.glob("*.py")
    }
    refused = checker(folder)
    assert {name: sorted(refused[name]) for name in marked} == {name: sorted(lines) for name, lines in marked.items()}
    assert sum(map(len, marked.values())) >= 20
