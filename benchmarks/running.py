"""A whole run: data sets, servers, and interleaved rounds, bounded in time, one JSON file at the end."""

from __future__ import annotations

import compileall
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncsink
import benchmarks
from benchmarks.commands import Work
from benchmarks.contenders import BUCKET, CONTENDERS, Contender
from benchmarks.grabbing import fill, grab_once
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring import Measurement, measure
from benchmarks.scenarios import SCENARIOS, DataSet, make_data_set
from benchmarks.scripts.clock import CONCURRENCY
from benchmarks.servers.running import RunningServer, ServerKind, running_server
from benchmarks.verifying import list_bucket, reader_of, verify

FORMAT = 1
RESULTS = Path(__file__).parent / "results"
_PROBLEMS_TOLD = 5
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run.

    Attributes:
        scenarios, contenders: names; every contender runs in every scenario that it can.
        rounds: how often each runs; the order rotates by one from round to round.
        quick: smaller data sets.
        delay_ms: of the null servers' answers.
        limit_seconds: for one publication; it is killed then.
        minutes_max: after so long no further round begins.
        verify_objects_max: how many objects are read back from SeaweedFS after each publication; None is all.
        command: how to repeat the run; "" is this order's own `run`.
    """

    scenarios: Sequence[str]
    contenders: Sequence[str]
    server: ServerKind
    rounds: int = 5
    quick: bool = False
    delay_ms: float = 0.0
    limit_seconds: float = 600.0
    minutes_max: float = 240.0
    verify_objects_max: int | None = 2000
    command: str = ""

    @property
    def repeat(self) -> str:
        """The command line that repeats the run, whatever its options were spelled like."""
        if self.command:
            return self.command
        words = ["python", "-m", "benchmarks", "run", "--server", self.server, "--rounds", str(self.rounds)]
        words += [word for name in self.scenarios for word in ("--scenario", name)]
        words += [word for name in self.contenders for word in ("--contender", name)]
        words += ["--limit-seconds", f"{self.limit_seconds:g}", "--minutes", f"{self.minutes_max:g}"]
        words += ["--delay-ms", f"{self.delay_ms:g}"] if self.delay_ms else []
        words += ["--quick"] if self.quick else []
        words += ["--verify-all"] if self.verify_objects_max is None else []
        return " ".join(words)


@dataclass
class _Run:
    order: Order
    directory: Path
    tell: Tell
    deadline: float
    measurements: list[Measurement] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    data_sets: list[dict[str, Any]] = field(default_factory=list)
    complete: bool = True


def run(order: Order, tell: Tell) -> dict[str, Any]:
    """Run everything and return the result, ready for JSON. Blocking; leaves no process and no file behind."""
    _compile()
    started = datetime.now(UTC)
    machine, versions = describe_machine(), describe_versions()
    with tempfile.TemporaryDirectory(prefix="asyncsink-benchmarks-") as directory:
        state = _Run(order, Path(directory), tell, time.monotonic() + order.minutes_max * 60)
        for name in order.scenarios:
            scenario = SCENARIOS[name]
            if time.monotonic() > state.deadline:
                state.complete = False
                tell(f"{scenario.title}: not begun, --minutes is over")
                continue
            tell(f"{scenario.title}: making the files")
            data = make_data_set(scenario, state.directory, quick=order.quick)
            state.data_sets.append(
                {
                    "name": name,
                    "title": scenario.title,
                    "repeat": scenario.repeat,
                    "grab": scenario.grab,
                    "reference": scenario.reference,
                    "objects": data.objects,
                    "bytes": data.size_bytes,
                }
            )
            scratch = Path(tempfile.mkdtemp(dir=directory))
            with running_server(order.server, scratch, delay_ms=order.delay_ms) as server:
                _run_scenario(state, data, server, scratch)
    return {
        "format": FORMAT,
        "started": started.isoformat(timespec="seconds"),
        "command": order.repeat,
        "complete": state.complete,
        "quick": order.quick,
        "server": {"kind": order.server, "delay_ms": order.delay_ms},
        "concurrency": CONCURRENCY,
        "rounds": order.rounds,
        "machine": machine,
        "versions": versions,
        "contenders": [
            {"name": name, "title": CONTENDERS[name].title, "checks": CONTENDERS[name].checks,
             "proves": CONTENDERS[name].proves, "repeats": CONTENDERS[name].repeats,
             "own_clock": CONTENDERS[name].own_clock}
            for name in order.contenders
        ],
        "data_sets": state.data_sets,
        "left_out": state.left_out,
        "measurements": [measurement.as_dict() for measurement in state.measurements],
    }  # fmt: skip


def _compile() -> None:
    # As every other contender is when it is installed: an editable asyncsink would compile itself at each start where
    # PYTHONDONTWRITEBYTECODE is set, or after a change.
    for package in (asyncsink, benchmarks):
        for place in package.__path__:
            compileall.compile_dir(place, quiet=1)


def save(result: dict[str, Any], path: Path | None = None) -> Path:
    """Write a result; without a path into benchmarks/results, under its time and server."""
    if path is None:
        stamp = result["started"].replace("-", "").replace(":", "")[:13]
        names = "+".join(data["name"] for data in result["data_sets"])
        path = RESULTS / f"{stamp}-{result['server']['kind']}-{names}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return path


def rotated(items: Sequence[str], by: int) -> list[str]:
    """The items, beginning with number `by` (modulo their number), so that each takes each turn."""
    cut = by % len(items) if items else 0
    return [*items[cut:], *items[:cut]]


def _run_scenario(state: _Run, data: DataSet, server: RunningServer, scratch: Path) -> None:
    order, name = state.order, data.scenario.name
    able: list[str] = []
    for contender in (each for each in order.contenders if CONTENDERS[each].takes_part(data.scenario)):
        reason = CONTENDERS[contender].left_out(data)
        if server.kind != "seaweed" and data.scenario.repeat:
            reason = "the null server keeps nothing that could be there already"
        if reason:
            state.left_out.append({"scenario": name, "contender": contender, "reason": reason})
            state.tell(f"  {contender} is left out: {reason}")
        else:
            able.append(contender)
    with contextlib.ExitStack() as buckets:
        kept = {c: buckets.enter_context(_bucket(server, f"{BUCKET}-{c}")) for c in able if data.scenario.repeat}
        for contender, bucket in kept.items():
            state.tell(f"  {contender}: publishing for the first time, not measured")
            first = _publish(state, CONTENDERS[contender], Work(data, server, bucket, scratch), 0, 0)
            if first.status != "ok":
                able.remove(contender)
                reason = f"its first publication ended with: {first.status}"
                state.left_out.append({"scenario": name, "contender": contender, "reason": reason})
                state.tell(f"  {contender} is left out: {reason}. {first.message}")
        if data.scenario.grab:
            kept = dict.fromkeys(able, buckets.enter_context(_bucket(server, BUCKET)))
            fill(Work(data, server, BUCKET, scratch))
        for number in range(1, order.rounds + 1):
            if time.monotonic() > state.deadline:
                state.complete = False
                state.tell(f"  stopped before round {number}: --minutes is over")
                return
            for place, contender in enumerate(rotated(able, number - 1), 1):
                with contextlib.ExitStack() as fresh:
                    bucket = kept.get(contender) or fresh.enter_context(_bucket(server, BUCKET))
                    work = Work(data, server, bucket, scratch)
                    made = _publish(state, CONTENDERS[contender], work, number, place)
                    state.measurements.append(made)
                    state.tell(_line(made, order.rounds))


def _publish(state: _Run, contender: Contender, work: Work, number: int, place: int) -> Measurement:
    if work.data.scenario.grab:
        return grab_once(contender, work, round_=number, place=place, limit_seconds=state.order.limit_seconds)
    made = measure(contender, work, round_=number, place=place, limit_seconds=state.order.limit_seconds)
    if work.server.kind != "seaweed":
        return made
    client = reader_of(work.server)
    try:
        found = list_bucket(client, work.bucket)
        made.objects, made.bytes = len(found), sum(size for size, _ in found.values())
        if made.status == "ok":
            limit = state.order.verify_objects_max
            made.verified, problems = verify(client, work.bucket, found, work.data, content_objects_max=limit)
            if problems:
                made.status = "failed"
                made.message = f"{len(problems):,} differences: " + "; ".join(problems[:_PROBLEMS_TOLD])
    finally:
        client.close()
    return made


@contextlib.contextmanager
def _bucket(server: RunningServer, name: str) -> Iterator[str]:
    """A bucket that is there for the block; a null server takes any name."""
    if server.kind != "seaweed":
        yield name
        return
    client = reader_of(server)
    try:
        client.create_bucket(Bucket=name)
        try:
            # SeaweedFS lays out a bucket's volumes at its first write, which takes a second and is nobody's doing.
            client.put_object(Bucket=name, Key="first", Body=b"first")
            client.delete_object(Bucket=name, Key="first")
            yield name
        finally:
            client.delete_bucket(Bucket=name)  # SeaweedFS removes what is inside
    finally:
        client.close()


def _line(made: Measurement, rounds: int) -> str:
    own = "" if made.engine_seconds is None else f", engine {made.engine_seconds:.2f} s"
    told = f"  round {made.round}/{rounds} {made.contender}: {made.wall_seconds:.2f} s{own}"
    told += f", CPU {made.cpu_seconds:.2f} s, {made.rss_bytes / 1e6:.0f} MB, {made.objects:,} objects"
    return told if made.status == "ok" else f"{told} ({made.status}. {made.message})"
