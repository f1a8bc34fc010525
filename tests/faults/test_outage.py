"""A real server that goes away in mid-run: it is waited for, the run goes on, and one that stays away ends it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import boto3
import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine.export import run_source
from asyncsink.engine.recording.events import Progress
from asyncsink.errors import ConnectionLost
from asyncsink.grabber import S3Grabber
from asyncsink.maintenance.verify import verify_manifest
from asyncsink.model import Event, Finished, GaveUp, Paused, Resumed
from asyncsink.options.parse import parse_options
from asyncsink.s3 import availability
from asyncsink.sources.directory import DirectorySource
from tests.support.combinations import crossed
from tests.support.processes import run

pytestmark = pytest.mark.anyio
MIB = 1 << 20
SMALL = 192
"""Whole batches, so that all of them are recorded before the large file ends."""
QUICK = asyncsink.RetryPolicy(attempts=4, backoff_seconds_base=0.05, abort_seconds=1.0)


class Mortal:
    """A server of its own for each test, which can be stopped and started again at the same place."""

    def __init__(self, directory: Path) -> None:
        self.server = DevServer(directory=directory, buckets=("outage",)).start()
        self.url, self.environment = self.server.endpoint_url, self.server.environment
        self._again = DevServer(directory=directory, port=self.server.port, buckets=("outage",))
        self._again.access_key_id = self.server.access_key_id
        self._again.secret_access_key = self.server.secret_access_key
        session = boto3.Session(self.server.access_key_id, self.server.secret_access_key, region_name="us-east-1")
        self.client = session.client("s3", endpoint_url=self.url)

    def die(self) -> None:
        self.server.stop()

    def come_back(self) -> None:
        self.server = self._again.start()

    def stored(self) -> dict[str, bytes]:
        client = self.client
        pages = client.get_paginator("list_objects_v2").paginate(Bucket="outage")
        keys = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {key: client.get_object(Bucket="outage", Key=key)["Body"].read() for key in keys}

    def open_uploads(self) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket="outage").get("Uploads", []))


@pytest.fixture
def mortal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mortal]:
    mortal = Mortal(tmp_path / "server")
    try:
        for name, value in mortal.environment.items():
            monkeypatch.setenv(name, value)
        yield mortal
    finally:
        mortal.die()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less of them, where it is in this process."""
    monkeypatch.setattr(availability, "PAUSE_AFTER_SECONDS", 0.5)
    monkeypatch.setattr(availability, "PROBE_SECONDS_MAX", 1.0)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Small files, one of a thread's size, and one that is sent in parts."""
    folder = tmp_path / "tree"
    folder.mkdir()
    for number in range(SMALL):
        (folder / f"s{number:03}").write_bytes(os.urandom(1000))
    (folder / "t-medium").write_bytes(os.urandom(2 * MIB))
    (folder / "u-large").write_bytes(os.urandom(17 * MIB))
    return folder


