"""A destination, a transport and a source of a program's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import asyncsink
from asyncsink.extending import (
    ByteBody,
    Checksum,
    ChecksumAlgorithm,
    Destination,
    Existing,
    Operation,
    PartPlan,
    PartWriter,
    Response,
    RunForecast,
    SourceFile,
    SourceProblem,
    Stored,
    Transfer,
    Transport,
)
from asyncsink.testing import memory_sink

R = TypeVar("R", bound=Response)


class Counting:
    def __init__(self, inner: Transport) -> None:
        self.inner = inner
        self.requests = 0

    async def send(self, operation: Operation[R]) -> R:
        self.requests += 1
        return await self.inner.send(operation)

    async def aclose(self) -> None:
        await self.inner.aclose()


class Nowhere(Destination):
    @property
    def name(self) -> str:
        return "nowhere:"

    async def prepare(self, forecast: RunForecast) -> None: ...

    async def look(self, transfer: Transfer, *, closely: bool) -> Existing | None:
        return None

    async def put(self, transfer: Transfer, body: ByteBody, checksum: Checksum | None) -> Stored:
        return Stored(location=self.url(transfer), confirmed_by="size")

    async def start(self, transfer: Transfer, plan: PartPlan, algorithm: ChecksumAlgorithm | None) -> PartWriter:
        raise asyncsink.EntityTooLarge(f"{transfer.key} is too large.", transfer=transfer)

    async def aclose(self) -> None: ...


class Nothing:
    replayable = True
    injective = True
    entries = None

    def scan(self) -> Iterator[SourceFile | SourceProblem]:
        yield from ()


asyncsink.AsyncSink(destination=Nowhere(), overwrite="always")
asyncsink.AsyncSink("s3://bucket", transport=Counting)
asyncsink.export_sync(source=Nothing(), base_directory="s3://bucket")
asyncsink.export_sync({"a": "path"}, destination=Nowhere())
asyncsink.AsyncSink(destination="s3://bucket")  # refused
asyncsink.AsyncSink("s3://bucket", transport=5)  # refused
asyncsink.export_sync(source=["path"], base_directory="s3://bucket")  # refused


async def unit_test() -> None:
    async with memory_sink(container="study") as sink:
        await sink.put("x", "path")
        data: bytes = sink.objects["study/x/path"]
        number: int = sink.objects["study/x/path"]  # refused
    memory_sink(destination=Nowhere())  # refused
    print(data, number)
