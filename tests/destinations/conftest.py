"""What the tests of local files share: a place to publish to, sources, and a disk that is soon full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.files import mounted


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
    with mounted(tmp_path / "small", "size=64k") as disk:
        yield disk
