"""Processes that tests start and wait for."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from typing import Any


def run(words: Iterable[object], **how: Any) -> subprocess.CompletedProcess[str]:
    """The ended process, whatever its exit code; what it wrote is text. `how` as for `subprocess.run`."""
    given = {"capture_output": True, "text": True, "timeout": 100} | how
    return subprocess.run([*map(str, words)], check=False, **given)
