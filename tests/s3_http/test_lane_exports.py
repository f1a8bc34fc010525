"""Files that lane threads read, in parts or whole, in whole runs: real servers, faults on the way, what is left."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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
from asyncsink.s3.operations import PutObject, PutObjectFrom, UploadPart, UploadPartFrom
from asyncsink.s3.stack import open_stack
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.peers import canned
from tests.support.changes import edit, grow, truncate
from tests.support.files import content_of
from tests.support.parts_proxy import DROP, FORWARD, HANG, WHOLE, PartsProxy
from tests.support.requests import DENIED, SLOW_DOWN

pytestmark = pytest.mark.anyio
PART = 5 * MIB
SIZE = 3 * MIB + 5
QUICK = RetryPolicy(attempts=3, throttled_seconds=0, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
EXPIRED = canned(400, b"<Error><Code>ExpiredToken</Code><Message>Old.</Message></Error>")
OTHER_BYTES = canned(200, b"", 'ETag: "e"', "x-amz-checksum-crc64nvme: AAAAAAAAAAA=")
SAYS_NOTHING = canned(200, b"")


@dataclass(frozen=True)
class Case:
    """A file, and the requests that carry it: the numbers of its parts, or the one of a whole file."""

    key: str
    size: int
    numbers: tuple[int, ...]
    harmed: int
    """The request that a fault meets."""


PARTS = Case("large", 3 * PART + 1, (1, 2, 3, 4), 2)
ONE = Case("scan.json", SIZE, (WHOLE,), WHOLE)
in_parts = pytest.mark.parametrize("case", [PARTS], indirect=True, ids=["parts"])
whole = pytest.mark.parametrize("case", [ONE], indirect=True, ids=["whole"])


@pytest.fixture(params=[PARTS, ONE], ids=["parts", "whole"])
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
def file(case: Case, tmp_path: Path) -> Path:
    """The only file of its folder."""
    path = tmp_path / "source" / case.key
    path.parent.mkdir()
    path.write_bytes(os.urandom(case.size))
    return path


@pytest.fixture
def options(case: Case, options: dict[str, Any]) -> dict[str, Any]:
    parts = {"part_size_bytes": PART} if case is PARTS else {}
    return options | parts | {"retry": QUICK, "retries": 0, "journal": False}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[UploadPartFrom | PutObjectFrom]:
    """What lanes were given to read; nothing large may go another way."""
    seen: list[UploadPartFrom | PutObjectFrom] = []
    send = HttpTransport.send

    async def watched(self: HttpTransport, operation: Any) -> Any:
        assert not isinstance(operation, UploadPart)
        assert not isinstance(operation, PutObject) or len(operation.body) <= MIB
        if isinstance(operation, UploadPartFrom | PutObjectFrom):
            seen.append(operation)
        return await send(self, operation)

    monkeypatch.setattr(HttpTransport, "send", watched)
    return seen


@pytest.fixture(autouse=True)
def _nothing_stays() -> Iterator[None]:
    yield
    assert threads() == []


def threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(("asyncsink-small", "asyncsink-large"))]


@pytest.fixture
def content(case: Case, s3: Any, bucket: str) -> Callable[..., bytes]:
    """Reads an object with boto3, by default the file's."""

    def read(key: str = case.key, **customer: Any) -> bytes:
        return s3.get_object(Bucket=bucket, Key=key, **customer)["Body"].read()  # type: ignore[no-any-return]

    return read


@pytest.fixture
def nothing_there(s3: Any, bucket: str) -> Callable[[], bool]:
    """Whether the bucket has neither an object nor an open upload."""

    def look() -> bool:
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
        return not uploads and "Contents" not in s3.list_objects_v2(Bucket=bucket)

    return look


