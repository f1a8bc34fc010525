"""SharedLimits: sinks, exports and grabs of a process keep memory, requests, threads and bandwidth together."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine.limits import descriptors
from asyncsink.engine.limits.pools import SHARING
from asyncsink.options.parse import parse_options
from tests.support.guide import example
from tests.support.processes import run
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject, quirky_s3
from tests.support.requests import until

pytestmark = pytest.mark.anyio
MIB = 1 << 20
PART_BYTES = 5 * MIB
LANES = pytest.mark.parametrize("lane", ["wire", "aioboto3"])


class Arrivals:
    """What a server that answers late has at a time, and in all."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds = seconds
        self.now, self.most = Counter[str](), Counter[str]()
        self.order: list[str] = []
        self._lock = threading.Lock()

    def answer(self, request: Request) -> Answer | None:
        kinds = ["request", "part" if "partNumber" in request.query else request.method]
        with self._lock:
            self.order.append(f"{request.method} {request.key}")
            self.now.update(kinds)
            self.most |= self.now
        threading.Event().wait(self.seconds)
        with self._lock:
            self.now.subtract(kinds)
        return None


@contextmanager
def late_server(arrivals: Arrivals, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuirkyS3]:
    with quirky_s3(arrivals.answer) as server:
        for name, value in server.environment(home).items():
            monkeypatch.setenv(name, value)
        yield server


