"""Processes of a group, as Linux tells of them in /proc (proc(5))."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Collection
from pathlib import Path

_POLL_SECONDS = 0.02


def living(groups: Collection[int], *, within_seconds: float) -> int:
    """How many processes of these groups live on; waits so long for them to end. Blocking."""
    deadline = time.monotonic() + within_seconds
    while (number := sum(_lives_in(groups))) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return number


def end_group(group: int) -> None:
    """SIGKILL to all processes of a group. Harmless where there is none any more."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _lives_in(groups: Collection[int]) -> list[bool]:
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with contextlib.suppress(OSError):  # it ended meanwhile
                state, _, group = (place / "stat").read_text().rpartition(")")[2].split()[:3]
                # A zombie has ended, and waits for somebody to be told.
                found.append(int(group) in groups and state != "Z")
    return found
