"""kill -9, Ctrl-C and SIGTERM at random moments, then to the end: what is wrong afterwards, and what was sent twice.

With a journal, a run that was asked to stop leaves what one that was killed leaves: the same bounds hold for both.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from asyncsink.testing.fault_proxy import FaultProxy, Rule
from benchmarks.chaos.plans import How, Kill, Plan, draw
from benchmarks.chaos.traffic import Traffic, Watched
from benchmarks.chaos.tree import PART_BYTES, Files, Found, compare, make_tree
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.running import Tell
from benchmarks.measuring.verifying import reader_of
from benchmarks.servers.running import RunningServer, running_server

KIND: Final = "kill"
RUNS_PER_BUCKET: Final = 20
"""A bucket is removed with all that is inside: the server's disk holds so many runs at most."""
PART_SECONDS, OBJECT_SECONDS = 0.15, 0.01
"""Answers come up to so much later, so that large files take about as long as everything else together."""
_LIMIT_SECONDS: Final = 120.0
_STOP_SECONDS: Final = 30.0
"""Seconds within which a run that is asked to stop has ended."""
_SIGNALS: Final = {"KILL": signal.SIGKILL, "INT": signal.SIGINT, "TERM": signal.SIGTERM}


@dataclass(slots=True)
class Attempt:
    """One start of the command.

    Attributes:
        exit_code: what it said, or None where it was killed.
        connections: bodies that were under way at once, at most: each of them has a connection of its own.
        under_way: bodies that were under way when it was killed.
        told: its --json, or what it wrote to stderr.
    """

    exit_code: int | None
    connections: int
    under_way: int
    told: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """One run: its attempts until the end, and what it left behind.

    Attributes:
        bytes_again: of objects and parts that came at the server, less the size of the tree.
        bytes_allowed: one part for every connection and kill.
        problem: what the last attempt said, where it was not that everything is there.
    """

    plan: Plan
    seconds: float
    attempts: list[Attempt]
    found: Found
    bytes_again: int
    problem: str

    @property
    def kills(self) -> list[Kill]:
        """Those that happened: an attempt may have been faster."""
        return [kill for kill, made in zip(self.plan.kills, self.attempts, strict=False) if made.exit_code is None]

    @property
    def bytes_allowed(self) -> int:
        """See the class."""
        return sum(attempt.connections * PART_BYTES for attempt in self.attempts if attempt.exit_code is None)

    @property
    def good(self) -> bool:
        """Whether nothing is to be said against it."""
        return not self.found and not self.problem and self.bytes_again <= self.bytes_allowed

    def as_dict(self) -> dict[str, Any]:
        """For the result."""
        return {
            "number": self.plan.number + 1,
            "options": self.plan.options,
            "kills": [kill.as_dict() for kill in self.kills],
            "under_way": [attempt.under_way for attempt in self.attempts if attempt.exit_code is None],
            "seconds": round(self.seconds, 2),
            **asdict(self.found),
            "bytes_again": self.bytes_again,
            "bytes_allowed": self.bytes_allowed,
            "problem": self.problem,
        }


def kill_runs(runs: int, seed: int, tell: Tell, *, only: Sequence[int] = ()) -> dict[str, Any]:
    """Do it, and return the result, ready for JSON. Blocking; leaves no process and no file behind.

    Args:
        only: numbers, from 1, of the runs to do, of the `runs` that are drawn; empty is all.
    """
    started, began = datetime.now(UTC), time.monotonic()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="asyncsink-kill-") as name:
        directory = Path(name)
        files = make_tree(directory / "tree", seed)
        with running_server("seaweed", _made(directory / "server")) as server:
            bench = _Bench(directory, files, server, seed)
            try:
                seconds = bench.undisturbed()
                tell(f"undisturbed: {seconds:.2f} s")
                for plan in (plan for plan in draw(seed, runs) if not only or plan.number + 1 in only):
                    outcomes.append(bench.run(plan, seconds))
                    tell(_line(outcomes[-1], runs))
            finally:
                bench.close()
    size = sum(map(len, files.values()))
    return {
        "kind": KIND,
        "started": started.isoformat(timespec="seconds"),
        "command": f"python -m benchmarks kill --runs {runs} --seed {seed}",
        "seconds": round(time.monotonic() - began, 1),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "tree": {"files": len(files), "bytes": size, "part_bytes": PART_BYTES},
        "undisturbed_seconds": round(seconds, 2),
        "summary": summarize(outcomes, size),
        "runs": [outcome.as_dict() for outcome in outcomes],
    }


