"""The CPU time of an object through Dask, beside one process: caller, scheduler and workers together.

Everything is warm: the cluster has started, all modules are imported, and each way has published once before it counts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import asyncsink
from asyncsink.adapters import dask
from asyncsink.adapters.dask_cluster import local_cluster
from asyncsink.report.report import Report
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.running import Tell
from benchmarks.servers.running import running_server

FILES: Final = 50_000
FILE_BYTES: Final = 16 * 1024
WORKERS: Final = 2
ROUNDS: Final = 5
_PER_FOLDER: Final = 500
_TARGET: Final = "s3://bench/study"
_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")


def measure_dask_cost(
    *, files: int = FILES, workers: int = WORKERS, rounds: int = ROUNDS, tell: Tell
) -> dict[str, Any]:
    """Publish one tree to the null server in both ways, in turn; returns the result, ready for JSON. Blocking."""
    with tempfile.TemporaryDirectory(prefix="asyncsink-dask-cost-") as place:
        source = str(_tree(Path(place, "source"), files))
        with (
            running_server("null", Path(place)) as server,
            server.in_environment(),
            ProcessPoolExecutor(1, get_context("spawn")) as other,
            local_cluster(workers) as cluster,
        ):
            ways = {
                "one process": _Way([other.submit(os.getpid).result()], lambda: other.submit(_alone, source).result()),
                f"Dask, {workers} workers": _Way(
                    [os.getpid(), *(each.pid for each in cluster.workers.values())],
                    lambda: _through(cluster.scheduler_address, source),
                ),
            }
            measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for number in range(rounds + 1):
                for name, way in ways.items():
                    server.reset()
                    one = way.measured(files)
                    if number:
                        measured[name].append(one)
                        tell(f"{number}/{rounds} {name}: {one['cpu_us']:.1f} µs, {one['seconds']:.2f} s")
    return {
        "kind": "dask-cost",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks scale dask-cost --rounds {rounds}",
        "files": files,
        "file_bytes": FILE_BYTES,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "ways": {name: {"rounds": each, **_medians(each)} for name, each in measured.items()},
    }


def render_dask_cost(result: dict[str, Any]) -> str:
    """The medians, as lines. Pure."""
    (_, alone), (_, through) = result["ways"].items()
    lines = [f"{name}: {way['cpu_us']:.1f} µs of CPU, {way['seconds']:.2f} s" for name, way in result["ways"].items()]
    ratio, time_ratio = through["cpu_us"] / alone["cpu_us"], through["seconds"] / alone["seconds"]
    return "\n".join([*lines, f"ratio: {ratio:.2f} of the CPU, {time_ratio:.2f} of the time"])


@dataclass(frozen=True)
class _Way:
    """A way to publish the tree.

    Attributes:
        pids: the processes that take part.
        publish: does it, and returns the number of receipts.
    """

    pids: Sequence[int]
    publish: Callable[[], int]

    def measured(self, files: int) -> dict[str, float]:
        """CPU and time of one run."""
        began, before = time.perf_counter(), sum(map(_cpu_seconds, self.pids))
        published = self.publish()
        seconds = time.perf_counter() - began
        cpu_seconds = sum(map(_cpu_seconds, self.pids)) - before
        if published != files:
            raise RuntimeError(f"{published} of {files} files were published")
        return {"cpu_us": round(cpu_seconds / files * 1e6, 2), "seconds": round(seconds, 3)}


def _alone(source: str) -> int:
    return _published(asyncsink.export_sync({"files": source}, _TARGET, journal=False))


def _through(scheduler: str, source: str) -> int:
    return _published(asyncio.run(dask.export(scheduler, {"files": source}, _TARGET)))


def _published(report: Report) -> int:
    report.raise_for_failures()
    return len(report.receipts)


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, in ticks of the kernel (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


def _tree(root: Path, files: int) -> Path:
    for number in range(files):
        folder = root / f"sub-{number // _PER_FOLDER:04}"
        if not number % _PER_FOLDER:
            folder.mkdir(parents=True)
        body = number.to_bytes(8, "big") * (FILE_BYTES // 8)
        (folder / f"file-{number % _PER_FOLDER:03}.nii").write_bytes(body)
    return root
