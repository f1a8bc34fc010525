"""A run: one scenario's data set and server, and interleaved rounds, bounded in time; a result after each round."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.lineup.cohort import Member
from benchmarks.lineup.commands import Work
from benchmarks.lineup.contenders import BUCKET, Contender, Entrant, entrants_of
from benchmarks.lineup.pythons import Python, this_python
from benchmarks.lineup.scenarios import GIB, KIB, DataSet, Scenario, make_data_set
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.grabbing import fill, grab_once
from benchmarks.measuring.measuring import Measurement, measure
from benchmarks.measuring.verifying import list_bucket, reader_of, verify
from benchmarks.servers.running import RunningServer, ServerKind, running_server

FORMAT = 2
_PROBLEMS_TOLD = 5
_WARM_FILES = 20
_MEMORY_BYTES_MIN = 8 * GIB
A = TypeVar("A")
Tell = Callable[[str], None]
Keep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to run.

    Attributes:
        scenario, contenders: every contender runs that the scenario is meant for.
        rounds: how often each runs; the order rotates by one from round to round.
        quick: smaller data sets.
        second: a Python under which contenders in Python run as well, in the same rounds.
        limit_seconds: for one publication; it is killed then.
        ends: no round begins after this reading of the monotonic clock; None: all rounds are run.
        verify_objects_max: how many objects are read back from SeaweedFS after each publication; None is all.
    """

    scenario: Scenario
    contenders: Sequence[Contender]
    server: ServerKind
    rounds: int = 5
    quick: bool = False
    second: Python | None = None
    limit_seconds: float = 600.0
    ends: float | None = None
    verify_objects_max: int | None = 2000

    @property
    def command(self) -> str:
        """The command line that repeats the run."""
        words = ["python -m benchmarks run", self.scenario.name, "--server", self.server, "--rounds", str(self.rounds)]
        words += [word for each in self.contenders for word in ("--contender", each.name)]
        words += ["--quick"] if self.quick else []
        words += ["--python PATH"] if self.second else []
        words += ["--verify-all"] if self.verify_objects_max is None else []
        return " ".join(words)

    @property
    def pythons(self) -> list[Python]:
        """This one, and the second."""
        return [this_python(), *([self.second] if self.second else [])]

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return self.ends is not None and time.monotonic() > self.ends


def run(
    order: Order, tell: Tell, *, before: Mapping[str, Any] | None = None, keep: Keep | None = None
) -> dict[str, Any]:
    """Run the rounds and return the result, ready for JSON. Blocking; leaves no process and no file behind.

    Args:
        before: a result whose time was over, which is gone on with; one of other versions, contenders or interpreters
            is begun anew.
        keep: gets the result after each round.
    """
    for python in order.pythons:
        python.compile()
    with tempfile.TemporaryDirectory(prefix="asyncsink-benchmarks-") as directory, _memory() as memory:
        scenario = order.scenario
        tell(f"{scenario.title}, {order.server}: making the files")
        data = make_data_set(scenario, Path(directory), quick=order.quick)
        entrants = [
            each for each in entrants_of(order.contenders, order.pythons) if each.contender.takes_part(scenario)
        ]
        result = _result(order, data, entrants)
        if before is not None and _same_run(before, result):
            result |= {"started": before["started"], "measurements": list(before["measurements"])}
        fast = memory or Path(directory)
        with running_server(
            order.server, fast, delay_ms=scenario.delay_ms, bytes_per_second=scenario.bytes_per_second
        ) as server:
            rounds = _Rounds(order, data, server, Path(directory), fast, tell)
            rounds.run(entrants, result, keep or (lambda _: None))
        return result


def _result(order: Order, data: DataSet, entrants: Sequence[Entrant]) -> dict[str, Any]:
    scenario = data.scenario
    return {
        "format": FORMAT,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": order.command,
        "complete": False,
        "quick": order.quick,
        "scenario": {
            "name": scenario.name, "title": scenario.title, "repeat": scenario.repeat, "grab": scenario.grab,
            "reference": scenario.reference, "at_once": scenario.at_once, "delay_ms": scenario.delay_ms,
            "bytes_per_second": scenario.bytes_per_second, "objects": data.objects, "bytes": data.size_bytes,
        },
        "server": order.server,
        "rounds": order.rounds,
        "machine": describe_machine(),
        "versions": describe_versions(),
        "pythons": {python.tag: dict(python.build) for python in order.pythons},
        "contenders": [
            {"name": each.name, "title": each.contender.title, "checks": each.contender.checks,
             "proves": each.contender.proves, "repeats": each.contender.repeats, "python": each.python.tag,
             "every_python": each.contender.every_python}
            for each in entrants
        ],
        "left_out": [],
        "measurements": [],
    }  # fmt: skip


def _same_run(before: Mapping[str, Any], result: Mapping[str, Any]) -> bool:
    same = ("format", "quick", "scenario", "server", "machine", "versions", "contenders")
    builds = [{tag: each["version"] for tag, each in one["pythons"].items()} for one in (before, result)]
    return builds[0] == builds[1] and all(before[name] == result[name] for name in same)