def small_files(directory: Path, count: int) -> list[Path]:
    directory.mkdir(exist_ok=True)
    paths = [directory / f"{number:05}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(b"%d" % number)
    return paths


def large_file(path: Path, parts: int) -> Path:
    with path.open("wb") as file:
        file.truncate(parts * PART_BYTES)
    return path


@LANES
async def test_requests_in_flight_are_counted_over_all(
    lane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals, paths = Arrivals(), small_files(tmp_path / "small", 60)
    limits = asyncsink.SharedLimits(concurrency=5)
    own: Any = {"limits": limits, "transport": lane, "journal": False}
    with late_server(arrivals, tmp_path, monkeypatch) as server:
        server.objects["tryout"] = {f"old/{number}": StoredObject(b"old") for number in range(60)}
        async with AsyncExitStack() as exits, asyncio.TaskGroup() as group:
            for number in range(3):
                sink = asyncsink.AsyncSink(f"s3://tryout/{number}", **own)
                await exits.enter_async_context(sink)
                group.create_task(sink.submit("outputs", paths))
            exported = group.create_task(asyncsink.export({"outputs": paths}, "s3://tryout/export", **own))
            grabbed = group.create_task(asyncsink.grab("s3://tryout/old", tmp_path / "grabbed", limits=limits))
            reader = asyncsink.S3Reader("s3://tryout/old", limits=limits, transport=lane)
            await exits.enter_async_context(reader)
            read = [group.create_task(reader.get(str(number))) for number in range(60)]
            assert await asyncio.gather(*read) == 60 * [b"old"]
        assert (exported.result().objects_uploaded, len(grabbed.result().receipts)) == (60, 60)
        assert len(server.objects["tryout"]) == 60 + 4 * 60
    assert arrivals.most["request"] <= 5
    assert arrivals.most["request"] >= 4, "what one does not use, the others do"


@LANES
async def test_memory_is_counted_over_all(lane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part that is in memory, or in a lane thread, has its bytes of the one budget."""
    arrivals, large = Arrivals(), large_file(tmp_path / "large.bin", 6)
    limits = asyncsink.SharedLimits(memory_bytes=2 * PART_BYTES)
    own: Any = {"limits": limits, "transport": lane, "journal": False, "part_size_bytes": PART_BYTES}
    with late_server(arrivals, tmp_path, monkeypatch):
        reports = await asyncio.gather(
            *(asyncsink.export({"outputs": large}, f"s3://tryout/{number}", **own) for number in range(3))
        )
    assert [len(report.receipts) for report in reports] == [1, 1, 1]
    assert 1 <= arrivals.most["part"] <= 2


@LANES
@pytest.mark.parametrize("queued", [2000, pytest.param(100_000, marks=pytest.mark.long)])
async def test_a_full_queue_does_not_hold_another_sink_back(
    queued: int, lane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals = Arrivals(0.005)
    paths, single = small_files(tmp_path / "many", queued), small_files(tmp_path / "single", 1)[0]
    limits = asyncsink.SharedLimits(concurrency=4, memory_bytes=8 * MIB)
    own: Any = {"limits": limits, "transport": lane, "journal": False, "overwrite": "always"}
    between = list[int]()
    with late_server(arrivals, tmp_path, monkeypatch):
        async with asyncsink.AsyncSink("s3://tryout/busy", **own) as busy:
            async with asyncsink.AsyncSink("s3://tryout/other", **own) as other:
                queueing = asyncio.create_task(busy.submit("outputs", paths))
                while len(arrivals.order) < 200:  # noqa: ASYNC110 - the server is a thread
                    await asyncio.sleep(0.001)
                for _ in range(3):
                    before = len(arrivals.order)
                    assert isinstance(await other.put("outputs", single), asyncsink.Receipt)
                    between.append(len(arrivals.order) - before)
                assert not queueing.done() or arrivals.now["request"], "the other one was busy all the time"
                if queued > 2000:
                    queueing.cancel()
            if queued > 2000:
                await busy.close(deadline_seconds=0)
            else:
                await queueing
    assert max(between) < 100, f"{between} requests of the busy sink during one put of the other"


@LANES
async def test_a_server_that_hangs_holds_no_other_sink_back(
    lane: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrivals, released, given_up = Arrivals(0.0), threading.Event(), threading.Event()
    arrived = arrivals.answer

    def answer(request: Request) -> Answer | None:
        if request.key.startswith("dead/") and not released.wait(30):
            given_up.set()
        return arrived(request)

    arrivals.answer = answer  # type: ignore[method-assign]
    paths, large = small_files(tmp_path / "small", 30), large_file(tmp_path / "large.bin", 4)
    limits = asyncsink.SharedLimits(memory_bytes=4 * PART_BYTES, concurrency=3)
    own: Any = {"limits": limits, "transport": lane, "journal": False, "part_size_bytes": PART_BYTES}
    with late_server(arrivals, tmp_path, monkeypatch):
        async with asyncsink.AsyncSink("s3://tryout/dead", **own) as dead:
            async with asyncsink.AsyncSink("s3://tryout/well", **own) as well:
                await dead.submit("outputs", [*paths, large])
                for path in (*paths, large):
                    assert isinstance(await well.put("outputs", path), asyncsink.Receipt)
                released.set()
    assert not given_up.is_set(), "a put to the other server has waited for this one"
    assert dead.report.objects_uploaded == 31


def test_own_limits_hold_within_the_shared_ones() -> None:
    limits = asyncsink.SharedLimits(memory_bytes="64MiB", concurrency=8, threads=8, bandwidth_bytes_per_second="1MB")

    def parsed(**options: Any) -> Any:
        return parse_options("s3://bucket", {"limits": limits, **options}).limits

    alone = parsed()
    assert (alone.memory_bytes, alone.concurrency, alone.concurrency_max) == (64 * MIB, None, 8)
    assert (alone.reader_threads, alone.bandwidth_bytes_per_second) == (2, None)
    less = parsed(memory_bytes="16MiB", concurrency=2, bandwidth_bytes_per_second="500kB")
    assert (less.memory_bytes, less.concurrency, less.bandwidth_bytes_per_second) == (16 * MIB, 2, 500_000)
    more = parsed(memory_bytes="1GiB", concurrency=500)
    assert (more.memory_bytes, more.concurrency, more.concurrency_max) == (64 * MIB, 8, 8)
    assert copy.deepcopy(limits) is limits


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"memory_bytes": "much"}, r"memory_bytes='much' is no size; give bytes or a text such as '256MiB'\."),
        ({"memory_bytes": 0}, r"memory_bytes=0 must be more than 0 bytes\."),
        ({"concurrency": 0}, r"concurrency=0 is out of range; expected 1 to 1024, or 'auto'\."),
        ({"concurrency": True}, r"concurrency=True is out of range"),
        ({"threads": 3}, r"threads=3 is out of range; expected 4 to 1024\."),
        ({"threads": None}, r"threads=None is out of range"),
        ({"bandwidth_bytes_per_second": 1}, r"bandwidth_bytes_per_second=1 is too little: .*; expected at least"),
    ],
)
def test_wrong_values_are_refused_in_one_sentence(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(asyncsink.ConfigError, match=f"^{sentence}"):
        asyncsink.SharedLimits(**given)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"limits": 5}, r"limits is of type int; expected asyncsink\.SharedLimits\(…\)\."),
        (
            {"limits": asyncsink.SharedLimits(memory_bytes="6MiB")},
            r"limits\.memory_bytes=6,291,456 is less than one part \(8,388,608 bytes\); give at least that\.",
        ),
    ],
)
def test_wrong_limits_are_refused_in_one_sentence(options: Any, sentence: str) -> None:
    with pytest.raises(asyncsink.ConfigError, match=f"^{sentence}$"):
        asyncsink.AsyncSink("s3://bucket", **options)


async def test_threads_are_counted_over_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each sink has one thread for small requests, one for large bodies, and those that it has found free."""
    arrivals, sinks = Arrivals(), 4
    large = large_file(tmp_path / "large.bin", 8)
    most = Counter[str]()

    def look() -> None:
        names = Counter(thread.name.rpartition("-")[0].partition("_")[0] for thread in threading.enumerate())
        most.update({name: count - most[name] for name, count in names.items() if count > most[name]})

    arrived = arrivals.answer

    def answer(request: Request) -> Answer | None:
        look()
        return arrived(request)

    limits = asyncsink.SharedLimits(threads=8)
    own: Any = {"limits": limits, "journal": False, "part_size_bytes": PART_BYTES}
    arrivals.answer = answer  # type: ignore[method-assign]
    with late_server(arrivals, tmp_path, monkeypatch):
        await asyncio.gather(
            *(asyncsink.export({"outputs": large}, f"s3://tryout/{number}", **own) for number in range(sinks))
        )
    assert most["asyncsink-small"] <= sinks
    assert sinks <= most["asyncsink-large"] <= sinks + 4
    assert most["asyncsink-reader"] <= 2


async def test_they_share_one_bandwidth(tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    limits = asyncsink.SharedLimits(bandwidth_bytes_per_second="100MB")
    async with (
        asyncsink.AsyncSink(f"s3://{bucket}/a", limits=limits, **options) as a,
        asyncsink.AsyncSink(f"s3://{bucket}/b", limits=limits, bandwidth_bytes_per_second="1MB", **options) as b,
    ):
        (pools,) = SHARING._pools.values()
        assert pools.runs == 2
        for sink in (a, b):
            assert isinstance(await sink.put("outputs", small_files(tmp_path / "small", 1)[0]), asyncsink.Receipt)
        assert pools.pacer.bandwidth is not None
        assert pools.pacer.bandwidth._paid_until > 0, "requests of both have passed it"
        assert pools.pacer.in_flight == pools.budget.held_bytes == 0
    assert not SHARING._pools


async def test_objects_are_copied_through_one_small_memory(bucket: str, options: dict[str, Any], s3: Any) -> None:
    """What a reader holds for its callers leaves the sinks that they write to enough to go on with."""
    body, count = os.urandom(12 * MIB), 5
    for number in range(count):
        s3.put_object(Bucket=bucket, Key=f"from/{number}", Body=body)
    limits = asyncsink.SharedLimits(memory_bytes=2 * PART_BYTES, concurrency=3)
    own: Any = {"limits": limits, "part_size_bytes": PART_BYTES, **options}
    async with (
        asyncsink.S3Reader(f"s3://{bucket}/from", **own) as reader,
        asyncsink.AsyncSink(f"s3://{bucket}/to", journal=False, **own) as sink,
    ):
        outcomes = await asyncio.gather(
            *(sink.put_stream(str(number), reader.stream(str(number))) for number in range(count))
        )
    assert all(isinstance(outcome, asyncsink.Receipt) for outcome in outcomes)
    for number in range(count):
        assert s3.get_object(Bucket=bucket, Key=f"to/{number}")["Body"].read() == body


async def test_a_stream_ends_the_rest_of_its_sink(
    bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An idle sink leaves its descriptors to others; a stream needs them, and is no transfer of the queue."""
    monkeypatch.setattr(descriptors, "IDLE_SECONDS", 0.05)

    async with (
        asyncsink.AsyncSink(f"s3://{bucket}/a", part_size_bytes=PART_BYTES, **options) as sink,
        asyncsink.AsyncSink(f"s3://{bucket}/b", **options) as other,
    ):
        run = sink._session.run
        assert run is not None
        share = run.resources.share
        await other.put_bytes("some", b"content")  # its end is looked at
        await until(lambda: share.resting)

        rested = True

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal rested
            for _ in range(60):
                yield bytes(PART_BYTES)
                if not share.resting:
                    rested = False
                    return

        assert isinstance(await sink.put_stream("stream", pieces()), asyncsink.Receipt)
        assert not rested


async def test_the_example_of_the_guide(
    tmp_path: Path, bucket: str, options: dict[str, Any], stored: Callable[[], dict[str, bytes]]
) -> None:
    scan, table = map(str, small_files(tmp_path / "small", 2))
    page = example("service.md", "Several sinks")
    keys = await page.publish(scan, table, f"s3://{bucket}/raw", f"s3://{bucket}/derived", **options)
    assert sorted(keys) == sorted(stored()) == ["derived/tables/00001", "raw/scans/00000"]


# -- Event loops and processes -----------------------------------------------------------------------------------------


async def test_another_event_loop_is_refused_while_they_are_in_use(
    tmp_path: Path, bucket: str, options: dict[str, Any], stored: Callable[[], dict[str, bytes]]
) -> None:
    limits, path = asyncsink.SharedLimits(), small_files(tmp_path / "small", 1)[0]

    def elsewhere(key: str) -> asyncsink.Report:
        return asyncsink.export_sync({"outputs": path}, f"s3://{bucket}/{key}", limits=limits, **options)

    async with asyncsink.AsyncSink(f"s3://{bucket}/here", limits=limits, **options) as sink:
        with pytest.raises(asyncsink.ConfigError, match=r"^limits are in use in another event loop.*of its own"):
            await asyncio.to_thread(elsewhere, "there")
        assert isinstance(await sink.put("outputs", path), asyncsink.Receipt)
    for key in ("later", "later still"):
        report = await asyncio.to_thread(elsewhere, key)
        assert report.objects_uploaded == 1
    assert {key.partition("/")[0] for key in stored()} == {"here", "later", "later still"}


async def test_limits_of_an_event_loop_that_has_ended_begin_anew(bucket: str, options: dict[str, Any]) -> None:
    limits = asyncsink.SharedLimits()

    async def careless() -> None:
        await asyncsink.AsyncSink(f"s3://{bucket}", limits=limits, **options).start()

    def thread() -> None:
        loop = asyncio.new_event_loop()
        loop.run_until_complete(careless())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()

    await asyncio.to_thread(thread)
    async with asyncsink.AsyncSink(f"s3://{bucket}", limits=limits, **options):
        assert [pools.runs for pools in SHARING._pools.values()] == [1]
    assert not SHARING._pools


PREFORK = """
import asyncio, os, sys, asyncsink
bucket, path = sys.argv[1:]
limits = asyncsink.SharedLimits(concurrency=4)

async def publish(prefix):
    async with asyncsink.AsyncSink(f"s3://{bucket}/{prefix}", limits=limits, journal=False) as sink:
        await sink.put("outputs", path)

async def parent():
    async with asyncsink.AsyncSink(f"s3://{bucket}/parent", limits=limits, journal=False) as sink:
        if child := os.fork():
            await sink.put("outputs", path)
            return child

child = None
try:
    child = asyncio.run(parent())
finally:
    if child is None:  # the forked child: nothing of the parent's runs in it
        asyncio.events._set_running_loop(None)
        asyncio.run(publish("child"))
        os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
asyncio.run(publish("afterwards"))
"""


def test_a_forked_child_has_the_limits_for_itself(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    path = small_files(tmp_path / "small", 1)[0]
    environment = {**os.environ, **seaweed.environment}
    ended: subprocess.CompletedProcess[str] = run(
        [sys.executable, "-c", PREFORK, bucket, str(path)], env=environment, timeout=60
    )
    assert (ended.stdout, ended.returncode) == ("0\n", 0), ended.stderr[-2000:]
    assert {key.partition("/")[0] for key in stored()} == {"parent", "child", "afterwards"}
