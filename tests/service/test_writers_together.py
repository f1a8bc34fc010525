"""Writers of `open` that several tasks, threads or event loops use at once: no object is garbled, nothing is held."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, ExportFailed, PutFailed, SourceError
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import Status
from tests.support.streams import PART_BYTES, SMALLEST, body_of, nothing_is_held, pieces

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
LARGE = body_of(2 * PART_BYTES + 1)


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("turns", [1, 2, 5])
async def test_a_block_that_ends_during_a_write_publishes_nothing(
    bucket: str, s3: Any, stored: Stored, options: dict[str, Any], raises: bool, turns: int
) -> None:
    writes: list[asyncio.Task[None]] = []
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options, **SMALLEST) as sink:
        error, told = (KeyError, "mine") if raises else (SourceError, "another task was writing")
        with pytest.raises(error, match=told):  # noqa: PT012 - the block is what is tested
            async with sink.open("torn") as writer:
                writes.append(asyncio.create_task(writer.write(LARGE)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                if raises:
                    raise KeyError("mine")
        (written,) = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(written, SourceError)
        nothing_is_held(sink)
        await sink.put_stream("next", pieces(LARGE))
    assert stored() == {"next": LARGE}
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)
    assert [(failure.key, failure.error) for failure in sink.report.failures] == [("torn", "SourceError")]


async def test_a_block_that_ends_by_an_error_of_this_package_is_in_the_report(
    bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options, **SMALLEST) as sink:
        with pytest.raises(ConfigError, match="another task; write from one at a time"):  # noqa: PT012 - as above
            async with sink.open("torn") as writer:
                await asyncio.gather(*(writer.write(LARGE) for _ in range(3)))
        nothing_is_held(sink)
    assert stored() == {}
    assert [failure.key for failure in sink.report.failures] == ["torn"]


async def test_a_refused_object_is_one_failure_whoever_writes_on(
    seaweed: DevServer, bucket: str, options: dict[str, Any]
) -> None:
    denied = Rule(Status(403, "AccessDenied"), operation="CreateMultipartUpload")
    with FaultProxy(seaweed.endpoint_url, denied) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, **SMALLEST}
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            with pytest.raises(PutFailed, match="AccessDenied"):  # noqa: PT012 - the block is what is tested
                async with sink.open("refused") as writer:
                    await writer.write(LARGE)
                    told = await asyncio.gather(*(writer.write(b"more") for _ in range(3)), return_exceptions=True)
                    assert {type(each) for each in told} == {PutFailed, ConfigError}
                    with pytest.raises(PutFailed, match="AccessDenied"):
                        await writer.write(b"more")
            with pytest.raises(PutFailed, match="AccessDenied"):
                await writer.write(b"after the block")
    assert (sink.report.objects_total, sink.report.objects_failed) == (1, 1)


async def test_a_write_after_the_block_is_told(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        async with sink.open("whole") as writer:
            await writer.write(b"all")
        with pytest.raises(ConfigError, match=r"The writer of 'whole' is closed; write inside its `async with` block"):
            await writer.write(b"more")
    assert stored() == {"whole": b"all"}


async def test_a_writer_belongs_to_its_event_loop(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        async with sink.open("whole") as writer:
            await writer.write(b"all")
            for use in (lambda: writer.write(b"more"), lambda: writer.__aexit__(None, None, None)):
                with pytest.raises(ConfigError, match="used from another event loop"):
                    await asyncio.to_thread(lambda use=use: asyncio.run(use()))
        nothing_is_held(sink)
    assert stored() == {"whole": b"all"}


async def test_the_exception_of_a_block_comes_before_the_end_of_its_sink(bucket: str, options: dict[str, Any]) -> None:
    sink = await asyncsink.AsyncSink(f"s3://{bucket}", **options).start()
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
        async with sink.open("torn") as writer:
            await writer.write(b"a")
            await sink.close(deadline_seconds=0)
            with pytest.raises(ExportFailed, match="closed before 'torn' was published"):
                await writer.write(b"b")
            raise KeyError("mine")
    assert [each.key for each in (await sink.close()).unfinished] == ["torn"]
