"""The engine's own clock: from the call that publishes to its return, without the interpreter's start and imports."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

CONCURRENCY = 32
"""Requests in flight at once, where no scenario says otherwise."""
AT_ONCE = "BENCHMARKS_AT_ONCE"
"""The environment variable in which contenders find how many requests they may have in flight; 0: their own default."""
PART_SIZE_BYTES = 8 * 1024 * 1024
PARTS_PER_FILE = 4
"""At once, for contenders that limit files and parts apart: 8 large files are 32 requests."""
MANY = 256
"""What is at once where a library has no default of its own; it is s5cmd's default."""


@dataclass(slots=True)
class Clock:
    """Measures a block and tells the harness on stdout, as one JSON object in the last line.

    Attributes:
        objects: what the library says it published.
        notes: further facts for the record.
    """

    objects: int = 0
    notes: dict[str, object] = field(default_factory=dict)
    _started: float = 0.0
    _cpu: float = 0.0
    _modules: int = 0

    def __enter__(self) -> Clock:
        self._modules = len(sys.modules)
        self._cpu = _cpu_seconds()
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        seconds = time.perf_counter() - self._started
        if error is not None:
            return
        told = {
            "seconds": seconds,
            "cpu_seconds": _cpu_seconds() - self._cpu,
            "objects": self.objects,
            "modules_imported_meanwhile": len(sys.modules) - self._modules,
            **self.notes,
        }
        sys.stdout.write(f"\n{json.dumps(told)}\n")


def at_once() -> int:
    """How many requests this contender may have in flight; 0: its own default."""
    return int(os.environ.get(AT_ONCE, CONCURRENCY))


def files_below(directory: str, prefix: str) -> Iterator[tuple[str, str]]:
    """(path, key) of every file; the walk is inside the clock, as in the tools that walk by themselves."""
    stack = [directory]
    while stack:
        with os.scandir(stack.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    stack.append(entry.path)
                else:
                    yield entry.path, prefix + entry.path[len(directory) :]


def _cpu_seconds() -> float:
    return sum(
        used.ru_utime + used.ru_stime
        for used in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )
