"""AsyncSink in a FastAPI service, served by Uvicorn on loopback: uploads stream in, receipts out, shutdown drains."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import uvicorn

import asyncsink
from asyncsink.errors import JournalError
from asyncsink.report.outcomes import OutcomeLog

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


class Running:
    """A served app: its server, a client, and what is being served in a task."""

    def __init__(self, server: uvicorn.Server, client: httpx.AsyncClient, serving: asyncio.Task[None]) -> None:
        self.server = server
        self.client = client
        self.serving = serving

    @property
    def sink(self) -> asyncsink.AsyncSink:
        return self.server.config.app.state.sink  # type: ignore[union-attr]

    def shut_down(self) -> None:
        """What Uvicorn does on SIGTERM and SIGINT."""
        self.server.should_exit = True


@pytest.fixture
def serve(service_module: ModuleType, bucket: str, options: dict[str, Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def running(*, uvicorn_options: dict[str, Any] | None = None, **more: Any) -> AsyncIterator[Running]:
        app = service_module.make_app(f"s3://{bucket}", **options, **more)
        server = service_module.Service(
            uvicorn.Config(app, lifespan="on", ws="none", log_config=None, **(uvicorn_options or {}))
        )
        # It listens already: a first request waits until the service is ready for it.
        listening = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve([listening]))
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                yield Running(server, client, serving)
            server.should_exit = True

    return running


async def pieces(data: bytes, pause: asyncio.Event | None = None) -> AsyncIterator[bytes]:
    """A body that comes in pieces; after the first one it waits for `pause`."""
    for start in range(0, len(data), 4096):
        yield data[start : start + 4096]
        if pause is not None:
            await pause.wait()


async def test_uploads_stream_in_and_receipts_stream_out(serve: Callable[..., Any], stored: Stored) -> None:
    files = {f"sub-{n % 3}/scan-{n}.nii.gz": bytes([n]) * (n * 5000 + 1) for n in range(12)}
    async with serve() as running:
        client: httpx.AsyncClient = running.client
        async with client.stream("GET", "/receipts") as first, client.stream("GET", "/receipts") as second:
            answers = await asyncio.gather(
                *[client.put(f"/scans/{name}", content=pieces(data)) for name, data in files.items()]
            )
            assert [answer.status_code for answer in answers] == [201] * len(files)
            told = {answer.json()["key"]: answer.json() for answer in answers}
            for reader in (first, second):
                lines = reader.aiter_lines()
                heard = [json.loads(await anext(lines)) for _ in files]
                assert {receipt["key"]: receipt for receipt in heard} == told
    assert stored() == files
    assert {key: receipt["size_bytes"] for key, receipt in told.items()} == {k: len(d) for k, d in files.items()}
    assert {receipt["confirmed_by"] for receipt in told.values()} == {"server-checksum"}


def md5_of(data: bytes) -> dict[str, str]:
    return {"Content-MD5": b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()}


async def test_the_same_name_again_replaces(serve: Callable[..., Any], stored: Stored) -> None:
    async with serve() as running:
        for data in (b"one", b"two", b"two"):
            answer = await running.client.put("/scans/s/f", content=data, headers=md5_of(data))
            assert answer.status_code == 201
        assert answer.json()["reason"] == "same checksum"
    assert stored() == {"s/f": b"two"}


async def test_an_upload_that_is_not_what_its_md5_says_is_refused(serve: Callable[..., Any], stored: Stored) -> None:
    async with serve() as running:
        answer = await running.client.put("/scans/s/f", content=b"other", headers=md5_of(b"one"))
        assert (answer.status_code, "checksum" in answer.json()["detail"]) == (400, True)
        answer = await running.client.put("/scans/s/f", content=b"one", headers={"Content-MD5": "no MD5"})
        assert answer.status_code == 422
    assert stored() == {}


async def test_names_are_kept_and_nothing_is_on_a_disk(
    serve: Callable[..., Any], tmp_path: Path, stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By DataSink's rules, "v1.2" would be two folders; no folder for temporary files is missed."""
    async with serve() as running:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "not there"))
        for subject in ("v1.2", "sub-01", "a..b"):
            answer = await running.client.put(f"/scans/{subject}/f.nii.gz", content=pieces(b"x" * 10_000))
            assert answer.status_code == 201
    assert stored() == dict.fromkeys(("a..b/f.nii.gz", "sub-01/f.nii.gz", "v1.2/f.nii.gz"), b"x" * 10_000)