@contextlib.contextmanager
def _memory() -> Iterator[Path | None]:
    """A directory in memory for the block, or None where there is no room: what disks do is not what is measured."""
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK) or shutil.disk_usage(shared).free < _MEMORY_BYTES_MIN:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="asyncsink-benchmarks-", dir=shared) as directory:
        yield Path(directory)


def rotated(items: Sequence[A], by: int) -> list[A]:
    """The items, beginning with number `by` (modulo their number), so that each takes each turn."""
    cut = by % len(items) if items else 0
    return [*items[cut:], *items[:cut]]


@dataclass(frozen=True, slots=True)
class _Rounds:
    order: Order
    data: DataSet
    server: RunningServer
    scratch: Path
    target: Path
    tell: Tell

    def run(self, entrants: Sequence[Entrant], result: dict[str, Any], keep: Keep) -> None:
        scenario, order = self.data.scenario, self.order
        done = max((one["round"] for one in result["measurements"]), default=0)
        with contextlib.ExitStack() as buckets:
            kept = {}
            if scenario.repeat:
                kept = {each.name: buckets.enter_context(self._bucket(_bucket_name(each))) for each in entrants}
            able = [each for each in entrants if self._is_able(each, kept.get(each.name, ""), result["left_out"])]
            if scenario.grab and able:
                bucket = buckets.enter_context(self._bucket(BUCKET))
                kept = {each.name: bucket for each in able}
                fill(self._work(able[0], bucket, self.data))
            for number in range(done + 1, order.rounds + 1):
                if order.over:
                    self.tell(f"  stopped before round {number}: the time is over")
                    return
                for place, entrant in enumerate(rotated(able, number - 1), 1):
                    made = self._once(entrant, self.data, number, place, kept.get(entrant.name, ""))
                    result["measurements"].append(made.as_dict())
                    self.tell(_line(made, order.rounds))
                result["complete"] = number == order.rounds
                keep(result)

    def _is_able(self, entrant: Entrant, bucket: str, left_out: list[dict[str, str]]) -> bool:
        """Whether it can take part. Its first run is not measured: it has the system read programs and bytecode, and a
        repeated publication needs one to repeat."""
        reason = entrant.contender.left_out(self.data)
        if self.data.scenario.reads and not self.server.is_null:
            reason = "only the null server has objects to read without being filled"
        if self.server.is_null and self.data.scenario.repeat:
            reason = "the null server keeps nothing that could be there already"
        if not reason:
            data = self.data if self.data.scenario.repeat else self._few()
            made = self._once(entrant, data, 0, 0, bucket)
            reason = "" if made.status == "ok" else f"its first run ended with: {made.status}. {made.message}"
        if reason:
            left_out.append({"contender": entrant.name, "reason": reason})
            self.tell(f"  {entrant.name} is left out: {reason}")
        return not reason

    def _few(self) -> DataSet:
        def members(quick: bool) -> list[Member]:
            del quick
            return [Member(f"part-000/file-{number:06d}.bin", KIB) for number in range(_WARM_FILES)]

        few = replace(self.data.scenario, members=members)
        return make_data_set(few, self.scratch / "few")

    def _once(self, entrant: Entrant, data: DataSet, number: int, place: int, bucket: str) -> Measurement:
        """One publication or grab; into a bucket of its own where none is given."""
        limit = self.order.limit_seconds
        with contextlib.ExitStack() as fresh:
            work = self._work(entrant, bucket or fresh.enter_context(self._bucket(BUCKET)), data)
            if not data.scenario.grab:
                made = measure(entrant, work, round_=number, place=place, limit_seconds=limit)
                return made if self.server.is_null else self._verified(made, work)
            if not bucket:
                fill(work)
            return grab_once(entrant, work, round_=number, place=place, limit_seconds=limit)

    def _work(self, entrant: Entrant, bucket: str, data: DataSet) -> Work:
        return Work(data, self.server, bucket, self.scratch, self.target / "grabbed", entrant.python)

    def _verified(self, made: Measurement, work: Work) -> Measurement:
        client = reader_of(work.server)
        try:
            found = list_bucket(client, work.bucket)
            made.objects, made.bytes = len(found), sum(size for size, _ in found.values())
            if made.status == "ok":
                limit = self.order.verify_objects_max
                made.verified, problems = verify(client, work.bucket, found, work.data, content_objects_max=limit)
                if problems:
                    made.status = "failed"
                    made.message = f"{len(problems):,} differences: " + "; ".join(problems[:_PROBLEMS_TOLD])
        finally:
            client.close()
        return made

    @contextlib.contextmanager
    def _bucket(self, name: str) -> Iterator[str]:
        """A bucket that is there for the block; a null server takes any name."""
        if self.server.is_null:
            yield name
            return
        client = reader_of(self.server)
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


def _bucket_name(entrant: Entrant) -> str:
    return f"{BUCKET}-{entrant.name.replace('@', '-')}"


def _line(made: Measurement, rounds: int) -> str:
    own = "" if made.engine_seconds is None else f", engine {made.engine_seconds:.2f} s"
    told = f"  round {made.round}/{rounds} {made.contender}: {made.wall_seconds:.2f} s{own}"
    told += f", CPU {made.cpu_seconds:.2f} s, {made.rss_bytes / 1e6:.0f} MB, {made.objects:,} objects"
    return told if made.status == "ok" else f"{told} ({made.status}. {made.message})"
