"""One measurement: one contender publishes, or grabs, one data set once, in a fresh process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.lineup.commands import Work
from benchmarks.lineup.contenders import Entrant
from benchmarks.measuring import launcher
from benchmarks.scripts.clock import AT_ONCE

Status = Literal["ok", "failed", "stopped at the limit"]
_ROOT = Path(__file__).resolve().parents[2]
_MESSAGE_CHARACTERS = 2000


@dataclass(slots=True, kw_only=True)
class Measurement:
    """What was measured; every number is of this one run.

    Attributes:
        round, place: from 1; `place` is the turn within the round.
        wall_seconds, cpu_seconds, rss_bytes: of the whole process (peak of the largest process).
        engine_seconds, engine_cpu_seconds: by the engine's own clock; None where it has none.
        objects, bytes: what arrived, by the server's count (SeaweedFS: by listing; a grab: in its directory).
        server: the null server's counts, and its CPU seconds.
        load: the machine's load average (1 minute) before the start.
        notes: what the engine told of itself.
        verified: what was compared afterwards, or "".
        message: the end of its output where it failed.
    """

    contender: str
    round: int
    place: int
    status: Status = "ok"
    wall_seconds: float = 0.0
    cpu_seconds: float = 0.0
    rss_bytes: int = 0
    engine_seconds: float | None = None
    engine_cpu_seconds: float | None = None
    objects: int = 0
    bytes: int = 0
    server: dict[str, Any] = field(default_factory=dict)
    load: float = 0.0
    notes: dict[str, Any] = field(default_factory=dict)
    verified: str = ""
    message: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def measure(entrant: Entrant, work: Work, *, round_: int, place: int, limit_seconds: float) -> Measurement:
    """Run a contender once; at the limit it is killed, and what it sent until then counts. Blocking.

    What arrived is compared with the data set where the server counts; see `verifying` for SeaweedFS, and `grabbing`.
    """
    contender = entrant.contender
    made = Measurement(contender=entrant.name, round=round_, place=place, load=os.getloadavg()[0])
    work.server.reset(work.zeros)
    output = work.scratch / "output.txt"
    measured = launch(contender.argv(work), work, output, limit_seconds)
    text = output.read_text(errors="replace")
    made.wall_seconds, made.cpu_seconds = measured["wall_seconds"], measured["cpu_seconds"]
    made.rss_bytes = measured["rss_bytes"]
    if measured["stopped_at_limit"]:
        made.status = "stopped at the limit"
    elif measured["exit_status"] != 0:
        made.status = "failed"
        made.message = f"exit status {measured['exit_status']}: {_without_paths(text, work)[-_MESSAGE_CHARACTERS:]}"
    elif contender.own_clock:
        told = json.loads(text.strip().splitlines()[-1])
        made.engine_seconds, made.engine_cpu_seconds = told.pop("seconds"), told.pop("cpu_seconds")
        made.notes = told
    made.server = work.server.stats()
    if work.data.scenario.reads:
        made.objects, made.bytes = made.notes.get("objects", 0), made.notes.get("bytes", 0)
    elif not work.data.scenario.grab:
        made.objects, made.bytes = made.server.get("objects", 0), made.server.get("bytes_stored", 0)
    if work.server.is_null and not work.data.scenario.grab:
        expected = (work.data.objects, work.data.size_bytes)
        if made.status == "ok" and (made.objects, made.bytes) != expected:
            made.status = "failed"
            made.message = f"{made.objects:,} objects and {made.bytes:,} bytes arrived; expected {expected}."
        made.verified = "number of objects and bytes" if made.status == "ok" else ""
    return made


def launch(command: list[str], work: Work, output: Path, limit_seconds: float) -> dict[str, Any]:
    """Run a command as contenders are run, and return what the launcher measured. Blocking."""
    home = work.scratch / "home"
    if not work.data.scenario.repeat:
        # What a first publication remembers is not the next one's: journals, caches, and the receipts of a manifest.
        shutil.rmtree(home, ignore_errors=True)
        for manifest in work.scratch.glob("manifest*.jsonl"):
            manifest.unlink()
    home.mkdir(exist_ok=True)
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(home),  # nobody's own configuration files
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(_ROOT),
        AT_ONCE: str(work.at_once),
        **work.server.environment,
    }
    order = {
        "command": command,
        "environment": environment,
        "limit_seconds": limit_seconds,
        "output": str(output),
    }
    launched = [sys.executable, "-I", "-S", launcher.__file__, json.dumps(order)]
    with subprocess.Popen(launched, stdout=subprocess.PIPE, cwd=work.scratch) as process:
        try:
            told, _ = process.communicate()
        except BaseException:
            process.terminate()  # it kills the contender first
            raise
    measured: dict[str, Any] = json.loads(told)
    return measured


def _without_paths(text: str, work: Work) -> str:
    """Results are published; where things lay on this machine is nobody's business."""
    places = {work.data.directory: "DATA", work.scratch: "SCRATCH", work.target: "TARGET", _ROOT: "."}
    for path, name in (places | {sys.prefix: "PYTHON"}).items():
        text = text.replace(str(path), name)
    return text
