"""Exports by four Dask workers, of which two are killed, one of them inside of a multipart upload, and one is added."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from distributed import LocalCluster

from asyncsink.adapters.dask_export import run_on_cluster
from asyncsink.engine.recording.events import Progress
from asyncsink.model import Receipt, Skip
from asyncsink.options.parse import parse_options
from asyncsink.options.settings import MIB
from asyncsink.report.manifest import read_manifest
from asyncsink.sources.directory import DirectorySource
from asyncsink.splitting.cutting import ByLimits
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from benchmarks.chaos.traffic import Traffic, Watched
from benchmarks.chaos.tree import PART_BYTES, Files, Found, compare, make_tree
from benchmarks.machine import describe_machine, describe_versions
from benchmarks.measuring.running import Tell
from benchmarks.measuring.verifying import reader_of
from benchmarks.servers.running import running_server

T = TypeVar("T")
KIND: Final = "dask-kill"
WORKERS: Final = 4
SOURCE_PART_BYTES, SOURCE_PART_OBJECTS = 12 * MIB, 5
"""Of a source part: so small that four workers do not have all of them at once."""
_PART_SECONDS, _OBJECT_SECONDS = 0.5, 0.05
"""Answers come up to so much later, so that there is time to kill a worker in the middle."""
_BEAT_SECONDS: Final = 0.01
_LIMIT_SECONDS: Final = 120.0


@dataclass(slots=True)
class Outcome:
    """One run.

    Attributes:
        kills: how many workers were killed, of those in `in_an_upload` while they had an open multipart upload.
        more_than_once: keys with more than one record in the manifest; unrecorded: files without one.
        bytes_again: of objects and parts that came at the server, less the size of the tree.
        bytes_allowed: the sizes of the source parts that the killed workers had in hand.
        bytes_resumed: of parts that dead workers had sent, and that were not sent again.
    """

    number: int
    seconds: float = 0.0
    kills: int = 0
    in_an_upload: int = 0
    found: Found = field(default_factory=Found)
    more_than_once: int = 0
    unrecorded: int = 0
    bytes_again: int = 0
    bytes_allowed: int = 0
    bytes_resumed: int = 0
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing is to be said against it."""
        recorded = not self.more_than_once and not self.unrecorded
        return not self.found and recorded and not self.problem and self.bytes_again <= self.bytes_allowed


def dask_kill_runs(runs: int, seed: int, tell: Tell) -> dict[str, Any]:
    """Do it, and return the result, ready for JSON. Blocking; leaves no process and no file behind."""
    started, began = datetime.now(UTC), time.monotonic()
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="asyncsink-dask-kill-") as name:
        directory = Path(name)
        files = make_tree(directory / "tree", seed)
        (directory / "server").mkdir()
        with running_server("seaweed", directory / "server") as server, server.in_environment():
            client = reader_of(server)
            with _Workers(directory) as workers:
                for number in range(runs):
                    bucket, traffic = f"dask-kill-{number}", Traffic()
                    client.create_bucket(Bucket=bucket)
                    # SeaweedFS lays out a bucket's volumes at its first write.
                    client.put_object(Bucket=bucket, Key="first", Body=b"first")
                    watched = Watched(traffic, _PART_SECONDS, _OBJECT_SECONDS)
                    with FaultProxy(server.url, Rule(watched), seed=seed + number) as proxy:
                        run = _Run(workers, directory, files, traffic, random.Random(f"dask {seed} {number}"))
                        outcome = asyncio.run(run.publish(Outcome(number), proxy.endpoint_url))
                    outcome.found = compare(client, bucket, "study/", files)
                    client.delete_bucket(Bucket=bucket)  # SeaweedFS removes what is inside
                    outcomes.append(outcome)
                    tell(_line(outcome, runs))
            client.close()
    return {
        "kind": KIND,
        "started": started.isoformat(timespec="seconds"),
        "command": f"python -m benchmarks dask-kill --runs {runs} --seed {seed}",
        "seconds": round(time.monotonic() - began, 1),
        "machine": describe_machine(),
        "versions": describe_versions(),
        "tree": {"files": len(files), "bytes": sum(map(len, files.values())), "part_bytes": PART_BYTES},
        "summary": summarize(outcomes),
        "runs": [{**asdict(outcome), "seconds": round(outcome.seconds, 2)} for outcome in outcomes],
    }


