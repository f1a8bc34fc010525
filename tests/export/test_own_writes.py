"""Writes that replace nothing, and answers that were lost: the write token tells our own object from anybody else's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.destinations.s3 import S3Destination
from asyncsink.errors import AccessDenied, ExportFailed, IntegrityError, ServerFault
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import KIB, MIB, RetryPolicy
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.s3.multipart.resume import empty_uploads_between
from asyncsink.s3.multipart.upload import create_upload
from asyncsink.s3.multipart.write_tokens import fresh_token
from asyncsink.s3.operations import (
    CompleteMultipartUpload,
    CreateMultipartUpload,
    ListMultipartUploads,
    Operation,
    PutObject,
)
from asyncsink.s3.retry import RetryingTransport
from asyncsink.s3.stack import S3Stack, open_stack
from asyncsink.testing.peers import canned
from tests.support.holding_proxy import Held, HoldingProxy
from tests.support.parts_proxy import FORWARD, LOSE, PartsProxy

from .killed import killed_in_an_upload

pytestmark = pytest.mark.anyio
SIZES = [10, MIB, 9 * MIB]
"""One of a batch of small files; one that a lane thread takes whole; one in parts."""
QUICK = RetryPolicy(attempts=4, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
Fate = Callable[[], bytes | None]


def error(status: int, code: str) -> bytes:
    return canned(status, f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode())


def scripted(*fates: bytes | Callable[[], object] | None) -> Fate:
    """One after another, then FORWARD; a function is called, and the request goes on."""
    left = list(fates)

    def next_fate() -> bytes | None:
        fate = left.pop(0) if left else FORWARD
        if callable(fate):
            fate()
            return FORWARD
        return fate

    return next_fate


class Bench:
    """A file of some size, on its way to a bucket through a proxy; `at_the_end` is the fate of what publishes it."""

    def __init__(self, path: Path, bucket: str, s3: Any, server_url: str) -> None:
        self.path, self.bucket, self.s3, self.server_url = path, bucket, s3, server_url

    async def export(self, size: int, at_the_end: Fate, **options: Any) -> tuple[asyncsink.Report, PartsProxy]:
        body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        (self.path / "k").write_bytes(body)

        def whole(number: int) -> bytes | None:
            return FORWARD if number else at_the_end()

        async with PartsProxy(self.server_url, whole, at_the_end) as proxy:
            options |= {"endpoint_url": proxy.endpoint_url, "retry": QUICK}
            report = await asyncsink.export_directory(self.path, f"s3://{self.bucket}", **options)
        assert self.s3.list_multipart_uploads(Bucket=self.bucket).get("Uploads", []) == []
        if report.receipts:
            assert self.stored() == body
        return report, proxy

    def other(self) -> None:
        self.s3.put_object(Bucket=self.bucket, Key="k", Body=b"somebody else's")

    def stored(self) -> bytes:
        return bytes(self.s3.get_object(Bucket=self.bucket, Key="k")["Body"].read())


@pytest.fixture
def bench(tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]) -> Bench:
    (tmp_path / "tree").mkdir()
    return Bench(tmp_path / "tree", bucket, s3, options["endpoint_url"])


lanes = pytest.mark.parametrize("transport", ["wire", "aioboto3"])
sizes = pytest.mark.parametrize("size", SIZES)


@lanes
@sizes
@pytest.mark.parametrize("copied", [False, True])
async def test_what_another_writer_stored_after_our_look_is_kept(
    bench: Bench, tmp_path: Path, transport: str, size: int, copied: bool
) -> None:
    more = {"local_copy": tmp_path / "copy"} if copied else {}
    report, _ = await bench.export(size, scripted(bench.other), overwrite="never", transport=transport, **more)
    assert bench.stored() == b"somebody else's"
    (skip,) = report.skips
    assert (skip.reason, skip.size_bytes, skip.already_there) == ("is there already", 15, True)
    assert skip.etag
    assert not report.failures
    if copied:
        assert Path(skip.local_copy).stat().st_size == size


@lanes
@sizes
@pytest.mark.parametrize("overwrite", ["never", "checksum"])
async def test_a_lost_answer_is_our_own_write(bench: Bench, transport: str, size: int, overwrite: str) -> None:
    report, proxy = await bench.export(size, scripted(LOSE), overwrite=overwrite, transport=transport)
    (receipt,) = report.receipts
    assert receipt.confirmed_by == "server-checksum"
    assert receipt.checksum is not None
    assert len(proxy.parts) == 2  # a whole object twice, or two parts


@sizes
async def test_a_lost_answer_without_checksums_is_proved_by_what_there_is(bench: Bench, size: int) -> None:
    report, _ = await bench.export(size, scripted(LOSE), overwrite="never", checksum="none")
    assert report.receipts[0].confirmed_by in ("etag", "size")


@lanes
@pytest.mark.parametrize("size", SIZES[:2])
async def test_a_conflict_of_puts_is_tried_again(bench: Bench, transport: str, size: int) -> None:
    fate = scripted(error(409, "ConditionalRequestConflict"))
    report, proxy = await bench.export(size, fate, overwrite="never", transport=transport)
    assert len(report.receipts) == 1
    assert proxy.parts == [0, 0]


@lanes
async def test_a_conflict_at_complete_begins_a_new_upload(bench: Bench, transport: str) -> None:
    fate = scripted(error(409, "ConditionalRequestConflict"))
    report, proxy = await bench.export(9 * MIB, fate, overwrite="never", transport=transport)
    assert len(report.receipts) == 1
    assert sorted(proxy.parts) == [1, 1, 2, 2]


async def test_conflicts_at_complete_come_to_an_end(bench: Bench) -> None:
    report, proxy = await bench.export(9 * MIB, lambda: error(409, "ConditionalRequestConflict"), overwrite="never")
    (failure,) = report.failures
    assert failure.error == "UploadConflict"
    assert sorted(proxy.parts) == [1, 1, 2, 2]


@lanes
@sizes
async def test_a_server_without_conditions_is_told_and_written_to(bench: Bench, transport: str, size: int) -> None:
    report, _ = await bench.export(size, scripted(error(501, "NotImplemented")), overwrite="never", transport=transport)
    assert len(report.receipts) == 1
    assert ["lacks conditional writes" in notice for notice in report.notices] == [True]


@lanes
async def test_an_error_in_a_complete_that_began_well_is_tried_again(bench: Bench, transport: str) -> None:
    fate = scripted(error(200, "InternalError"), error(200, "SlowDown"))
    report, proxy = await bench.export(9 * MIB, fate, transport=transport)
    assert len(report.receipts) == 1
    assert report.retries == 2
    assert sorted(proxy.parts) == [1, 2]


@lanes
async def test_an_upload_that_is_gone_is_begun_again(bench: Bench, transport: str) -> None:
    report, proxy = await bench.export(9 * MIB, scripted(error(404, "NoSuchUpload")), transport=transport)
    assert len(report.receipts) == 1
    assert sorted(proxy.parts) == [1, 1, 2, 2]


@lanes
async def test_only_parts_that_the_server_has_otherwise_are_sent_again(bench: Bench, transport: str) -> None:
    def damage() -> bytes:
        (upload,) = bench.s3.list_multipart_uploads(Bucket=bench.bucket)["Uploads"]
        bench.s3.upload_part(
            Bucket=bench.bucket,
            Key="k",
            UploadId=upload["UploadId"],
            PartNumber=2,
            Body=b"other",
            ChecksumCRC64NVME=checksum_of(b"other", "CRC64NVME").value,
        )
        return error(400, "InvalidPart")

    fates = [damage]
    report, proxy = await bench.export(9 * MIB, lambda: fates.pop()() if fates else FORWARD, transport=transport)
    assert len(report.receipts) == 1
    assert sorted(proxy.parts) == [1, 2, 2]


async def test_a_part_that_nobody_misses_begins_a_new_upload(bench: Bench) -> None:
    report, proxy = await bench.export(9 * MIB, scripted(error(400, "InvalidPart")))
    assert len(report.receipts) == 1
    assert sorted(proxy.parts) == [1, 1, 2, 2]


async def test_parts_that_are_too_small_for_a_server_are_told(bench: Bench) -> None:
    report, proxy = await bench.export(9 * MIB, lambda: error(400, "EntityTooSmall"))
    (failure,) = report.failures
    assert "raise part_size_bytes" in failure.message
    assert sorted(proxy.parts) == [1, 2]


class Damages:
    """Before real S3: Complete stores other bytes under the token of the upload, and its answer is lost."""

    def __init__(self, stack: S3Stack, token: str, body: bytes) -> None:
        self._stack, self._token, self._body = stack, token, body

    async def send(self, operation: Operation[Any]) -> Any:
        if isinstance(operation, CompleteMultipartUpload):
            # Without a checksum, its size alone tells the short one.
            checksum = checksum_of(self._body, "CRC64NVME") if len(self._body) > KIB else None
            damage = PutObject(key="k", body=self._body, checksum=checksum, write_token=self._token)
            await self._stack.transport.send(damage)
            raise ServerFault("Internal error.", operation=operation.name)
        return await self._stack.transport.send(operation)

    async def aclose(self) -> None:
        pass


@pytest.mark.parametrize("body", [b"short", b"y" * 6 * MIB])
async def test_our_own_token_on_other_bytes_is_an_integrity_error(
    bucket: str, options: dict[str, Any], body: bytes
) -> None:
    sent, token = b"x" * 6 * MIB, fresh_token()
    checksum = checksum_of(sent, "CRC64NVME")
    target = S3Target(bucket=bucket, endpoint_url=options["endpoint_url"])
    async with open_stack(target, QUICK, Limits()) as stack:
        upload = await create_upload(
            Damages(stack, token, body),
            CreateMultipartUpload(key="k", algorithm="CRC64NVME", write_token=token),
            plan=plan_parts(len(sent), 8 * MIB),
            retry=QUICK,
        )
        await upload.write_part(1, sent, checksum)
        with pytest.raises(IntegrityError, match="instead of"):
            await upload.complete(checksum)
        assert await upload.abort() == ""


class Lies:
    """Before real S3: the first write stores other bytes, as the answer shows."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._lied = False

    async def send(self, operation: Operation[Any]) -> Any:
        if isinstance(operation, PutObject) and not self._lied:
            self._lied = True
            other = b"?" * len(operation.body)
            operation = replace(operation, body=other, checksum=checksum_of(other, "CRC64NVME"))
        return await self._inner.send(operation)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_our_own_damage_is_never_taken_for_somebody_elses_object(
    bench: Bench, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """overwrite="never" cannot repair it, and must not say that the object "is there already"."""
    monkeypatch.setattr(S3Destination, "__init__", _lying(S3Destination.__init__))
    (bench.path / "k").write_bytes(b"0123456789")
    report = await asyncsink.export_directory(bench.path, f"s3://{bench.bucket}", overwrite="never", **options)
    assert [failure.error for failure in report.failures] == ["IntegrityError"]
    assert not report.skips


def _lying(begin: Any) -> Any:
    def init(self: S3Destination, stack: S3Stack, *arguments: Any, **named: Any) -> None:
        begin(self, replace(stack, transport=Lies(stack.transport)), *arguments, **named)

    return init


def test_tokens_are_never_alike() -> None:
    assert len({fresh_token() for _ in range(KIB)}) == KIB
    assert all(len(fresh_token()) == 32 for _ in range(3))


# -- Uploads whose beginning was not answered --------------------------------------------------------------------------


KEY = "p/f.bin"
DAY_SECONDS = 86_400.0
ONE_ATTEMPT = RetryPolicy(attempts=1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "f.bin"
    file.write_bytes(b"f" * (6 * MIB))
    return file


def open_uploads(s3: Any, bucket: str) -> list[str]:
    return [each["UploadId"] for each in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


def lose_creates(proxy: HoldingProxy, times: int) -> None:
    lost: list[str] = []

    def lose(name: str) -> Held:
        if name != "Create" or len(lost) == times:
            return ""
        lost.append(name)
        return "lost"

    proxy.hold = lose


def deny_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without s3:ListBucketMultipartUploads; the development server has no such one."""
    send = RetryingTransport.send

    async def denied(self: RetryingTransport, operation: Any) -> Any:
        if isinstance(operation, ListMultipartUploads):
            raise AccessDenied("no s3:ListBucketMultipartUploads", operation=operation.name)
        return await send(self, operation)

    monkeypatch.setattr(RetryingTransport, "send", denied)


@pytest.mark.parametrize("journalled", [True, False])
async def test_a_caller_who_tries_again_leaves_nothing_open(
    tmp_path: Path, file: Path, bucket: str, s3: Any, options: dict[str, Any], proxy: HoldingProxy, journalled: bool
) -> None:
    lose_creates(proxy, 3)
    options = {**options, "endpoint_url": proxy.endpoint_url, "journal": tmp_path / "j.sqlite" if journalled else False}
    async with asyncsink.AsyncSink(f"s3://{bucket}/p", part_size_bytes="5MiB", retry=ONE_ATTEMPT, **options) as sink:
        for _ in range(3):
            with pytest.raises(ExportFailed):
                await sink.put("@", file)
        assert open_uploads(s3, bucket)
        assert isinstance(await sink.put("@", file), asyncsink.Receipt)
    assert open_uploads(s3, bucket) == []
    assert any("was aborted" in notice for notice in sink.report.notices)


@pytest.mark.parametrize("ahead_seconds", [0.0, 600.0, -600.0])
async def test_it_is_the_servers_clock_that_counts_and_nobody_elses_upload_is_ended(
    bucket: str, s3: Any, options: dict[str, Any], ahead_seconds: float
) -> None:
    target = parse_options(f"s3://{bucket}/p", options).target
    ours = s3.create_multipart_upload(Bucket=bucket, Key=KEY)["UploadId"]
    s3.create_multipart_upload(Bucket=bucket, Key=f"{KEY}2")
    now = time.time() + ahead_seconds
    async with open_stack(target, RetryPolicy(), Limits()) as stack:  # type: ignore[arg-type]

        async def found(first_seconds: float, last_seconds: float) -> list[str]:
            return await empty_uploads_between(stack.transport, KEY, first_seconds, last_seconds, now_seconds=now)

        assert await found(now, now) == [ours]
        week = 7 * DAY_SECONDS
        assert await found(now - week, now - week + 1800) == []
        assert await found(now + DAY_SECONDS, now + week) == []


async def test_whoever_may_not_look_can_publish(
    tmp_path: Path,
    file: Path,
    bucket: str,
    s3: Any,
    options: dict[str, Any],
    proxy: HoldingProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = {
        **options,
        "endpoint_url": proxy.endpoint_url,
        "journal": tmp_path / "j.sqlite",
        "part_size_bytes": "5MiB",
    }
    await killed_in_an_upload(bucket, file, options, KEY)
    deny_looking(monkeypatch)
    lose_creates(proxy, 1)
    report = await asyncsink.export({"@": file}, f"s3://{bucket}/p", **options)
    report.raise_for_failures()
    assert report.objects_uploaded == 1
    told = [notice for notice in report.notices if "ListBucketMultipartUploads" in notice]
    assert told
    assert all(f"An upload of {KEY!r} whose begin was not answered may stay open" in notice for notice in told)
    assert (await asyncsink.export({"@": file}, f"s3://{bucket}/p", **options)).objects_skipped == 1


async def test_what_could_not_be_looked_for_stays_in_the_journal(
    tmp_path: Path, file: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    options = {**options, "journal": tmp_path / "j.sqlite"}
    await killed_in_an_upload(bucket, file, options, KEY)
    s3.create_multipart_upload(Bucket=bucket, Key=KEY)
    file.write_bytes(b"small now")
    with pytest.MonkeyPatch.context() as patch:
        deny_looking(patch)
        report = await asyncsink.export({"@": file}, f"s3://{bucket}/p", **options)
    assert (report.objects_uploaded, len(open_uploads(s3, bucket))) == (1, 1)
    report = await asyncsink.export({"@": file}, f"s3://{bucket}/p", **options)
    assert (report.objects_skipped, open_uploads(s3, bucket)) == (1, [])
