"""Looking at directories in tests."""

from __future__ import annotations

from pathlib import Path


def content_of(root: Path) -> dict[str, bytes]:
    """Relative path to bytes, of every regular file below `root`, in name order."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}
