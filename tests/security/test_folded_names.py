"""Names that a file system does not keep apart: the second is told, and never replaces the first.

No file system that folds names can be mounted everywhere; here a layer in front of the real one leads each name to the
entry that such a file system would find.
"""

from __future__ import annotations

import os
import threading
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink import paths
from tests.support.quirky_s3 import StoredObject, quirky_s3

pytestmark = pytest.mark.anyio
Fold = Callable[[str], str]
FOLDS: dict[str, Fold] = {
    "case": str.casefold,
    "composition": lambda name: unicodedata.normalize("NFC", name),
    "ends": lambda name: name.rstrip(". "),
    "none": lambda name: name,
}
PAIRS = {
    "case": ("Scan.nii", "scan.nii"),
    "composition": ("caf\u00e9.txt", "cafe\u0301.txt"),
    "ends": ("scan.nii", "scan.nii. "),
}


class Folding:
    """`os.stat`, `os.open`, `os.mkdir` and `os.rename` as they are on a file system that folds names below `root`."""

    def __init__(self, root: Path, fold: Fold, patch: pytest.MonkeyPatch) -> None:
        self._root = os.fspath(root)
        self._fold = fold
        self._lock = threading.Lock()
        self._real = {name: getattr(os, name) for name in ("stat", "open", "rename", "mkdir", "listdir")}
        for name in ("stat", "open", "mkdir"):
            patch.setattr(os, name, self._one(self._real[name]))
        patch.setattr(os, "rename", self._rename)

    def found(self, path: Any, dir_fd: int | None) -> Any:
        """The path of the entry that the file system finds; the path itself where it finds none."""
        if not isinstance(path, str):
            return path
        base = os.readlink(f"/proc/self/fd/{dir_fd}") if dir_fd is not None else "/"
        whole = os.path.join(base, path)
        if not whole.startswith(f"{self._root}/"):
            return path
        found = self._root
        for name in whole.removeprefix(f"{self._root}/").split("/"):
            try:
                there = self._real["listdir"](found)
            except OSError:
                there = []
            found = os.path.join(found, next((e for e in there if self._fold(e) == self._fold(name)), name))
        return found

    def _one(self, real: Any) -> Any:
        def call(path: Any, *values: Any, dir_fd: int | None = None, **named: Any) -> Any:
            with self._lock:  # as one system call is
                found = self.found(path, dir_fd)
                return real(found, *values, **({} if os.path.isabs(str(found)) else {"dir_fd": dir_fd}), **named)

        return call

    def _rename(self, source: Any, target: Any, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        with self._lock:
            found = self.found(source, src_dir_fd), self.found(target, dst_dir_fd)
            self._real["rename"](*found, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def _no_openat2(dummy_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Directories are opened by `os.open`, which the layer is in front of."""
    monkeypatch.setattr(paths, "_open_at_once", None)


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(params=[("case", False), ("composition", False), ("ends", False), ("case", True)])
def pair(request: pytest.FixtureRequest) -> tuple[Fold, str, str]:
    """How names fold, and two that do, as files or as folders of one file each."""
    kind, as_folders = request.param
    first, second = PAIRS[kind]
    return FOLDS[kind], *((f"{first}/x", f"{second}/x") if as_folders else (first, second))


@pytest.mark.parametrize("large", [False, True])
async def test_a_grab_tells_the_second(
    large: bool, pair: tuple[Fold, str, str], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, *keys = pair
    bodies = [bytes([number]) * ((6 << 20) if large else 10 + number) for number in range(2)]
    with quirky_s3() as server:
        server.objects["tryout"] = {key: StoredObject(body) for key, body in zip(keys, bodies, strict=True)}
        Folding(target, fold, monkeypatch)
        report = await asyncsink.grab(
            "s3://tryout", target, endpoint_url=server.url, region="us-east-1", part_size_bytes="5MiB"
        )
        monkeypatch.undo()
    assert (len(report.receipts), len(report.failures)) == (1, 1)
    kept, told = report.receipts[0], report.failures[0]
    assert {kept.key, told.key} == set(keys)
    assert "does not keep that name apart" in told.message
    assert {name: body for name, body in files(target).items() if ".asyncsink" not in name} == {
        kept.key: bodies[keys.index(kept.key)]
    }


@pytest.mark.parametrize("large", [False, True])
async def test_an_export_to_a_directory_tells_the_second(
    large: bool, pair: tuple[Fold, str, str], tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fold, *names = pair
    source = tmp_path / "source"
    bodies = [bytes([number]) * ((9 << 20) if large else 10 + number) for number in range(2)]
    for name, body in zip(names, bodies, strict=True):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    Folding(target, fold, monkeypatch)
    report = await asyncsink.export_directory(source, target)
    monkeypatch.undo()
    assert (len(report.receipts), len(report.failures)) == (1, 1)
    assert "does not keep that name apart" in report.failures[0].message
    kept = report.receipts[0].key
    assert files(target) == {kept: bodies[names.index(kept)]}


async def test_what_is_replaced_by_its_own_name_is_replaced(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "Scan.nii").write_bytes(b"new")
    (target / "Scan.nii").write_bytes(b"older")
    Folding(target, str.casefold, monkeypatch)
    report = await asyncsink.export_directory(source, target)
    monkeypatch.undo()
    assert not report.failures
    assert files(target) == {"Scan.nii": b"new"}


async def test_names_that_are_kept_apart_are_written(tmp_path: Path, target: Path) -> None:
    keys = [name for pair in PAIRS.values() for name in pair if not name.endswith(" ")]
    with quirky_s3() as server:
        server.objects["tryout"] = {key: StoredObject(key.encode()) for key in keys}
        for _ in range(2):
            report = await asyncsink.grab("s3://tryout", target, endpoint_url=server.url, region="us-east-1")
            assert not report.failures
            server.objects["tryout"] = {key: StoredObject(key.encode() + b"2") for key in keys}
    assert files(target) == {key: key.encode() + b"2" for key in keys}


async def test_a_file_and_a_folder_of_one_name_are_told(target: Path) -> None:
    with quirky_s3() as server:
        server.objects["tryout"] = {key: StoredObject(key.encode()) for key in ("a", "a/b", "a//b", "c")}
        report = await asyncsink.grab("s3://tryout", target, endpoint_url=server.url, region="us-east-1")
    assert {receipt.key for receipt in report.receipts} in ({"a", "c"}, {"a/b", "c"})
    assert len(report.failures) == 2
    assert files(target) == {receipt.key: receipt.key.encode() for receipt in report.receipts}
