"""A part with a large file is killed or interrupted: the next attempt goes on with its multipart upload."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import DestinationFull
from asyncsink.journal.open_uploads import OpenUploads
from tests.support.holding_proxy import HoldingProxy

from .parts import lines_of

pytestmark = pytest.mark.anyio
MIB = 1 << 20
PARTS = 5
LARGE = "study/bold.nii"


class Bench:
    """A split of one large file and some small ones, and a server behind a proxy."""

    def __init__(self, folder: Path, bucket: str, proxy: HoldingProxy, s3: Any) -> None:
        self.source, self.parts, self.bucket, self.proxy, self.s3 = folder / "c", folder / "d", bucket, proxy, s3
        self.content = os.urandom(MIB) * (5 * PARTS - 1)
        self.source.mkdir()
        (self.source / "bold.nii").write_bytes(self.content)
        for number in range(9):
            (self.source / f"{number}.txt").write_text(str(number))

    async def split(self, **options: Any) -> None:
        await asyncsink.split(self.source, f"s3://{self.bucket}/study", self.parts, **options)

    async def killed(self, *more: str, number: int = signal.SIGKILL, at: str = f"UploadPart {PARTS}") -> None:
        """Run the command until the proxy holds the request `at`, and send the signal."""
        self.proxy.hold = lambda name: "request" if name == at else ""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "asyncsink.cli.main", "run", str(self.parts), "--part", "0", "--json",
            "--endpoint-url", self.proxy.endpoint_url, "--part-size", "5MiB", "--concurrency", "1", *more,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        async with asyncio.timeout(60):
            await self.proxy.held.wait()
            process.send_signal(number)
            await process.wait()
        self.proxy.forget()

    async def run(self, **more: Any) -> asyncsink.Report:
        options = {"endpoint_url": self.proxy.endpoint_url, "part_size_bytes": "5MiB", "concurrency": 1, **more}
        return await asyncsink.run_part(self.parts, 0, **options)

    async def completed(self, **more: Any) -> asyncsink.Report:
        """The attempt after it: everything is there, nothing is open, and no record of uploads is left."""
        report = await self.run(**more)
        report.raise_for_failures()
        assert self.s3.get_object(Bucket=self.bucket, Key=LARGE)["Body"].read() == self.content
        assert (self.open_uploads, self.records) == ([], [])
        return report

    @property
    def open_uploads(self) -> list[str]:
        return [each["UploadId"] for each in self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    @property
    def records(self) -> list[Path]:
        return sorted(self.parts.glob("uploads-*"))

    def requests(self) -> list[str]:
        """What was asked about the large file."""
        seen = zip(self.proxy.seen, self.proxy.keys, strict=True)
        return [name for name, path in seen if path.endswith(LARGE)]


@pytest.fixture
async def bench(
    tmp_path: Path, bucket: str, s3: Any, seaweed: DevServer, options: dict[str, Any]
) -> AsyncIterator[Bench]:
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        yield Bench(tmp_path, bucket, proxy, s3)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_the_next_attempt_sends_the_missing_part_only(bench: Bench, number: int) -> None:
    await bench.split()
    await bench.killed(number=number)
    assert len(bench.open_uploads) == 1
    (record,) = bench.records
    assert record.stat().st_mode & 0o777 == 0o600
    report = await bench.completed()
    assert bench.requests() == ["ListParts", f"UploadPart {PARTS}", "Complete"]
    assert report.bytes_resumed == 20 * MIB
    assert [line["record"] for line in lines_of(bench.parts / "receipts-00000.jsonl")[1:-1]].count("receipt") >= 1


@pytest.mark.parametrize("at", ["Create", "Complete"])
async def test_killed_where_the_answer_is_missing(bench: Bench, at: str) -> None:
    await bench.split()
    bench.proxy.hold = lambda name: "answer" if name == at else ""
    with anyio.move_on_after(60) as scope:
        async with anyio.create_task_group() as group:

            async def killed() -> None:
                # As a kill: nothing of the attempt happens after this moment, not even the release of its file.
                await bench.proxy.held.wait()
                await anyio.to_thread.run_sync(_copy_records, bench.parts)
                scope.cancel()

            group.start_soon(killed)
            await bench.run()
    for path in bench.records:
        path.unlink()
    for path in bench.parts.glob("kept-*"):
        path.rename(bench.parts / path.name.removeprefix("kept-"))
    assert len(bench.records) == 1
    bench.proxy.forget()
    await bench.completed()
    sent = [name for name in bench.requests() if name.startswith("UploadPart")]
    assert len(sent) == (0 if at == "Complete" else PARTS)


def _copy_records(parts: Path) -> None:
    for path in parts.glob("uploads-*"):
        (parts / f"kept-{path.name}").write_bytes(path.read_bytes())


async def test_a_file_in_parts_of_another_size_is_sent_anew(bench: Bench) -> None:
    await bench.split()
    await bench.killed()
    (before,) = bench.open_uploads
    await bench.completed(part_size_bytes="6MiB")
    names = bench.requests()
    assert names.count("Abort") >= 1
    assert [name for name in names if name.startswith("UploadPart")] == [f"UploadPart {n + 1}" for n in range(4)]
    assert before not in bench.open_uploads


async def test_a_changed_file_is_a_failure_and_its_upload_is_ended(bench: Bench) -> None:
    await bench.split()
    await bench.killed()
    (bench.source / "bold.nii").write_bytes(b"other")
    report = await bench.run()
    assert [failure.error for failure in report.failures] == ["SourceChanged"]
    assert (bench.open_uploads, bench.records) == ([], [])


async def test_two_attempts_at_once_have_an_upload_each(bench: Bench) -> None:
    await bench.split()
    bench.proxy.hold = lambda name: "request" if name == f"UploadPart {PARTS}" else ""
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run)
        await bench.proxy.held.wait()
        (first,) = bench.open_uploads
        (record,) = bench.records
        bench.proxy.hold = lambda _: ""
        report = await bench.run()
        report.raise_for_failures()
        assert bench.open_uploads == [first]
        assert bench.records == [record]
        group.cancel_scope.cancel()
    assert bench.open_uploads == [first]
    report = await bench.completed()
    assert report.objects_skipped == 10


async def test_a_journal_that_was_named_takes_its_place(bench: Bench) -> None:
    await bench.split()
    await bench.killed("--journal", str(bench.parts.parent / "j.sqlite"))
    assert bench.records == []
    report = await bench.completed(journal=bench.parts.parent / "j.sqlite")
    assert report.bytes_resumed == 20 * MIB


async def test_merge_names_uploads_that_are_open(bench: Bench, tmp_path: Path) -> None:
    await bench.split()
    await bench.killed()
    merged = await asyncsink.merge_manifests(bench.parts, tmp_path / "all.jsonl")
    assert any("uploads-00000.jsonl" in notice for notice in merged.notices), json.dumps(merged.as_dict())
    await bench.completed()
    merged = await asyncsink.merge_manifests(bench.parts, tmp_path / "all.jsonl")
    assert (merged.ok, merged.notices) == (True, [])


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_an_upload_whose_record_cannot_be_written_is_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lane: str
) -> None:
    await bench.split()
    append, full = OpenUploads._append, list[str]()

    def failing(self: OpenUploads, lines: Any, *, durable: bool) -> None:
        if full:
            raise DestinationFull("No space is left.", operation="journal")
        append(self, lines, durable=durable)

    def hold(name: str) -> Any:
        if name == "UploadPart 3":
            full.append(name)
        return "lost" if name == f"UploadPart {PARTS}" else ""

    bench.proxy.hold = hold
    with monkeypatch.context() as patch:
        patch.setattr(OpenUploads, "_append", failing)
        report = await bench.run(retry=asyncsink.RetryPolicy(attempts=1), retries=0, transport=lane)
    assert [failure.key for failure in report.failures] == [LARGE]
    assert any("goes on without its journal: No space is left." in notice for notice in report.notices)
    assert (bench.open_uploads, list(report.resumable)) == ([], [])
    # What was recorded before stays, because an earlier attempt's uploads may stand in it; it does no harm.
    assert len(bench.records) == 1
    bench.proxy.forget()
    await bench.completed()
