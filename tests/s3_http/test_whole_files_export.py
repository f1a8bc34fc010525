"""Whole files of a few MiB in whole runs: real servers, faults on the way, and what is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import asyncsink
from asyncsink.destinations.local.files import Publication
from asyncsink.destinations.s3 import S3Destination
from asyncsink.errors import Throttled
from asyncsink.model import SourceFile
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.http.lane import Lane
from asyncsink.s3.operations import PutObject, PutObjectFrom
from asyncsink.s3.stack import open_stack
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import canned
from tests.support.parts_proxy import DROP, FORWARD, HANG, WHOLE, PartsProxy

pytestmark = pytest.mark.anyio
SIZE = 3 * MIB + 5
QUICK = RetryPolicy(attempts=3, throttled_seconds=0, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
SLOW_DOWN = canned(503, b"<Error><Code>SlowDown</Code><Message>Slow.</Message></Error>")
EXPIRED = canned(400, b"<Error><Code>ExpiredToken</Code><Message>Old.</Message></Error>")
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>No.</Message></Error>")
OTHER_BYTES = canned(200, b"", 'ETag: "e"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA=")
SAYS_NOTHING = canned(200, b"")


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with one file that is neither small nor large."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "scan.json").write_bytes(os.urandom(SIZE))
    return folder


@pytest.fixture
def options(seaweed: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url, "retry": QUICK, "retries": 0, "journal": False}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[PutObjectFrom]:
    """The whole files that lanes were given to read; none may go another way."""
    seen: list[PutObjectFrom] = []
    send = HttpTransport.send

    async def watched(self: HttpTransport, operation: Any) -> Any:
        assert not isinstance(operation, PutObject) or len(operation.body) <= MIB
        if isinstance(operation, PutObjectFrom):
            seen.append(operation)
        return await send(self, operation)

    monkeypatch.setattr(HttpTransport, "send", watched)
    return seen


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert threads() == []


def threads() -> list[str]:
    return [
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith(("asyncsink-small", "asyncsink-large"))
    ]


def once(fate: bytes) -> Callable[[int], bytes | None]:
    """A fate for the first attempt."""
    left = [fate]
    return lambda number: left.pop() if left else FORWARD


def content(s3: Any, bucket: str, key: str = "scan.json", **customer: Any) -> bytes:
    body: bytes = s3.get_object(Bucket=bucket, Key=key, **customer)["Body"].read()
    return body


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_files_of_many_sizes_beside_their_local_copies(
    scheme: str,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    seaweed: Any,
    options: dict[str, Any],
    sent: list[PutObjectFrom],
    authority: Any,
    tls_proxy: Any,
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    sizes = {"small": MIB, "just-above": MIB + 1, "middle": SIZE, "just-below": 8 * MIB - 1, "in-parts": 8 * MIB}
    for name, size in sizes.items():
        (folder / name).write_bytes(os.urandom(size))
    async with contextlib.AsyncExitStack() as exits:
        if scheme == "https":
            server = urlsplit(seaweed.endpoint_url)
            proxy = tls_proxy(server.hostname, server.port, authority.server_context("localhost"))
            options["endpoint_url"] = (await exits.enter_async_context(proxy)).url
            options["ca_bundle"] = authority.path
        report = await asyncsink.export_directory(folder, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    assert sorted(operation.key for operation in sent) == ["just-above", "just-below", "middle"]
    for receipt in report.receipts:
        data = (folder / receipt.key).read_bytes()
        assert content(s3, bucket, receipt.key) == data
        assert (tmp_path / "copy" / receipt.key).read_bytes() == data
        assert receipt.local_copy == str(tmp_path / "copy" / receipt.key)
        assert receipt.confirmed_by == "server-checksum"
        assert receipt.checksum is not None
        head = s3.head_object(Bucket=bucket, Key=receipt.key, ChecksumMode="ENABLED")
        assert head["ChecksumCRC64NVME"] == receipt.checksum.value
    again = await asyncsink.export_directory(
        folder, f"s3://{bucket}", local_copy=tmp_path / "copy", **options | {"endpoint_url": seaweed.endpoint_url}
    )
    assert (len(again.skips), again.bytes_uploaded, len(sent)) == (5, 0, 3)


@pytest.mark.parametrize("checksum", ["SHA256", "MD5", "none"])
async def test_other_checksums(
    checksum: str, root: Path, bucket: str, s3: Any, options: dict[str, Any], sent: list[PutObjectFrom]
) -> None:
    report = await asyncsink.export_directory(root, f"s3://{bucket}", checksum=checksum, **options)
    report.raise_for_failures()
    (receipt,) = report.receipts
    assert receipt.confirmed_by == ("server-checksum" if checksum == "SHA256" else "etag")
    assert len(sent) == 1
    assert content(s3, bucket) == (root / "scan.json").read_bytes()


async def test_attributes_arrive(
    root: Path, bucket: str, s3: Any, options: dict[str, Any], sent: list[PutObjectFrom]
) -> None:
    report = await asyncsink.export_directory(
        root, f"s3://{bucket}", metadata={"lab": "A"}, tags={"study": "ds 1"}, **options
    )
    report.raise_for_failures()
    head = s3.head_object(Bucket=bucket, Key="scan.json")
    assert (head["ContentType"], head["Metadata"]) == ("application/json", {"lab": "A"})
    assert s3.get_object_tagging(Bucket=bucket, Key="scan.json")["TagSet"] == [{"Key": "study", "Value": "ds 1"}]
    assert len(sent) == 1


async def test_customer_keys(
    root: Path, bucket: str, s3: Any, options: dict[str, Any], sent: list[PutObjectFrom]
) -> None:
    secret = bytes(range(32))
    report = await asyncsink.export_directory(root, f"s3://{bucket}", sse=secret, **options)
    report.raise_for_failures()
    assert len(sent) == 1
    data = content(s3, bucket, SSECustomerAlgorithm="AES256", SSECustomerKey=secret)
    assert data == (root / "scan.json").read_bytes()


async def test_the_other_lane_reads_no_files(
    root: Path, bucket: str, s3: Any, options: dict[str, Any], sent: list[PutObjectFrom]
) -> None:
    report = await asyncsink.export_directory(root, f"s3://{bucket}", transport="aioboto3", **options)
    report.raise_for_failures()
    assert sent == []
    assert content(s3, bucket) == (root / "scan.json").read_bytes()


@pytest.mark.parametrize("mode", ["copy", "hardlink"])
@pytest.mark.parametrize("fate", [SLOW_DOWN, EXPIRED, DROP], ids=["slow down", "expired", "dropped"])
async def test_a_file_that_fails_is_sent_again(
    fate: bytes, mode: str, root: Path, tmp_path: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    async with PartsProxy(seaweed.endpoint_url, once(fate)) as way:
        options |= {"endpoint_url": way.endpoint_url, "local_copy_mode": mode}
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    assert way.parts == [WHOLE, WHOLE]
    assert report.retries == 1
    (receipt,) = report.receipts
    assert receipt.attempts == 2
    data = (root / "scan.json").read_bytes()
    assert content(s3, bucket) == data
    (copy,) = files_in(tmp_path / "copy")
    assert copy.read_bytes() == data
    assert copy.samefile(root / "scan.json") == (mode == "hardlink")


async def test_other_bytes_are_noticed_and_the_file_is_sent_once_more(
    root: Path, tmp_path: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    async with PartsProxy(seaweed.endpoint_url, once(OTHER_BYTES)) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    assert way.parts == [WHOLE, WHOLE]
    assert report.retries == 0
    assert content(s3, bucket) == (root / "scan.json").read_bytes()
    assert (tmp_path / "copy" / "scan.json").read_bytes() == (root / "scan.json").read_bytes()


async def test_a_server_that_always_says_other_bytes_is_reported(
    root: Path, bucket: str, seaweed: Any, options: dict[str, Any]
) -> None:
    async with PartsProxy(seaweed.endpoint_url, lambda number: OTHER_BYTES) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    assert [failure.error for failure in report.failures] == ["IntegrityError"]
    assert way.parts == [WHOLE, WHOLE]


@pytest.mark.parametrize("arrived", [True, False])
async def test_an_answer_that_says_nothing_is_settled_by_looking(
    root: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any], arrived: bool
) -> None:
    there = (root / "scan.json").read_bytes() if arrived else bytes(SIZE)
    s3.put_object(Bucket=bucket, Key="scan.json", Body=there, ChecksumAlgorithm="CRC64NVME")
    async with PartsProxy(seaweed.endpoint_url, lambda number: SAYS_NOTHING) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", overwrite="always", **options)
    assert [each.confirmed_by for each in report.receipts] == ["server-checksum"] * arrived
    assert [each.error for each in report.failures] == ["IntegrityError"] * (not arrived)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize(
    ("fate", "error", "attempts"),
    [(SLOW_DOWN, "Throttled", 3), (DENIED, "AccessDenied", 1), (DROP, "ConnectionLost", 3)],
    ids=["slow down", "denied", "dropped"],
)
async def test_a_file_that_cannot_be_sent_costs_the_object_and_not_the_copy(
    fate: bytes,
    error: str,
    attempts: int,
    retries: int,
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    seaweed: Any,
    options: dict[str, Any],
) -> None:
    async with PartsProxy(seaweed.endpoint_url, lambda number: fate) as way:
        options |= {"endpoint_url": way.endpoint_url, "retries": retries}
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    (failure,) = report.failures
    assert (failure.error, failure.attempts, failure.stage) == (error, attempts, "upload")
    # A further round sends the file anew; a refusal for good has none.
    assert len(way.parts) == attempts * (1 if fate == DENIED else 1 + retries)
    assert not report.receipts
    assert (tmp_path / "copy" / "scan.json").read_bytes() == (root / "scan.json").read_bytes()
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


@pytest.mark.parametrize("retries", [0, 1])
async def test_sending_that_never_begins_does_not_cost_the_copy(
    retries: int,
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The further round, which finds the copy in its place, needs no thread for it, and really publishes the file."""
    begin = Lane.__init__

    def none_left(self: Lane, shared: Any, name: str, *, large: bool) -> None:
        if large:
            raise RuntimeError("can't start new thread")
        begin(self, shared, name, large=large)

    monkeypatch.setattr(Lane, "__init__", none_left)
    options["retries"] = retries
    report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    assert [failure.stage for failure in report.failures] == ["upload"] * (1 - retries)
    assert [receipt.confirmed_by for receipt in report.receipts] == ["server-checksum"] * retries
    data = (root / "scan.json").read_bytes()
    assert (tmp_path / "copy" / "scan.json").read_bytes() == data
    stored = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
    assert [content(s3, bucket, each["Key"]) for each in stored] == [data] * retries