def summarize(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The numbers over all runs. Pure."""
    found = Found()
    for outcome in outcomes:
        found += outcome.found
    return {
        "good": all(outcome.good for outcome in outcomes),
        "runs": len(outcomes),
        "kills": sum(outcome.kills for outcome in outcomes),
        "in_an_upload": sum(outcome.in_an_upload for outcome in outcomes),
        **asdict(found),
        "more_than_once": sum(outcome.more_than_once for outcome in outcomes),
        "unrecorded": sum(outcome.unrecorded for outcome in outcomes),
        "not_completed": sum(bool(outcome.problem) for outcome in outcomes),
        "beyond_parts_in_hand": sum(outcome.bytes_again > outcome.bytes_allowed for outcome in outcomes),
        "bytes_resumed": sum(outcome.bytes_resumed for outcome in outcomes),
    }


def render(result: dict[str, Any]) -> str:
    """A paragraph for a person. Pure."""
    told = result["summary"]
    return (
        f"{told['runs']:,} runs, {told['kills']:,} workers killed, {told['in_an_upload']:,} of them inside of a "
        f"multipart upload: {told['wrong']} wrong, {told['missing']} missing, {told['extra']} extra objects, "
        f"{told['open_uploads']} open uploads, {told['more_than_once']} keys more than once in a manifest and "
        f"{told['unrecorded']} not at all, {told['not_completed']} not completed; more sent again than the killed "
        f"workers had in hand: {told['beyond_parts_in_hand']} runs. {result['seconds']:,.0f} s."
    )


class _Workers:
    """A scheduler in this process, and workers in processes that nothing starts again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._cluster = LocalCluster(
            n_workers=0, processes=True, host="127.0.0.1", dashboard_address="127.0.0.1:0", silence_logs=50
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._started = 0

    def __enter__(self) -> _Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.terminate()
            process.wait()
        self._cluster.close()

    @property
    def address(self) -> str:
        """Of the scheduler."""
        return str(self._cluster.scheduler_address)

    @property
    def scheduler(self) -> Any:
        """The scheduler itself."""
        return self._cluster.scheduler

    def start(self) -> None:
        """Start one more worker."""
        name = f"worker-{self._started}"
        self._started += 1
        words = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--memory-limit", "0", "--host", "127.0.0.1"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, *words, "--name", name,
                   "--local-directory", str(self._directory)]  # fmt: skip
        with (self._directory / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    async def bring_to(self, number: int) -> None:
        """Start or stop workers until there are so many."""
        while len(self._processes) < number:
            self.start()
        while len(self._processes) > number:
            _, process = self._processes.popitem()
            process.terminate()
            await asyncio.to_thread(process.wait)
        await _until(lambda: {state.name for state in self.scheduler.workers.values()} == set(self._processes))

    def in_hand(self) -> dict[str, set[int]]:
        """The numbers of the source parts that each worker has."""
        return {
            state.name: {int(key.split("-")[2]) for task in state.processing if (key := _key(task)) is not None}
            for state in self.scheduler.workers.values()
            if state.name in self._processes
        }

    def in_an_upload(self) -> set[int]:
        """The numbers of the source parts with an open multipart upload."""
        runs = [told for name, told in self.scheduler.task_metadata.items() if name.startswith("asyncsink-") and told]
        return {
            int(number)
            for told in runs
            for number, uploads in told.items()
            if any(row and row["upload_id"] and not row["completing"] for row in uploads.values())
        }

    def kill(self, name: str) -> None:
        """SIGKILL, and nothing else."""
        process = self._processes.pop(name)
        process.kill()
        process.wait()


def _key(task: Any) -> str | None:
    """The key of a task that publishes a source part: asyncsink-RUN-NUMBER-LOSSES-TRY."""
    words = str(task.key).split("-")
    return str(task.key) if len(words) == 5 and all(map(str.isdecimal, words[2:])) else None


class _Run:
    """One export, its kills, and what came of it."""

    def __init__(self, workers: _Workers, directory: Path, files: Files, traffic: Traffic, dice: random.Random) -> None:
        self._workers = workers
        self._directory = directory
        self._files = files
        self._traffic = traffic
        self._dice = dice
        self._progress = Progress()
        self._sizes = _part_sizes(files)

    async def publish(self, outcome: Outcome, endpoint_url: str) -> Outcome:
        """Export, kill two workers and add one meanwhile, and read the manifest."""
        await self._workers.bring_to(WORKERS)
        manifest = self._directory / f"run{outcome.number}.jsonl"
        options = {"endpoint_url": endpoint_url, "part_size_bytes": PART_BYTES, "manifest": str(manifest)}
        settings = parse_options(f"s3://dask-kill-{outcome.number}/study", options)
        source = DirectorySource(self._directory / "tree", symlinks="inside")
        began = time.monotonic()
        try:
            async with asyncio.timeout(_LIMIT_SECONDS), asyncio.TaskGroup() as group:
                harm = group.create_task(self._harm(outcome))
                report = await run_on_cluster(
                    self._workers.address,
                    settings,
                    source,
                    progress=self._progress,
                    part_bytes=SOURCE_PART_BYTES,
                    part_objects=SOURCE_PART_OBJECTS,
                )
                harm.cancel()
        except TimeoutError:
            outcome.problem = f"It took more than {_LIMIT_SECONDS:g} s."
            return outcome
        outcome.seconds = time.monotonic() - began
        outcome.problem = "" if report.ok and report.objects_total == len(self._files) else report.summary()
        outcome.bytes_resumed = report.counts.bytes_resumed
        outcome.bytes_again = self._traffic.body_bytes - sum(map(len, self._files.values()))
        records = read_manifest(str(manifest)).records()
        seen = Counter(record.key for record in records if isinstance(record, (Receipt, Skip)))
        outcome.more_than_once = sum(number > 1 for number in seen.values())
        outcome.unrecorded = len(self._files) - len(seen)
        return outcome

    async def _harm(self, outcome: Outcome) -> None:
        """Kill one worker at some moment, and another while it has an upload open; add one at some moment."""
        moments = sorted((self._dice.uniform(0.0, 0.5), what) for what in ("kill", "kill in an upload", "add"))
        for moment, what in moments:
            await _until(partial(self._has_come_to, moment))
            if what == "add":
                self._workers.start()
                continue
            found = await _until(partial(self._victims, what))
            await asyncio.sleep(self._dice.uniform(0.0, 0.3))
            victim = self._dice.choice(found)
            had, uploads = self._workers.in_hand().get(victim, set()), self._workers.in_an_upload()
            self._workers.kill(victim)
            outcome.kills += 1
            outcome.in_an_upload += bool(had & uploads)
            outcome.bytes_allowed += sum(self._sizes[number] for number in had)

    def _has_come_to(self, moment: float) -> bool:
        return self._progress.counts.objects_total >= moment * len(self._files)

    def _victims(self, what: str) -> list[str]:
        """Workers with something in hand, or with an open upload."""
        in_hand, uploads = self._workers.in_hand(), self._workers.in_an_upload()
        return sorted(name for name, parts in in_hand.items() if (parts & uploads if "upload" in what else parts))


async def _until(condition: Callable[[], T]) -> T:
    """The first answer that is true."""
    while True:
        if found := condition():
            return found
        await asyncio.sleep(_BEAT_SECONDS)


def _part_sizes(files: Files) -> list[int]:
    """The sizes of the source parts, as the export cuts them."""
    cutter, sizes = ByLimits(SOURCE_PART_BYTES, SOURCE_PART_OBJECTS), list[int]()
    for path in sorted(files):
        if cutter.begins(len(files[path])):
            sizes.append(0)
        sizes[-1] += len(files[path])
    return sizes


def _line(outcome: Outcome, runs: int) -> str:
    told = (
        f"  {outcome.number + 1}/{runs}: {outcome.kills} killed, {outcome.in_an_upload} in an upload; "
        f"{outcome.seconds:.1f} s, {outcome.bytes_again / 1e6:.1f} of {outcome.bytes_allowed / 1e6:.1f} MB again"
    )
    return told if outcome.good else f"{told} WRONG: {outcome}"
