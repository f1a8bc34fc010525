"""What a split of many files costs: peak memory, seconds, and bytes of its spool and of its directory.

The files are empty, since a split opens none. Memory is read from the process itself while it runs; the spool has no
name, and its size is that of the process's largest deleted file.
"""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lineup.commands import beside_python

COUNTS = (10_000, 100_000, 1_000_000)
FILES_PER_DIRECTORY = 500
LOOK_SECONDS = 0.05
_WORDS = ("desc-preproc_bold.nii.gz", "desc-confounds_timeseries.tsv", "desc-brain_mask.nii.gz", "boldref.nii.gz")


def make_tree(root: Path, count: int) -> None:
    """Make so many empty files, with paths as long as those of fMRIPrep. Blocking."""
    for number in range(count):
        directory = root / f"sub-{number // FILES_PER_DIRECTORY:05}" / "ses-retest" / "func"
        if number % FILES_PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        name = f"{directory.parts[-3]}_ses-retest_task-line_run-{number % FILES_PER_DIRECTORY:03}_{_WORDS[number % 4]}"
        os.close(os.open(directory / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def measure(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Run a command to its end: seconds, CPU seconds, peak memory, and the largest deleted file. Linux only."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    peak = spool = 0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak, spool = max(peak, _peak(process.pid)), max(spool, _deleted(process.pid))
            time.sleep(LOOK_SECONDS)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise RuntimeError(f"{command[1:4]} ended with {process.returncode}; its message is above.")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "wall_seconds": round(time.monotonic() - began, 1), "cpu_seconds": round(cpu, 1), "peak_rss_bytes": peak,
        "spool_bytes": spool,
    }  # fmt: skip


def splits(counts: tuple[int, ...] = COUNTS) -> list[dict[str, Any]]:
    """A split of each number of files; the trees are removed. Blocking."""
    rows = []
    for count in counts:
        with tempfile.TemporaryDirectory(prefix="asyncsink-split-") as scratch:
            tree, parts = Path(scratch, "tree"), Path(scratch, "parts")
            tree.mkdir()
            make_tree(tree, count)
            command = [beside_python("asyncsink"), "split", str(tree), "s3://bucket/study", str(parts), "--quiet"]
            row = measure(command, {**os.environ, "TMPDIR": scratch, "SQLITE_TMPDIR": scratch})
            files = list(parts.iterdir())
            rows.append(
                {
                    "files": count, "parts": len(files) - 1, **row,
                    "directory_bytes": sum(file.stat().st_size for file in files),
                }
            )  # fmt: skip
            shutil.rmtree(tree)
    return rows


def _peak(pid: int) -> int:
    """Most memory that a process had so far, in bytes; 0 after its end."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def _deleted(pid: int) -> int:
    """Size of the largest regular file without a name that a process holds open."""
    most = 0
    try:
        for descriptor in os.listdir(f"/proc/{pid}/fd"):
            found = os.stat(f"/proc/{pid}/fd/{descriptor}")
            if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                most = max(most, found.st_size)
    except OSError:
        return most  # the file was closed, or the process has ended
    return most
