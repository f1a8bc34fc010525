"""One file has one key in every locale: keys are the bytes of names on disk, read as UTF-8, and back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.quirky_s3 import QuirkyS3, StoredObject, quirky_s3, run_command

NAMES = ("caf\u00e9.txt", "\u8133.txt", "plain.txt", "e\u0301.txt")
PLAIN_C = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Locales that this machine may not have, made for the test."""
    if shutil.which("localedef") is None:
        pytest.skip("this system makes no locales")
    place = tmp_path_factory.mktemp("locales")
    for name, charset in (("en_US", "ISO-8859-1"), ("ja_JP", "EUC-JP")):
        subprocess.run(["localedef", "-i", name, "-f", charset, place / f"{name}.{charset}"], check=False)
    return place


@pytest.fixture(params=[pytest.param("en_US.ISO-8859-1", marks=pytest.mark.long), "ja_JP.EUC-JP", "C"])
def variables(request: pytest.FixtureRequest, locales: Path) -> dict[str, str]:
    """A locale, as environment variables."""
    if request.param == "C":
        return PLAIN_C
    return {"LOCPATH": str(locales), "LC_ALL": request.param, "PYTHONUTF8": "0"}


@pytest.fixture
def server() -> Iterator[QuirkyS3]:
    with quirky_s3() as server:
        yield server


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory, itself of a name that no Latin-1 has."""
    root = tmp_path / "src-\u8133\u00e9"
    for name in NAMES:
        (root / "d\u00fc").mkdir(parents=True, exist_ok=True)
        (root / "d\u00fc" / name).write_text(name, encoding="utf-8")
    return root


KEYS = sorted(f"d\u00fc/{name}" for name in NAMES)


def run_api(code: str, env: dict[str, str], *words: object) -> Any:
    """What `code`, in an interpreter of that locale, leaves in `result`. `words` are its arguments."""
    program = f"""
import asyncsink, json, os, sys
words = [os.fsdecode(bytes.fromhex(word)) for word in sys.argv[2:]]
{code}
print(json.dumps(result))
"""
    hexed = [os.fsencode(str(word)).hex() for word in words]
    # The first word is also there as the C library decodes it, which in EUC-JP is another text than Python's.
    done = subprocess.run(
        [sys.executable, "-c", program, str(words[0]), *hexed], env=env, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


def names_below(root: Path) -> list[str]:
    found = [os.fsencode(path.relative_to(root)).decode() for path in root.rglob("*") if path.is_file()]
    return sorted(name for name in found if not name.startswith("."))


# -- the command ------------------------------------------------------------------------------------------------------


def test_a_directory_by_the_command(variables: dict[str, str], server: QuirkyS3, tree: Path, tmp_path: Path) -> None:
    """Source, destination, container, substitutions, local copy, manifest and journal: all named in UTF-8."""
    env = server.environment(tmp_path, **variables)
    manifest, journal, copy = tmp_path / "m\u00e9\u8133.jsonl", tmp_path / "j\u00e9.db", tmp_path / "copy-\u00e9"
    done = run_command(
        *(
            "export",
            tree,
            "s3://tryout/p\u00e9\u8133",
            "--container",
            "c\u00fc",
            "--substitute",
            "caf\u00e9=kaffee\u00e9",
        ),
        *("--manifest", manifest, "--journal", journal, "--local-copy", copy, "--json"),
        env=env,
    )
    assert done.returncode == 0, done.stderr.decode()
    wanted = [f"c\u00fc/{key.replace('caf', 'kaffee')}" for key in KEYS]
    assert sorted(server.bodies()) == sorted(f"p\u00e9\u8133/{key}" for key in wanted)
    assert names_below(copy) == sorted(wanted)
    assert journal.exists()
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    sources = {record["source"] for record in records if "source" in record}
    assert sources == {str(tree / key) for key in KEYS}
    checked = run_command("verify", manifest, "--read-back", env=env)
    assert checked.returncode == 0, checked.stderr.decode()
    shown = run_command("plan", tree, "s3://tryout/other", "--list", env=env).stdout.decode()
    assert all(key in shown for key in KEYS), shown


@pytest.mark.parametrize("kind", ["json", "yaml", "csv", "stdin"])
def test_sources_that_are_written_down(
    variables: dict[str, str], server: QuirkyS3, tree: Path, tmp_path: Path, kind: str
) -> None:
    env = server.environment(tmp_path, **variables)
    paths = [str(tree / key) for key in KEYS]
    stdin = b""
    if kind in ("json", "yaml"):
        source = tree.parent / f"out-\u00e9.{kind}"
        # JSON is YAML too.
        source.write_text(json.dumps({"m\u00fc": [f"{tree.name}/{key}" for key in KEYS]}, ensure_ascii=False), "utf-8")
        wanted = sorted(f"p/m\u00fc/{name}" for name in NAMES)
    elif kind == "csv":
        source = tree.parent / "m\u00e9.csv"
        source.write_text("source,key\n" + "".join(f"{tree.name}/{key},k/{key}\n" for key in KEYS), "utf-8")
        wanted = sorted(f"p/k/{key}" for key in KEYS)
    else:
        source = Path("-")
        stdin = "".join(json.dumps({"source": path, "attribute": "m\u00fc"}) + "\n" for path in paths).encode()
        wanted = sorted(f"p/m\u00fc/{name}" for name in NAMES)
    flags = {"csv": ["--source-manifest"], "stdin": []}.get(kind, ["--outputs"])
    done = run_command("export", *flags, source, "s3://tryout/p", env=env, stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(server.bodies()) == wanted


def test_a_local_destination_by_the_command(variables: dict[str, str], tree: Path, tmp_path: Path) -> None:
    with quirky_s3() as server:
        done = run_command("export", tree, tmp_path / "to-\u8133", env=server.environment(tmp_path, **variables))
    assert done.returncode == 0, done.stderr.decode()
    assert names_below(tmp_path / "to-\u8133") == KEYS


def test_a_grab_by_the_command(variables: dict[str, str], server: QuirkyS3, tmp_path: Path) -> None:
    for key in KEYS:
        server.objects["tryout"][f"g\u00e9/{key}"] = StoredObject(key.encode())
    server.objects["tryout"]["g\u00e9/d\u00fc/large"] = StoredObject(bytes(12 << 20))
    env = server.environment(tmp_path, **variables)
    done = run_command("grab", "s3://tryout/g\u00e9", tmp_path / "here-\u8133", "--part-size", "5MiB", env=env)
    assert done.returncode == 0, done.stderr.decode()
    assert names_below(tmp_path / "here-\u8133") == sorted([*KEYS, "d\u00fc/large"])
    again = run_command("grab", "s3://tryout/g\u00e9", tmp_path / "here-\u8133", "--json", env=env)
    assert json.loads(again.stdout)["objects_skipped"] == len(KEYS) + 1
    some = run_command("grab", "s3://tryout/g\u00e9", tmp_path / "some", "--template", "d\u00fc/caf\u00e9.*", env=env)
    assert some.returncode == 0, some.stderr.decode()
    assert names_below(tmp_path / "some") == ["d\u00fc/caf\u00e9.txt"]


def test_a_command_that_cannot_be_started_anew_says_so(server: QuirkyS3, tree: Path, tmp_path: Path) -> None:
    code = "import sys; sys.executable = ''; from asyncsink.cli.main import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "export", tree, "s3://tryout/p"],
        env=server.environment(tmp_path, **PLAIN_C),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"set PYTHONUTF8=1" in done.stderr
    assert not server.bodies()


# -- the API, in an interpreter whose own encoding is another ---------------------------------------------------------


def test_a_directory_by_the_api(variables: dict[str, str], server: QuirkyS3, tree: Path, tmp_path: Path) -> None:
    code = """
