"""What the tests of local files share: a place to publish to, sources, and a disk that is soon full."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def source_file(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a source file below the test's own directory, parents included."""

    def write(relative: str, body: bytes) -> Path:
        path = tmp_path / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        return path

    return write


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    path = tmp_path / "small"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(path)]
    try:
        mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command on this machine")
    if mounted.returncode:
        pytest.skip(f"mounting is refused on this machine: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)
