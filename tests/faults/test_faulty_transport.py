"""The transport that fails on purpose: what it raises, and what the server has afterwards, on each way to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from asyncsink.devserver.seaweedfs import REGION, DevServer
from asyncsink.errors import AccessDenied, ConnectionLost, PermanentError, Stalled
from asyncsink.model import SourceFile
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.operations import HeadObject, Operation, PutObject, PutObjectFrom
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.transport import Transport
from asyncsink.sources.reader import OpenSource
from asyncsink.testing.faulty_transport import Faults, Request, nth_request

pytestmark = pytest.mark.anyio
DATA = b"nine bytes"
ERRORS = {
    "fail": ConnectionLost,
    "refuse": PermanentError,
    "deny": AccessDenied,
    "lose": ConnectionLost,
    "stall": Stalled,
}


@pytest.fixture
def harmed(seaweed: DevServer, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)

    @asynccontextmanager
    async def open_transport(faults: Faults, lane: Any) -> AsyncIterator[Transport]:
        target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url, region=REGION)
        lanes = await faults.open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice=lane)
        async with aclosing(lanes.transport):
            yield lanes.transport

    return open_transport


@pytest.fixture(params=["wire", "sender", "aioboto3"])
def way(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Callable[[str], Operation[Any]], list[Any]]:
    """A lane, an operation for it, and the answers that it was told in its thread."""
    told: list[Any] = []
    if request.param != "sender":
        return request.param, lambda key: PutObject(key=key, body=DATA), told
    path = tmp_path / "file"
    path.write_bytes(DATA)
    status = path.stat()
    source = partial(OpenSource, SourceFile(str(path), status.st_size, status.st_mtime_ns))

    def make(key: str) -> Operation[Any]:
        return PutObjectFrom(key=key, source=source, length=len(DATA), confirm=lambda *answer: told.append(answer))

    return "wire", make, told


@pytest.mark.parametrize("fault", ERRORS)
async def test_the_nth_request_fails(harmed: Any, way: Any, stored: Any, fault: Any) -> None:
    lane, make, told = way
    faults = Faults(nth_request(2, fault))
    async with harmed(faults, lane) as transport:
        await transport.send(make("first"))
        heard = len(told)
        with pytest.raises(ERRORS[fault], match="PutObject of 'second' failed on purpose") as caught:
            await transport.send(make("second"))
        assert (type(caught.value), caught.value.operation) == (ERRORS[fault], "PutObject")
        assert sorted(stored()) == (["first", "second"] if fault == "lose" else ["first"])
        assert len(told) == heard, "nobody hears of an answer that is lost"
        await transport.send(make("second"))
    assert stored() == {"first": DATA, "second": DATA}
    assert faults.hits == [Request("PutObject", "second", fault)]
    assert [request.key for request in faults.requests] == ["first", "second", "second"]


async def test_for_good_means_every_request_like_it(harmed: Any, way: Any, stored: Any) -> None:
    lane, make, _ = way
    faults = Faults(nth_request(1, "fail", for_good=True))
    async with harmed(faults, lane) as transport:
        for _ in range(3):
            with pytest.raises(ConnectionLost):
                await transport.send(make("key"))
        await transport.send(make("other"))
        with pytest.raises(PermanentError, match="HeadObject"):
            await transport.send(HeadObject(key="key"))
    assert [request.fault for request in faults.requests] == ["fail", "fail", "fail", None, None]
    assert sorted(stored()) == ["other"]


async def test_a_stall_can_be_cancelled(harmed: Any, way: Any) -> None:
    lane, make, _ = way
    asked = anyio.Event()

    def stall(_number: int, _operation: Operation[Any]) -> Any:
        asked.set()
        return "stall"

    async with harmed(Faults(stall, stall_seconds=1e9), lane) as transport, anyio.create_task_group() as group:
        group.start_soon(transport.send, make("key"))
        await asked.wait()
        group.cancel_scope.cancel()
