"""Large files in whole runs: real servers, faults on the way, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import asyncsink
from asyncsink.destinations.local.files import Publication
from asyncsink.errors import SourceChanged
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.http.lane import Lane
from asyncsink.s3.operations import UploadPart, UploadPartFrom
from asyncsink.testing.peers import canned
from tests.support.parts_proxy import DROP, FORWARD, HANG, PartsProxy

pytestmark = pytest.mark.anyio
PART = 5 * MIB
PARTS = 4
QUICK = RetryPolicy(attempts=3, throttled_seconds=0, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
SLOW_DOWN = canned(503, b"<Error><Code>SlowDown</Code><Message>Slow.</Message></Error>")
EXPIRED = canned(400, b"<Error><Code>ExpiredToken</Code><Message>Old.</Message></Error>")
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
OTHER_BYTES = canned(200, b"", 'ETag: "e"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA=")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one file of four parts, the last of one byte."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "large").write_bytes(os.urandom((PARTS - 1) * PART + 1))
    return folder


@pytest.fixture
def options(seaweed: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {
        "endpoint_url": seaweed.endpoint_url,
        "part_size_bytes": PART,
        "retry": QUICK,
        "retries": 0,
        "journal": False,
    }


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[UploadPartFrom]:
    """What lanes were given to read; no part may go another way."""
    seen: list[UploadPartFrom] = []
    send = HttpTransport.send

    async def watched(self: HttpTransport, operation: Any) -> Any:
        assert not isinstance(operation, UploadPart)
        if isinstance(operation, UploadPartFrom):
            seen.append(operation)
        return await send(self, operation)

    monkeypatch.setattr(HttpTransport, "send", watched)
    return seen


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("asyncsink-small", "asyncsink-large"))
    ] == []


def once(fate: bytes, number: int = 2) -> Callable[[int], bytes | None]:
    """A fate for the first attempt of one part."""
    left = [fate]
    return lambda part: left.pop() if part == number and left else FORWARD


def open_uploads(s3: Any, bucket: str) -> list[Any]:
    found: list[Any] = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    return found


def content(s3: Any, bucket: str, key: str = "large") -> bytes:
    body: bytes = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    return body


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_large_file_beside_its_local_copy(
    scheme: str,
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    seaweed: Any,
    options: dict[str, Any],
    sent: list[UploadPartFrom],
    authority: Any,
    tls_proxy: Any,
) -> None:
    async with contextlib.AsyncExitStack() as exits:
        if scheme == "https":
            server = urlsplit(seaweed.endpoint_url)
            proxy = tls_proxy(server.hostname, server.port, authority.server_context("localhost"))
            options["endpoint_url"] = (await exits.enter_async_context(proxy)).url
            options["ca_bundle"] = authority.path
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    assert report.transport == "wire"
    assert sorted(operation.part_number for operation in sent) == [1, 2, 3, 4]
    data = (root / "large").read_bytes()
    assert content(s3, bucket) == data
    assert (tmp_path / "copy" / "large").read_bytes() == data
    (receipt,) = report.receipts
    assert receipt.confirmed_by == "server-checksum"
    assert receipt.checksum is not None
    assert s3.head_object(Bucket=bucket, Key="large", ChecksumMode="ENABLED")["ChecksumCRC64NVME"] == (
        receipt.checksum.value
    )


@pytest.mark.parametrize("checksum", ["SHA256", "MD5", "none"])
async def test_other_checksums(
    checksum: str, root: Path, bucket: str, s3: Any, options: dict[str, Any], sent: list[UploadPartFrom]
) -> None:
    report = await asyncsink.export_directory(root, f"s3://{bucket}", checksum=checksum, **options)
    report.raise_for_failures()
    assert len(sent) == PARTS
    assert content(s3, bucket) == (root / "large").read_bytes()


async def test_the_other_lane_reads_no_parts(
    root: Path, bucket: str, s3: Any, options: dict[str, Any], sent: list[UploadPartFrom]
) -> None:
    report = await asyncsink.export_directory(root, f"s3://{bucket}", transport="aioboto3", **options)
    report.raise_for_failures()
    assert sent == []
    assert content(s3, bucket) == (root / "large").read_bytes()


@pytest.mark.parametrize("fate", [SLOW_DOWN, EXPIRED, DROP, HANG], ids=["slow down", "expired", "dropped", "stalled"])
async def test_a_part_that_fails_is_sent_again(
    fate: bytes, root: Path, tmp_path: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    async with PartsProxy(seaweed.endpoint_url, once(fate)) as way:
        options["endpoint_url"] = way.endpoint_url
        if fate == HANG:
            # Long enough for a healthy server on a busy machine.
            options["retry"] = replace(QUICK, stall_seconds=4.0)
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    assert sorted(way.parts) == [1, 2, 2, 3, 4]
    assert report.retries == 1
    (receipt,) = report.receipts
    assert receipt.attempts == 2
    data = (root / "large").read_bytes()
    assert content(s3, bucket) == data
    assert (tmp_path / "copy" / "large").read_bytes() == data


async def test_other_bytes_are_noticed_and_the_file_is_sent_once_more(
    root: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    async with PartsProxy(seaweed.endpoint_url, once(OTHER_BYTES)) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    report.raise_for_failures()
    assert way.parts.count(2) == 2
    assert report.retries == 0
    assert content(s3, bucket) == (root / "large").read_bytes()
    assert open_uploads(s3, bucket) == []


@pytest.mark.parametrize(
    ("fate", "error", "attempts"),
    [(SLOW_DOWN, "Throttled", 3), (DENIED, "AccessDenied", 1), (DROP, "ConnectionLost", 3)],
)
async def test_a_part_that_cannot_be_sent_costs_the_object_and_not_the_copy(
    fate: bytes,
    error: str,
    attempts: int,
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    seaweed: Any,
    options: dict[str, Any],
) -> None:
    async with PartsProxy(seaweed.endpoint_url, lambda number: fate if number == 2 else FORWARD) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    (failure,) = report.failures
    assert (failure.error, failure.attempts, failure.stage) == (error, attempts, "upload")
    assert way.parts.count(2) == attempts
    assert report.retries >= attempts - 1
    assert (tmp_path / "copy" / "large").read_bytes() == (root / "large").read_bytes()
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert open_uploads(s3, bucket) == []


async def test_a_copy_that_cannot_be_written_costs_nothing_else(
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    options: dict[str, Any],
    sent: list[UploadPartFrom],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write = Publication.write

    def full(self: Publication, offset: int, body: Any) -> None:
        if offset == PART:
            raise OSError(28, os.strerror(28))
        write(self, offset, body)

    monkeypatch.setattr(Publication, "write", full)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("DestinationFull", "local copy")
    assert len(report.receipts) == 1
    assert len(sent) == PARTS
    assert content(s3, bucket) == (root / "large").read_bytes()
    assert [path for path in (tmp_path / "copy").rglob("*") if path.is_file()] == []


def truncate(path: Path) -> None:
    os.truncate(path, PART + 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * PART + 7)
        file.write(b"edited")
    os.utime(path, ns=(1, 1))


@pytest.mark.parametrize("change", [truncate, grow, edit, os.unlink])
async def test_a_source_that_changes_meanwhile_is_not_published(
    change: Callable[[Path], None],
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    seaweed: Any,
    options: dict[str, Any],
) -> None:
    changed: list[int] = []

    def meddle(number: int) -> None:
        if not changed:
            changed.append(number)
            change(root / "large")

    async with PartsProxy(seaweed.endpoint_url, meddle) as way:
        options |= {"endpoint_url": way.endpoint_url, "concurrency": 1}
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    (failure,) = report.failures
    assert (failure.error, failure.stage) == (SourceChanged.__name__, "source")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert open_uploads(s3, bucket) == []
    assert [path for path in (tmp_path / "copy").rglob("*") if path.is_file()] == []


async def test_a_cancelled_run_leaves_no_upload_no_thread_and_no_descriptor(
    root: Path, tmp_path: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    async def run(url: str) -> None:
        given = {**options, "endpoint_url": url, "retry": RetryPolicy()}
        await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **given)

    descriptors = 0
    for turn in range(2):
        async with PartsProxy(seaweed.endpoint_url, lambda number: HANG) as way:
            running = asyncio.ensure_future(run(way.endpoint_url))
            await way.hung.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert not [
                one for one in threading.enumerate() if one.name.startswith(("asyncsink-small", "asyncsink-large"))
            ]
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
        assert open_uploads(s3, bucket) == []
        assert [path for path in (tmp_path / "copy").rglob("*") if path.is_file()] == []
        # The first turn imports, and opens what the process keeps.
        before, descriptors = descriptors, len(os.listdir("/proc/self/fd"))
        assert turn == 0 or descriptors <= before


async def test_no_more_parts_at_a_time_than_the_memory_has_room_for(
    root: Path, bucket: str, s3: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[int] = []
    lend = Lane.lend

    def counted(self: Lane, size_bytes: int) -> memoryview:
        buffer = lend(self, size_bytes)
        lent.append(sum(lane._lent for lane in lanes if lane is not None))
        return buffer

    begin, lanes = Lane.__init__, list[Lane]()

    def begun(self: Lane, *given: Any, **named: Any) -> None:
        begin(self, *given, **named)
        lanes.append(self)

    monkeypatch.setattr(Lane, "__init__", begun)
    monkeypatch.setattr(Lane, "lend", counted)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", memory_bytes=2 * PART, **options)
    report.raise_for_failures()
    assert 1 <= max(lent) <= 2
    assert len(lent) == PARTS
    assert content(s3, bucket) == (root / "large").read_bytes()