async def test_a_copy_that_cannot_be_written_costs_nothing_else(
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    options: dict[str, Any],
    sent: list[PutObjectFrom],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Publication, offset: int, body: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Publication, "write", full)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("DestinationFull", "local copy")
    assert (len(report.receipts), len(sent)) == (1, 1)
    assert content(s3, bucket) == (root / "scan.json").read_bytes()
    assert files_in(tmp_path / "copy") == []


def truncate(path: Path) -> None:
    os.truncate(path, MIB + 1)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"edited")
    os.utime(path, ns=(1, 1))


CHANGES = pytest.mark.parametrize("change", [truncate, grow, edit, os.unlink])


@CHANGES
async def test_of_a_source_that_changes_while_it_is_read_nothing_is_sent(
    change: Callable[[Path], None],
    root: Path,
    tmp_path: Path,
    bucket: str,
    s3: Any,
    seaweed: Any,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    read_part, changed = OpenSource.read_part, list[int]()

    def meddle(self: OpenSource, offset: int, length: int, into: Any = None) -> Any:
        found = read_part(self, offset, length, into)
        if not changed:
            changed.append(offset)
            change(root / "scan.json")
        return found

    monkeypatch.setattr(OpenSource, "read_part", meddle)
    async with PartsProxy(seaweed.endpoint_url, lambda number: FORWARD) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("SourceChanged", "source")
    assert way.parts == []
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert files_in(tmp_path / "copy") == []


@pytest.mark.parametrize("change", [truncate, grow, edit])
async def test_a_source_that_changes_between_two_attempts_is_not_sent_again(
    change: Callable[[Path], None], root: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    def meddle(number: int) -> bytes:
        change(root / "scan.json")
        return SLOW_DOWN

    async with PartsProxy(seaweed.endpoint_url, meddle) as way:
        options["endpoint_url"] = way.endpoint_url
        report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("SourceChanged", "source")
    assert way.parts == [WHOLE]
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


async def test_a_source_that_changed_before_it_was_opened_is_published_as_it_is_now(
    root: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    look, grown = S3Destination.look, list[int]()

    async def meddle(self: S3Destination, transfer: Any, *, closely: bool) -> Any:
        if not grown:
            grown.append(1)
            grow(root / "scan.json")
        return await look(self, transfer, closely=closely)

    monkeypatch.setattr(S3Destination, "look", meddle)
    report = await asyncsink.export_directory(root, f"s3://{bucket}", local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    data = (root / "scan.json").read_bytes()
    assert len(data) == SIZE + 4
    assert content(s3, bucket) == (tmp_path / "copy" / "scan.json").read_bytes() == data


async def test_a_cancelled_run_leaves_no_thread_and_no_descriptor(
    root: Path, bucket: str, s3: Any, seaweed: Any, options: dict[str, Any]
) -> None:
    async def run(url: str) -> None:
        given = {**options, "endpoint_url": url, "retry": RetryPolicy()}
        await asyncsink.export_directory(root, f"s3://{bucket}", **given)

    descriptors = 0
    for turn in range(2):
        async with PartsProxy(seaweed.endpoint_url, lambda number: HANG) as way:
            running = asyncio.ensure_future(run(way.endpoint_url))
            await way.hung.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert threads() == []
        assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
        # The first turn imports, and opens what the process keeps.
        before, descriptors = descriptors, len(os.listdir("/proc/self/fd"))
        assert turn == 0 or descriptors <= before


async def test_every_attempt_holds_a_token_and_counts(
    root: Path, bucket: str, seaweed: Any, options: dict[str, Any]
) -> None:
    status = (root / "scan.json").stat()
    source = SourceFile(str(root / "scan.json"), status.st_size, status.st_mtime_ns)
    tokens: list[int] = []

    def meddle(number: int) -> bytes | None:
        tokens.append(stack.pacer.in_flight)
        return DROP if len(tokens) == 1 else FORWARD if len(tokens) == 2 else SLOW_DOWN

    put = PutObjectFrom(key="k", source=partial(OpenSource, source), length=SIZE, algorithm="CRC32C")
    async with PartsProxy(seaweed.endpoint_url, meddle) as way:
        target = S3Target(bucket=bucket, endpoint_url=way.endpoint_url)
        async with open_stack(target, QUICK, Limits(concurrency=1, concurrency_start=1)) as stack:
            stored = await stack.transport.send(put)
            assert (stored.attempts, stored.checksum) == (2, stored.sent)
            window = stack.pacer.take_window()
            assert (window.requests, window.errors, window.throttled, window.bytes) == (2, 1, 0, SIZE)
            with pytest.raises(Throttled, match="It was tried 3 times") as caught:
                await stack.transport.send(put)
            assert (caught.value.attempts, caught.value.operation) == (3, "PutObject")
            window = stack.pacer.take_window()
            assert (window.requests, window.errors, window.throttled, window.bytes) == (3, 0, 3, 0)
            assert (stack.retries, stack.pacer.in_flight) == (3, 0)
    assert set(tokens) == {1}
