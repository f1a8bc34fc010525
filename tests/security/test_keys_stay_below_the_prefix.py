"""Whatever a source says, no object appears outside of the destination's prefix, and no file outside of its directory.

The rules themselves are property-tested in tests/routing; here every kind of source brings its worst names to a real
bucket, through the command.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from asyncsink.cli.main import main

CLIMBING = [
    "../up",
    "a/../../up",
    "..",
    "./here",
    "/absolute",
    "//double",
    "a//b",
    "a/./b",
    "..\\up",
    "%2e%2e/up",
    "a\x00b",
    "a\rb",
    "\u202e../up",
    "s3://other/key",
    "?versionId=1",
    "#x",
    " /../up",
    "up/..",
    "in/side/../../up",
    "",
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "file"
    file.write_text("data")
    return file


def manifest(tmp_path: Path, source: Path, key: str) -> list[str]:
    path = tmp_path / "m.jsonl"
    path.write_text(json.dumps({"source": str(source), "key": key}) + "\n")
    return ["--source-manifest", str(path)]


def outputs(tmp_path: Path, source: Path, key: str) -> list[str]:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps({key or "x": str(source)}))
    return ["--outputs", str(path)]


def substitution(tmp_path: Path, source: Path, key: str) -> list[str]:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps({"x": str(source)}))
    escaped = key.replace("\\", "\\\\").replace("=", "\\=")
    return ["--outputs", str(path), "--substitute", f"x/file={escaped}"]


def container(tmp_path: Path, source: Path, key: str) -> list[str]:
    path = tmp_path / "outputs.json"
    path.write_text(json.dumps({"x": str(source)}))
    return ["--outputs", str(path), "--container", key]


def directory(tmp_path: Path, source: Path, key: str) -> list[str]:
    """A directory can have names that no separator is in."""
    folder = tmp_path / "folder"
    folder.mkdir()
    name = key.replace("/", "").replace("\x00", "") or "x"
    (folder / (name if name not in (".", "..") else f"{name}.")).write_text("data")
    return [str(folder)]


@pytest.mark.parametrize("kind", [manifest, outputs, substitution, container, directory])
def test_nothing_leaves_the_prefix(
    kind: Any,
    source: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Any,
) -> None:
    codes = set()
    for number, key in enumerate(CLIMBING):
        work, place = tmp_path / f"work-{number}", tmp_path / "local" / "in" / "side"
        work.mkdir()
        if "\x00" in key and kind in (substitution, container):
            continue  # no command line can hold it
        arguments = kind(work, source, key)
        for destination in (f"s3://{bucket}/in/side", str(place)):
            code = main(["export", *arguments, destination, *_server(destination, options)])
            # SeaweedFS refuses backslashes by itself, as one that may be asked by a file system of its own.
            assert code in ((0, 1, 2) if "\\" in key else (0, 2)), (key, capfd.readouterr().err)
            codes.add(code)
    found = [item["Key"] for item in s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    assert [key for key in found if not key.startswith("in/side/")] == []
    assert [key for key in found if {"", ".", ".."} & set(key.split("/"))] == []
    files = [path for path in (tmp_path / "local").rglob("*") if path.is_file()]
    assert [path for path in files if not str(path).startswith(f"{tmp_path}/local/in/side{os.sep}")] == []
    assert {str(path.relative_to(tmp_path / "local")) for path in files if "\\" not in str(path)} == set(found)
    assert found, "some of the names are harmless"
    assert {0, 2} <= codes, "and some are refused"


def _server(destination: str, options: dict[str, Any]) -> list[str]:
    return ["--endpoint-url", options["endpoint_url"]] if destination.startswith("s3:") else []


@pytest.fixture
def options(seaweed: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url}
