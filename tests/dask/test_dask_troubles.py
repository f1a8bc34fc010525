"""Troubles of one worker, or of the caller's connection, do not end an export that other workers can carry out."""

from __future__ import annotations

import operator
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from distributed import Client, Worker
from distributed.core import Status

import asyncsink
from asyncsink.adapters import dask_export, dask_worker
from asyncsink.adapters.dask_cluster import connected
from asyncsink.adapters.dask_export import Dealer, run_on_cluster
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.model import Finished
from asyncsink.options.parse import parse_options
from asyncsink.sources.directory import DirectorySource
from asyncsink.splitting.part_engine import PartEngine
from tests.support.holding_proxy import HoldingProxy
from tests.support.requests import until

pytestmark = pytest.mark.anyio
SLOW = 5_000_000
"""Bytes in a second: the large file of `slow` takes four seconds."""
Export = Callable[..., Any]


@pytest.fixture
def export(client: Client, options: dict[str, Any], bucket: str) -> Export:
    """An export in parts of `part_objects` files."""

    async def run(directory: Path, part_objects: int = 1, observe: Any = None, **more: Any) -> asyncsink.Report:
        settings = parse_options(f"s3://{bucket}/study", {**options, **more})
        source = DirectorySource(directory, symlinks=settings.policies.symlinks)
        return await run_on_cluster(client, settings, source, observe=observe, part_objects=part_objects)

    client.wait_for_workers(2)
    return run


@pytest.fixture
def dealers(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Dealer, Client]]:
    """The dealers that are made, and their clients."""
    made: list[tuple[Dealer, Client]] = []

    class Known(Dealer):
        def __init__(self, client: Client, *rest: Any) -> None:
            super().__init__(client, *rest)
            made.append((self, client))

    monkeypatch.setattr(dask_export, "Dealer", Known)
    return made


def plugins(dask_worker: Worker) -> list[str]:
    return [name for name in dask_worker.plugins if name.startswith("asyncsink")]


# -- The caller's connection -------------------------------------------------------------------------------------------


async def test_a_broken_connection_of_the_caller_costs_nothing(
    export: Export, seaweed: DevServer, slow: Path, dealers: list[tuple[Dealer, Client]]
) -> None:
    async with HoldingProxy(seaweed.endpoint_url) as proxy:

        async def cut() -> None:
            await until(lambda: bool(proxy.parts))
            ((_, client),) = dealers
            client.scheduler_comm.comm.abort()

        async with anyio.create_task_group() as group:
            group.start_soon(cut)
            report = await export(slow, endpoint_url=proxy.endpoint_url, bandwidth_bytes_per_second=SLOW)
        assert report.ok
        assert report.objects_total == 6
        assert not report.notices
        assert proxy.seen.count("Create") == 1
        assert proxy.parts == sorted(set(proxy.parts))  # the worker has gone on, and nobody else has begun anew


async def test_workers_that_took_the_caller_for_gone_get_the_engine_again(
    client: Client, export: Export, slow: Path, bucket: str, stored: Callable[[], dict[str, bytes]], uploads: Any
) -> None:
    async def forget() -> None:
        await until(lambda: bool(uploads()))
        (name,) = {each for some in client.run(plugins).values() for each in some}
        client.sync(client.scheduler.unregister_worker_plugin, name=name)

    async with anyio.create_task_group() as group:
        group.start_soon(forget)
        report = await export(slow, bandwidth_bytes_per_second=SLOW)
    assert report.ok
    assert stored() == {f"study/{path.name}": path.read_bytes() for path in slow.iterdir()}
    assert uploads() == []
    assert not any(client.run(plugins).values())


