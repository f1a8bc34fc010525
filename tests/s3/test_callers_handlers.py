"""The event handlers of a bucket that a caller brings along see every request of a run, and may change it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aioboto3
import boto3
import pytest
from botocore.handlers import disable_signing

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN
from tests.support.guide import example
from tests.support.quirky_s3 import QuirkyS3, StoredObject, quirky_s3

pytestmark = pytest.mark.anyio
PHASES = (
    "provide-client-params.s3.*",
    "before-parameter-build.s3",
    "before-call.s3",
    "request-created.s3",
    "before-sign.s3.*",
    "before-send.s3",
    "response-received.s3.*",
    "after-call.s3.*",
)
KEYS: dict[str, Any] = {"aws_access_key_id": "AKIDEXAMPLE", "aws_secret_access_key": "secret-of-nobody"}


@asynccontextmanager
async def bucket_of(kind: str, server: QuirkyS3, handlers: dict[str, Any], *, on_session: bool) -> AsyncIterator[Any]:
    """A caller's Bucket with handlers, by event."""
    given = {"endpoint_url": server.url, "region_name": "us-east-1", **KEYS}
    session: Any = boto3.Session() if kind == "boto3" else aioboto3.Session()
    events = session.events if kind == "boto3" else session._session.get_component("event_emitter")
    if on_session:
        for event, handler in handlers.items():
            events.register(event, handler)
    if kind == "boto3":
        bucket = session.resource("s3", **given).Bucket("tryout")
    else:
        async with session.resource("s3", **given) as resource:
            bucket = await resource.Bucket("tryout")
    if not on_session:
        for event, handler in handlers.items():
            bucket.meta.client.meta.events.register(event, handler)
    yield bucket
    if kind == "boto3":
        bucket.meta.client.close()


@pytest.mark.parametrize("kind", ["boto3", "aioboto3"])
@pytest.mark.parametrize("on_session", [False, True], ids=["client", "session"])
async def test_handlers_see_every_request(kind: str, on_session: bool, tmp_path: Path) -> None:
    seen: Counter[str] = Counter()

    def count(phase: str) -> Any:
        def called(**_: Any) -> None:
            seen[phase] += 1

        return called

    (tmp_path / "a.bin").write_bytes(bytes(1000))
    (tmp_path / "b.bin").write_bytes(bytes((6 << 20) + 1))
    with quirky_s3() as server:
        async with bucket_of(kind, server, {phase: count(phase) for phase in PHASES}, on_session=on_session) as bucket:
            report = await asyncsink.export(
                {"x": [str(tmp_path / "a.bin"), str(tmp_path / "b.bin")]},
                "s3://tryout/p",
                bucket=bucket,
                part_size_bytes="5MiB",
                journal=False,
            )
            report.raise_for_failures()
            grabbed = await asyncsink.grab("s3://tryout/p", tmp_path / "back", bucket=bucket)
        requests = len(server.log)
    assert grabbed.objects_fetched == 2
    assert requests >= 8
    assert seen == dict.fromkeys(PHASES, requests)


async def test_the_example_of_the_guide(tmp_path: Path) -> None:
    page = example("python.md", "A Bucket with event handlers")
    (tmp_path / "a.bin").write_bytes(b"abc")
    with quirky_s3() as server:
        async with bucket_of("boto3", server, {}, on_session=False) as bucket:
            report = await page.export_with_header(bucket, {"x": str(tmp_path / "a.bin")})
        assert report.ok
        assert {r.headers.get("x-request-tenant") for r in server.log} == {"seven"}
        assert list(server.objects["tryout"]) == ["study/x/a.bin"]


async def test_handlers_change_what_is_sent_and_asynchronous_ones_are_awaited(tmp_path: Path) -> None:
    def tag(params: dict[str, Any], **_: Any) -> None:
        params["headers"]["x-amz-meta-tenant"] = "seven"

    async def header(request: Any, **_: Any) -> None:
        request.headers["x-request-tenant"] = "eight"

    (tmp_path / "a.bin").write_bytes(b"abc")
    with quirky_s3() as server:
        handlers = {"before-call.s3.PutObject": tag, "before-send.s3.*": header}
        async with (
            bucket_of("aioboto3", server, handlers, on_session=False) as bucket,
            asyncsink.AsyncSink("s3://tryout", bucket=bucket, journal=False) as sink,
        ):
            await sink.put("x", tmp_path / "a.bin")
        (put,) = server.requests("PUT")
        assert put.headers["x-amz-meta-tenant"] == "seven"
        assert "x-amz-meta-tenant" in put.headers["authorization"]  # it was signed with it
        assert {r.headers.get("x-request-tenant") for r in server.log} == {"eight"}


@pytest.mark.parametrize("kind", ["boto3", "aioboto3"])
async def test_a_client_that_was_made_anonymous_by_a_handler_stays_so(kind: str, tmp_path: Path) -> None:
    with quirky_s3() as server:
        server.objects["tryout"]["p/a"] = StoredObject(b"abc")
        handlers = {"choose-signer.s3.*": disable_signing}
        async with bucket_of(kind, server, handlers, on_session=False) as bucket:
            report = await asyncsink.grab("s3://tryout/p", tmp_path / "d", bucket=bucket)
        assert report.objects_fetched == 1
        assert not any("authorization" in r.headers for r in server.log)


@pytest.mark.parametrize("kind", ["boto3", "aioboto3"])
async def test_a_sink_to_a_real_server_calls_them_for_every_request(
    kind: str, seaweed: DevServer, bucket: str, stored: Any, tmp_path: Path
) -> None:
    """Those that are registered on the bucket's client when the sink is opened, for each attempt of each request."""
    seen: Counter[str] = Counter()
    phases = ("request-created.s3", "before-send.s3", "before-parameter-build.s3", "before-call.s3")

    def register(client: Any) -> None:
        for phase in phases:
            client.meta.events.register(phase, lambda phase=phase, **_: seen.update([phase]))

    (tmp_path / "a.bin").write_bytes(bytes(16_384))
    (tmp_path / "b.bin").write_bytes(bytes((6 << 20) + 1))
    slow = Rule(SLOW_DOWN, operation="PutObject", nth=1)
    with FaultProxy(seaweed.endpoint_url, slow) as proxy:
        given = {
            "endpoint_url": proxy.endpoint_url,
            "region_name": "us-east-1",
            "aws_access_key_id": seaweed.access_key_id,
            "aws_secret_access_key": seaweed.secret_access_key,
        }
        async with AsyncExitStack() as exits:
            if kind == "boto3":
                theirs = boto3.resource("s3", **given).Bucket(bucket)
                exits.callback(theirs.meta.client.close)
            else:
                resource = await exits.enter_async_context(aioboto3.Session().resource("s3", **given))
                theirs = await resource.Bucket(bucket)
            register(theirs.meta.client)
            async with asyncsink.AsyncSink("s3://bucket/p", bucket=theirs, part_size_bytes="5MiB") as sink:
                await sink.put("x", tmp_path / "a.bin")
                await sink.submit("x", tmp_path / "b.bin")
        assert (sink.report.transport, sink.report.objects_uploaded, sink.report.retries) == ("aioboto3", 2, 1)
        requests = len(proxy.requests)
    assert requests >= 6
    assert seen == dict.fromkeys(phases, requests)
    assert len(stored()) == 2