async def test_a_failed_upload_is_its_own_callers_business(
    serve: Callable[..., Any], s3: Any, bucket: str, stored: Stored
) -> None:
    async with serve(retry=asyncsink.RetryPolicy(attempts=1)) as running:
        client: httpx.AsyncClient = running.client
        assert (await client.put("/scans/s/one", content=b"1")).status_code == 201
        refused = await client.put(f"/scans/{'x' * 1023}/f", content=b"x")
        assert (refused.status_code, "has 1025 bytes" in refused.json()["detail"]) == (422, True)
        s3.delete_bucket(Bucket=bucket)
        try:
            failed = await client.put("/scans/s/two", content=b"2")
        finally:
            s3.create_bucket(Bucket=bucket)
        assert (failed.status_code, bucket in failed.json()["detail"]) == (502, True)
        assert (await client.put("/scans/s/three", content=b"3")).status_code == 201
    assert stored() == {"s/three": b"3"}
    report = running.sink.report
    assert (report.objects_uploaded, report.objects_failed, report.interrupted) == (2, 1, False)


async def test_shutdown_drains(serve: Callable[..., Any], tmp_path: Path, stored: Stored) -> None:
    """Streams of receipts end, an upload whose body is still coming is published, what was queued is published."""
    for number in range(50):
        (tmp_path / f"{number}").write_text(str(number))
    goes_on, manifest = asyncio.Event(), tmp_path / "m.jsonl"
    async with serve(manifest=manifest) as running:
        client: httpx.AsyncClient = running.client
        async with client.stream("GET", "/receipts") as reader:
            upload = asyncio.create_task(client.put("/scans/s/slow", content=pieces(b"s" * 10_000, goes_on)))
            await running.sink.submit("queued", [tmp_path / f"{number}" for number in range(50)])
            running.shut_down()
            heard = [json.loads(line) async for line in reader.aiter_lines()]  # ends, although the sink is open
        goes_on.set()
        assert (await upload).json()["key"] == "s/slow"
        await running.serving
        with pytest.raises(httpx.ConnectError):
            await client.get("/receipts")
    assert stored() == {"s/slow": b"s" * 10_000} | {f"queued/{n}": str(n).encode() for n in range(50)}
    assert (running.sink.report.objects_uploaded, running.sink.report.interrupted) == (51, False)
    records = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert {receipt["key"] for receipt in heard} <= {record["key"] for record in records[1:-1]} == set(stored())
    assert (records[-1]["record"], records[-1]["interrupted"]) == ("end", False)


async def test_a_client_that_goes_away_leaves_nothing(
    serve: Callable[..., Any], s3: Any, bucket: str, stored: Stored, caplog: pytest.LogCaptureFixture
) -> None:
    never = asyncio.Event()
    async with serve() as running:
        assert (await running.client.put("/scans/s/first", content=b"f")).status_code == 201
        events = running.sink.events()
        upload = asyncio.create_task(running.client.put("/scans/s/half", content=pieces(b"h" * 10_000, never)))
        while not running.sink.stats().in_flight:  # noqa: ASYNC110 - no event tells that it has begun
            await asyncio.sleep(0.01)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        async for event in events:
            if isinstance(event, asyncsink.Finished):
                break
        assert isinstance(event.outcome, asyncsink.Failure)
        assert (event.outcome.key, event.outcome.error) == ("s/half", "SourceError")
        assert "raised ClientDisconnect; nothing was published" in event.outcome.message
        assert (await running.client.put("/scans/s/whole", content=b"w")).status_code == 201
    assert stored() == {"s/first": b"f", "s/whole": b"w"}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_an_upload_without_an_end_does_not_hold_the_service(
    serve: Callable[..., Any], s3: Any, bucket: str, stored: Stored
) -> None:
    """`timeout_graceful_shutdown` bounds the requests, and the sink's deadline what is under way after them."""
    never = asyncio.Event()
    async with serve(uvicorn_options={"timeout_graceful_shutdown": 1}) as running:
        assert (await running.client.put("/scans/s/first", content=b"f")).status_code == 201
        body = pieces(b"h" * 10_000, never)
        upload = asyncio.create_task(running.client.put("/scans/s/half", content=body))
        while not running.sink.stats().in_flight:  # noqa: ASYNC110 - no event tells that it has begun
            await asyncio.sleep(0.01)
        running.shut_down()
        await running.serving
        upload.cancel()
        await asyncio.wait([upload])
    assert stored() == {"s/first": b"f"}
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []


async def test_a_service_whose_sink_has_stopped_says_so_and_ends(
    serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise JournalError("no space for outcomes")

    monkeypatch.setattr(OutcomeLog, "extend", full)
    async with serve() as running:
        for name in ("one", "two"):
            answer = await running.client.put(f"/scans/s/{name}", content=b"x")
            assert answer.status_code == 502
            assert answer.json()["detail"].startswith("The sink has stopped and takes nothing more: no space")