async def test_a_result_that_nobody_waits_for_any_more_costs_no_other(client: Client) -> None:
    async with connected(client.scheduler.address) as own:
        dealer = Dealer(own, "run", parse_options("s3://bucket/study", {}), [], print)
        worker, real = next(iter(client.ncores())), own.scheduler.gather
        fetching, scopes, found = [], [], []

        async def late(**given: Any) -> Any:
            fetching.append(given)
            await anyio.sleep(0.3)
            return await real(**given)

        async def fetch(number: int) -> None:
            with anyio.CancelScope() as scope:
                scopes.append(scope)
                found.append(await dealer._result(worker, f"{number}-0", operator.concat, str(number)))

        own.scheduler.gather = late
        async with anyio.create_task_group() as group:
            for number in range(9):
                group.start_soon(fetch, number)
            await until(lambda: len(fetching) >= 5)
            await anyio.sleep(0.1)  # Dask fetches five at a time, and the others together after them
            for scope in scopes[:-1]:
                scope.cancel()
        assert "8" in found


# -- One worker --------------------------------------------------------------------------------------------------------


def cut_off(how: str) -> None:
    """From now on, the worker cannot reach the server any more."""
    from asyncsink.errors import ConnectionLost  # noqa: PLC0415 - in the worker's process

    real = PartEngine.publish

    async def publish(engine: PartEngine, part: Any, uploads: Any) -> Any:
        if how == "error":
            raise ConnectionLost("no route to host")
        outcome = await real(engine, part, uploads)
        object.__setattr__(outcome, "stop_reason", "no route to host")
        return outcome

    PartEngine.publish = publish
    PartEngine.real = real


def reach_again() -> None:
    PartEngine.publish = PartEngine.real


@pytest.mark.parametrize("how", ["error", "stop"])
async def test_a_worker_that_cannot_reach_the_server_any_more_is_left_out(
    client: Client, export: Export, many: Path, how: str
) -> None:
    first, *_ = workers = sorted(client.ncores())
    client.run(cut_off, how, workers=[first])
    try:
        report = await export(many, part_objects=5)
        assert report.ok
        assert not report.interrupted
        assert report.objects_total == 300
        assert [f"{first} is left out: no route to host" in notice for notice in report.notices] == [True]

        client.run(cut_off, "error", workers=workers[1:])
        if how == "error":
            with pytest.raises(
                asyncsink.errors.ConnectionLost, match=r"No worker of the Dask cluster can publish.*no route"
            ):
                await export(many, part_objects=5, overwrite="always")
    finally:
        client.run(reach_again)


def set_status(status: str, dask_worker: Worker) -> None:
    dask_worker.status = Status[status]


async def test_a_worker_that_dask_pauses_gets_no_more_parts(client: Client, export: Export, many: Path) -> None:
    paused: list[str] = []

    def observe(event: object) -> None:
        if isinstance(event, Finished) and not paused:
            paused.append(max(client.processing().items(), key=lambda item: len(item[1]))[0])
            client.run(set_status, "paused", workers=paused)

    try:
        report = await export(many, part_objects=5, observe=observe)
    finally:
        client.run(set_status, "running", workers=paused)
    assert report.ok
    assert report.objects_total == 300
    assert [f"{paused[0]} takes no tasks" in notice for notice in report.notices] == [True]


def die_once(flag: str) -> None:
    """The worker that is asked first whether it can publish dies of it."""
    real = dask_worker.admit

    def admit(*args: Any) -> Any:
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return real(*args)
        return os.kill(os.getpid(), signal.SIGKILL)

    dask_worker.admit, dask_worker.admit_again = admit, real


def live_on() -> None:
    dask_worker.admit = getattr(dask_worker, "admit_again", dask_worker.admit)


async def test_a_worker_that_dies_while_it_is_admitted_does_not_hold_the_export(
    client: Client, export: Export, many: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "asked"
    client.run(die_once, str(flag))
    try:
        assert (await export(many, part_objects=100)).objects_uploaded == 300
    finally:
        client.run(live_on)
    assert flag.exists()


async def test_a_file_that_has_vanished_since_the_survey_costs_no_worker(
    export: Export, many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = dask_export._samples_of

    def vanishing(found: Iterator[Any]) -> Any:
        samples = real(found)
        os.unlink(samples[0][0])
        return samples

    monkeypatch.setattr(dask_export, "_samples_of", vanishing)
    report = await export(many, part_objects=100)
    assert [failure.error for failure in report.failures] == ["SourceMissing"]
    assert report.objects_uploaded == 299
    assert not report.notices
