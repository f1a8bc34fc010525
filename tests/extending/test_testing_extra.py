"""`asyncsink.testing` needs no more than the extra `[testing]` brings, and the library none of it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import asyncsink

ROOT = Path(asyncsink.__file__).parent
PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
MODULE_OF = {"pyyaml": "yaml"}


def modules(requirements: list[str]) -> set[str]:
    """The top-level modules of these requirements; an extra of asyncsink's own brings no module that is imported."""
    names = [re.split(r"[\[<>=!~; ]", each, maxsplit=1)[0].lower() for each in requirements]
    return {MODULE_OF.get(name, name.replace("-", "_")) for name in names if name != "asyncsink"}


def imported_at_once(path: Path) -> set[str]:
    """The top-level names that a module imports outside of its functions and of `if TYPE_CHECKING`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return {name.partition(".")[0] for name in found} - set(sys.stdlib_module_names) - {"asyncsink"}


def test_the_suites_import_what_the_extra_brings() -> None:
    brought = modules(PROJECT["dependencies"]) | modules(PROJECT["optional-dependencies"]["testing"])
    needed = {path.name: imported_at_once(path) for path in (ROOT / "testing").rglob("*.py")}
    assert {name: sorted(names - brought) for name, names in needed.items() if names - brought} == {}
    assert "pytest" in needed["transport_suite.py"]


def test_no_other_module_needs_pytest() -> None:
    assert [
        path for path in ROOT.rglob("*.py") if "testing" not in path.parts and "pytest" in imported_at_once(path)
    ] == []
