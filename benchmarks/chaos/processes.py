"""The processes that a process has started, held by descriptors: no other can be taken for them (pidfd_open(2))."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """Descriptors of the processes that `pid` has started and that live; the caller closes them."""
    found: list[int] = []
    for thread in _listed(Path(f"/proc/{pid}/task")):
        with contextlib.suppress(OSError):  # the thread has ended
            for child in (thread / "children").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    found.append(os.pidfd_open(int(child)))
    return found


def _listed(place: Path) -> list[Path]:
    try:
        return list(place.iterdir())
    except OSError:
        return []  # the process has ended


def kill(descriptors: Iterable[int]) -> None:
    """SIGKILL to each. Harmless where one has ended."""
    for descriptor in descriptors:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)


def living(descriptors: Iterable[int], *, within_seconds: float) -> int:
    """How many live on; waits so long for them to end. Blocking."""
    deadline = time.monotonic() + within_seconds
    number = 0
    for descriptor in descriptors:
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)  # readable once it has ended
        number += not waiting.poll(max(0.0, deadline - time.monotonic()) * 1000)
    return number
