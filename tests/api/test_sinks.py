"""AsyncSink inside a program, and the synchronous door."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink import Finished, Receipt, Skip
from asyncsink.errors import ConfigError, ExportFailed, KeyCollision, RoutingError, SourceMissing
from tests.support.files import content_of
from tests.support.holding_proxy import HoldingProxy
from tests.support.processes import run

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


# -- A sink that is used where it was not opened says so, in one sentence, instead of waiting for ever -----------------


USES: dict[str, Callable[[asyncsink.AsyncSink, Path], Coroutine[Any, Any, Any]]] = {}


def use(function: Callable[[asyncsink.AsyncSink, Path], Coroutine[Any, Any, Any]]) -> Any:
    USES[function.__name__] = function
    return function


@use
async def put(sink: asyncsink.AsyncSink, path: Path) -> None:
    await sink.put("x", path)


@use
async def submit(sink: asyncsink.AsyncSink, path: Path) -> None:
    await sink.submit("x", [path])


@use
async def events(sink: asyncsink.AsyncSink, _: Path) -> None:
    await anext(sink.events())


@use
async def leave(sink: asyncsink.AsyncSink, _: Path) -> None:
    await sink.__aexit__(None, None, None)


@use
async def enter(sink: asyncsink.AsyncSink, _: Path) -> None:
    await sink.__aenter__()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("a")
    return tmp_path / "a.txt"


def refusal(what: Callable[[], Any]) -> str:
    """The ConfigError's text, or "" where something else came of it."""
    try:
        what()
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", USES)
async def test_from_another_loop(name: str, path: Path, tmp_path: Path) -> None:
    async with asyncsink.AsyncSink(tmp_path / "out") as sink:
        told = await asyncio.wait_for(
            asyncio.to_thread(refusal, lambda: asyncio.run(USES[name](sink, path))), timeout=20
        )
        assert ("from another event loop" if name != "enter" else "used before") in told
        await sink.put("x", path)  # and here it goes on
    assert len(sink.report.receipts) == 1


async def test_a_reader_in_another_loop_is_refused_also_where_it_subscribed_here(path: Path, tmp_path: Path) -> None:
    sink = asyncsink.AsyncSink(tmp_path / "out")
    reader = sink.events()

    async def read() -> Any:
        return await anext(reader)

    async with sink:
        await sink.put("x", path)
        told = await asyncio.to_thread(refusal, lambda: asyncio.run(read()))
        assert "from another event loop" in told
        await reader.aclose()
        assert [event async for event in reader]  # what was told before is read here


async def test_from_a_thread_without_a_loop(path: Path, tmp_path: Path) -> None:
    async with asyncsink.AsyncSink(tmp_path / "out") as sink:
        told = await asyncio.to_thread(refusal, sink.events)
        assert "outside of any event loop" in told
        assert "run_coroutine_threadsafe" in told
        loop, receipts = asyncio.get_running_loop(), []

        def advised() -> None:
            receipts.append(asyncio.run_coroutine_threadsafe(sink.put("x", path), loop).result())

        thread = threading.Thread(target=advised)
        thread.start()
        await asyncio.to_thread(thread.join)
        assert len(receipts) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["put", "submit"])
async def test_before_and_after_its_block(when: str, name: str, path: Path, tmp_path: Path) -> None:
    sink = asyncsink.AsyncSink(tmp_path / "out")
    if when == "after":
        async with sink:
            pass
    said = "is not open; use it inside its `async with` block" if when == "before" else "The sink is closed"
    with pytest.raises(ConfigError, match=said):
        await USES[name](sink, path)


FORKED = """
import asyncio, os, sys, warnings, asyncsink
warnings.simplefilter("ignore", DeprecationWarning)
async def main(source, target, kind):
    async with asyncsink.AsyncSink(target) as sink:
        await sink.put("x", source)
        child = os.fork()
        if not child:
            async def use():
                await (sink.put("x", source) if kind == "put" else anext(sink.events()))
            code = 3
            try:
                if kind == "fresh":
                    asyncio._set_running_loop(None)
                    report = asyncio.run(asyncsink.export({"y": source}, target))
                    code = 7 if len(report.receipts) == 1 else 4
                else:
                    use().send(None)
            except asyncsink.ConfigError as error:
                print(error, file=sys.stderr)
                code = 7
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
    print(len(sink.report.receipts))
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["put", "events", "fresh"])
def test_after_a_fork(kind: str, path: Path, tmp_path: Path) -> None:
    ended = run([sys.executable, "-c", FORKED, path, tmp_path / "out", kind])
    assert (ended.stdout, ended.returncode) == ("7\n1\n", 0), ended.stderr
    if kind != "fresh":
        assert "this is its fork" in ended.stderr
        assert ended.stderr.count("\n") == 1


ELSEWHERE = """
import asyncio, sys, asyncsink
async def main():
    async with asyncsink.AsyncSink(sys.argv[2]) as sink:
        try:
            await asyncio.to_thread(lambda: asyncio.run(sink.put("x", sys.argv[1])))
        except asyncsink.ConfigError as error:
            print(error)
asyncio.run(main())
"""


def test_a_refused_program_ends_cleanly_in_dev_mode(path: Path, tmp_path: Path) -> None:
    ended = run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", ELSEWHERE, path, tmp_path / "out"], env={**os.environ}
    )
    said = [line for line in ended.stderr.splitlines() if not line.startswith("Executing <")]  # a slow import
    assert (ended.returncode, said) == (0, [])
    assert "from another event loop" in ended.stdout
    assert ended.stdout.count("\n") == 1


async def test_a_grabber_belongs_to_no_loop(seaweed: Any, bucket: str, s3: Any, path: Path, tmp_path: Path) -> None:
    """Its settings are all that it has: it runs again, in any loop."""
    s3.put_object(Bucket=bucket, Key="a.txt", Body=b"a")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.environment.items():
            patch.setenv(name, value)
        grabber = asyncsink.S3Grabber(f"s3://{bucket}", tmp_path / "back")
        first = await grabber.run()
        second = await asyncio.to_thread(lambda: asyncio.run(grabber.run()))
    assert (first.objects_fetched, len(second.skips)) == (1, 1)
