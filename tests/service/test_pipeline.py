"""AsyncSink in a plain asyncio pipeline: producers compute and put; what happens to one of them happens to it alone."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.engine.limits.memory import SMALL_BYTES
from asyncsink.errors import ExportFailed, JournalError, KeyCollision, SourceMissing
from asyncsink.model import Event, Finished, Receipt, Skip
from asyncsink.report.outcomes import OutcomeLog
from tests.support.parts_proxy import DROP, FORWARD, HANG, PartsProxy
from tests.support.requests import until

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
PART_BYTES = 5 << 20


def small(directory: Path, count: int) -> list[Path]:
    paths = [directory / f"{number:04}" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    return paths


async def test_producers_compute_and_put_while_others_watch(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    subjects: asyncio.Queue[int] = asyncio.Queue()
    for number in range(60):
        subjects.put_nowait(number)

    def compute(number: int) -> Path:
        path = tmp_path / f"sub-{number:02}.txt"
        path.write_text(str(number**2))
        return path

    async def produce(sink: asyncsink.AsyncSink) -> None:
        while not subjects.empty():
            path = await asyncio.to_thread(compute, subjects.get_nowait())
            receipt = await sink.put("squares", path)
            assert isinstance(receipt, Receipt)

    async def watch(sink: asyncsink.AsyncSink) -> list[Event]:
        return [event async for event in sink.events()]

    async with asyncio.timeout(60), asyncio.TaskGroup() as watching:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            watchers = [watching.create_task(watch(sink)) for _ in range(3)]
            await asyncio.sleep(0)  # every watcher runs up to its first event
            async with asyncio.TaskGroup() as producing:
                for _ in range(7):
                    producing.create_task(produce(sink))
    assert stored() == {f"squares/sub-{n:02}.txt": str(n**2).encode() for n in range(60)}
    for watcher in watchers:
        outcomes = [event.outcome for event in watcher.result() if isinstance(event, Finished)]
        assert outcomes == list(sink.report.receipts)
        assert len(outcomes) == 60


async def test_a_detached_producer_hurts_nobody_and_what_it_queued_is_published(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    first, *others = small(tmp_path, 10)
    fates = [HANG]
    retry = asyncsink.RetryPolicy(stall_seconds=1)
    async with PartsProxy(seaweed.endpoint_url, lambda _: fates.pop() if fates else FORWARD) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", retry=retry, **options) as sink:
            cancelled = asyncio.create_task(sink.put("m", first, on_cancel="detach"))
            await proxy.hung.wait()
            rest = [asyncio.create_task(sink.put("m", path)) for path in others]
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert all(isinstance(receipt, Receipt) for receipt in await asyncio.gather(*rest))
    assert stored() == {f"m/{n:04}": str(n).encode() for n in range(10)}


async def test_a_failed_put_raises_for_its_caller_only(
    tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    paths = small(tmp_path, 10)
    (tmp_path / "else").mkdir()
    twin = small(tmp_path / "else", 1)[0]
    fates = [DROP]
    retry = asyncsink.RetryPolicy(attempts=1)
    async with PartsProxy(seaweed.endpoint_url, lambda _: fates.pop() if fates else FORWARD) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncio.timeout(60), asyncsink.AsyncSink(f"s3://{bucket}", retry=retry, **options) as sink:
            ended = await asyncio.gather(*[sink.put("m", path) for path in paths], return_exceptions=True)
            receipts = [each for each in ended if isinstance(each, Receipt)]
            (failed,) = [each for each in ended if not isinstance(each, Receipt)]
            assert isinstance(failed, asyncsink.PutFailed)
            assert isinstance(failed.__cause__, asyncsink.ConnectionLost)
            with pytest.raises(SourceMissing):
                await sink.put("m", tmp_path / "nowhere")
            with pytest.raises(KeyCollision):
                await sink.put("m", twin)
            again = await sink.put("m", failed.failure.source)
            assert isinstance(again, Receipt)
    assert stored() == {f"m/{n:04}": str(n).encode() for n in range(10)}
    assert (len(receipts), sink.report.objects_uploaded, sink.report.objects_failed) == (9, 10, 1)


async def test_a_full_queue_holds_producers_back(
    tmp_path: Path, seaweed: DevServer, bucket: str, options: dict[str, Any]
) -> None:
    paths = small(tmp_path, 30)
    for path in paths:
        path.write_bytes(bytes(SMALL_BYTES + 1))  # one for one entry of the queue
    released = False
    retry = asyncsink.RetryPolicy(stall_seconds=0.5, attempts=100)
    async with PartsProxy(seaweed.endpoint_url, lambda _: FORWARD if released else HANG) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        sink = asyncsink.AsyncSink(f"s3://{bucket}", retry=retry, **options)
        limits = replace(sink._session.settings.limits, queue_transfers=3, concurrency_max=2, concurrency=2)
        sink._session.settings = replace(sink._session.settings, limits=limits)
        queued = 0

        async def produce(path: Path) -> None:
            nonlocal queued
            await sink.submit("m", path)
            queued += 1

        async with asyncio.timeout(60), sink:
            producers = [asyncio.create_task(produce(path)) for path in paths]
            assert sink._session.run is not None
            queue = sink._session.run.pipeline._send
            while not queue.statistics().tasks_waiting_send or queued < 5:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.01)
            assert queued == 5  # two with the workers, three in the queue
            released = True
            await asyncio.gather(*producers)
    assert sink.report.objects_uploaded == 30


@pytest.mark.parametrize("how", ["exception", "cancellation", "cancellation while it drains"])
async def test_leaving_otherwise_aborts_what_is_under_way(
    tmp_path: Path, seaweed: DevServer, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], how: str
) -> None:
    large, done = tmp_path / "large", tmp_path / "done"
    large.write_bytes(bytes(3 * PART_BYTES))
    done.write_bytes(b"done")
    entered: list[asyncsink.AsyncSink] = []

    async def serve(proxy: PartsProxy) -> None:
        where = options | {"endpoint_url": proxy.endpoint_url, "part_size_bytes": PART_BYTES}
        async with asyncsink.AsyncSink(f"s3://{bucket}", abort_on_interrupt=True, **where) as sink:
            entered.append(sink)
            await sink.put("m", done)
            waiting.append(asyncio.create_task(sink.put("m", large)))
            await proxy.hung.wait()
            if how == "exception":
                _ = 1 / 0
            if how == "cancellation":
                await asyncio.Event().wait()

    waiting: list[asyncio.Task[Any]] = []
    async with asyncio.timeout(60), PartsProxy(seaweed.endpoint_url, lambda n: HANG if n == 2 else FORWARD) as proxy:
        serving = asyncio.create_task(serve(proxy))
        await proxy.hung.wait()
        if how == "cancellation while it drains":
            await until(lambda: entered[0]._session.closing)
        if how != "exception":
            serving.cancel()
        with pytest.raises(ZeroDivisionError if how == "exception" else asyncio.CancelledError):
            await serving
        with pytest.raises(ExportFailed, match=r"closed before .*large.* was published"):
            await waiting[0]
    assert stored() == {"m/done": b"done"}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert entered[0].report.interrupted
    assert entered[0].report.objects_uploaded == 1


async def test_all_errors_of_a_block_come_out(tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    async def fail(error: Exception, all_here: asyncio.Barrier) -> None:
        await all_here.wait()
        raise error

    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the block is what is tested
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            all_here = asyncio.Barrier(2)
            async with asyncio.TaskGroup() as group:
                group.create_task(fail(ValueError("one"), all_here))
                group.create_task(fail(KeyError("two"), all_here))
    assert {type(error) for error in caught.value.exceptions} == {ValueError, KeyError}
    assert sink.report.interrupted


async def test_a_sink_that_cannot_record_any_more_tells_every_producer_why(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = small(tmp_path, 2)

    def full(*_: Any) -> None:
        raise JournalError("no space for outcomes")

    monkeypatch.setattr(OutcomeLog, "extend", full)
    opened: asyncio.Future[asyncsink.AsyncSink] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            opened.set_result(sink)
            await asyncio.Event().wait()

    async with asyncio.timeout(60):
        serving = asyncio.create_task(serve())
        sink = await opened
        with pytest.raises(ExportFailed, match=r"The sink has stopped.*no space for outcomes"):
            await sink.put("m", one)
        with pytest.raises(ExportFailed, match=r"The sink has stopped.*no space for outcomes"):
            await sink.submit("m", two)
        with pytest.raises(JournalError, match="no space for outcomes"):
            await serving


async def test_a_source_that_a_policy_skips_is_puts_answer(
    tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", on_missing="skip", **options) as sink:
        skip = await sink.put("m", tmp_path / "nowhere")
        assert isinstance(skip, Skip)
        assert (skip.reason, skip.already_there) == ("source is missing", False)
        assert await sink.submit("m", [tmp_path / "nowhere"]) == 0
    assert sink.report.objects_skipped == 2


async def test_after_a_while_a_sink_looks_again_at_what_others_removed(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was listed when the sink was opened says nothing about a bucket hours later."""
    monkeypatch.setattr("asyncsink.destinations.existing_objects.LISTING_SECONDS_MAX", 0.0)
    kept, removed, made = small(tmp_path, 3)
    for path in (kept, removed):
        s3.put_object(Bucket=bucket, Key=f"m/{path.name}", Body=path.read_bytes())
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="never", **options) as sink:
        s3.delete_object(Bucket=bucket, Key=f"m/{removed.name}")
        s3.put_object(Bucket=bucket, Key=f"m/{made.name}", Body=b"theirs")
        assert isinstance(await sink.put("m", kept), Skip)
        assert isinstance(await sink.put("m", removed), Receipt)
        assert isinstance(await sink.put("m", made), Skip)
    assert stored() == {"m/0000": b"0", "m/0001": b"1", "m/0002": b"theirs"}


