"""A run that is stopped in order: with a journal it leaves what kill -9 leaves, and says what will go on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine.recording.events import Progress
from asyncsink.errors import JournalError
from asyncsink.journal.sqlite import SqliteJournal
from asyncsink.model import UploadPartStored, UploadStep
from tests.support.holding_proxy import HoldingProxy

pytestmark = pytest.mark.anyio
MIB = 1 << 20
PARTS = 5
SIZE = (5 * PARTS - 1) * MIB
KEY = "p/bold.nii"


class Bench:
    """A folder with one large file, a server behind a proxy that holds the last part, and a journal."""

    def __init__(self, folder: Path, bucket: str, proxy: HoldingProxy, s3: Any) -> None:
        self.folder, self.bucket, self.proxy, self.s3 = folder, bucket, proxy, s3
        self.journal = folder.parent / "j.sqlite"
        self.content = os.urandom(MIB) * (5 * PARTS - 1)
        folder.mkdir()
        (folder / "bold.nii").write_bytes(self.content)

    @property
    def open_uploads(self) -> list[str]:
        return [each["UploadId"] for each in self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    def hold(self, operation: str = f"UploadPart {PARTS}") -> None:
        self.proxy.hold = lambda name: "request" if name == operation else ""

    async def until_held(self) -> None:
        async with asyncio.timeout(60):
            await self.proxy.held.wait()

    async def command(self, number: int, *more: str) -> dict[str, Any]:
        """Run it until the last part is held, send the signal, and return what it says; {} where it says nothing."""
        self.hold()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "asyncsink.cli.main", "export", str(self.folder), f"s3://{self.bucket}/p", "--json",
            "--endpoint-url", self.proxy.endpoint_url, "--part-size", "5MiB", "--concurrency", "1", *more,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        await self.until_held()
        process.send_signal(number)
        async with asyncio.timeout(60):
            said, noted = await process.communicate()
        self.proxy.forget()
        return {**json.loads(said), "stderr": noted.decode()} if said else {}

    def options(self, **more: Any) -> dict[str, Any]:
        plain = {"journal": self.journal, "part_size_bytes": "5MiB", "endpoint_url": self.proxy.endpoint_url}
        return {**plain, "concurrency": 1, **more}

    async def export(self, **more: Any) -> asyncsink.Report:
        return await asyncsink.export_directory(self.folder, f"s3://{self.bucket}/p", **self.options(**more))

    async def completed(self, **more: Any) -> asyncsink.Report:
        """The run after it: everything is there, and nothing is open."""
        report = await self.export(**more)
        report.raise_for_failures()
        assert self.s3.get_object(Bucket=self.bucket, Key=KEY)["Body"].read() == self.content
        assert self.open_uploads == []
        return report


@pytest.fixture
async def bench(
    tmp_path: Path, bucket: str, s3: Any, seaweed: DevServer, options: dict[str, Any]
) -> AsyncIterator[Bench]:
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        yield Bench(tmp_path / "large", bucket, proxy, s3)


def requests_of(bench: Bench) -> list[str]:
    return [name for name in bench.proxy.seen if name != "List"]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_the_run_after_a_signal_sends_what_the_run_after_kill_9_sends(
    bench: Bench, number: int, lane: str
) -> None:
    told = await bench.command(number, "--journal", str(bench.journal), "--transport", lane)
    (left,) = told["resumable"]
    assert (left["key"], left["size_bytes"], left["bytes_stored"]) == (KEY, SIZE, 20 * MIB)
    assert "1 large file goes on at 83 % with the next run." in told["stderr"]
    assert told["interrupted"] is True
    assert len(bench.open_uploads) == 1
    report = await bench.completed(transport=lane)
    assert requests_of(bench) == ["ListParts", f"UploadPart {PARTS}", "Complete"]
    assert (report.bytes_resumed, report.bytes_uploaded) == (20 * MIB, SIZE)
    assert "Sent by earlier runs, and not again: 20.0 MiB." in report.summary()
    assert report.as_dict()["bytes_resumed"] == 20 * MIB


@pytest.mark.parametrize("why", [["--abort-on-interrupt"], ["--no-journal"]], ids=["asked for", "no journal"])
async def test_uploads_that_nobody_goes_on_with_are_aborted(bench: Bench, why: list[str]) -> None:
    told = await bench.command(signal.SIGINT, *why)
    assert told["resumable"] == []
    assert "goes on" not in told["stderr"]
    assert bench.open_uploads == []
    report = await bench.completed(journal=None)
    assert report.bytes_resumed == 0
    assert bench.proxy.parts == list(range(1, PARTS + 1))


@pytest.mark.parametrize("abort", [False, True], ids=["left", "aborted"])
async def test_a_cancelled_export_leaves_its_upload(bench: Bench, abort: bool) -> None:
    bench.hold()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.export(abort_on_interrupt=abort))
        await bench.until_held()
        task.cancel()
    bench.proxy.forget()
    assert len(bench.open_uploads) == (0 if abort else 1)
    report = await bench.completed()
    assert report.bytes_resumed == (0 if abort else 20 * MIB)


async def test_a_sink_that_is_left_by_an_error_leaves_its_upload_and_says_so(bench: Bench) -> None:
    bench.hold()
    sink = asyncsink.AsyncSink(f"s3://{bench.bucket}", **bench.options())

    async def serve() -> None:
        async with sink:
            await sink.submit("p", bench.folder / "bold.nii")
            await bench.until_held()
            raise LookupError

    with pytest.raises(LookupError):
        await serve()
    (left,) = sink.report.resumable
    assert (left.key, left.bytes_stored, left.size_bytes) == (KEY, 20 * MIB, SIZE)
    assert "1 large file goes on at 83 % with the next run." in sink.report.summary()
    assert len(bench.open_uploads) == 1
    bench.proxy.forget()
    async with asyncsink.AsyncSink(f"s3://{bench.bucket}", **bench.options()) as again:
        await again.put("p", bench.folder / "bold.nii")
    assert again.report.bytes_resumed == 20 * MIB
    assert bench.open_uploads == []


async def test_a_journal_that_fails_leaves_what_it_has(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    step = SqliteJournal.step

    async def failing(journal: SqliteJournal, what: UploadStep) -> None:
        if isinstance(what, UploadPartStored) and what.part.part_number == PARTS:
            raise JournalError("the disk is gone.")
        await step(journal, what)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteJournal, "step", failing)
        with pytest.raises(JournalError, match="the disk is gone"):
            await bench.export()
    assert len(bench.open_uploads) == 1
    bench.proxy.forget()
    # The last part is there, although the journal lacks it: it is compared with the file.
    assert (await bench.completed()).bytes_resumed == SIZE
    assert bench.proxy.parts == []


async def test_an_upload_whose_requests_fail_goes_on_too(bench: Bench) -> None:
    """Not only a run that is stopped: a server that is away for longer than the attempts last costs no part."""
    bench.proxy.hold = lambda name: "lost" if name == f"UploadPart {PARTS}" else ""
    report = await bench.export(retry=asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.01))
    (failure,) = report.failures
    assert failure.error == "ConnectionLost"
    assert [left.bytes_stored for left in report.resumable] == [20 * MIB]
    bench.proxy.forget()
    assert (await bench.completed()).bytes_resumed == 20 * MIB


async def test_a_sink_goes_on_with_the_upload_of_a_put_that_failed(bench: Bench) -> None:
    bench.proxy.hold = lambda name: "lost" if name == f"UploadPart {PARTS}" else ""
    retry = asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.01)
    async with asyncsink.AsyncSink(f"s3://{bench.bucket}", **bench.options(retry=retry)) as sink:
        with pytest.raises(asyncsink.ExportFailed):
            await sink.put("p", bench.folder / "bold.nii")
        bench.proxy.forget()
        await sink.put("p", bench.folder / "bold.nii")
        assert bench.proxy.parts == [PARTS]
    assert (sink.report.bytes_resumed, sink.report.resumable, bench.open_uploads) == (0, (), [])


async def test_a_file_that_changed_after_its_upload_was_left_is_sent_anew(bench: Bench) -> None:
    bench.hold()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bench.export())
        await bench.until_held()
        task.cancel()
    bench.proxy.forget()
    bench.content = os.urandom(MIB) * (5 * PARTS - 1)
    (bench.folder / "bold.nii").write_bytes(bench.content)
    report = await bench.completed()
    assert (report.bytes_resumed, bench.proxy.parts) == (0, list(range(1, PARTS + 1)))


async def test_a_grab_that_is_cancelled_says_what_goes_on(bench: Bench, tmp_path: Path) -> None:
    bench.s3.put_object(Bucket=bench.bucket, Key=KEY, Body=bench.content)
    gets: list[str] = []

    def hold(name: str) -> Any:
        gets.append(name)  # the proxy takes a GET of an object for a listing
        return "request" if gets.count("List") > 4 else ""

    bench.proxy.hold = hold
    options = {"endpoint_url": bench.proxy.endpoint_url, "part_size_bytes": "5MiB", "concurrency": 1}
    grabber = asyncsink.S3Grabber(f"s3://{bench.bucket}/p", tmp_path / "here", **options)  # type: ignore[arg-type]
    progress = Progress()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(grabber.run(progress=progress))
        async with asyncio.timeout(60):
            await bench.proxy.held.wait()
        task.cancel()
    bench.proxy.forget()
    (left,) = progress.resumable.values()
    assert (left.key, left.size_bytes) == (KEY, SIZE)
    assert 0 < left.bytes_stored < SIZE
    report = await grabber.run()
    assert report.bytes_resumed == left.bytes_stored
    assert report.as_dict()["bytes_resumed"] == left.bytes_stored
    assert (tmp_path / "here/bold.nii").read_bytes() == bench.content
