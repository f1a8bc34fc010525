"""A put that its caller gives up ends: nothing more is sent for it, and its key is free."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, ExportFailed
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN
from asyncsink.testing.toxics import Timeout
from tests.support.holding_proxy import HoldingProxy
from tests.support.requests import until

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
PART_BYTES = 5 << 20
LANES = ["wire", "aioboto3"]


def small(directory: Path, count: int) -> list[Path]:
    paths = [directory / f"{number:03}.txt" for number in range(count)]
    for path in paths:
        path.write_text(path.name)
    return paths


async def cancelled(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("how", ["deadline", "wait_for"])
async def test_a_put_that_was_given_up_sends_nothing_more(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any], how: str, lane: Any
) -> None:
    """The server says 503 and is well again later: the object that the caller was told of as not published stays so."""
    first, other = small(tmp_path, 2)
    with FaultProxy(seaweed.endpoint_url, Rule(SLOW_DOWN, operation="PutObject")) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "transport": lane}
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            given = {"deadline_seconds": 0.5} if how == "deadline" else {}
            with pytest.raises(TimeoutError) as caught:
                await asyncio.wait_for(sink.put("m", first, **given), None if given else 0.5)
            assert isinstance(caught.value, asyncsink.DeadlinePassed) == (how == "deadline")
            sent = len(proxy.sent("PutObject", "*/000.txt"))
            assert sent
            proxy.rules = ()
            await sink.put("m", other)  # long enough for a retry that was left over: it is the same lane
            await sink.flush()
            assert len(proxy.sent("PutObject", "*/000.txt")) == sent
    assert stored() == {"m/001.txt": b"001.txt"}
    assert (sink.report.objects_total, sink.report.unfinished, sink.report.ok) == (1, (), True)


@pytest.mark.parametrize("lane", LANES)
async def test_puts_that_were_only_queued_are_never_sent(
    tmp_path: Path, bucket: str, proxy: HoldingProxy, stored: Stored, options: dict[str, Any], lane: Any
) -> None:
    first, *queued = small(tmp_path, 4)
    proxy.hold = lambda name: "answer" if name == "Put" and not proxy.held.is_set() else ""
    options |= {"endpoint_url": proxy.endpoint_url, "concurrency": 1, "transport": lane}
    sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
    async with asyncio.timeout(60):
        putting = asyncio.create_task(sink.put("m", first))
        await proxy.held.wait()
        waiting = [asyncio.create_task(sink.put("m", path)) for path in queued]
        await until(lambda: len(sink._session.taking().accepted) == 4)
        for task in waiting:
            await cancelled(task)
        assert len(sink._session.taking().accepted) == 1
        await cancelled(putting)
        assert len(sink._session.taking().accepted) == 0
        report = await sink.close()
    assert proxy.seen.count("Put") == 1
    assert set(stored()) <= {"m/000.txt"}  # its answer was held back
    assert report.objects_total == 0


@pytest.mark.parametrize("size", ["small", "medium", "large"])
@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("journal", [True, False])
async def test_the_next_put_of_the_key_goes_on_at_once(
    tmp_path: Path,
    seaweed: DevServer,
    bucket: str,
    s3: Any,
    stored: Stored,
    options: dict[str, Any],
    size: str,
    lane: Any,
    journal: bool,
) -> None:
    """The server never answers the first request; its connection is closed, and an upload is aborted."""
    path = tmp_path / "a"
    body = bytes({"small": 100, "medium": 1 << 20, "large": 3 * PART_BYTES}[size])
    path.write_bytes(body)
    operation = "UploadPart" if size == "large" else "PutObject"
    with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation=operation, times=1)) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "transport": lane, "part_size_bytes": PART_BYTES}
        options["journal"] = tmp_path / "journal" if journal else False
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            putting = asyncio.create_task(sink.put("m", path))
            await asyncio.to_thread(proxy.wait_for_hits)
            following = asyncio.create_task(sink.put("m", path))
            await asyncio.sleep(0)
            await cancelled(putting)
            receipt = await following
            assert isinstance(receipt, asyncsink.Receipt)
    assert stored() == {"m/a": body}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert (sink.report.objects_uploaded, sink.report.objects_total, sink.report.resumable) == (1, 1, ())


async def test_an_upload_that_cannot_be_aborted_is_told_and_stays_in_the_journal(
    tmp_path: Path, seaweed: DevServer, bucket: str, s3: Any, stored: Stored, options: dict[str, Any]
) -> None:
    """The clean-up is bounded; the next put of the key ends that upload."""
    path = tmp_path / "a"
    path.write_bytes(bytes(3 * PART_BYTES))
    rules = [Rule(Timeout(), operation=name) for name in ("UploadPart", "AbortMultipartUpload")]
    with FaultProxy(seaweed.endpoint_url, *rules) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES, "journal": tmp_path / "journal"}
        retry = asyncsink.RetryPolicy(abort_seconds=0.5)
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", retry=retry, **options) as sink:
            putting = asyncio.create_task(sink.put("m", path))
            await asyncio.to_thread(proxy.wait_for_hits, 3)
            await cancelled(putting)
            (left,) = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
            proxy.rules = ()
            await until(lambda: not sink._session.taking().accepted)
            await sink.put("m", path)
    assert stored() == {"m/a": bytes(3 * PART_BYTES)}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert any(left["UploadId"] in notice for notice in sink.report.notices)


@pytest.mark.parametrize("size", [100, 3 * PART_BYTES])
async def test_bytes_are_withdrawn_too(
    seaweed: DevServer, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], size: int
) -> None:
    operation = "PutObject" if size == 100 else "UploadPart"
    with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation=operation, times=1)) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES}
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            putting = asyncio.create_task(sink.put_bytes("a", bytes(size)))
            await asyncio.to_thread(proxy.wait_for_hits)
            following = asyncio.create_task(sink.put_bytes("a", b"b" * size))
            await asyncio.sleep(0)
            await cancelled(putting)
            await following
    assert stored() == {"a": b"b" * size}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert sink.report.objects_total == 1


@pytest.mark.parametrize("how", ["bytes", "stream"])
async def test_content_has_a_deadline_too(
    seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any], how: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"content"

    with FaultProxy(seaweed.endpoint_url, Rule(SLOW_DOWN, operation="PutObject")) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            given = sink.put_bytes("a", b"content", deadline_seconds=0.3)
            if how == "stream":
                given.close()
                given = sink.put_stream("a", pieces(), deadline_seconds=0.3)
            with pytest.raises(asyncsink.DeadlinePassed, match=r"'a' was not published within deadline_seconds=0.3"):
                await given
            sent = len(proxy.sent("PutObject"))
            proxy.rules = ()
            await sink.put_bytes("b", b"other")
    assert stored() == {"b": b"other"}
    assert len(proxy.sent("PutObject")) == sent + 1


async def test_one_of_a_batch_is_given_up_and_the_others_go_on(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    paths = small(tmp_path, 40)
    with FaultProxy(seaweed.endpoint_url, Rule(Timeout(), operation="PutObject", key="*/00[0-4].txt")) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            putting = [asyncio.create_task(sink.put("m", path)) for path in paths]
            await asyncio.gather(*putting[5:])
            await asyncio.to_thread(proxy.wait_for_hits, 5)
            assert len(stored()) == 35
            for task in putting[:5]:
                await cancelled(task)
            proxy.rules = ()
            again = await asyncio.gather(*[sink.put("m", path) for path in paths[:5]])
            assert all(isinstance(receipt, asyncsink.Receipt) for receipt in again)
    assert stored() == {f"m/{path.name}": path.name.encode() for path in paths}
    assert sink.report.objects_total == 40
    assert len(proxy.sent("PutObject")) == 45


async def test_a_put_that_is_published_already_is_in_the_report(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled between the answer and its record: the outcome stays."""
    from asyncsink.engine.recording.recorder import Recorder

    path = small(tmp_path, 1)[0]
    write, reached, go_on = Recorder._write, asyncio.Event(), asyncio.Event()

    async def late(self: Recorder, *given: Any) -> None:
        reached.set()
        await go_on.wait()
        await write(self, *given)

    monkeypatch.setattr(Recorder, "_write", late)
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        putting = asyncio.create_task(sink.put("m", path))
        await reached.wait()
        putting.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await putting
    assert sink.report.objects_uploaded == 1