async def test_a_sink_does_not_grow_with_its_files(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and descriptors after further files are those after the first 200, whatever became of them."""
    monkeypatch.setattr("asyncsink.report.kept_lines.MEMORY_BYTES", 1)  # outcomes go to the disk at once
    paths = small(tmp_path, 20)

    async def produce(sink: asyncsink.AsyncSink, number: int, path: Path) -> None:
        with pytest.raises(SourceMissing):
            await sink.put("m", tmp_path / "nowhere")
        await sink.submit(f"a{number}", path)
        await sink.put(f"b{number}", path)

    async def held_after(sink: asyncsink.AsyncSink, numbers: range) -> tuple[int, int]:
        for number in numbers:
            reader = sink.events()
            async with asyncio.TaskGroup() as group:
                for path in paths:
                    group.create_task(produce(sink, number, path))
            for _ in range(2 * len(paths)):
                await anext(reader)
        gc.collect()
        return tracemalloc.get_traced_memory()[0], len(list(Path("/proc/self/fd").iterdir()))

    async with asyncio.timeout(100), asyncsink.AsyncSink(f"s3://{bucket}", concurrency=4, **options) as sink:
        tracemalloc.start()
        try:
            memory, descriptors = await held_after(sink, range(5))
            memory_later, _ = await held_after(sink, range(5, 10))
            memory_last, descriptors_later = await held_after(sink, range(10, 15))
        finally:
            tracemalloc.stop()
    assert sink.report.objects_uploaded == 600
    # The lesser of two: a table of the interpreter that outgrows its room is allocated anew as a whole, once.
    grown = min(memory_later - memory, memory_last - memory_later)
    assert grown < 200 * 250, "250 bytes for each file: its receipt alone has more"
    assert descriptors_later <= descriptors + 4
