"""Runs of the service, by each library: calm, a slow S3, a dead S3, clients that vanish, SIGTERM in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.toxics import Bandwidth, Latency, ResetPeer, Timeout
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.running import Tell
from benchmarks.measuring.verifying import reader_of
from benchmarks.servers.running import running_server
from benchmarks.service.app import CLOSE_SECONDS, GRACE_SECONDS, LIBRARIES
from benchmarks.service.clients import Upload, body_of, run_clients

CLIENTS: Final = 50
PHASE_SECONDS: Final = 12.0
KIND: Final = "service-streams"
_SAMPLE_SECONDS: Final = 0.1
_EXIT_SECONDS: Final = 60.0
_START_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Phase:
    """Some seconds of one weather.

    Attributes:
        name: of the phase, and of its objects' folder.
        rules: makes the faults of the S3 server.
        vanishing: the share of the uploads whose client vanishes.
        ends_by_signal: the service gets SIGTERM in the middle.
    """

    name: str
    rules: Callable[[], Sequence[Rule]] = tuple
    vanishing: float = 0.0
    ends_by_signal: bool = False


def _slow() -> Sequence[Rule]:
    return (Rule(Bandwidth(2_000_000), Latency(0.5, 0.3)),)


def _dead() -> Sequence[Rule]:
    return (Rule(ResetPeer(0), Timeout(5.0)),)


PHASES: Final = (
    Phase("calm"),
    Phase("slow", _slow),
    Phase("dead", _dead),
    Phase("vanishing", vanishing=0.3),
    Phase("end", _slow, vanishing=0.1, ends_by_signal=True),
)


def measure_streams(
    libraries: Sequence[str] = tuple(LIBRARIES),
    *,
    clients: int = CLIENTS,
    seconds: float = PHASE_SECONDS,
    seed: int = 1,
    tell: Tell,
) -> dict[str, Any]:
    """Run the service by each library, on a SeaweedFS behind a proxy; returns the result, ready for JSON. Blocking."""
    runs = {}
    for library in libraries:
        with tempfile.TemporaryDirectory(prefix="asyncsink-service-") as place:
            runs[library] = _run(library, Path(place), clients, seconds, seed)
        tell(f"{library}: {json.dumps(runs[library]['summary'])}")
    return {
        "kind": KIND,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": f"python -m benchmarks service --clients {clients} --seconds {seconds:g} --seed {seed}",
        "machine": describe_machine(),
        "versions": describe_versions(),
        "clients": clients,
        "phase_seconds": seconds,
        "shutdown_seconds_max": GRACE_SECONDS + CLOSE_SECONDS,
        "runs": runs,
    }


def _run(library: str, place: Path, clients: int, seconds: float, seed: int) -> dict[str, Any]:
    with running_server("seaweed", place) as server:
        reader = reader_of(server)
        reader.create_bucket(Bucket="service")
        reader.put_object(Bucket="service", Key="first", Body=b"first")  # SeaweedFS lays out a bucket's volumes then
        reader.delete_object(Bucket="service", Key="first")
        with FaultProxy(server.url, seed=seed) as proxy:
            environment = {**os.environ, **server.environment, "AWS_ENDPOINT_URL": proxy.endpoint_url}
            with _service(library, environment, place) as service:
                uploads = asyncio.run(_phases(service, proxy, clients, seconds, seed))
        found = look(reader, uploads)
        reader.close()
    return {
        "summary": {**_summary(uploads, service, seconds), **found},
        "phases": {phase.name: _of_phase(phase.name, uploads, service) for phase in PHASES},
        "samples": service.samples,
    }


@dataclass
class _Service:
    """The running process.

    Attributes:
        samples: time since the start in seconds, phase, and resident memory in bytes.
        exit_seconds: from SIGTERM to the end; exit_code: its own, or -9 where it had to be killed.
    """

    process: subprocess.Popen[bytes]
    port: int
    began: float
    samples: list[tuple[float, str, int]]
    exit_seconds: float = 0.0
    exit_code: int | None = None

    async def sample(self, phase: Callable[[], str]) -> None:
        """Read the memory of the process until it ends."""
        while self.process.poll() is None:
            self.samples.append((round(time.monotonic() - self.began, 2), phase(), _rss_bytes(self.process.pid)))
            await asyncio.sleep(_SAMPLE_SECONDS)

    async def end(self) -> None:
        """Send SIGTERM, and wait for the end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.exit_code = await asyncio.to_thread(self.process.wait, _EXIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.exit_code = -signal.SIGKILL
        self.exit_seconds = round(time.monotonic() - began, 2)


@contextmanager
def _service(library: str, environment: dict[str, str], place: Path) -> Iterator[_Service]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        listener.set_inheritable(True)
        command = [sys.executable, "-m", "benchmarks.service.app", library, "service", str(listener.fileno())]
        process = subprocess.Popen(
            command, env={**environment, "TMPDIR": str(place)}, pass_fds=[listener.fileno()], start_new_session=True
        )
        port = listener.getsockname()[1]
    try:
        _wait_for(port)
        yield _Service(process, port, time.monotonic(), [])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def _rss_bytes(pid: int) -> int:
    """Resident memory of a process that may just have ended (proc(5))."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0)


def _wait_for(port: int) -> None:
    """The listener is the service's own: the first answer comes when it has started."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/openapi.json", timeout=_START_SECONDS) as answer:
        answer.read()


async def _phases(service: _Service, proxy: FaultProxy, clients: int, seconds: float, seed: int) -> list[Upload]:
    uploads: list[Upload] = []
    now = PHASES[0]
    sampling = asyncio.create_task(service.sample(lambda: now.name))
    for phase in PHASES:
        now = phase
        proxy.rules = tuple(phase.rules())
        async with asyncio.TaskGroup() as group:
            running = group.create_task(
                run_clients(
                    service.port, phase.name, clients=clients, seconds=seconds, vanishing=phase.vanishing, seed=seed
                )
            )
            if phase.ends_by_signal:
                await asyncio.sleep(seconds / 2)
                await service.end()
            else:
                await asyncio.sleep(seconds)
                proxy.rules = ()  # the uploads that are under way end in fair weather
        uploads += running.result()
    await sampling
    return uploads


def look(reader: Any, uploads: Sequence[Upload], bucket: str = "service") -> dict[str, int]:
    """What is in the bucket, beside what the clients know."""
    sizes = {each.name: each.size_bytes for each in uploads}
    told = {each.name for each in uploads if each.status == 201}
    whole, half = set[str](), 0
    for page in reader.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for entry in page.get("Contents", []):
            name = entry["Key"]
            body = reader.get_object(Bucket=bucket, Key=name)["Body"].read()
            if name in sizes and body == b"".join(body_of(name, sizes[name])):
                whole.add(name)
            else:
                half += 1
    still_open = len(reader.list_multipart_uploads(Bucket=bucket).get("Uploads", []))
    return {"objects": len(whole), "half_objects": half, "told_and_lost": len(told - whole), "open_uploads": still_open}


def _summary(uploads: Sequence[Upload], service: _Service, seconds: float) -> dict[str, Any]:
    statuses = Counter("vanished" if each.vanished else str(each.status) for each in uploads)
    calm = sum(each.size_bytes for each in uploads if each.phase == "calm" and each.status == 201)
    return {
        "statuses": dict(sorted(statuses.items())),
        "calm_bytes_per_second": round(calm / seconds),
        "rss_bytes_max": max(rss for _, _, rss in service.samples),
        "exit_seconds": service.exit_seconds,
        "exit_code": service.exit_code,
    }


def _of_phase(name: str, uploads: Sequence[Upload], service: _Service) -> dict[str, Any]:
    own = [each for each in uploads if each.phase == name]
    seconds = sorted(each.seconds for each in own if each.status == 201)
    memory = [rss for _, phase, rss in service.samples if phase == name]
    return {
        "uploads": len(own),
        "errors": dict(Counter(each.error[:160] for each in own if each.error).most_common(3)),
        "stored": len(seconds),
        "p50_seconds": round(statistics.median(seconds), 3) if seconds else None,
        "p99_seconds": round(seconds[int(len(seconds) * 0.99)], 3) if seconds else None,
        "rss_bytes_median": round(statistics.median(memory)) if memory else None,
        "rss_bytes_max": max(memory, default=None),
    }


def render_streams(result: dict[str, Any]) -> str:
    """The runs as a Markdown table. Pure."""
    rows = [
        "| | stored | half objects | told and lost | open uploads | MB: calm, slow, dead, most | SIGTERM to end |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for library, run in result["runs"].items():
        told, phases = run["summary"], run["phases"]
        memory = [phases[name]["rss_bytes_median"] for name in ("calm", "slow", "dead")] + [told["rss_bytes_max"]]
        shown = ", ".join(f"{rss / 1e6:.0f}" for rss in memory)
        rows.append(
            f"| {library} | {told['objects']:,} | {told['half_objects']} | {told['told_and_lost']} "
            f"| {told['open_uploads']} | {shown} | {told['exit_seconds']:.1f} s |"
        )
    return "\n".join(rows) + "\n"