def content_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Watching:
    """Kills the server after some outcomes, and has it come back when the run has noticed."""

    def __init__(self, mortal: Mortal, after: int, *, comes_back: bool) -> None:
        self.mortal, self.after, self.comes_back = mortal, after, comes_back
        self.events: list[Event] = []
        self.outcomes = 0
        self.noticed = anyio.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Finished):
            self.outcomes += 1
            if self.outcomes == self.after:
                self.mortal.die()
        if isinstance(event, Paused):
            self.noticed.set()

    async def revive(self) -> None:
        await self.noticed.wait()
        if self.comes_back:
            await anyio.to_thread.run_sync(self.mortal.come_back)

    def told(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


async def export(tree: Path, watching: Watching, **options: Any) -> asyncsink.Report:
    given = {"endpoint_url": watching.mortal.url, "retry": QUICK, "concurrency": 2, **options}
    settings = parse_options("s3://outage", {"part_size_bytes": "5MiB", **given})
    async with asyncio.timeout(120), anyio.create_task_group() as group:
        group.start_soon(watching.revive)
        report = await run_source(settings, DirectorySource(tree, symlinks="inside"), observe=watching)
        group.cancel_scope.cancel()
    return report


@crossed("lane,after", ["wire", "aioboto3"], [5, SMALL + 1], usual=lambda lane, after: lane == "wire" or after > SMALL)
async def test_a_server_that_comes_back_costs_no_file(mortal: Mortal, tree: Path, lane: str, after: int) -> None:
    watching = Watching(mortal, after, comes_back=True)
    # Slow enough that the large file is still under way when the others are recorded.
    report = await export(tree, watching, transport=lane, concurrency=1, bandwidth_bytes_per_second="8MiB")
    report.raise_for_failures()
    assert (len(report.failures), report.interrupted, report.stop_reason) == (0, False, "")
    assert mortal.stored() == content_of(tree)
    assert mortal.open_uploads() == []
    assert watching.told(Paused)
    assert len(watching.told(Resumed)) == 1
    assert watching.told(GaveUp) == []


async def test_a_server_that_stays_away_ends_the_run(mortal: Mortal, tree: Path) -> None:
    watching = Watching(mortal, 5, comes_back=False)
    report = await export(tree, watching, give_up_after_seconds=3)
    assert report.interrupted
    assert "refuses connections for" in report.stop_reason
    assert report.objects_uploaded >= 5
    assert report.objects_unfinished + report.objects_uploaded + report.objects_failed == SMALL + 2
    assert report.objects_failed == 0, list(report.failures)
    assert watching.told(GaveUp)
    assert report.as_dict()["stop_reason"] == report.stop_reason
    with pytest.raises(asyncsink.ExportFailed, match=r"stopped: .*refuses connections .*not sent; run it again"):
        report.raise_for_failures()
    # The next run has the rest.
    await anyio.to_thread.run_sync(mortal.come_back)
    again = await export(tree, Watching(mortal, -1, comes_back=False))
    again.raise_for_failures()
    assert mortal.stored() == content_of(tree)
    assert mortal.open_uploads() == []


async def test_a_grab_waits_too(mortal: Mortal, tree: Path, tmp_path: Path) -> None:
    (await export(tree, Watching(mortal, -1, comes_back=False))).raise_for_failures()
    watching = Watching(mortal, 5, comes_back=True)
    options: dict[str, Any] = {"endpoint_url": mortal.url, "retry": QUICK, "concurrency": 2, "part_size_bytes": "5MiB"}
    async with asyncio.timeout(120), anyio.create_task_group() as group:
        group.start_soon(watching.revive)
        report = await S3Grabber("s3://outage", tmp_path / "here", **options).run(observe=watching)
        group.cancel_scope.cancel()
    report.raise_for_failures()
    assert content_of(tmp_path / "here") == content_of(tree)
    assert watching.told(Resumed)


async def test_a_grab_gives_up(mortal: Mortal, tree: Path, tmp_path: Path) -> None:
    (await export(tree, Watching(mortal, -1, comes_back=False))).raise_for_failures()
    watching = Watching(mortal, 5, comes_back=False)
    options: dict[str, Any] = {"endpoint_url": mortal.url, "retry": QUICK, "concurrency": 2}
    async with asyncio.timeout(60):
        grabber = S3Grabber("s3://outage", tmp_path / "here", give_up_after_seconds="3s", **options)
        report = await grabber.run(observe=watching)
    assert report.interrupted
    assert "refuses connections for" in report.stop_reason
    with pytest.raises(asyncsink.GrabFailed, match="stopped: "):
        report.raise_for_failures()


async def test_verify_waits_too(mortal: Mortal, tree: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    (await export(tree, Watching(mortal, -1, comes_back=False), manifest=manifest)).raise_for_failures()
    progress, events = Progress(), list[Event]()

    def observe(number: int) -> None:
        if number == 5:
            mortal.die()

    def tell(event: Event) -> None:
        events.append(event)
        if isinstance(event, Paused) and len(events) == 1:
            mortal.come_back()

    report = await verify_manifest(
        manifest, options={"retry": QUICK, "concurrency": 1}, observe=observe, progress=progress, tell=tell
    )
    assert report.ok, report.summary()
    assert report.checked == SMALL + 2
    assert any(isinstance(event, Resumed) for event in events)


async def test_a_put_of_a_service_waits_and_then_fails_with_the_cause(
    mortal: Mortal, tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options: dict[str, Any] = {"endpoint_url": mortal.url, "retry": QUICK, "give_up_after_seconds": 3}
    async with asyncio.timeout(120), asyncsink.AsyncSink("s3://outage", **options) as sink:
        await sink.put("a", tree / "s000")
        mortal.die()
        with pytest.raises(asyncsink.ExportFailed, match="could not be made") as caught:
            await sink.put("a", tree / "s001")
        assert isinstance(caught.value.__cause__, ConnectionLost)
        assert re.search(r"refuses connections for \d+ s; given up", caplog.text)
        # The sink lives: what comes later is tried, at once refused while nothing is there, and taken again then.
        with pytest.raises(asyncsink.ExportFailed, match="could not be made"):
            await sink.put("a", tree / "s002")
        await anyio.to_thread.run_sync(mortal.come_back)
        await sink.put("a", tree / "s003")
    assert set(mortal.stored()) == {"a/s000", "a/s003"}


def test_ctrl_c_while_it_is_paused_ends_it_at_once(mortal: Mortal, tree: Path) -> None:
    for number in range(2000):
        (tree / f"m{number:04}").write_bytes(b"more")
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "asyncsink.cli.main",
            "export",
            str(tree),
            "s3://outage",
            "--concurrency",
            "1",
            "--transport",
            "aioboto3",
            "-vv",
            "--json",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "published" in line and mortal.server.watchdog_pid is not None:
            mortal.die()
        if "note: " in line and "refuses connections for" in line:
            break
    assert "gives up in" in said
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=5)
    assert process.returncode == 130
    assert json.loads(out)["interrupted"] is True


def test_a_server_that_is_not_there_at_the_start_is_told_at_once(mortal: Mortal, tree: Path) -> None:
    mortal.die()
    ended = run(
        [sys.executable, "-m", "asyncsink.cli.main", "export", str(tree), "s3://outage", "--endpoint-url", mortal.url],
        timeout=30,
    )
    assert ended.returncode == 2
    assert "refuse" in ended.stderr
    assert "gives up in" not in ended.stderr
