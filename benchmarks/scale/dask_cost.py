"""The CPU time of an object through Dask, beside one process: caller, scheduler and workers together.

Everything is warm: the cluster has started, all modules are imported, and each way has published once before it counts.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from distributed import LocalCluster

import asyncsink
from asyncsink.adapters import dask
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.running import Tell
from benchmarks.servers.running import RunningServer, running_server

FILES: Final = 50_000
FILE_BYTES: Final = 16 * 1024
WORKERS: Final = 2
ROUNDS: Final = 5
_PER_FOLDER: Final = 500
_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")


def measure_dask_cost(
    *, files: int = FILES, workers: int = WORKERS, rounds: int = ROUNDS, tell: Tell
) -> dict[str, Any]:
    """Publish one tree to the null server in both ways, in turn; returns the result, ready for JSON. Blocking."""
    with tempfile.TemporaryDirectory(prefix="asyncsink-dask-cost-") as place:
        source = _tree(Path(place, "source"), files)
        with running_server("null", Path(place)) as server, server.in_environment(), _cluster(workers) as made:
            pids = {each.pid for each in made.workers.values()}
            target = {"base_directory": "s3://bench/study", "endpoint_url": server.url, "journal": False}
            ways: dict[str, Callable[[], Any]] = {
                "one process": lambda: asyncsink.export_sync({"files": str(source)}, **target),
                f"Dask, {workers} workers": lambda: _on_cluster(made, source, target),
            }
            measured: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
            for number in range(rounds + 1):
                for name, publish in ways.items():
                    one = _measured(server, publish, pids, files)
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


def _on_cluster(made: LocalCluster, source: Path, target: Mapping[str, Any]) -> Any:
    return asyncio.run(dask.export(made.scheduler_address, {"files": str(source)}, **target))


def _measured(server: RunningServer, publish: Callable[[], Any], pids: set[int], files: int) -> dict[str, float]:
    server.reset()
    began, before = time.perf_counter(), time.process_time() + sum(map(_cpu_seconds, pids))
    report = publish()
    seconds = time.perf_counter() - began
    cpu_seconds = time.process_time() + sum(map(_cpu_seconds, pids)) - before
    report.raise_for_failures()
    if len(report.receipts) != files:
        raise RuntimeError(f"{len(report.receipts)} of {files} files were published")
    return {"cpu_us": round(cpu_seconds / files * 1e6, 2), "seconds": round(seconds, 3)}


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process, in ticks of the kernel (proc(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


def _medians(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}


@contextmanager
def _cluster(workers: int) -> Iterator[LocalCluster]:
    made = LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,
        memory_limit=0,
        silence_logs=50,
    )
    with made:
        yield made


def _tree(root: Path, files: int) -> Path:
    for number in range(files):
        folder = root / f"sub-{number // _PER_FOLDER:04}"
        if not number % _PER_FOLDER:
            folder.mkdir(parents=True)
        body = number.to_bytes(8, "big") * (FILE_BYTES // 8)
        (folder / f"file-{number % _PER_FOLDER:03}.nii").write_bytes(body)
    return root