@pytest.fixture
def export(file: Path, bucket: str, seaweed: Any, options: dict[str, Any]) -> Callable[..., Any]:
    """Export the file; with a fate through a proxy that decides about each request with a body."""

    async def run(fate: Callable[[int], bytes | None] | None = None, **more: Any) -> tuple[asyncsink.Report, list[int]]:
        if fate is None:
            return await asyncsink.export_directory(file.parent, f"s3://{bucket}", **options | more), []
        async with PartsProxy(seaweed.endpoint_url, fate) as way:
            given = options | {"endpoint_url": way.endpoint_url} | more
            return await asyncsink.export_directory(file.parent, f"s3://{bucket}", **given), way.parts

    return run


def once(fate: bytes, case: Case) -> Callable[[int], bytes | None]:
    """A fate for the first attempt of one request."""
    left = [fate]
    return lambda number: left.pop() if number == case.harmed and left else FORWARD


@pytest.fixture(params=["http", "https"])
async def endpoint(request: pytest.FixtureRequest, seaweed: Any, authority: Any, tls_proxy: Any) -> Any:
    """Options that lead to the server with and without TLS."""
    if request.param == "http":
        yield {"endpoint_url": seaweed.endpoint_url}
        return
    server = urlsplit(seaweed.endpoint_url)
    async with tls_proxy(server.hostname, server.port, authority.server_context("localhost")) as proxy:
        yield {"endpoint_url": proxy.url, "ca_bundle": authority.path}


@in_parts
async def test_a_large_file_beside_its_local_copy(
    endpoint: Any, file: Path, tmp_path: Path, bucket: str, s3: Any, export: Any, content: Any, sent: list[Any]
) -> None:
    report, _ = await export(local_copy=tmp_path / "copy", **endpoint)
    report.raise_for_failures()
    assert report.transport == "wire"
    assert sorted(operation.part_number for operation in sent) == [1, 2, 3, 4]
    assert content() == (tmp_path / "copy" / "large").read_bytes() == file.read_bytes()
    (receipt,) = report.receipts
    assert receipt.confirmed_by == "server-checksum"
    assert receipt.checksum is not None
    head = s3.head_object(Bucket=bucket, Key="large", ChecksumMode="ENABLED")
    assert head["ChecksumCRC64NVME"] == receipt.checksum.value


