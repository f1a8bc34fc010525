"""A directory for temporary files that is full: one sentence names it and TMPDIR, whatever was to be kept there."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsink import temporary
from asyncsink.destinations import existing_objects as inventory
from asyncsink.destinations.existing_objects import Inventory
from asyncsink.download.plan import Matches
from asyncsink.engine.planning import key_ledger as ledger
from asyncsink.engine.planning.key_ledger import AlikeKeys, KeyLedger
from asyncsink.errors import JournalError
from asyncsink.model import Receipt
from asyncsink.report import manifest as earlier
from asyncsink.report.manifest import EarlierProofs
from asyncsink.s3.operations import ListedObject
from tests.support.quirky_s3 import QuirkyS3, StoredObject, quirky_s3, run_command

FILES = 3000
KEYS = [f"{number:05}{'k' * 200}" for number in range(FILES)]


@pytest.fixture
def full_directory(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB, mounted for temporary files."""
    disk = tmp_path / "little"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system needs root")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Many files with long paths, so that what is kept of them is more than stays in memory."""
    folder = tmp_path / ("a" * 250) / ("b" * 250) / ("c" * 200) / "source"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / f"{number:05}.txt").touch()
    return folder


def check_sentence(ended: subprocess.CompletedProcess[bytes], code: int, directory: Path) -> None:
    said = ended.stderr.decode()
    assert ended.returncode == code, said
    (line,) = [line for line in said.splitlines() if line.startswith("asyncsink: error: ")]
    assert str(directory) in line
    assert "TMPDIR" in line
    assert "bug of asyncsink" not in said
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert "journal" not in line


def test_the_ledger_of_keys(tmp_path: Path, full_directory: Path, source: Path) -> None:
    outputs = tmp_path / "outputs.json"
    outputs.write_text(json.dumps({"x": sorted(map(str, source.iterdir()))}))
    with quirky_s3() as server:
        env = server.environment(tmp_path, TMPDIR=str(full_directory))
        words = ("export", outputs, "s3://tryout/p")
        check_sentence(run_command(*words, env=env), 2, full_directory)
        assert server.bodies() == {}


def test_outcomes(tmp_path: Path, full_directory: Path, source: Path) -> None:
    with quirky_s3() as server:
        env = server.environment(tmp_path, TMPDIR=str(full_directory))
        check_sentence(run_command("export", source, "s3://tryout/p", env=env), 1, full_directory)


def listed(server: QuirkyS3) -> None:
    stored = StoredObject(b"x")
    server.objects["tryout"] = {f"p/{key}{'x' * 500}/y.txt": stored for key in KEYS}


def test_matches_of_a_template(tmp_path: Path, full_directory: Path) -> None:
    with quirky_s3() as server:
        listed(server)
        env = server.environment(tmp_path, TMPDIR=str(full_directory))
        words = ("grab", "s3://tryout/p", tmp_path / "back", "--template", ".*/y.txt")
        check_sentence(run_command(*words, env=env), 2, full_directory)


def fill_inventory(page: list[ListedObject]) -> None:
    Inventory("").add_page(page, last=True)


def forget_much(page: list[ListedObject]) -> None:
    keys = Inventory("")
    for each in page:
        keys.forget([each.key])


def fill_ledger(page: list[ListedObject]) -> None:
    KeyLedger().claim((each.key, "/source", 0) for each in page)


def fill_alike(page: list[ListedObject]) -> None:
    AlikeKeys().add(each.key for each in page)


def fill_matches(page: list[ListedObject]) -> None:
    Matches().add((each, [0]) for each in page)


def fill_proofs(page: list[ListedObject]) -> None:
    EarlierProofs().add(0, (receipt(each.key) for each in page))


def receipt(key: str) -> Receipt:
    return Receipt("/s", key, "s3://b/k", 0, None, "e", "", 1, 0.0, "", "etag")


@pytest.mark.parametrize(
    "fill", [fill_inventory, forget_much, fill_ledger, fill_alike, fill_matches, fill_proofs], ids=lambda f: f.__name__
)
def test_whatever_is_kept(
    fill: Callable[[list[ListedObject]], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "IN_MEMORY_MAX", 10)
    monkeypatch.setattr(ledger, "ALIKE_IN_MEMORY_MAX", 10)
    monkeypatch.setattr(earlier, "IN_MEMORY_MAX", 10)
    monkeypatch.setattr(temporary, "_SETTINGS", f"{temporary._SETTINGS} PRAGMA max_page_count=8;")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with pytest.raises(JournalError, match=r"cannot be kept in .*TMPDIR") as caught:
        fill([ListedObject(key, 1, "etag", None) for key in KEYS])
    assert repr(str(tmp_path)) in str(caught.value)