async def test_a_deadline_that_detaches_lets_the_file_go_on(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    path = small(tmp_path, 1)[0]
    with FaultProxy(seaweed.endpoint_url, Rule(SLOW_DOWN, operation="PutObject")) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            with pytest.raises(asyncsink.DeadlinePassed, match="it is still on its way") as caught:
                await sink.put("m", path, deadline_seconds=0.5, on_cancel="detach")
            proxy.rules = ()
            assert isinstance(caught.value, TimeoutError | ExportFailed)
    assert set(stored()) == {"m/000.txt"}


async def test_a_deadline_that_detaches_says_that_a_file_is_not_sent_which_waits_for_its_key(
    tmp_path: Path, bucket: str, proxy: HoldingProxy, stored: Stored, options: dict[str, Any]
) -> None:
    path = small(tmp_path, 1)[0]
    proxy.hold = lambda name: "request" if name == "Put" and not proxy.held.is_set() else ""
    options |= {"endpoint_url": proxy.endpoint_url, "retry": asyncsink.RetryPolicy(stall_seconds=1)}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        first = asyncio.create_task(sink.put("m", path))
        await proxy.held.wait()
        with pytest.raises(asyncsink.DeadlinePassed, match="nothing more is sent for it"):
            await sink.put("m", path, deadline_seconds=0, on_cancel="detach")
        await first
    assert sink.report.counts.objects_total == 1
    assert set(stored()) == {"m/000.txt"}


async def test_a_detached_file_that_is_queued_is_published(
    tmp_path: Path, bucket: str, proxy: HoldingProxy, stored: Stored, options: dict[str, Any]
) -> None:
    path = small(tmp_path, 1)[0]
    proxy.hold = lambda name: "request" if name == "Put" and not proxy.held.is_set() else ""
    options |= {"endpoint_url": proxy.endpoint_url, "retry": asyncsink.RetryPolicy(stall_seconds=1)}
    async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        putting = asyncio.create_task(sink.put("m", path, on_cancel="detach"))
        await proxy.held.wait()
        await cancelled(putting)
    assert stored() == {"m/000.txt": b"000.txt"}
    assert sink.report.objects_uploaded == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"deadline_seconds": -1}, "deadline_seconds=-1 is no number of seconds"),
        ({"deadline_seconds": 10**400}, "deadline_seconds=1000+ is no number of seconds"),
        ({"on_cancel": "withdrawn"}, "on_cancel='withdrawn' is not known.*Did you mean 'withdraw'"),
    ],
)
async def test_wrong_arguments_are_refused(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    path = small(tmp_path, 1)[0]
    async with asyncsink.AsyncSink(tmp_path / "out") as sink:
        with pytest.raises(ConfigError, match=said):
            await sink.put("m", path, **given)
    assert sink.report.objects_total == 0


async def test_nothing_is_kept_of_a_withdrawn_put(
    tmp_path: Path, bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    path = small(tmp_path, 1)[0]
    proxy.hold = lambda name: "request" if name == "Put" else ""
    sink = await asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url}).start()
    putting = asyncio.create_task(sink.put("m", path))
    await proxy.held.wait()
    (call,) = sink._session._calls
    kept = weakref.ref(call.completion.done)
    del call
    await cancelled(putting)
    del putting
    run = sink._session.run
    assert run is not None
    progress = run.resources.progress
    assert (progress.objects_in_hand, len(run.resources.key_turns._waiting)) == (0, 0)
    await sink.close()
    gc.collect()
    assert kept() is None
