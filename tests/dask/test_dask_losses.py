"""Workers that are killed, callers that are cancelled or killed: nothing is lost, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from distributed import Client, Worker

from asyncsink.adapters import dask
from asyncsink.adapters.dask_export import run_on_cluster
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.model import Notice
from asyncsink.options.parse import parse_options
from asyncsink.report.report import Report
from asyncsink.sources.directory import DirectorySource
from tests.support.holding_proxy import HoldingProxy

pytestmark = pytest.mark.anyio
SLOW = 3_000_000
"""Bytes in a second."""
Uploads = Callable[[], list[tuple[str, int]]]


async def until(condition: Callable[[], Any]) -> Any:
    """The first true answer; the test's own time limit bounds the wait."""
    while True:
        if found := await anyio.to_thread.run_sync(condition):
            return found
        await anyio.sleep(0.05)


def left_on(dask_worker: Worker) -> list[str]:
    """What an export leaves in a worker: plugins and threads."""
    plugins = [name for name in dask_worker.plugins if name.startswith("asyncsink")]
    return plugins + [thread.name for thread in threading.enumerate() if thread.name == "asyncsink"]


def nothing_is_left(client: Client) -> bool:
    return not any(client.run(left_on).values())


async def test_a_worker_that_is_killed_inside_of_a_multipart_upload(
    client: Client,
    options: dict[str, Any],
    slow: Path,
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    uploads: Uploads,
) -> None:
    async def kill() -> None:
        await until(lambda: any(parts for _, parts in uploads()))
        busy = [worker for worker, tasks in client.processing().items() if any("-0-0" in str(key) for key in tasks)]
        (pid,) = client.run(os.getpid, workers=busy).values()
        os.kill(pid, signal.SIGKILL)

    async with anyio.create_task_group() as group:
        group.start_soon(kill)
        report = await dask.export_directory(
            client, slow, f"s3://{bucket}/study", bandwidth_bytes_per_second=SLOW, **options
        )
    assert report.ok, report.summary()
    assert report.objects_total == 6
    assert stored() == {f"study/{path.name}": path.read_bytes() for path in slow.iterdir()}
    assert uploads() == []
    assert report.counts.bytes_resumed > 0  # another worker went on with the upload
    assert await until(partial(nothing_is_left, client))


async def test_a_cancelled_export_leaves_nothing_and_the_next_one_works(
    client: Client, options: dict[str, Any], slow: Path, bucket: str, uploads: Uploads
) -> None:
    export = partial(dask.export_directory, client, slow, f"s3://{bucket}/study", **options)
    async with anyio.create_task_group() as group:
        group.start_soon(partial(export, bandwidth_bytes_per_second=SLOW))
        await until(uploads)
        group.cancel_scope.cancel()
    assert uploads() == []
    assert nothing_is_left(client)
    report = await export()
    assert report.ok
    assert report.objects_total == 6


async def publish(client: Client, directory: Path, destination: str, observe: Any = None, **options: Any) -> Report:
    """An export in parts of one file each."""
    settings = parse_options(destination, options)
    source = DirectorySource(directory, symlinks=settings.policies.symlinks)
    return await run_on_cluster(client, settings, source, observe=observe, part_objects=1)


async def test_each_worker_aborts_its_own_uploads_where_the_export_is_cancelled(
    client: Client, seaweed: DevServer, options: dict[str, Any], slow: Path, bucket: str, uploads: Uploads
) -> None:
    (slow / "other.bin").write_bytes(os.urandom(20 << 20))
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "bandwidth_bytes_per_second": SLOW}
        async with anyio.create_task_group() as group:
            group.start_soon(partial(publish, client, slow, f"s3://{bucket}/study", **options))
            await until(lambda: len(uploads()) == 2)
            before = len(proxy.seen)
            group.cancel_scope.cancel()
        assert uploads() == []
        assert proxy.seen[before:].count("Abort") == 2
        assert "Head" not in proxy.seen[before:]  # nobody else has looked whether an upload has become its object


@pytest.mark.parametrize("killed", [1, 2])
async def test_what_killed_workers_have_left_is_ended_by_others_or_named(
    client: Client, options: dict[str, Any], slow: Path, bucket: str, uploads: Uploads, killed: int
) -> None:
    client.wait_for_workers(2)
    said: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, Notice):
            said.append(event.message)

    async with anyio.create_task_group() as group:
        options |= {"bandwidth_bytes_per_second": SLOW}
        group.start_soon(partial(publish, client, slow, f"s3://{bucket}/study", observe, **options))
        await until(lambda: any(parts for _, parts in uploads()))
        busy = [worker for worker, tasks in client.processing().items() if any("-0-0" in str(key) for key in tasks)]
        workers = sorted(client.ncores(), key=lambda worker: worker not in busy)[:killed]
        for pid in client.run(os.getpid, workers=workers).values():
            os.kill(pid, signal.SIGKILL)
        await until(lambda: not set(workers) & set(client.ncores()))
        group.cancel_scope.cancel()
    (left,) = uploads() or [("", 0)]
    named = [notice for notice in said if "'study/large.bin'. Multipart uploads may stay open" in notice]
    assert (left[0], len(named)) == (("", 0) if killed == 1 else ("study/large.bin", 1))


async def test_a_caller_that_is_killed_leaves_nothing_after_some_seconds(
    client: Client, options: dict[str, Any], slow: Path, bucket: str, uploads: Uploads
) -> None:
    program = f"""
        import asyncio
        from asyncsink.adapters import dask
        asyncio.run(dask.export_directory({client.scheduler.address!r}, {str(slow)!r}, "s3://{bucket}/study",
                                          bandwidth_bytes_per_second={SLOW}))
    """
    async with await anyio.open_process([sys.executable, "-c", textwrap.dedent(program)], stderr=None) as caller:
        await until(uploads)
        caller.kill()
    assert await until(lambda: not uploads() and nothing_is_left(client))
    report = await dask.export_directory(client, slow, f"s3://{bucket}/study", **options)
    assert report.ok
    assert report.objects_total == 6