def summarize(outcomes: Sequence[Outcome], tree_bytes: int) -> dict[str, Any]:
    """The numbers over all runs. Pure."""
    found = Found()
    for outcome in outcomes:
        found += outcome.found
    kills = sum(len(outcome.kills) for outcome in outcomes)
    again = [outcome.bytes_again for outcome in outcomes]
    shares = [outcome.bytes_again / (outcome.bytes_allowed or 1) for outcome in outcomes]
    return {
        "good": all(outcome.good for outcome in outcomes),
        "runs": len(outcomes),
        "runs_killed": sum(bool(outcome.kills) for outcome in outcomes),
        "kills": kills,
        **asdict(found),
        "not_completed": sum(bool(outcome.problem) for outcome in outcomes),
        "beyond_one_part_per_connection": sum(outcome.bytes_again > outcome.bytes_allowed for outcome in outcomes),
        "share_of_allowed_most": round(max(shares, default=0.0), 3),
        "bytes_again_of_tree": round(sum(again) / (len(outcomes) * tree_bytes or 1), 4),
        "bytes_again_of_tree_per_kill": round(sum(again) / (kills * tree_bytes or 1), 4),
        "bytes_again_median": statistics.median(again) if again else 0,
        "bytes_again_most": max(again, default=0),
    }


def render(result: dict[str, Any]) -> str:
    """A paragraph for a person. Pure."""
    told = result["summary"]
    return (
        f"{told['runs']:,} runs, {told['kills']:,} kills: {told['wrong']} wrong, {told['missing']} missing, "
        f"{told['extra']} extra objects, {told['open_uploads']} open uploads, {told['not_completed']} not completed. "
        f"Sent again: {told['bytes_again_of_tree']:.2%} of the bytes of a run, "
        f"{told['bytes_again_most'] / 1e6:.1f} MB at most; beyond one part per connection and kill: "
        f"{told['beyond_one_part_per_connection']} runs. {result['seconds']:,.0f} s."
    )


