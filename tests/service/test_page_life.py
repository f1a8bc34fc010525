"""The sections of the guide's page about services that say how a sink begins and ends."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN
from tests.support.guide import example

Stored = Callable[[], dict[str, bytes]]


@pytest.fixture
def here(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples name no endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", options["endpoint_url"])


@pytest.mark.usefixtures("here")
def test_start_up_and_shutdown_are_tasks_of_their_own(
    tree: Path, bucket: str, stored: Stored, capsys: pytest.CaptureFixture[str]
) -> None:
    page = example("service.md", "Opened and closed by different tasks")
    page.DESTINATION = f"s3://{bucket}/scans"
    ctx: dict[str, Any] = {}

    async def end(steps: Any) -> None:
        assert [step async for step in steps] == []

    with asyncio.Runner() as runner:
        runner.run(page.on_startup(ctx))
        assert runner.run(page.publish_all(ctx["sink"], [tree / "a.txt", tree / "empty"])) == (2, 0)
        runner.run(page.on_shutdown(ctx))
        steps = page.module_sink()
        sink = runner.run(anext(steps))
        runner.run(sink.put("tests", tree / "a.txt"))
        runner.run(end(steps))
    assert sorted(stored()) == ["scans/scans/a.txt", "scans/scans/empty", "scans/tests/a.txt"]
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("here")
def test_a_shutdown_names_what_was_not_sent(
    tree: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    page = example("service.md", "Opened and closed by different tasks")
    page.DESTINATION = f"s3://{bucket}/scans"
    ctx: dict[str, Any] = {}
    with (
        FaultProxy(options["endpoint_url"], Rule(SLOW_DOWN, operation="PutObject")) as proxy,
        asyncio.Runner() as runner,
    ):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.endpoint_url)
        runner.run(page.on_startup(ctx))
        runner.run(ctx["sink"].submit("scans", tree / "a.txt"))
        runner.run(asyncio.to_thread(proxy.wait_for_hits))
        runner.run(ctx["sink"].close(deadline_seconds=0))
        with pytest.raises(asyncsink.ExportFailed, match="1 object not sent"):
            runner.run(page.on_shutdown(ctx))
    assert capsys.readouterr().out == f"scans/scans/a.txt {tree / 'a.txt'} in flight\n"


@pytest.mark.anyio
async def test_a_caller_that_gives_up(tree: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    page = example("service.md", "A caller that gives up")
    with FaultProxy(options["endpoint_url"], Rule(SLOW_DOWN, operation="PutObject")) as proxy:
        async with asyncsink.AsyncSink(f"s3://{bucket}", **{**options, "endpoint_url": proxy.endpoint_url}) as sink:
            assert await page.publish(sink, "m", tree / "a.txt", deadline_seconds=0.2) is None
            proxy.rules = ()
            assert isinstance(await page.publish(sink, "m", tree / "a.txt"), asyncsink.Receipt)
    assert stored() == {"m/a.txt": b"alpha"}


WORKERS = """
import sys
from tests.support.guide import example
page = example("service.md", "Several workers")
print(page.fork_workers(3, sys.argv[1], sys.argv[2:]))
"""


@pytest.mark.usefixtures("here")
def test_workers_that_are_forked(tree: Path, bucket: str, stored: Stored) -> None:
    paths = [tree / "a.txt", tree / "empty", tree / "sub/b c+%.json"]
    ended = subprocess.run(
        [sys.executable, "-c", WORKERS, f"s3://{bucket}", *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        cwd=Path(asyncsink.__file__).parents[1],
    )
    assert (ended.stdout, ended.returncode) == ("[0, 0, 0]\n", 0), ended.stderr
    assert sorted(stored()) == ["worker-0/a.txt", "worker-1/empty", "worker-2/b c+%.json"]


@pytest.mark.anyio
async def test_a_sink_that_stays_open(tree: Path, tmp_path: Path) -> None:
    page = example("service.md", "Open for months")
    async with page.long_lived(tmp_path / "out") as sink:
        await sink.put("m", tree / "a.txt")
    assert (sink.report.objects_uploaded, sink.report.outcomes_dropped) == (1, 0)
