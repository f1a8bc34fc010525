"""Directories of tests: what lies in one, and small file systems."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def content_of(root: Path) -> dict[str, bytes]:
    """Relative path to bytes, of every regular file below `root`, in name order."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@contextlib.contextmanager
def mounted(path: Path, options: str) -> Iterator[Path]:
    """A file system in memory with these mount options at `path`; skips the test where nothing may be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command on this machine")
    if done.returncode:
        pytest.skip(f"mounting is refused on this machine: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)
