"""What many machines ask for together: metadata calls and S3 requests of a split's parts beside those of one run.

Calls are counted by strace, those alone that name the source; requests by a proxy before SeaweedFS. Both are numbers of
the product, and the same on every machine: no time is measured.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from asyncsink.testing.fault_proxy import FaultProxy
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.servers.running import RunningServer, running_server

FILES: Final = 50_000
FILES_PER_FOLDER: Final = 100
FILE_BYTES: Final = 16
PARTS: Final = (4, 64)
CALLS: Final = "%%stat,access,faccessat,faccessat2,open,openat,openat2,getdents64,readlink,readlinkat"
_LIMIT_SECONDS: Final = 1800


def measure_calls(*, files: int = FILES, counts: Sequence[int] = PARTS, tell: Callable[[str], None]) -> dict[str, Any]:
    """Publish a tree as a whole, and in each number of parts, always twice; returns the counts. Blocking.

    Raises:
        RuntimeError: strace is missing, or a run failed.
    """
    if shutil.which("strace") is None:
        raise RuntimeError("strace is not installed; it counts the calls.")
    with tempfile.TemporaryDirectory(prefix="asyncsink-calls-") as place:
        folder = Path(place)
        source = _tree(folder / "source", files)
        (folder / "server").mkdir()
        with running_server("seaweed", folder / "server") as server, FaultProxy(server.url) as proxy:
            counter = _Counter(folder, source, server, proxy)
            counter.bucket()
            export = ["export", str(source), "s3://calls/whole", "--no-journal"]
            tell(f"{files:,} files as a whole")
            ways = {"whole": {"first": counter.of([export]), "again": counter.of([export])}}
            for parts in counts:
                tell(f"{files:,} files in {parts} parts")
                directory = str(folder / f"parts-{parts}")
                split = ["split", str(source), f"s3://calls/parts-{parts}", directory, "--parts", str(parts)]
                runs = [["run", directory, "--part", str(number)] for number in range(parts)]
                ways[f"{parts} parts"] = {
                    "split": counter.of([split]),
                    "first": counter.of(runs),
                    "again": counter.of(runs),
                }
    return {
        "kind": "calls",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "files": files,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "ways": ways,
    }


class _Counter:
    """Runs commands, and counts what they ask for."""

    def __init__(self, folder: Path, source: Path, server: RunningServer, proxy: FaultProxy) -> None:
        self._trace = folder / "trace"
        self._source = str(source)
        self._server = server
        self._proxy = proxy

    def bucket(self) -> None:
        import boto3

        server = self._server
        client = boto3.client(
            "s3",
            endpoint_url=server.url,
            aws_access_key_id=server.access_key_id,
            aws_secret_access_key=server.secret_access_key,
            region_name=server.environment["AWS_REGION"],
        )
        client.create_bucket(Bucket="calls")
        client.close()

    def of(self, commands: Sequence[Sequence[str]]) -> dict[str, dict[str, int]]:
        """The calls and requests of some commands together."""
        calls, before = Counter[str](), len(self._proxy.requests)
        for command in commands:
            calls += self._traced(command)
        requests = Counter(request.operation for request in self._proxy.requests[before:])
        return {"calls": dict(sorted(calls.items())), "requests": dict(sorted(requests.items()))}

    def _traced(self, command: Sequence[str]) -> Counter[str]:
        program = [sys.executable, "-m", "asyncsink.cli.main", *command, "--quiet"]
        if command[0] != "split":
            program += ["--endpoint-url", self._proxy.endpoint_url]
        strace = ["strace", "--seccomp-bpf", "-f", "-y", "-qq", "-e", f"trace={CALLS}", "-o", str(self._trace)]
        environment = {**self._server.environment, "PATH": "/usr/bin:/bin"}
        ended = subprocess.run(
            [*strace, *program], env=environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS, check=False
        )
        if ended.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {ended.stderr[-2000:]}")
        with self._trace.open(encoding="utf-8", errors="replace") as lines:
            return Counter(_name(line) for line in lines if self._source in line and " resumed>" not in line)


def _name(line: str) -> str:
    """The kind of a call: "123 newfstatat(…" is a stat."""
    call = line.split(None, 1)[1].split("(", 1)[0]
    kinds = {"stat": "stat", "access": "access", "open": "open", "getdents": "getdents", "readlink": "readlink"}
    return next((kind for part, kind in kinds.items() if part in call), call)


def _tree(root: Path, files: int) -> Path:
    for number in range(files):
        folder = root / f"sub-{number // FILES_PER_FOLDER:04}"
        if not number % FILES_PER_FOLDER:
            folder.mkdir(parents=True)
        (folder / f"file-{number % FILES_PER_FOLDER:03}.json").write_bytes(f"{number:0{FILE_BYTES}}".encode())
    return root


def render_calls(result: dict[str, Any]) -> str:
    """The counts as a Markdown table, with the ratio to one whole run. Pure."""
    whole = result["ways"]["whole"]
    rows = [
        f"| {result['files']:,} files | calls on the source | ratio | requests | ratio | of a re-run | LIST | HEAD |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, way in result["ways"].items():
        calls, requests = _total(way, "calls"), _total(way, "requests")
        ratio, asked = calls / _total(whole, "calls"), requests / _total(whole, "requests")
        again = way["again"]["requests"]
        lists, heads = again.get("ListObjectsV2", 0), again.get("HeadObject", 0)
        rows.append(
            f"| {name} | {calls:,} | {ratio:.2f} | {requests:,} | {asked:.2f} | {sum(again.values()):,} | {lists:,} "
            f"| {heads:,} |"
        )
    return "\n".join(rows) + "\n"


def _total(way: dict[str, Any], what: str) -> int:
    """Of a split, where there is one, and the first publication."""
    return sum(sum(way[step][what].values()) for step in ("split", "first") if step in way)
