"""A bug in a caller's destination, transport or source is raised as it is, and nothing hangs or stays open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.destinations.memory import MemoryDestination
from asyncsink.extending import Operation, Transport

pytestmark = pytest.mark.anyio
Call = Callable[[asyncsink.AsyncSink, Path], Awaitable[Any]]


async def pieces() -> AsyncIterator[bytes]:
    for _ in range(20):
        yield bytes(1_000_000)


CALLS: dict[str, Call] = {
    "small": lambda sink, tree: sink.put("x", tree / "a.txt"),
    "large": lambda sink, tree: sink.put("x", tree / "sub/large.nii.gz"),
    "bytes": lambda sink, tree: sink.put_bytes("k", b"data"),
    "stream": lambda sink, tree: sink.put_stream("k", pieces()),
}


async def end_of(sink: asyncsink.AsyncSink, call: Call, tree: Path) -> str:
    """How the sink's block ends: "", or the error with its notes."""
    try:
        with anyio.fail_after(60):
            async with sink:
                await call(sink, tree)
    except (LookupError, asyncsink.ExportFailed) as error:
        return "\n".join([str(error), *getattr(error, "__notes__", ())])
    return ""


def destination_with(name: str) -> MemoryDestination:
    class Broken(MemoryDestination):
        pass

    async def bug(*_: Any, **__: Any) -> Any:
        raise LookupError(f"a bug in {name}")

    setattr(Broken, name, bug)
    return Broken()


@pytest.mark.parametrize("name", ["prepare", "look_many", "put", "start", "aclose"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_bug_of_a_destination(name: str, call: str, tree: Path) -> None:
    broken = destination_with(name)
    told = await end_of(asyncsink.AsyncSink(destination=broken), CALLS[call], tree)
    if told or name in ("prepare", "aclose"):  # not every call needs the others
        assert f"a bug in {name}" in told
    assert not broken.open_writers


@pytest.mark.parametrize("name", ["PutObject", "UploadPart", "ListObjectsV2"])
@pytest.mark.parametrize("call", CALLS)
async def test_a_bug_of_a_transport(
    name: str, call: str, tree: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    class Broken:
        def __init__(self, inner: Transport) -> None:
            self.inner = inner

        async def send(self, operation: Operation[Any]) -> Any:
            if operation.name == name:
                raise LookupError(f"a bug in {name}")
            return await self.inner.send(operation)

        async def aclose(self) -> None:
            await self.inner.aclose()

    sink = asyncsink.AsyncSink(f"s3://{bucket}", transport=Broken, journal=False, **options)
    told = await end_of(sink, CALLS[call], tree)
    if told or name == "ListObjectsV2":  # not every call needs the others
        assert f"a bug in {name}" in told
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


async def test_a_bug_of_a_source() -> None:
    class Broken:
        replayable = True
        injective = False
        entries = None

        def scan(self) -> Iterator[Any]:
            raise LookupError("a bug in scan")

    with pytest.raises(LookupError, match="a bug in scan"):
        await asyncsink.export(source=Broken(), destination=MemoryDestination())