class _Bench:
    """The server, the proxy before it, and one bucket after another."""

    def __init__(self, directory: Path, files: Files, server: RunningServer, seed: int) -> None:
        self._directory, self._files, self._server, self._seed = directory, files, server, seed
        self._client = reader_of(server)
        self._bucket = ""
        self._runs = 0

    def close(self) -> None:
        """Remove the last bucket."""
        if self._bucket:
            self._client.delete_bucket(Bucket=self._bucket)  # SeaweedFS removes what is inside
        self._client.close()

    def undisturbed(self) -> float:
        """How long a run takes that nobody kills, in seconds: the median of three."""
        plan = Plan(number=-1, concurrency=4, transport="auto", overwrite="journal", kills=())
        outcomes = [self.run(replace(plan, number=-1 - place), 0.0) for place in range(3)]
        for outcome in outcomes:
            if not outcome.good:
                raise RuntimeError(f"A run that nobody killed went wrong: {outcome.problem or outcome.found}.")
        return statistics.median(outcome.seconds for outcome in outcomes)

    def run(self, plan: Plan, undisturbed_seconds: float) -> Outcome:
        """One run, from its first attempt to the comparison of all bytes. Blocking."""
        if not self._runs % RUNS_PER_BUCKET:
            self._next_bucket()
        self._runs += 1
        prefix = f"run{plan.number}/"
        state = _made(self._directory / f"state{plan.number}")
        traffic = Traffic()
        watched = Watched(traffic, PART_SECONDS, OBJECT_SECONDS)
        attempts: list[Attempt] = []
        began = time.monotonic()
        with FaultProxy(self._server.url, Rule(watched), seed=self._seed + plan.number) as proxy:
            command = [
                sys.executable, "-m", "asyncsink.cli.main", "export", str(self._directory / "tree"),
                f"s3://{self._bucket}/{prefix}", "--endpoint-url", proxy.endpoint_url, "--part-size", str(PART_BYTES),
                "--journal", str(state / "journal"), "--json", "--quiet", *plan.options,
            ]  # fmt: skip
            try:
                for kill in (*plan.kills, None):
                    attempts.append(self._attempt(command, state, traffic, kill, undisturbed_seconds))
                    if attempts[-1].exit_code is not None:
                        break
                seconds = time.monotonic() - began
            finally:
                traffic.killed.set()
        found = compare(self._client, self._bucket, prefix, self._files)
        again = traffic.body_bytes - sum(map(len, self._files.values()))
        return Outcome(plan, seconds, attempts, found, again, _problem(attempts[-1], len(self._files)))

    def _attempt(
        self, command: list[str], state: Path, traffic: Traffic, kill: Kill | None, undisturbed_seconds: float
    ) -> Attempt:
        """Start the command; kill it when it is time, or let it end."""
        traffic.watch(kill)
        said, moaned = state / "stdout", state / "stderr"
        with said.open("wb") as out, moaned.open("wb") as err:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=self._environment)
        moment, killed = traffic.moment, traffic.killed
        watcher = threading.Thread(target=lambda: (process.wait(), moment.set()), daemon=True)
        watcher.start()
        try:
            by_the_clock = kill is not None and not kill.operation
            limit = kill.fraction * undisturbed_seconds if kill is not None and by_the_clock else _LIMIT_SECONDS
            due = moment.wait(limit) or by_the_clock
            under_way = traffic.under_way
            if kill is not None and kill.how != "KILL":
                process.send_signal(_SIGNALS[kill.how])
                watcher.join(_STOP_SECONDS)
            else:
                process.kill()
                watcher.join()
        finally:
            late = process.poll() is None
            process.kill()
            watcher.join()
            killed.set()
        text = moaned.read_text(errors="replace").replace(str(self._directory), "…")
        in_time = kill is not None and not late
        stopped = in_time and (process.returncode in _stopped_by(kill.how) or _ended_in_python(kill.how, text))
        end = None if stopped else process.returncode
        told = _json(said) or {"stderr": text if due else "it took too long"}
        return Attempt(end, traffic.under_way_most, under_way, told)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self._server.environment}

    def _next_bucket(self) -> None:
        if self._bucket:
            self._client.delete_bucket(Bucket=self._bucket)  # SeaweedFS removes what is inside
        self._bucket = f"kill-{self._runs // RUNS_PER_BUCKET}"
        self._client.create_bucket(Bucket=self._bucket)
        # SeaweedFS lays out a bucket's volumes at its first write, which takes a second and is nobody's doing.
        self._client.put_object(Bucket=self._bucket, Key="first", Body=b"first")


def _stopped_by(how: How) -> tuple[int, ...]:
    """Exit codes of a command that the signal ended, before or after it listens for signals. Pure."""
    return (-_SIGNALS[how],) if how == "KILL" else (128 + _SIGNALS[how], -_SIGNALS[how])


def _ended_in_python(how: How, text: str) -> bool:
    """Whether SIGINT came before Python had started the command: Python exits with 1 then. Pure."""
    return how == "INT" and text.startswith("Could not import runpy module") and "KeyboardInterrupt" in text


def _problem(last: Attempt, files: int) -> str:
    told = last.told
    there = told.get("objects_uploaded", 0) + told.get("objects_skipped", 0)
    if last.exit_code == 0 and there == files and not told.get("failures"):
        return ""
    failures = "; ".join(failure["error"] for failure in told.get("failures", ()))
    return f"exit code {last.exit_code}, {there} of {files} objects: {failures or told.get('stderr', '')}"


def _json(path: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        return {}
    return told


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True)
    return directory


def _line(outcome: Outcome, runs: int) -> str:
    kills = ", ".join(_moment(kill) for kill in outcome.kills) or "not killed: it was faster"
    told = f"  {outcome.plan.number + 1}/{runs}: {kills}; {outcome.seconds:.1f} s, "
    told += f"{outcome.bytes_again / 1e6:.1f} of {outcome.bytes_allowed / 1e6:.1f} MB again"
    return told if outcome.good else f"{told} WRONG: {outcome.found}. {outcome.problem}"


def _moment(kill: Kill) -> str:
    when = f"{kill.operation} {kill.nth} {kill.phase}" if kill.operation else f"at {kill.fraction:.0%}"
    return when if kill.how == "KILL" else f"{when} (SIG{kill.how})"
