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
MODULES_MAX = 12
PARAMETERS_MAX = 7
IMPORTS_MAX = 15
NAMES = {".".join(["asyncsink", *path.relative_to(ROOT).with_suffix("").parts]): path for path in MODULES}


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


def listed(offenders: dict[str, object]) -> str:
    return "\n".join(f"{name}: {what}" for name, what in sorted(offenders.items()))


def test_modules_are_short() -> None:
    """Wall 11."""
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    offenders = {name: length for name, length in lengths.items() if length > LINES_MAX}
    assert not offenders, listed(offenders)


def test_folders_are_small() -> None:
    """Wall 11."""
    folders = {path.parent for path in MODULES}
    counts = {name_of(folder): sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    offenders = {name: count for name, count in counts.items() if count > MODULES_MAX}
    assert not offenders, listed(offenders)


def test_constructors_take_few_parameters() -> None:
    """Wall 11. Values (dataclasses) name their fields where they are made; they do not count."""
    offenders = {
        f"{name_of(path)}: {node.name}": count
        for path in MODULES
        for node in nodes(path)
        if isinstance(node, ast.ClassDef)
        for made in node.body
        if isinstance(made, ast.FunctionDef) and made.name == "__init__"
        if (count := len(made.args.posonlyargs + made.args.args + made.args.kwonlyargs) - 1) > PARAMETERS_MAX
    }
    assert not offenders, listed(offenders)


def own_imports(path: Path) -> set[str]:
    """The modules of the package that a module imports, anywhere in it, for typing too."""
    found: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.ImportFrom):
            found |= {name if (name := f"{node.module}.{each.name}") in NAMES else node.module for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
    return {name for name in found if name.startswith("asyncsink.")}


def test_modules_import_few_others() -> None:
    """Wall 11: what needs more knows too much. The modules with a number here know the parts of a whole run; they may
    only shrink. The public names have homes everywhere."""
    known = {
        "adapters/dask_export.py": 25,
        "engine/open_run.py": 19,
        "splitting/part_engine.py": 17,
    }
    counts = {name_of(path): len(own_imports(path)) for path in MODULES if path != ROOT / "__init__.py"}
    offenders = {name: count for name, count in counts.items() if count > known.get(name, IMPORTS_MAX)}
    assert not offenders, listed(offenders)


def test_no_name_means_two_things() -> None:
    """Wall 11: classes, functions and types of the package. A command has the name of the function that it calls;
    Nipype's classes have the names that they replace, and exports by Dask those of exports."""
    homes: dict[str, set[str]] = {}
    for path in outside("testing/", "adapters/nipype_installed.py", "adapters/dask.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                if any(getattr(getattr(each, "func", None), "id", "") == "command" for each in node.decorator_list):
                    continue
                homes.setdefault(node.name, set()).add(name_of(path))
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if name[:1].isupper() and not name.isupper() and len(name) > 1:  # a type alias
                    homes.setdefault(name, set()).add(name_of(path))
    offenders = {
        name: sorted(places)
        for name, places in homes.items()
        if len(places) > 1 and not name.startswith("_") and name != "main"
    }
    assert not offenders, listed(offenders)


def test_room_files_hold_a_docstring_only() -> None:
    rooms = [path for path in MODULES if path.name == "__init__.py" and path.parent != ROOT]
    bodies = {name_of(path): [type(node) for node in ast.parse(path.read_text()).body] for path in rooms}
    # What users call as `asyncsink.testing.…` is named there.
    named = {"testing/__init__.py": [ast.Expr, ast.ImportFrom, ast.Assign]}
    offenders = {name: body for name, body in bodies.items() if body != named.get(name, [ast.Expr])}
    assert not offenders, listed(offenders)


def test_only_the_command_line_prints() -> None:
    """Wall 10: the library never writes to stdout; to stderr, only where progress=True asks for it."""
    printing = {"print", "sys.stdout.write", "sys.stderr.write", "pprint"}
    # Nipype's interfaces have a `help` that prints.
    outside_of = ("cli/", "adapters/nipype_inputs.py", "engine/progress/shown.py")
    offenders = {name_of(path): used for path in outside(*outside_of) if (used := calls(path) & printing)}
    assert not offenders, listed(offenders)


def test_the_environment_is_read_in_two_places() -> None:
    """Wall 4. The devserver hands an environment on to the process it starts; temporary.py names the directory that
    SQLite takes from it."""
    readers = ("cli/", "options/", "temporary.py", "s3/credentials/", "s3/sdk/client.py", "devserver/")
    reads = re.compile(r"os\.(environ|getenv)\b")
    offenders = {name_of(path): found[0] for path in outside(*readers) if (found := reads.search(path.read_text()))}
    assert not offenders, listed(offenders)


def test_nothing_is_unfinished_or_swallowed() -> None:
    offenders: dict[str, object] = {}
    for path in MODULES:
        if found := re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text()):
            offenders[name_of(path)] = found[0]
        for node in nodes(path):
            if not isinstance(node, ast.ExceptHandler):
                continue
            silent = all(isinstance(statement, ast.Pass) for statement in node.body)
            if node.type is None or (silent and ast.unparse(node.type) in ("Exception", "BaseException")):
                offenders[name_of(path)] = f"exception swallowed at line {node.lineno}"
    assert not offenders, listed(offenders)


def test_no_blocking_sleep_and_no_stray_task() -> None:
    """Wall 9: no task outside a task group. event_loops.py needs asyncio's own, and awaits what it makes. The run of a
    sink belongs to one task of its own, because a sink is opened and closed in different tasks of its caller; whoever
    closes it waits for that task."""
    strays = {"time.sleep", "asyncio.create_task", "loop.create_task", "asyncio.ensure_future"}
    made = {
        name_of(path): [name for node in nodes(path) if isinstance(node, ast.Call) if (name := ast.unparse(node.func))]
        for path in outside("testing/", "devserver/", "cli/", "event_loops.py")
    }
    offenders = {name: used for name, names in made.items() if (used := [each for each in names if each in strays])}
    assert offenders.pop("engine/session.py") == ["asyncio.create_task"]
    assert not offenders, listed(dict(offenders))


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


def test_tests_of_the_public_names_import_nothing_else() -> None:
    """tests/api survives every change inside: it knows the package, its errors, its testing tools, and the command."""
    public = ("asyncsink", "asyncsink.errors")
    offenders: dict[str, object] = {}
    for path in sorted((ROOT.parent / "tests" / "api").glob("*.py")):
        imports = [node for node in nodes(path) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {getattr(node, "module", None) or alias.name for node in imports for alias in node.names}
        inside = {name for name in names if name.startswith("asyncsink.") and name not in public}
        if internal := {name for name in inside if not name.startswith("asyncsink.testing")}:
            offenders[path.name] = internal
    assert not offenders, listed(offenders)
