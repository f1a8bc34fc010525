"""Uploads whose beginning was not answered: ours are ended, others are not, and what nobody may look for is told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import AccessDenied, ExportFailed
from asyncsink.options.parse import parse_options
from asyncsink.options.schema import Limits
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.multipart.resume import empty_uploads_between
from asyncsink.s3.operations import ListMultipartUploads
from asyncsink.s3.retry import RetryingTransport
from asyncsink.s3.stack import open_stack
from tests.support.holding_proxy import Held, HoldingProxy

from .killed import killed_in_an_upload

pytestmark = pytest.mark.anyio
MIB = 1 << 20
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
