"""A service: one sink for the whole process, uploads that are answered, a reader of events."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import asyncsink


@dataclass
class State:
    sink: asyncsink.AsyncSink
    published: int = 0


async def count(state: State) -> None:
    async for event in state.sink.events():
        match event:
            case asyncsink.Finished(outcome=asyncsink.Receipt()):
                state.published += 1
            case asyncsink.Finished(outcome=asyncsink.Failure() as failure):
                print(failure.key, failure.message, failure.cause)
            case asyncsink.Notice(message=text):
                print(text)
            case _:
                pass


@asynccontextmanager
async def lifespan() -> AsyncGenerator[State, None]:
    options: asyncsink.ExportOptions = {"on_collision": "last", "overwrite": "checksum", "memory_bytes": "64MiB"}
    async with asyncsink.AsyncSink("s3://bucket/scans", **options) as sink:
        state = State(sink)
        reader = asyncio.create_task(count(state))
        yield state
    await reader


async def upload(state: State, subject: str, path: Path) -> tuple[int, str]:
    try:
        outcome = await state.sink.put(subject, path)
    except asyncsink.PutFailed as error:
        match error.cause:
            case asyncsink.Throttled() | asyncsink.ConnectionLost():
                return 503, error.failure.message
            case asyncsink.TransferError(attempts=attempts):
                return 502, f"{error.failure.key}: {attempts} attempts"
            case _:
                return 500, str(error)
    except asyncsink.ExportFailed as error:
        report: asyncsink.Report | None = error.report
        return 500, f"{error} {report}"
    except asyncsink.SourceMissing:
        return 404, ""
    if isinstance(outcome, asyncsink.Receipt):
        return 201, outcome.etag
    return 200, outcome.reason


async def placed(sink: asyncsink.AsyncSink, path: Path, **given: Unpack[asyncsink.PutOptions]) -> str:
    own: asyncsink.PutOptions = {"metadata": {"who": "me"}, "overwrite": "never", "sse": b"k" * 32}
    await sink.submit("m", [path], tags={"a": "b"}, storage_class=None)
    first = await sink.put("m", path, key="a/b", **own)
    second = await sink.put("m", path, key=None, **given)
    return first.key + second.key


class Pieces:
    async def read(self, size: int, /) -> bytearray:
        return bytearray(size)


async def received(sink: asyncsink.AsyncSink, body: AsyncIterator[bytes], path: Path) -> str:
    first = await sink.put_bytes("a", memoryview(b"a"), content_type="text/plain")
    checksum = asyncsink.Checksum("CRC32", "AAAAAA==")
    await sink.put_stream("b", body, size_bytes=3, checksum=checksum, tags={"a": "b"})
    reader: asyncsink.AsyncReader = Pieces()
    await sink.put_stream("c", reader)
    await sink.put_stream("d", io.BytesIO(b"d"))
    with path.open("rb") as file:
        await sink.put_stream("e", file)
    async with sink.open("f", overwrite="never") as writer:
        await writer.write(bytearray(b"f"))
    written: asyncsink.ObjectWriter = writer
    return first.key + written.receipt.key


async def many(state: State, paths: list[Path]) -> list[asyncsink.Receipt | asyncsink.Skip]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(state.sink.put("raw", path)) for path in paths]
        count = await group.create_task(state.sink.submit("derived", [paths, str(paths[0])]))
    assert count
    return [task.result() for task in tasks]
