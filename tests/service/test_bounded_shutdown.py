"""A sink is closed in bounded time, whatever its server does; what was not sent by then has names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, ExportFailed
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN
from asyncsink.testing.toxics import Timeout, Toxic
from tests.support.holding_proxy import HoldingProxy
from tests.support.requests import until

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
PART_BYTES = 5 << 20
FILES = 200
WRITES = ("PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload")


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number:03}.txt" for number in range(FILES)]
    for path in paths:
        path.write_text(path.name)
    return paths


def keys_of(report: asyncsink.Report) -> list[str]:
    return sorted(each.key for each in [*report.unfinished, *report.receipts])


@pytest.mark.parametrize("server", ["hangs", "says 503", "refuses connections"])
@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_close_ends_at_its_deadline_and_names_what_was_not_sent(
    tmp_path: Path, files: list[Path], seaweed: DevServer, bucket: str, options: dict[str, Any], server: str, lane: Any
) -> None:
    toxics: dict[str, Toxic] = {"hangs": Timeout(), "says 503": SLOW_DOWN}
    large = tmp_path / "large"
    large.write_bytes(bytes(3 * PART_BYTES))
    retry = asyncsink.RetryPolicy(abort_seconds=0.5)
    with ExitStack() as running:
        proxy = running.enter_context(FaultProxy(seaweed.endpoint_url))
        options |= {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES, "transport": lane}
        sink = await asyncsink.AsyncSink(f"s3://{bucket}/p", retry=retry, **options).start()
        if server in toxics:
            proxy.rules = (Rule(toxics[server]),)
        else:
            running.close()
        async with asyncio.timeout(60):
            put = asyncio.create_task(sink.put("one", large))
            await asyncio.sleep(0)  # it comes first
            await sink.submit("m", files)
            report = await sink.close(deadline_seconds=0.5)
        with pytest.raises(ExportFailed, match="was closed before"):
            await put
    assert keys_of(report) == sorted(["p/one/large", *(f"p/m/{path.name}" for path in files)])
    assert (report.interrupted, report.receipts, report.failures) == (True, [], [])
    states = {each.source: each.state for each in report.unfinished}
    assert states[str(large)] == "in flight"
    assert {each.attribute for each in report.unfinished} == {"one", "m"}
    assert report.objects_unfinished == FILES + 1
    assert "201 not tried" in report.summary()
    assert "in flight." in report.summary()
    with pytest.raises(ExportFailed, match=r"close\(deadline_seconds=0.5\) was over; 201 objects not sent") as caught:
        report.raise_for_failures()
    assert caught.value.report is report


@pytest.mark.parametrize("server", ["hangs", "says 503"])
async def test_content_without_files_does_not_hold_the_shutdown_up(
    seaweed: DevServer, bucket: str, s3: Any, options: dict[str, Any], server: str
) -> None:
    """A stream whose parts are refused, one whose producer hangs, and bytes: all callers are told, nothing stays."""
    toxic = Timeout() if server == "hangs" else SLOW_DOWN

    async def pieces(number: int, *, end: bool) -> AsyncIterator[bytes]:
        for _ in range(number):
            yield bytes(1 << 20)
        if not end:
            await asyncio.Event().wait()

    rules = [Rule(toxic, operation=name) for name in ("UploadPart", "PutObject")]
    with FaultProxy(seaweed.endpoint_url, *rules) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES}
        retry = asyncsink.RetryPolicy(abort_seconds=5)
        sink = await asyncsink.AsyncSink(f"s3://{bucket}", retry=retry, **options).start()
        async with asyncio.timeout(60):
            calls = [
                asyncio.create_task(sink.put_stream("refused", pieces(20, end=True))),
                asyncio.create_task(sink.put_stream("hanging", pieces(1, end=False))),
                asyncio.create_task(sink.put_bytes("bytes", b"b")),
            ]
            await asyncio.to_thread(proxy.wait_for_hits, 2)
            report = await sink.close(deadline_seconds=0.2)
            ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in ended] == [ExportFailed] * 3
    assert report.interrupted
    assert "bytes" in [each.key for each in report.unfinished]
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    with pytest.raises(ExportFailed):
        report.raise_for_failures()


async def test_a_block_left_by_an_exception_names_what_was_not_sent(
    files: list[Path], bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    proxy.hold = lambda name: "request" if name == "Put" else ""
    sink = asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url})
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with sink:
            await sink.submit("m", files)
            await proxy.held.wait()
            raise ZeroDivisionError
    assert keys_of(sink.report) == [f"m/{path.name}" for path in files]
    with pytest.raises(ExportFailed, match="interrupted before everything was tried"):
        sink.report.raise_for_failures()


async def test_what_is_published_before_the_deadline_is_recorded(
    tmp_path: Path, seaweed: DevServer, bucket: str, s3: Any, stored: Stored, options: dict[str, Any]
) -> None:
    """A large file is aborted where no journal has it; what is complete by then has its receipt."""
    large, small = tmp_path / "large", tmp_path / "small"
    large.write_bytes(bytes(3 * PART_BYTES))
    small.write_bytes(b"small")
    with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation="UploadPart", part_number=2)) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES, "journal": False}
        sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
        await sink.submit("m", [large, small])
        await asyncio.to_thread(proxy.wait_for_hits)
        await until(lambda: stored() == {"m/small": b"small"})
        async with asyncio.timeout(60):
            report = await sink.close(deadline_seconds=0)
    assert [receipt.key for receipt in report.receipts] == ["m/small"]
    assert report.unfinished == (asyncsink.Unfinished("m/large", str(large), "m", "in flight"),)
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


async def test_the_next_sink_resumes_what_the_journal_of_a_closed_one_has(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(3 * PART_BYTES))
    options |= {"part_size_bytes": PART_BYTES, "journal": tmp_path / "journal"}
    with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation="UploadPart", part_number=2)) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
        await sink.submit("m", large)
        await until(lambda: len([1 for asked, _ in proxy.answers if asked.operation == "UploadPart"]) == 2)
        await asyncio.to_thread(proxy.wait_for_hits)
        async with asyncio.timeout(60):
            report = await sink.close(deadline_seconds=0)
        assert [each.key for each in report.resumable] == ["m/large"]
        proxy.rules = ()
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            await sink.put("m", large)
    assert sink.report.bytes_resumed == 2 * PART_BYTES
    assert stored() == {"m/large": bytes(3 * PART_BYTES)}


async def test_the_earliest_deadline_counts(
    files: list[Path], bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    proxy.hold = lambda name: "request" if name == "Put" else ""
    sink = await asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url}).start()
    await sink.submit("m", files)
    async with asyncio.timeout(60):
        reports = await asyncio.gather(sink.close(), sink.close(deadline_seconds=0.1), sink.close(deadline_seconds=90))
    assert all(report is sink.report for report in reports)
    assert len(sink.report.unfinished) == FILES


async def test_a_deadline_that_is_not_reached_changes_nothing(
    files: list[Path], bucket: str, options: dict[str, Any]
) -> None:
    sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
    await sink.submit("m", files)
    report = await sink.close(deadline_seconds=60)
    report.raise_for_failures()
    assert (report.objects_uploaded, report.unfinished, report.stop_reason) == (FILES, (), "")


# -- flush -------------------------------------------------------------------------------------------------------------


async def test_flush_waits_for_what_was_accepted_and_for_nothing_else(
    tmp_path: Path, files: list[Path], seaweed: DevServer, bucket: str, options: dict[str, Any], stored: Stored
) -> None:
    """Skips by the journal and files that cannot be read are outcomes too."""
    late = tmp_path / "late"
    late.write_text("late")
    options |= {"journal": tmp_path / "journal", "on_unreadable": "skip", "on_missing": "skip"}
    with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation="PutObject", key="*/late")) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as first:
            await first.submit("m", files[:50])
            assert (await first.flush()).objects_uploaded == 50
        sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
        assert (await sink.flush()).objects_total == 0
        await sink.submit("m", [*files, tmp_path / "missing"])
        flushing = asyncio.create_task(sink.flush())
        await asyncio.sleep(0)
        hanging = asyncio.create_task(sink.put("m", late))
        async with asyncio.timeout(60):
            counts = await flushing
        assert (counts.objects_uploaded, counts.objects_skipped) == (FILES - 50, 51)
        assert sorted(stored()) == [f"m/{path.name}" for path in files]
        await asyncio.to_thread(proxy.wait_for_hits)
        flushing = asyncio.create_task(sink.flush())
        await asyncio.sleep(0)
        async with asyncio.timeout(60):
            await sink.close(deadline_seconds=0)
        with pytest.raises(ExportFailed, match="closed before everything was published"):
            await flushing
        with pytest.raises(ExportFailed, match="closed before"):
            await hanging
    assert counts.objects_uploaded == FILES - 50  # of that moment
    with pytest.raises(ConfigError, match="The sink is closed"):
        await sink.flush()
