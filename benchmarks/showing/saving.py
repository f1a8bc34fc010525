"""Results as files: JSON, with the medians before the single measurements, one of these a line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.measuring.running import FORMAT
from benchmarks.showing.summary import medians

RESULTS = Path(__file__).resolve().parents[1] / "results"
_LINES = ("medians", "measurements")


def save(result: Mapping[str, Any], path: Path) -> None:
    """Write a result, whole or not at all. Blocking."""
    told = {name: value for name, value in result.items() if name not in _LINES} | {"medians": [], "measurements": []}
    text = json.dumps(told, indent=1, ensure_ascii=False)
    for name, values in zip(_LINES, (medians(result), result["measurements"]), strict=True):
        lines = ",\n".join("  " + json.dumps(value, ensure_ascii=False) for value in values)
        text = text.replace(f'"{name}": []', f'"{name}": [\n{lines}\n ]')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)


def load(path: Path) -> dict[str, Any]:
    """A result that was saved, or a profile.

    Raises:
        OSError, ValueError: it cannot be read, or is neither.
    """
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if result.get("format") != FORMAT and not is_profile(result):
        raise ValueError(f"{path.name} has another format; expected {FORMAT}.")
    return result


def is_profile(result: Mapping[str, Any]) -> bool:
    """A profile is a table of steps, and no comparison."""
    return result.get("kind") == "profile"