@whole
async def test_files_of_many_sizes_beside_their_local_copies(
    endpoint: Any, tmp_path: Path, bucket: str, s3: Any, options: Any, content: Any, sent: list[Any]
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    sizes = {"small": MIB, "just-above": MIB + 1, "middle": SIZE, "just-below": 8 * MIB - 1, "in-parts": 8 * MIB}
    for name, size in sizes.items():
        (folder / name).write_bytes(os.urandom(size))
    given = options | {"local_copy": tmp_path / "copy"}
    report = await asyncsink.export_directory(folder, f"s3://{bucket}", **given | endpoint)
    report.raise_for_failures()
    read_whole = sorted(operation.key for operation in sent if isinstance(operation, PutObjectFrom))
    assert read_whole == ["just-above", "just-below", "middle"]
    before = len(sent)
    for receipt in report.receipts:
        data = (folder / receipt.key).read_bytes()
        assert content(receipt.key) == (tmp_path / "copy" / receipt.key).read_bytes() == data
        assert receipt.local_copy == str(tmp_path / "copy" / receipt.key)
        assert receipt.confirmed_by == "server-checksum"
        assert receipt.checksum is not None
        head = s3.head_object(Bucket=bucket, Key=receipt.key, ChecksumMode="ENABLED")
        assert head["ChecksumCRC64NVME"] == receipt.checksum.value
    again = await asyncsink.export_directory(folder, f"s3://{bucket}", **given)
    assert (len(again.skips), again.bytes_uploaded, len(sent)) == (5, 0, before)


@pytest.mark.parametrize("checksum", ["SHA256", "MD5", "none"])
async def test_other_checksums(
    checksum: str, case: Case, file: Path, export: Any, content: Any, sent: list[Any]
) -> None:
    report, _ = await export(checksum=checksum)
    report.raise_for_failures()
    (receipt,) = report.receipts
    if case is ONE:
        assert receipt.confirmed_by == ("server-checksum" if checksum == "SHA256" else "etag")
    assert len(sent) == len(case.numbers)
    assert content() == file.read_bytes()


@whole
async def test_attributes_arrive(bucket: str, s3: Any, export: Any, sent: list[Any]) -> None:
    report, _ = await export(metadata={"lab": "A"}, tags={"study": "ds 1"})
    report.raise_for_failures()
    head = s3.head_object(Bucket=bucket, Key="scan.json")
    assert (head["ContentType"], head["Metadata"]) == ("application/json", {"lab": "A"})
    assert s3.get_object_tagging(Bucket=bucket, Key="scan.json")["TagSet"] == [{"Key": "study", "Value": "ds 1"}]
    assert len(sent) == 1


@whole
async def test_customer_keys(file: Path, export: Any, content: Any, sent: list[Any]) -> None:
    secret = bytes(range(32))
    report, _ = await export(sse=secret)
    report.raise_for_failures()
    assert len(sent) == 1
    assert content(SSECustomerAlgorithm="AES256", SSECustomerKey=secret) == file.read_bytes()


async def test_the_other_lane_reads_no_files(file: Path, export: Any, content: Any, sent: list[Any]) -> None:
    report, _ = await export(transport="aioboto3")
    report.raise_for_failures()
    assert sent == []
    assert content() == file.read_bytes()


@in_parts
@pytest.mark.parametrize("fate", [SLOW_DOWN, EXPIRED, DROP, HANG], ids=["slow down", "expired", "dropped", "stalled"])
async def test_a_part_that_fails_is_sent_again(
    fate: bytes, case: Case, file: Path, tmp_path: Path, export: Any, content: Any
) -> None:
    # Long enough for a healthy server on a busy machine.
    retry = replace(QUICK, stall_seconds=4.0) if fate == HANG else QUICK
    report, parts = await export(once(fate, case), retry=retry, local_copy=tmp_path / "copy")
    report.raise_for_failures()
    assert sorted(parts) == [1, 2, 2, 3, 4]
    assert report.retries == 1
    (receipt,) = report.receipts
    assert receipt.attempts == 2
    assert content() == (tmp_path / "copy" / "large").read_bytes() == file.read_bytes()


@whole
@pytest.mark.parametrize("mode", ["copy", "hardlink"])
@pytest.mark.parametrize("fate", [SLOW_DOWN, EXPIRED, DROP], ids=["slow down", "expired", "dropped"])
async def test_a_file_that_fails_is_sent_again(
    fate: bytes, mode: str, case: Case, file: Path, tmp_path: Path, export: Any, content: Any
) -> None:
    report, parts = await export(once(fate, case), local_copy=tmp_path / "copy", local_copy_mode=mode)
    report.raise_for_failures()
    assert parts == [WHOLE, WHOLE]
    assert report.retries == 1
    (receipt,) = report.receipts
    assert receipt.attempts == 2
    assert content() == file.read_bytes()
    assert content_of(tmp_path / "copy") == {"scan.json": file.read_bytes()}
    assert (tmp_path / "copy" / "scan.json").samefile(file) == (mode == "hardlink")


async def test_other_bytes_are_noticed_and_the_file_is_sent_once_more(
    case: Case, file: Path, tmp_path: Path, bucket: str, s3: Any, export: Any, content: Any
) -> None:
    report, parts = await export(once(OTHER_BYTES, case), local_copy=tmp_path / "copy")
    report.raise_for_failures()
    assert parts.count(case.harmed) == 2
    assert report.retries == 0
    assert content() == (tmp_path / "copy" / case.key).read_bytes() == file.read_bytes()
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


@whole
async def test_a_server_that_always_says_other_bytes_is_reported(export: Any) -> None:
    report, parts = await export(lambda number: OTHER_BYTES)
    assert [failure.error for failure in report.failures] == ["IntegrityError"]
    assert parts == [WHOLE, WHOLE]


@whole
@pytest.mark.parametrize("arrived", [True, False])
async def test_an_answer_that_says_nothing_is_settled_by_looking(
    file: Path, bucket: str, s3: Any, export: Any, arrived: bool
) -> None:
    there = file.read_bytes() if arrived else bytes(SIZE)
    s3.put_object(Bucket=bucket, Key="scan.json", Body=there, ChecksumAlgorithm="CRC64NVME")
    report, _ = await export(lambda number: SAYS_NOTHING, overwrite="always")
    assert [each.confirmed_by for each in report.receipts] == ["server-checksum"] * arrived
    assert [each.error for each in report.failures] == ["IntegrityError"] * (not arrived)


@pytest.mark.parametrize("retries", [0, 1])
@pytest.mark.parametrize(
    ("fate", "error", "attempts"),
    [(SLOW_DOWN, "Throttled", 3), (DENIED, "AccessDenied", 1), (DROP, "ConnectionLost", 3)],
    ids=["slow down", "denied", "dropped"],
)
async def test_what_cannot_be_sent_costs_the_object_and_not_the_copy(
    fate: bytes,
    error: str,
    attempts: int,
    retries: int,
    case: Case,
    file: Path,
    tmp_path: Path,
    export: Any,
    nothing_there: Any,
) -> None:
    report, parts = await export(
        lambda number: fate if number == case.harmed else FORWARD, local_copy=tmp_path / "copy", retries=retries
    )
    (failure,) = report.failures
    assert (failure.error, failure.attempts, failure.stage) == (error, attempts, "upload")
    # A further round sends the file anew; a refusal for good has none.
    assert parts.count(case.harmed) == attempts * (1 if fate == DENIED else 1 + retries)
    assert report.retries >= attempts - 1
    assert not report.receipts
    assert content_of(tmp_path / "copy") == {case.key: file.read_bytes()}
    assert nothing_there()


@whole
@pytest.mark.parametrize("retries", [0, 1])
async def test_sending_that_never_begins_does_not_cost_the_copy(
    retries: int, file: Path, tmp_path: Path, export: Any, stored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The further round, which finds the copy in its place, needs no thread for it, and really publishes the file."""
    begin = Lane.__init__

    def none_left(self: Lane, shared: Any, name: str, *, large: bool) -> None:
        if large:
            raise RuntimeError("can't start new thread")
        begin(self, shared, name, large=large)

    monkeypatch.setattr(Lane, "__init__", none_left)
    report, _ = await export(local_copy=tmp_path / "copy", retries=retries)
    assert [failure.stage for failure in report.failures] == ["upload"] * (1 - retries)
    assert [receipt.confirmed_by for receipt in report.receipts] == ["server-checksum"] * retries
    data = file.read_bytes()
    assert (tmp_path / "copy" / "scan.json").read_bytes() == data
    assert list(stored().values()) == [data] * retries


async def test_a_copy_that_cannot_be_written_costs_nothing_else(
    case: Case, file: Path, tmp_path: Path, export: Any, content: Any, sent: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Publication.write

    def full(self: Publication, offset: int, body: Any) -> None:
        if case is ONE or offset == PART:
            raise OSError(28, os.strerror(28))
        write(self, offset, body)

    monkeypatch.setattr(Publication, "write", full)
    report, _ = await export(local_copy=tmp_path / "copy")
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("DestinationFull", "local copy")
    assert (len(report.receipts), len(sent)) == (1, len(case.numbers))
    assert content() == file.read_bytes()
    assert content_of(tmp_path / "copy") == {}


CHANGES = pytest.mark.parametrize("change", [truncate, grow, edit, os.unlink])


@in_parts
@CHANGES
async def test_a_source_that_changes_meanwhile_is_not_published(
    change: Callable[[Path], None], file: Path, tmp_path: Path, export: Any, nothing_there: Any
) -> None:
    changed: list[int] = []

    def meddle(number: int) -> None:
        if not changed:
            changed.append(number)
            change(file)

    report, _ = await export(meddle, concurrency=1, local_copy=tmp_path / "copy")
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("SourceChanged", "source")
    assert nothing_there()
    assert content_of(tmp_path / "copy") == {}


@whole
@CHANGES
async def test_of_a_source_that_changes_while_it_is_read_nothing_is_sent(
    change: Callable[[Path], None], file: Path, tmp_path: Path, export: Any, nothing_there: Any, monkeypatch: Any
) -> None:
    read_part, changed = OpenSource.read_part, list[int]()

    def meddle(self: OpenSource, offset: int, length: int, into: Any = None) -> Any:
        found = read_part(self, offset, length, into)
        if not changed:
            changed.append(offset)
            change(file)
        return found

    monkeypatch.setattr(OpenSource, "read_part", meddle)
    report, parts = await export(lambda number: FORWARD, local_copy=tmp_path / "copy")
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("SourceChanged", "source")
    assert parts == []
    assert nothing_there()
    assert content_of(tmp_path / "copy") == {}


@whole
@pytest.mark.parametrize("change", [truncate, grow, edit])
async def test_a_source_that_changes_between_two_attempts_is_not_sent_again(
    change: Callable[[Path], None], file: Path, export: Any, nothing_there: Any
) -> None:
    def meddle(number: int) -> bytes:
        change(file)
        return SLOW_DOWN

    report, parts = await export(meddle)
    (failure,) = report.failures
    assert (failure.error, failure.stage) == ("SourceChanged", "source")
    assert parts == [WHOLE]
    assert nothing_there()


@whole
async def test_a_source_that_changed_before_it_was_opened_is_published_as_it_is_now(
    file: Path, tmp_path: Path, export: Any, content: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, grown = S3Destination.look, list[int]()

    async def meddle(self: S3Destination, transfer: Any, *, closely: bool) -> Any:
        if not grown:
            grown.append(1)
            grow(file)
        return await look(self, transfer, closely=closely)

    monkeypatch.setattr(S3Destination, "look", meddle)
    report, _ = await export(local_copy=tmp_path / "copy")
    report.raise_for_failures()
    data = file.read_bytes()
    assert len(data) == SIZE + 4
    assert content() == (tmp_path / "copy" / "scan.json").read_bytes() == data


async def test_a_cancelled_run_leaves_no_upload_no_thread_and_no_descriptor(
    case: Case, file: Path, tmp_path: Path, bucket: str, seaweed: Any, options: dict[str, Any], nothing_there: Any
) -> None:
    descriptors = 0
    for turn in range(2):
        async with PartsProxy(seaweed.endpoint_url, lambda number: HANG) as way:
            options |= {"endpoint_url": way.endpoint_url, "retry": RetryPolicy(), "local_copy": tmp_path / "copy"}
            running = asyncio.ensure_future(asyncsink.export_directory(file.parent, f"s3://{bucket}", **options))
            await way.hung.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert threads() == []
        assert nothing_there()
        assert case is ONE or content_of(tmp_path / "copy") == {}
        # The first turn imports, and opens what the process keeps.
        before, descriptors = descriptors, len(os.listdir("/proc/self/fd"))
        assert turn == 0 or descriptors <= before


@in_parts
async def test_no_more_parts_at_a_time_than_the_memory_has_room_for(
    file: Path, export: Any, content: Any, monkeypatch: pytest.MonkeyPatch
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
    report, _ = await export(memory_bytes=2 * PART)
    report.raise_for_failures()
    assert 1 <= max(lent) <= 2
    assert len(lent) == 4
    assert content() == file.read_bytes()


@whole
async def test_every_attempt_holds_a_token_and_counts(
    file: Path, bucket: str, seaweed: Any, options: dict[str, Any]
) -> None:
    status = file.stat()
    source = SourceFile(str(file), status.st_size, status.st_mtime_ns)
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
