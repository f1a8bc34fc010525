"""AsyncSink inside a program, and the synchronous door."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink import Finished, Receipt, Skip
from asyncsink.errors import ConfigError, ExportFailed, KeyCollision, RoutingError, SourceMissing
from tests.support.files import content_of
from tests.support.holding_proxy import HoldingProxy

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


async def test_put_returns_when_published(tree: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}/svc", **options) as sink:
        receipt = await sink.put("motion", tree / "a.txt")
        assert isinstance(receipt, Receipt)
        assert stored() == {"svc/motion/a.txt": b"alpha"}
        again = await sink.put("motion", tree / "a.txt")
        assert isinstance(again, Skip)
    assert (sink.report.objects_uploaded, sink.report.objects_skipped) == (1, 1)


async def test_submit_queues_and_leaving_drains(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        assert await sink.submit("all", [str(tree / "a.txt"), [tree / "sub"]]) == 4
    expected = {f"all/{name}": data for name, data in content_of(tree).items() if name != "empty"}
    assert stored() == expected


async def test_events_tell_every_outcome(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    seen: list[Any] = []

    async def listen(sink: asyncsink.AsyncSink, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        events = sink.events()
        task_status.started()
        seen.extend([event async for event in events])

    async with anyio.create_task_group() as group:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            await group.start(listen, sink)
            await anyio.lowlevel.checkpoint()
            await sink.submit("x", tree)
    outcomes = [event.outcome for event in seen if isinstance(event, Finished)]
    assert len(outcomes) == 5
    assert all(isinstance(outcome, Receipt) for outcome in outcomes)


async def test_many_producers_feed_one_sink(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    async def produce(sink: asyncsink.AsyncSink, number: int) -> None:
        path = tmp_path / f"{number}"
        path.write_text(str(number))
        await sink.put(f"p{number % 3}.@data", path)

    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        async with anyio.create_task_group() as group:
            for number in range(40):
                group.start_soon(produce, sink, number)
    assert stored() == {f"p{n % 3}/{n}": str(n).encode() for n in range(40)}


async def test_bad_calls_say_what_is_wrong(tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]) -> None:
    sink = asyncsink.AsyncSink(f"s3://{bucket}", **options)
    with pytest.raises(ConfigError, match="not open"):
        await sink.put("m", tree / "a.txt")
    with pytest.raises(ConfigError, match="when the sink is closed"):
        _ = sink.report
    async with sink:
        with pytest.raises(SourceMissing):
            await sink.put("m", tmp_path / "nowhere")
        with pytest.raises(RoutingError):
            await sink.put("a..b", tree / "a.txt")
        with pytest.raises(ConfigError, match="put takes one file"):
            await sink.put("m", tree)
        await sink.put("m", tree / "a.txt")
        (tmp_path / "a.txt").write_text("another")
        with pytest.raises(KeyCollision):
            await sink.put("m", tmp_path / "a.txt")
    with pytest.raises(ConfigError, match="used before"):
        async with sink:
            pass


async def test_an_exception_in_the_block_is_what_the_caller_sees(
    tree: Path, bucket: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            await sink.submit("m", tree)
            _ = 1 / 0


@pytest.mark.parametrize("how", ["an exception", "cancellation"])
async def test_a_report_of_an_interrupted_sink_raises_though_nothing_failed(
    tree: Path, bucket: str, proxy: HoldingProxy, options: dict[str, Any], how: str
) -> None:
    """Nothing was sent, and nothing failed: silence would say that all is published."""
    proxy.hold = lambda name: "request" if name == "Put" else ""
    sink = asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url})

    async def publish(scope: anyio.CancelScope) -> None:
        async with sink:
            await sink.submit("m", tree / "a.txt")
            await proxy.held.wait()
            if how == "an exception":
                raise ZeroDivisionError
            scope.cancel()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        if how == "an exception":
            with pytest.raises(ZeroDivisionError):
                await publish(scope)
        else:
            await publish(scope)
    assert (sink.report.interrupted, len(sink.report.failures)) == (True, 0)
    with pytest.raises(ExportFailed, match="interrupted before everything was tried") as caught:
        sink.report.raise_for_failures()
    assert caught.value.report is sink.report


async def test_a_failure_raises_from_put(tree: Path, bucket: str, s3: Any, options: dict[str, Any]) -> None:
    retry = asyncsink.RetryPolicy(attempts=1)
    async with asyncsink.AsyncSink(f"s3://{bucket}", retry=retry, **options) as sink:
        s3.delete_bucket(Bucket=bucket)
        try:
            with pytest.raises(ExportFailed, match=bucket):
                await sink.put("m", tree / "a.txt")
        finally:
            s3.create_bucket(Bucket=bucket)


async def test_the_synchronous_door_inside_a_running_loop(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    report = asyncsink.export_sync({"m": [tree / "a.txt"]}, f"s3://{bucket}", **options)
    assert report.objects_uploaded == 1
    assert stored() == {"m/a.txt": b"alpha"}


def test_the_synchronous_door_without_a_loop(tree: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    report = asyncsink.export_sync({"m": [tree / "a.txt"]}, f"s3://{bucket}", **options)
    assert report.objects_uploaded == 1
    with pytest.raises(ConfigError, match="attribute"):
        asyncsink.export_sync({"bucket": "x"}, f"s3://{bucket}", **options)


@pytest.mark.parametrize("door", ["export", "export_directory", "AsyncSink"])
def test_trio_is_refused_before_anything_is_opened(tree: Path, tmp_path: Path, bucket: str, door: str) -> None:
    async def main() -> None:
        manifest = tmp_path / "manifest"
        if door == "export":
            await asyncsink.export({"m": tree}, f"s3://{bucket}", manifest=manifest)
        elif door == "export_directory":
            await asyncsink.export_directory(tree, f"s3://{bucket}", manifest=manifest)
        else:
            async with asyncsink.AsyncSink(f"s3://{bucket}", manifest=manifest):
                pass

    with pytest.raises(ConfigError, match=r"run it with asyncio, not with trio\.$"):
        anyio.run(main, backend="trio")
    assert not (tmp_path / "manifest").exists()


def test_export_sync_works_inside_trio(tree: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    """It has a loop of its own, as inside Jupyter's; trio's waits."""

    async def main() -> None:
        asyncsink.export_sync({"m": tree / "a.txt"}, f"s3://{bucket}", **options).raise_for_failures()

    anyio.run(main, backend="trio")
    assert stored() == {"m/a.txt": b"alpha"}


async def test_a_local_destination_follows_the_same_rules(tree: Path, tmp_path: Path) -> None:
    """Rule 39."""
    out = tmp_path / "out"
    report = await asyncsink.export(
        {"motion.@x": tree / "a.txt", "d": tree / "sub"}, out, container="c", local_copy=tmp_path / "second"
    )
    report.raise_for_failures()
    assert sorted(content_of(out)) == [
        "c/d/sub/b c+%.json",
        "c/d/sub/deep/é✓.tsv",
        "c/d/sub/large.nii.gz",
        "c/motion/a.txt",
    ]
    assert content_of(tmp_path / "second") == content_of(out)
    assert report.out_file == [
        str(out / "c/motion/a.txt"),
        str(tmp_path / "second/c/motion/a.txt"),
        str(out / "c/d/sub"),
        str(tmp_path / "second/c/d/sub"),
    ]
    again = await asyncsink.export({"motion.@x": tree / "a.txt", "d": tree / "sub"}, out, container="c")
    assert (again.objects_uploaded, again.objects_skipped) == (0, 4)
