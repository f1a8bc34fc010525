"""kill -9 in the middle of a large file, and the run after it: what the server has is not sent again."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine.export import run_source
from asyncsink.errors import DestinationFull, JournalError
from asyncsink.journal.sqlite import SqliteJournal
from asyncsink.model import Event, Started, UploadCompleting, UploadCreating, UploadOpened, UploadPartStored, UploadStep
from asyncsink.options.parse import parse_options
from asyncsink.options.settings import WRITE_METADATA_NAME
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.reader import OpenSource
from tests.support.combinations import crossed
from tests.support.holding_proxy import Held, HoldingProxy

from .killed import killed_in_an_upload

pytestmark = pytest.mark.anyio
MIB = 1 << 20
PARTS = 5
KEY = "p/bold.nii"


@dataclass
class Bench:
    """A folder with one large file, a server behind a proxy, and a journal."""

    folder: Path
    journal: Path
    bucket: str
    proxy: HoldingProxy
    s3: Any

    @property
    def file(self) -> Path:
        return self.folder / "bold.nii"

    @property
    def destination(self) -> str:
        return f"s3://{self.bucket}/p"

    @property
    def open_uploads(self) -> list[str]:
        return [each["UploadId"] for each in self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", [])]

    @property
    def content(self) -> bytes:
        data: bytes = self.s3.get_object(Bucket=self.bucket, Key=KEY)["Body"].read()
        return data

    async def killed_at(self, operation: str, held: Held, *more: str) -> None:
        """Run the command until the proxy holds `operation`, and kill it."""
        self.proxy.hold = lambda name: held if name == operation else ""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "asyncsink.cli.main", "export", str(self.folder), self.destination, "--quiet",
            "--journal", str(self.journal), "--endpoint-url", self.proxy.endpoint_url, "--part-size", "5MiB", *more,
        )  # fmt: skip
        try:
            async with asyncio.timeout(60):
                await self.proxy.held.wait()
        finally:
            process.kill()
            await process.wait()
        self.proxy.forget()

    async def again(self, **more: Any) -> asyncsink.Report:
        options: dict[str, Any] = {
            "journal": self.journal,
            "part_size_bytes": "5MiB",
            "endpoint_url": self.proxy.endpoint_url,
            **more,
        }
        report = await asyncsink.export_directory(self.folder, self.destination, **options)
        report.raise_for_failures()
        return report


@pytest.fixture
async def bench(
    tmp_path: Path, bucket: str, s3: Any, seaweed: DevServer, options: dict[str, Any]
) -> AsyncIterator[Bench]:
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "bold.nii").write_bytes(os.urandom(MIB) * (5 * PARTS - 1))
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        yield Bench(folder, tmp_path / "j.sqlite", bucket, proxy, s3)


ONE = ("--concurrency", "1")


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_only_the_missing_parts_are_read_and_sent(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, lane: Any
) -> None:
    read_part, read = OpenSource.read_part, set[int]()

    def reading(source: OpenSource, offset: int, length: int, into: Any = None) -> Any:
        read.add(offset // (5 * MIB) + 1)
        return read_part(source, offset, length, into)

    monkeypatch.setattr(OpenSource, "read_part", reading)
    await bench.killed_at("UploadPart 5", "request", *ONE, "--transport", lane)
    (upload,) = bench.open_uploads
    report = await bench.again(transport=lane)
    assert bench.proxy.parts == [5]
    # Part 4 may have been confirmed and not written down: then its bytes are compared.
    assert sorted(read) in ([5], [4, 5])
    assert bench.proxy.seen[:2] == ["List", "ListParts"]
    assert "Create" not in bench.proxy.seen
    assert bench.content == bench.file.read_bytes()
    assert (bench.open_uploads, report.objects_uploaded, report.bytes_uploaded) == ([], 1, (5 * PARTS - 1) * MIB)
    (receipt,) = report.receipts
    assert receipt.confirmed_by == "server-checksum"
    assert receipt.checksum is not None
    assert upload not in bench.open_uploads
    assert (await bench.again(transport=lane)).objects_skipped == 1


@crossed(
    "lane,with_copy,algorithm",
    ["wire", "aioboto3"],
    [False, True],
    ["CRC64NVME", "SHA256", "MD5", "none"],
    usual=lambda lane, with_copy, algorithm: (
        algorithm in ("CRC64NVME", "none") and with_copy == (algorithm == "CRC64NVME")
        if lane == "aioboto3"
        else not with_copy
    ),
)
async def test_parts_that_the_journal_lacks_are_compared_and_not_sent(
    bench: Bench, lane: Any, with_copy: bool, algorithm: Any, tmp_path: Path
) -> None:
    """Their answers had come, or were lost, when the run was killed: 1 to 3 and 5 are ours, 4 has other bytes."""
    token = {WRITE_METADATA_NAME: "t" * 32}  # the journal's
    upload = bench.s3.create_multipart_upload(Bucket=bench.bucket, Key=KEY, Metadata=token)["UploadId"]
    data = bench.file.read_bytes()
    for number in range(1, PARTS + 1):
        body = data[(number - 1) * 5 * MIB : number * 5 * MIB]
        body = body[::-1] if number == 4 else body
        bench.s3.upload_part(Bucket=bench.bucket, Key=KEY, UploadId=upload, PartNumber=number, Body=body)
    options = {"journal": bench.journal, "endpoint_url": bench.proxy.endpoint_url, "checksum": algorithm}
    options |= {"local_copy": tmp_path / "copies"} if with_copy else {}
    await killed_in_an_upload(bench.bucket, bench.file, options, KEY, upload_id=upload, algorithm=algorithm)
    report = await bench.again(transport=lane, **options)
    assert bench.proxy.parts == [4]
    assert (bench.content, bench.open_uploads) == (data, [])
    assert "Create" not in bench.proxy.seen
    [receipt] = report.receipts
    assert receipt.confirmed_by != "nothing"
    assert not with_copy or (tmp_path / "copies" / "bold.nii").read_bytes() == data
    assert (await bench.again(transport=lane, **options)).objects_skipped == 1


async def test_kept_parts_are_not_joined_with_others_where_only_the_ctime_tells(bench: Bench) -> None:
    """The file is edited between the walk and its opening: same size, same mtime."""
    await bench.killed_at("UploadPart 5", "request", *ONE)

    def edit(event: Event) -> None:
        if isinstance(event, Started):
            before = bench.file.stat()
            with bench.file.open("r+b") as file:
                for offset in range(0, before.st_size, MIB):
                    os.pwrite(file.fileno(), b"other", offset)
            os.utime(bench.file, ns=(before.st_atime_ns, before.st_mtime_ns))

    options: dict[str, Any] = {"journal": bench.journal, "part_size_bytes": "5MiB"}
    settings = parse_options(bench.destination, {**options, "endpoint_url": bench.proxy.endpoint_url})
    report = await run_source(settings, DirectorySource(bench.folder, symlinks="follow"), observe=edit)
    report.raise_for_failures()
    assert (bench.content, bench.open_uploads) == (bench.file.read_bytes(), [])


async def test_a_copy_is_read_for_and_nothing_is_sent_twice(bench: Bench, tmp_path: Path) -> None:
    copies = tmp_path / "copies"
    await bench.killed_at("UploadPart 5", "request", *ONE, "--local-copy", str(copies))
    await bench.again(local_copy=copies)
    assert bench.proxy.parts == [5]
    assert (copies / "bold.nii").read_bytes() == bench.content == bench.file.read_bytes()


async def test_the_server_forgot_the_upload(bench: Bench) -> None:
    await bench.killed_at("UploadPart 5", "request", *ONE)
    (upload,) = bench.open_uploads
    bench.s3.abort_multipart_upload(Bucket=bench.bucket, Key=KEY, UploadId=upload)
    await bench.again()
    assert bench.proxy.parts == [1, 2, 3, 4, 5]
    assert (bench.content, bench.open_uploads) == (bench.file.read_bytes(), [])


async def test_a_part_that_the_server_has_otherwise_is_sent_again(bench: Bench) -> None:
    await bench.killed_at("UploadPart 5", "request", *ONE)
    (upload,) = bench.open_uploads
    named = {"Bucket": bench.bucket, "Key": KEY, "UploadId": upload}
    for number, body in ((1, b"short"), (2, b"x" * (5 * MIB))):
        bench.s3.upload_part(**named, PartNumber=number, Body=body, ChecksumAlgorithm="CRC64NVME")
    await bench.again()
    assert bench.proxy.parts[:2] == [1, 2]
    assert 3 not in bench.proxy.parts
    assert bench.content == bench.file.read_bytes()


@pytest.mark.parametrize("change", ["source", "part size", "options", "small", "there", "never"])
async def test_an_upload_that_is_of_no_use_is_aborted(bench: Bench, change: str) -> None:
    await bench.killed_at("UploadPart 5", "request", *ONE)
    more: dict[str, Any] = {}
    if change == "source":
        bench.file.write_bytes(os.urandom(MIB) * 24)
    elif change == "small":
        bench.file.write_bytes(b"small now")
    elif change == "part size":
        more = {"part_size_bytes": "6MiB"}
    elif change == "options":
        more = {"metadata": {"study": "7"}}
    else:
        bench.s3.put_object(Bucket=bench.bucket, Key=KEY, Body=bench.file.read_bytes())
        more = {"overwrite": "never"} if change == "never" else {}
    await bench.again(**more)
    assert "Abort" in bench.proxy.seen
    assert (bench.content, bench.open_uploads) == (bench.file.read_bytes(), [])
    if change in ("source", "part size", "options"):
        assert bench.proxy.seen.index("Abort") < bench.proxy.seen.index("Create")
    else:
        assert "Create" not in bench.proxy.seen
    bench.proxy.forget()
    await bench.again(**more)
    assert bench.proxy.seen in (["List"], ["List", "Head"])


@pytest.mark.parametrize("held", ["request", "answer"])
async def test_killed_while_creating(bench: Bench, held: Held) -> None:
    named = {"Bucket": bench.bucket, "Key": KEY}
    foreign = bench.s3.create_multipart_upload(**named)["UploadId"]
    bench.s3.upload_part(**named, UploadId=foreign, PartNumber=1, Body=b"somebody else's")
    neighbour = bench.s3.create_multipart_upload(Bucket=bench.bucket, Key=f"{KEY}.gz")["UploadId"]
    await bench.killed_at("Create", held)
    assert len(bench.open_uploads) == (3 if held == "answer" else 2)
    await bench.again()
    assert bench.content == bench.file.read_bytes()
    assert sorted(bench.open_uploads) == sorted([foreign, neighbour])


@crossed(
    "held,overwrite",
    ["request", "answer"],
    ["journal", "checksum", "always"],
    usual=lambda held, overwrite: overwrite == "journal" or (held, overwrite) == ("answer", "always"),
)
async def test_killed_while_completing(bench: Bench, held: Held, overwrite: Any) -> None:
    await bench.killed_at("Complete", held)
    report = await bench.again(overwrite=overwrite)
    assert bench.proxy.parts == []
    assert "Create" not in bench.proxy.seen
    assert ("Complete" in bench.proxy.seen) == (held == "request")
    assert (bench.content, bench.open_uploads) == (bench.file.read_bytes(), [])
    (receipt,) = report.receipts
    assert receipt.confirmed_by == "server-checksum"
    assert (await bench.again()).objects_skipped == 1


async def test_killed_while_completing_and_replaced_by_somebody(bench: Bench) -> None:
    await bench.killed_at("Complete", "answer")
    bench.s3.put_object(Bucket=bench.bucket, Key=KEY, Body=bench.file.read_bytes()[::-1])
    await bench.again()
    assert bench.proxy.parts == [1, 2, 3, 4, 5]
    assert bench.content == bench.file.read_bytes()


async def test_a_run_that_is_killed_again_and_again_ends(bench: Bench) -> None:
    for number in (2, 4, 5):
        await bench.killed_at(f"UploadPart {number}", "request", *ONE)
        assert len(bench.open_uploads) == 1
    await bench.again()
    assert bench.content == bench.file.read_bytes()
    assert bench.open_uploads == []


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_an_upload_whose_beginning_was_not_heard_of_is_ended(bench: Bench, lane: Any) -> None:
    lost: list[str] = []

    def lose(name: str) -> Held:
        if name != "Create" or lost:
            return ""
        lost.append(name)
        return "lost"

    bench.proxy.hold = lose
    report = await bench.again(transport=lane)
    assert (lost, bench.proxy.seen.count("Create"), report.retries) == (["Create"], 2, 1)
    assert (bench.content, bench.open_uploads) == (bench.file.read_bytes(), [])


@pytest.mark.parametrize("kind", [UploadCreating, UploadOpened, UploadPartStored, UploadCompleting])
async def test_a_journal_that_fails_stops_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: type[UploadStep]
) -> None:
    step = SqliteJournal.step

    async def fail(journal: SqliteJournal, what: UploadStep) -> None:
        if isinstance(what, kind):
            raise JournalError("The disk is gone.")
        await step(journal, what)

    (bench.folder / "second").write_bytes(b"small")
    with monkeypatch.context() as failing:
        failing.setattr(SqliteJournal, "step", fail)
        with pytest.raises(JournalError, match="The disk is gone"):
            await bench.again()
    # What the journal has stays for the next run; what it has not was aborted.
    assert len(bench.open_uploads) == (1 if kind in (UploadPartStored, UploadCompleting) else 0)
    assert "Contents" not in bench.s3.list_objects_v2(Bucket=bench.bucket, Prefix=KEY)
    await bench.again()
    assert (bench.content, bench.open_uploads) == (bench.file.read_bytes(), [])


async def test_receipts_that_cannot_be_written_are_not_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_journal: SqliteJournal, _published: object) -> None:
        raise DestinationFull("No space is left for the journal.")

    monkeypatch.setattr(SqliteJournal, "publish", fail)
    with pytest.raises(DestinationFull, match="for the journal"):
        await bench.again(manifest=bench.journal.with_name("sent"))
    assert '"receipt"' not in bench.journal.with_name("sent.partial").read_text()
