"""The house rules that are not lint contracts: each wall of the design is a test here or a contract in pyproject."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import asyncsink

ROOT = Path(asyncsink.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))
LINES_MAX = 600


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def outside(*places: str) -> list[Path]:
    """Every module but those whose path starts with one of `places`."""
    return [path for path in MODULES if not name_of(path).startswith(places)]


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


@cache
def calls(path: Path) -> set[str]:
    return {ast.unparse(node.func) for node in nodes(path) if isinstance(node, ast.Call)}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py" and p.parent != ROOT], ids=name_of)
def test_room_files_hold_a_docstring_only(path: Path) -> None:
    body = ast.parse(path.read_text()).body
    assert [type(node) for node in body] == [ast.Expr]


@pytest.mark.parametrize("path", outside("cli/"), ids=name_of)
def test_only_the_command_line_prints(path: Path) -> None:
    """Wall 10: the library never writes to stdout."""
    used = calls(path)
    assert not used & {"print", "sys.stdout.write", "sys.stderr.write", "pprint"}


@pytest.mark.parametrize(
    "path",
    outside(
        "cli/",
        "options/parse.py",
        "temporary.py",
        "s3/credentials/chain.py",
        "s3/credentials/static_config.py",
        "s3/sdk/client.py",
        "devserver/",
    ),
    ids=name_of,
)
def test_the_environment_is_read_in_two_places(path: Path) -> None:
    """Wall 4. The devserver hands an environment on to the process it starts; temporary.py names the directory that
    SQLite takes from it."""
    assert not re.search(r"os\.(environ|getenv)\b", path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_unfinished_or_swallowed(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", text)
    for node in nodes(path):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except at line {node.lineno}"
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (silent and broad), f"swallowed exception at line {node.lineno}"


@pytest.mark.parametrize("path", outside("testing/", "devserver/", "cli/"), ids=name_of)
def test_no_blocking_sleep_and_no_stray_task(path: Path) -> None:
    """Wall 9: no task outside a task group. Two places need asyncio's own, and await what they make."""
    used = calls(path)
    assert not used & {"time.sleep", "asyncio.create_task", "loop.create_task"}
    if name_of(path) not in ("event_loops.py",):
        assert "asyncio.ensure_future" not in used


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = ("aioboto3", "anyio", "awscrt", "nipype", "rich")
    code = f"import sys, asyncsink; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_surface_is_what_all_says() -> None:
    for name in asyncsink.__all__:
        assert getattr(asyncsink, name) is not None
        assert name in dir(asyncsink)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        asyncsink.nothing  # noqa: B018


def test_the_typed_names_are_the_public_ones() -> None:
    """What a type checker sees under TYPE_CHECKING is what is imported at run time."""
    tree = ast.parse((ROOT / "__init__.py").read_text())
    seen: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("asyncsink."):
            seen.update({alias.name: node.module for alias in node.names})
    assert seen == asyncsink._HOME_OF


def test_every_module_can_be_imported_alone() -> None:
    names = [".".join(["asyncsink", *path.relative_to(ROOT).with_suffix("").parts]) for path in MODULES]
    for name in names:
        importlib.import_module(name.removesuffix(".__init__"))
