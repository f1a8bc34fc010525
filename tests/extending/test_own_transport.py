"""A caller's transport around the lanes: it sees each request of a run as one operation, and bad ones are refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.extending import Operation, Transport
from asyncsink.s3.get_object import GetObjects
from asyncsink.s3.operations import HeadObjects, PutFiles
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.faulty_transport import Faults, FaultyTransport, nth_request
from asyncsink.testing.s3_toxics import SLOW_DOWN

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


class Recording:
    """A transport that keeps the operations."""

    def __init__(self, inner: Transport, sent: list[Operation[Any]]) -> None:
        self.inner = inner
        self.sent = sent

    async def send(self, operation: Operation[Any]) -> Any:
        self.sent.append(operation)
        return await self.inner.send(operation)

    async def aclose(self) -> None:
        await self.inner.aclose()


async def test_it_sees_each_request_of_exports_and_grabs_as_one_operation(
    many: Path, tree: Path, bucket: str, stored: Stored, seaweed: DevServer, options: dict[str, Any], tmp_path: Path
) -> None:
    sent: list[Operation[Any]] = []

    def wrap(inner: Transport) -> Transport:
        return Recording(inner, sent)

    with FaultProxy(seaweed.endpoint_url) as proxy:
        given: dict[str, Any] = {**options, "endpoint_url": proxy.endpoint_url, "transport": wrap, "journal": False}
        for directory in (many, tree, many):
            report = await asyncsink.export_directory(directory, f"s3://{bucket}/p", **given)
            report.raise_for_failures()
            assert (report.transport, len(sent)) == ("wire", report.requests)
            assert Counter(operation.name for operation in sent) == Counter(r.operation for r in proxy.requests)
            sent.clear()
            proxy.requests.clear()
        assert len(stored()) == 305
        del given["journal"]
        grabbed = await asyncsink.grab(f"s3://{bucket}/p", tmp_path / "back", **given)
        assert (grabbed.objects_fetched, len(sent)) == (305, grabbed.requests)
    assert not [operation for operation in sent if isinstance(operation, (PutFiles, HeadObjects, GetObjects))]


async def test_it_sees_each_attempt(
    tree: Path, bucket: str, stored: Stored, seaweed: DevServer, options: dict[str, Any]
) -> None:
    sent: list[Operation[Any]] = []
    slow = Rule(SLOW_DOWN, operation="PutObject", key="*a.txt", times=2)
    with FaultProxy(seaweed.endpoint_url, slow) as proxy:
        given: dict[str, Any] = {**options, "endpoint_url": proxy.endpoint_url}
        async with asyncsink.AsyncSink(
            f"s3://{bucket}/p", transport=lambda inner: Recording(inner, sent), **given
        ) as sink:
            receipt = await sink.put("x", tree / "a.txt")
        assert len(proxy.requests) == len(sent)
    assert isinstance(receipt, asyncsink.Receipt)
    assert receipt.attempts == 3
    assert [operation.name for operation in sent].count("PutObject") == 3
    assert list(stored().values()) == [b"alpha"]


async def test_it_is_closed_with_the_run(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    closed: list[Transport] = []

    class Closing(Recording):
        async def aclose(self) -> None:
            closed.append(self)
            await super().aclose()

    await asyncsink.export_directory(tree, f"s3://{bucket}", transport=lambda inner: Closing(inner, []), **options)
    assert len(closed) == 1


async def test_its_errors_are_those_of_a_request(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    class Refusing(Recording):
        async def send(self, operation: Operation[Any]) -> Any:
            if getattr(operation, "key", "").endswith("a.txt"):
                raise asyncsink.PermanentError("Files called a.txt stay here.", operation=operation.name)
            return await super().send(operation)

    report = await asyncsink.export_directory(
        tree, f"s3://{bucket}", transport=lambda inner: Refusing(inner, []), **options
    )
    (failure,) = report.failures
    assert (failure.key, report.objects_uploaded) == ("a.txt", 4)
    assert "Files called a.txt stay here." in failure.message


async def test_it_sees_content_without_files_and_what_is_read(
    bucket: str, seaweed: DevServer, stored: Stored, options: dict[str, Any]
) -> None:
    sent: list[Operation[Any]] = []
    body = bytes(20 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        yield body

    def wrap(inner: Transport) -> Transport:
        return Recording(inner, sent)

    with FaultProxy(seaweed.endpoint_url) as proxy:
        given: dict[str, Any] = {**options, "endpoint_url": proxy.endpoint_url, "transport": wrap}
        async with asyncsink.AsyncSink(f"s3://{bucket}/p", **given) as sink:
            await asyncio.gather(*(sink.put_bytes(f"k{number}", b"data") for number in range(20)))
            await sink.put_stream("stream", pieces())
        async with asyncsink.S3Reader(f"s3://{bucket}/p", **given) as reader:
            assert await reader.get("k1") == b"data"
            assert await reader.get("stream") == body
        assert Counter(operation.name for operation in sent) == Counter(r.operation for r in proxy.requests)
    assert len(stored()) == 21
    assert not [operation for operation in sent if isinstance(operation, (PutFiles, HeadObjects, GetObjects))]


async def test_the_faulty_transport_of_testing_is_one(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    faults = Faults(nth_request(2, "lose"))
    report = await asyncsink.export_directory(
        tree, f"s3://{bucket}", transport=lambda inner: FaultyTransport(inner, faults), **options
    )
    assert report.ok
    assert (len(faults.hits), len(faults.requests)) == (1, report.requests)


class Unfinished:
    async def send(self, operation: Operation[Any]) -> Any:
        raise AssertionError


@pytest.mark.parametrize(
    ("transport", "words"),
    [
        (lambda inner: None, "returned a NoneType; expected an object with `async def send"),
        (lambda inner: Unfinished(), "returned a Unfinished; expected an object with `async def send"),
        (lambda inner: Recording, "returned a type; expected an object with"),
        (lambda: None, r"failed \(TypeError: .*takes 0 positional arguments"),
        (asyncio.sleep, "is asynchronous; expected an object"),
        (7, "transport is of type int; expected 'auto', 'wire' or 'aioboto3', or a callable"),
        ("wired", "Did you mean 'wire'"),
    ],
)
async def test_what_makes_no_transport_is_refused_before_anything_is_sent(
    transport: Any, words: str, tree: Path, bucket: str, seaweed: DevServer, options: dict[str, Any]
) -> None:
    with FaultProxy(seaweed.endpoint_url) as proxy:
        given: dict[str, Any] = {**options, "endpoint_url": proxy.endpoint_url, "transport": transport}
        with pytest.raises(asyncsink.ConfigError, match=words) as caught:
            await asyncsink.export_directory(tree, f"s3://{bucket}", **given)
        with pytest.raises(asyncsink.ConfigError, match=words):
            async with asyncsink.AsyncSink(f"s3://{bucket}", **given):
                raise AssertionError
    assert "\n" not in str(caught.value)
    assert proxy.requests == []
