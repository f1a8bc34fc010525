"""What a run left: the files below a folder, and the lines of a manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def contents(root: Path) -> dict[str, bytes]:
    """Every file below `root`, by its path below it."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def records(manifest: Path) -> list[dict[str, Any]]:
    """Every line of `manifest`."""
    return [json.loads(line) for line in manifest.read_text().splitlines()]
