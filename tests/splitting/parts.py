"""Reading the files of a split without asyncsink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def keys_of(directory: Path) -> list[list[str]]:
    """The keys of each part."""
    return [[line["key"] for line in lines_of(path)] for path in sorted(directory.glob("part-*.jsonl"))]
