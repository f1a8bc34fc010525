"""The life of a sink: any task opens, uses and closes it, and every way of ending it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.errors import BucketMissing, ConfigError, ExportFailed, JournalError
from asyncsink.report.outcomes import OutcomeLog
from tests.support.holding_proxy import HoldingProxy
from tests.support.requests import until

Stored = Callable[[], dict[str, bytes]]


# -- Opened, used and closed in different tasks ------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["block", "calls"])
def test_set_up_test_and_tear_down_are_tasks_of_their_own(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any], door: str
) -> None:
    """pytest-asyncio's fixtures with a wide scope, arq's on_startup and on_shutdown: one loop, a task for each step."""

    async def fixture() -> AsyncIterator[asyncsink.AsyncSink]:
        if door == "block":
            async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
                yield sink
        else:
            sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
            yield sink
            await sink.close()

    async def tear_down() -> None:
        with pytest.raises(StopAsyncIteration):
            await anext(steps)

    async def use(sink: asyncsink.AsyncSink) -> None:
        await sink.put("m", tree / "a.txt")
        await sink.submit("n", [tree / "a.txt"])

    with asyncio.Runner() as runner:
        steps = aiter(fixture())
        sink = runner.run(anext(steps))  # type: ignore[arg-type]
        runner.run(use(sink))
        runner.run(tear_down())
    assert stored() == {"m/a.txt": b"alpha", "n/a.txt": b"alpha"}
    assert (sink.report.interrupted, sink.report.objects_uploaded) == (False, 2)
    sink.report.raise_for_failures()


@pytest.mark.anyio
async def test_a_sink_is_closed_once_however_often_it_is_asked(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    sink = await asyncsink.AsyncSink(f"s3://{bucket}/one", **options).start()
    async with asyncsink.AsyncSink(f"s3://{bucket}/two", **options) as other:
        await sink.submit("m", tree / "a.txt")
        first, second = await asyncio.gather(*(asyncio.create_task(sink.close()) for _ in range(2)))
        assert first is second is await sink.close() is sink.report
        with pytest.raises(ConfigError, match="The sink is closed"):
            await sink.put("m", tree / "a.txt")
        await other.put("m", tree / "a.txt")
    assert stored() == {"one/m/a.txt": b"alpha", "two/m/a.txt": b"alpha"}
    with pytest.raises(ConfigError, match="used before"):
        await sink.start()


@pytest.mark.anyio
async def test_a_sink_that_was_never_open_has_a_report_of_nothing(bucket: str, options: dict[str, Any]) -> None:
    never = asyncsink.AsyncSink(f"s3://{bucket}", **options)
    report = await never.close()
    assert (report.ok, report.objects_total) == (True, 0)
    assert await never.close() is report
    with pytest.raises(ConfigError, match="used before"):
        await never.start()
    failed = asyncsink.AsyncSink(f"s3://{bucket}-is-not-there", **options)
    with pytest.raises(BucketMissing):
        await failed.start()
    report = await failed.close()
    assert (report.ok, report.objects_total) == (True, 0)
    assert failed.report is report


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["closed", "cancelled"])
async def test_opening_is_ended_from_another_task(
    bucket: str, proxy: HoldingProxy, options: dict[str, Any], how: str
) -> None:
    proxy.hold = lambda _: "request"
    sink = asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url})
    starting = asyncio.create_task(sink.start())
    await proxy.held.wait()
    if how == "closed":
        await sink.close()
        with pytest.raises(ConfigError, match="closed while it was being opened"):
            await starting
    else:
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await sink.close()
    assert sink.report.objects_total == 0


@pytest.mark.anyio
@pytest.mark.parametrize("deadline_seconds", [-1, float("nan"), "20", True])
async def test_a_deadline_that_is_none_is_refused(tmp_path: Path, deadline_seconds: Any) -> None:
    async with asyncsink.AsyncSink(tmp_path / "out") as sink:
        with pytest.raises(ConfigError, match=r"deadline_seconds=.*is no number of seconds; expected 0 or more"):
            await sink.close(deadline_seconds=deadline_seconds)


# -- A run that stops by itself is noticed by whoever uses the sink ----------------------------------------------------


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """No outcome can be recorded."""

    def fail(*_: Any) -> None:
        raise JournalError("no space for outcomes")

    monkeypatch.setattr(OutcomeLog, "extend", fail)


@pytest.mark.anyio
@pytest.mark.usefixtures("full")
async def test_a_sink_without_a_block_tells_its_callers_that_it_has_stopped(tree: Path, tmp_path: Path) -> None:
    sink = await asyncsink.AsyncSink(tmp_path / "out").start()
    with pytest.raises(ExportFailed, match=r"The sink has stopped.*no space for outcomes"):
        await sink.put("m", tree / "a.txt")
    with pytest.raises(ExportFailed, match=r"The sink has stopped.*no space for outcomes"):
        await sink.submit("m", tree / "a.txt")
    for _ in range(2):
        with pytest.raises(JournalError, match="no space for outcomes"):
            await sink.close()
    assert sink.report.interrupted


@pytest.mark.anyio
@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("how", ["waits", "has ended", "raises", "is cancelled too"])
async def test_a_block_whose_sink_has_stopped(tree: Path, tmp_path: Path, how: str) -> None:
    """The error is raised where the block was cancelled for it, or ended; the task is not left cancelled."""
    sink = asyncsink.AsyncSink(tmp_path / "out")

    async def publish() -> None:
        async with sink:
            await sink.submit("m", tree / "a.txt")
            if how == "has ended":
                return
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if how == "raises":
                    raise ZeroDivisionError from None
                if how == "is cancelled too":
                    task.cancel()
                raise

    async def main() -> None:
        kinds = {"raises": ZeroDivisionError, "is cancelled too": asyncio.CancelledError}
        with pytest.raises(kinds.get(how, JournalError)) as caught:
            await publish()
        if how == "raises":
            assert caught.value.__notes__ == ["The sink has stopped: no space for outcomes"]
        if how == "is cancelled too":
            with pytest.raises(asyncio.CancelledError):
                await asyncio.sleep(0)  # the second request, which nobody has raised yet
        assert task.cancelling() == int(how == "is cancelled too")
        await asyncio.sleep(0)

    task = asyncio.create_task(main())
    await task


@pytest.mark.anyio
async def test_a_cancelled_close_gives_up_only_where_nobody_else_waits(
    tree: Path, bucket: str, proxy: HoldingProxy, options: dict[str, Any]
) -> None:
    proxy.hold = lambda name: "request" if name == "Put" else ""
    sink = await asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url}).start()
    await sink.submit("m", tree / "a.txt")
    await proxy.held.wait()
    closing = [asyncio.create_task(sink.close()) for _ in range(2)]
    await until(lambda: sink._session._closers == 2)
    closing[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing[0]
    with pytest.raises(ConfigError, match="when the sink is closed"):
        _ = sink.report
    closing[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing[1]
    assert sink.report.interrupted
    assert await sink.close() is sink.report


@pytest.mark.anyio
async def test_the_scope_around_a_block_may_be_cancelled(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    """anyio's scopes cancel level by level: the end of the run is waited for inside of a cancelled one."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[asyncsink.AsyncSink]:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            yield sink

    with anyio.CancelScope() as scope:
        async with opened() as sink:
            await sink.put("m", tree / "a.txt")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (sink.report.interrupted, sink.report.objects_uploaded) == (True, 1)