import anyio
report = anyio.run(lambda: asyncsink.export_directory(
    sys.argv[1], "s3://tryout/p", local_copy=words[1], manifest=words[2]))
report.raise_for_failures()
result = [list(report.out_file), sorted(receipt.key for receipt in report.receipts), os.path.isdir(report.out_file[1])]
"""
    manifest = tmp_path / "m\u00e9\u8133.jsonl"
    env = server.environment(tmp_path, **variables)
    _, keys, is_there = run_api(code, env, tree, tmp_path / "copy-\u00e9", manifest)
    assert keys == [f"p/{key}" for key in KEYS]
    assert is_there, "what the API lists can be opened by the interpreter that asked"
    assert sorted(server.bodies()) == keys
    assert names_below(tmp_path / "copy-\u00e9") == KEYS
    records = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
    assert {record["source"] for record in records if "source" in record} == {str(tree / key) for key in KEYS}


def test_outputs_by_the_api(variables: dict[str, str], server: QuirkyS3, tree: Path, tmp_path: Path) -> None:
    code = """
folder = words[0]
outputs = {"m": [os.path.join(folder, name) for name in sorted(os.listdir(folder))]}
report = asyncsink.export_sync(outputs, words[1], strip_dir=os.path.dirname(folder))
report.raise_for_failures()
result = [os.path.isfile(path) for path in report.out_file]
asyncsink.export_sync(outputs, "s3://tryout/p").raise_for_failures()
"""
    env = server.environment(tmp_path, **variables)
    assert run_api(code, env, tree / "d\u00fc", tmp_path / "to-\u8133") == [True] * len(NAMES)
    assert names_below(tmp_path / "to-\u8133") == sorted(f"m/{name}" for name in NAMES)
    assert sorted(server.bodies()) == sorted(f"p/m/{name}" for name in NAMES)


def test_a_grab_by_the_api(variables: dict[str, str], server: QuirkyS3, tmp_path: Path) -> None:
    for key in KEYS:
        server.objects["tryout"][f"g/{key}"] = StoredObject(key.encode())
    code = """
report = asyncsink.grab_sync("s3://tryout/g", words[0], template=".*/.*txt", outfields=["found"])
report.raise_for_failures()
found = report.outputs["found"]
result = [os.path.isfile(path) for path in found]
"""
    env = server.environment(tmp_path, **variables)
    assert run_api(code, env, tmp_path / "here-\u8133") == [True] * len(NAMES)
    assert names_below(tmp_path / "here-\u8133") == KEYS
