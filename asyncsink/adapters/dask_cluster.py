"""The cluster that an export is carried out on: an existing client, an address, a scheduler file, or local workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
from distributed import Client, LocalCluster

from asyncsink.errors import ConfigError

LOCAL = "local:"
LOCAL_MAX = 1024
PRELOAD = "asyncsink.adapters.dask_worker"
_TRUSTED = ("tls", "wss", "inproc")
"""Schemes of addresses whose traffic no third party can read."""


@asynccontextmanager
async def connected(cluster: Any) -> AsyncIterator[Client]:
    """A client of our own, in this event loop: whatever it has submitted ends with it.

    Args:
        cluster: a distributed.Client, the scheduler's address, the path of a scheduler file, or "local:N".

    Raises:
        ConfigError: there is no such cluster.
    """
    async with AsyncExitStack() as exits:
        given = await _reached(cluster, exits)
        try:
            client = await Client(**given, asynchronous=True, set_as_default=False, name="asyncsink")
        except (OSError, ValueError) as error:
            shown = given.get("address") or given.get("scheduler_file")
            raise ConfigError(
                f"No Dask scheduler answers at {shown!r} ({error}); expected its address, such as "
                "tcp://head:8786, or the file that it wrote."
            ) from error
        exits.push_async_callback(_closed, client)
        yield client


async def _closed(client: Client) -> None:
    with anyio.CancelScope(shield=True):
        await client.close()


async def _reached(cluster: Any, exits: AsyncExitStack) -> dict[str, Any]:
    """The arguments of a client for the cluster."""
    if isinstance(cluster, Client):
        if cluster.scheduler is None or cluster.status not in ("running", "connecting"):
            raise ConfigError(f"The Dask client is {cluster.status}; give one that is connected.")
        return {"address": cluster.scheduler.address, "security": cluster.security}
    if not isinstance(cluster, str):
        raise ConfigError(
            f"client is of type {type(cluster).__name__}; expected a distributed.Client, or the address of a scheduler."
        )
    if cluster.startswith(LOCAL):
        return {"address": await _started(workers_of(cluster), exits)}
    if "://" in cluster:
        return {"address": cluster}
    if not await anyio.Path(cluster).is_file():
        raise ConfigError(
            f"{cluster!r} is no Dask cluster; expected tcp://HOST:PORT, the path of a scheduler file, or local:N."
        )
    return {"scheduler_file": cluster}


def workers_of(text: str) -> int:
    """N of "local:N".

    Raises:
        ConfigError: it is no number of workers.
    """
    number = text.removeprefix(LOCAL)
    if not number.isdecimal() or not 1 <= int(number) <= LOCAL_MAX:
        raise ConfigError(f"{text!r} has no number of workers; expected local:N with N from 1 to {LOCAL_MAX:,}.")
    return int(number)


def local_cluster(workers: int, *, asynchronous: bool = False) -> LocalCluster:
    """A cluster of processes on this machine, each with one thread for its parts.

    Dask's profiler of tasks is off: it looks at every worker a hundred times a second, and would see one engine only.
    """
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit=0,  # each engine bounds its memory itself
        preload=[PRELOAD],
        env={"DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False", "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms"},
        asynchronous=asynchronous,
        silence_logs=50,
    )


async def _started(workers: int, exits: AsyncExitStack) -> str:
    cluster = local_cluster(workers, asynchronous=True)
    await cluster

    async def close() -> None:
        with anyio.CancelScope(shield=True):
            await cluster.close()

    exits.push_async_callback(close)
    return str(cluster.scheduler_address)


def is_private(client: Client) -> bool:
    """Whether what goes to the workers is encrypted on its way."""
    return client.scheduler is not None and str(client.scheduler.address).startswith(_TRUSTED)
