"""A cold start: what a run does not need is not loaded; the AWS SDK by those who need it, once, and by nobody else."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import AccessDenied, BucketMissing, ConfigError, ConnectionLost, CredentialsError, ServerFault
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3 import stack
from asyncsink.s3.operations import (
    AbortMultipartUpload,
    CreateMultipartUpload,
    DeleteObject,
    HeadObject,
    ListMultipartUploads,
    ListObjects,
    ObjectHead,
    ObjectPage,
    Operation,
    PutObject,
)
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.sdk.transport import Aioboto3Transport, LazyTransport
from asyncsink.s3.stack import open_lanes
from asyncsink.testing.peers import CannedPeer, canned

pytestmark = pytest.mark.anyio

HEAVY = ("aioboto3", "aiobotocore", "aiohttp", "boto3", "botocore", "http.client", "rich")
AT_TIMES = ("aiofiles", "tenacity", "asyncsink.report.manifest", "difflib", "logging.handlers", "shlex", "tomllib")
"""Of a manifest, of what is sent again, and of settings and errors: no plain run needs them."""
CHECKSUMS = "_awscrt"
WATCHED = (*HEAVY, *AT_TIMES, CHECKSUMS)
TELL = f"""
import json, sys
from asyncsink.cli.main import main
code = main(sys.argv[1:])
print(json.dumps([code, sorted(set({WATCHED}) & set(sys.modules))]))
"""


# Whole processes


@pytest.fixture
def export(seaweed: DevServer, bucket: str) -> Callable[..., tuple[dict[str, Any], list[str]]]:
    """Runs an export as its own process; gives its report, and what it had loaded at its end."""

    def run(directory: Path, *options: str) -> tuple[dict[str, Any], list[str]]:
        arguments = ["export", str(directory), f"s3://{bucket}/p", "--json", *options]
        command = [sys.executable, "-W", "error", "-c", TELL, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | seaweed.environment, timeout=60
        )
        assert done.stderr == ""
        report, told = map(json.loads, done.stdout.splitlines())
        assert told[0] == 0
        return report, told[1]

    return run


def test_one_small_file(export: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    report, loaded = export(tmp_path)
    assert loaded == [CHECKSUMS]
    assert (report["transport"], report["objects_uploaded"], report["requests"]) == ("wire", 1, 2)


def test_many_small_files_and_the_same_again(export: Callable[..., Any], tmp_path: Path) -> None:
    for number in range(200):
        (tmp_path / f"ü {number}+%.txt").write_text(f"file {number}")
    report, loaded = export(tmp_path)
    assert loaded == [CHECKSUMS]
    # One listing, and no look at each object.
    assert (report["transport"], report["objects_uploaded"], report["requests"]) == ("wire", 200, 201)
    report, loaded = export(tmp_path)
    assert loaded == []
    assert (report["objects_uploaded"], report["objects_skipped"], report["requests"]) == (0, 200, 1)


def test_large_files_in_parts(export: Callable[..., Any], tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"lärge {number}+%").write_bytes(os.urandom(9 * MIB))
    report, loaded = export(tmp_path)
    assert loaded == [CHECKSUMS]
    assert (report["transport"], report["objects_uploaded"]) == ("wire", 3)
    report, loaded = export(tmp_path)
    assert not {*HEAVY, *AT_TIMES} & set(loaded)
    assert (report["objects_uploaded"], report["objects_skipped"]) == (0, 3)


@pytest.mark.parametrize("options", ["--overwrite=checksum", "--overwrite=journal", "--overwrite=size --no-journal"])
def test_known_without_reading(options: str, export: Callable[..., Any], tmp_path: Path) -> None:
    source, journal = tmp_path / "source", f"--journal={tmp_path / 'journal'}"
    source.mkdir()
    for name, size_bytes in (("a", 1), ("empty", 0), ("large", 9 * MIB)):
        (source / name).write_bytes(os.urandom(size_bytes))
    export(source, journal)
    report, loaded = export(source, *options.split(), *(() if "no-journal" in options else (journal,)))
    assert loaded == []
    assert (report["objects_uploaded"], report["objects_skipped"]) == (0, 3)


def test_what_is_asked_for_is_loaded(export: Callable[..., Any], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_text("a")
    _, loaded = export(source, "--manifest", str(tmp_path / "manifest.jsonl"))
    assert "asyncsink.report.manifest" in loaded


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("asyncsink.cli.app", (*WATCHED, "anyio", "asyncio", "sqlite3", "asyncsink.sink")),
        ("asyncsink.sink", (*WATCHED, "click", "importlib.metadata")),
    ],
)
def test_an_import_alone(module: str, unloaded: tuple[str, ...]) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(set({unloaded}) & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout) == []


def test_the_other_lane_loads_the_sdk(export: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    report, loaded = export(tmp_path, "--transport", "aioboto3")
    assert "aioboto3" in loaded
    assert report["transport"] == "aioboto3"


# Lanes


@pytest.fixture
def with_keys(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_access_key)


@pytest.mark.usefixtures("with_keys")
async def test_both_ways_to_open_the_lanes_are_the_same(
    seaweed: DevServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url)
    light = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")
    monkeypatch.setattr(stack, "known_connection", lambda _: None)
    full = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")
    try:
        assert (light.name, light.endpoint_url, light.region) == (full.name, full.endpoint_url, full.region)
        assert (light.name, light.senders) == ("wire", full.senders)
        await light.transport.send(PutObject(key="a b", body=b"x"))
        assert await full.transport.send(ListObjects()) == await light.transport.send(ListObjects())
        pages = [await lanes.transport.send(ListMultipartUploads()) for lanes in (light, full)]
        assert replace(pages[0], answered=pages[1].answered) == pages[1]  # the second of the answer differs
    finally:
        await light.transport.aclose()
        await full.transport.aclose()


@pytest.mark.usefixtures("with_keys")
async def test_both_lanes_refuse_in_the_same_words(
    seaweed: DevServer, bucket: str, monkeypatch: pytest.MonkeyPatch, keep_secret: Callable[[str], str]
) -> None:
    async def refusal(bucket: str, choice: Any, kind: type[Exception]) -> str:
        target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url)
        opened = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice=choice)
        try:
            with pytest.raises(kind) as caught:
                await opened.transport.send(ListObjects(prefix="p/"))
        finally:
            await opened.transport.aclose()
        return str(caught.value)

    missing = [await refusal("no-such-bucket-here", choice, BucketMissing) for choice in ("wire", "aioboto3")]
    assert missing[0] == missing[1]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keep_secret("wrong-secret-" + "0" * 20))
    wrong = [await refusal(bucket, choice, CredentialsError) for choice in ("wire", "aioboto3")]
    assert wrong[0] == wrong[1]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "UNKNOWNKEYID")
    unknown = [await refusal(bucket, choice, CredentialsError) for choice in ("wire", "aioboto3")]
    assert unknown[0] == unknown[1]


@pytest.mark.usefixtures("with_keys")
async def test_a_wrong_region_and_a_denied_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    told = b"<Error><Code>%s</Code><Message>m</Message>%s</Error>"
    answers = [
        (canned(301, told % (b"PermanentRedirect", b""), "x-amz-bucket-region: eu-west-3"), ConfigError, "eu-west-3"),
        (
            canned(400, told % (b"AuthorizationHeaderMalformed", b"<Region>eu-west-3</Region>")),
            ConfigError,
            "eu-west-3",
        ),
        (canned(403, told % (b"AccessDenied", b"")), AccessDenied, "bucket some-bucket"),
    ]
    for answer, kind, words in answers:
        async with CannedPeer(answer) as peer:
            target = S3Target(bucket="some-bucket", endpoint_url=peer.endpoint_url)
            opened = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")
            with pytest.raises(kind, match=words):
                await opened.transport.send(ListObjects())
            await opened.transport.aclose()
            assert peer.heads[0].startswith(b"GET /some-bucket/?encoding-type=url&list-type=2&max-keys=1000&prefix= ")


@pytest.mark.usefixtures("with_keys")
async def test_only_listings_may_be_long() -> None:
    key = "%E2%82%AC" * 341
    when = "2026-01-31T00:00:00Z"
    entry = f"<Contents><Key>{key}</Key><LastModified>{when}</LastModified><ETag>e</ETag><Size>1</Size></Contents>"
    page = f"<ListBucketResult><EncodingType>url</EncodingType>{entry * 1000}</ListBucketResult>".encode()
    assert len(page) > 3 * MIB
    async with CannedPeer(canned(200, page)) as peer:
        target = S3Target(bucket="some-bucket", endpoint_url=peer.endpoint_url)
        opened = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")
        found = await opened.transport.send(ListObjects())
        assert [len(found.objects), found.objects[-1].key] == [1000, "€" * 341]
        with pytest.raises(ServerFault, match="longer than"):
            await opened.transport.send(PutObject(key="k", body=b"x"))
        await opened.transport.aclose()


@pytest.mark.parametrize("host", ["vpce-1a2b-3c4d.s3.eu-west-1.vpce", "s3.dualstack.eu-west-1", "bucket.s3.eu-west-1"])
@pytest.mark.usefixtures("with_keys")
async def test_a_special_endpoint_of_amazon_is_not_replaced_by_the_usual_one(host: str) -> None:
    target = S3Target(bucket="some-bucket", region="eu-west-1", endpoint_url=f"https://{host}.amazonaws.com")
    opened = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")
    await opened.transport.aclose()
    assert (opened.name, opened.region) == ("aioboto3", "eu-west-1")
    with pytest.raises(ConfigError, match="special endpoints"):
        await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="wire")


@pytest.mark.usefixtures("with_keys")
async def test_a_ca_bundle_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    for url in ("http://127.0.0.1:1", "https://127.0.0.1:1"):
        target = S3Target(bucket="some-bucket", endpoint_url=url, ca_bundle=str(tmp_path / "none.pem"))
        with pytest.raises(ConfigError, match=r"none\.pem"):
            await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")


# The lazy transport


class Counted:
    """A transport that answers listings with nothing, and counts."""

    def __init__(self) -> None:
        self.sent = self.closed = 0

    async def send(self, operation: Operation[Any]) -> Any:
        self.sent += 1
        return ObjectPage() if isinstance(operation, ListObjects) else ObjectHead(size_bytes=0)

    async def aclose(self) -> None:
        self.closed += 1


async def test_many_requests_open_it_once() -> None:
    inner, opened = Counted(), 0

    async def opener() -> Counted:
        nonlocal opened
        opened += 1
        await asyncio.sleep(0)
        return inner

    lazy = LazyTransport("x", opener)
    assert "not opened" in repr(lazy)
    await asyncio.gather(*(lazy.send(HeadObject(key="k")) for _ in range(20)))
    assert (opened, inner.sent) == (1, 20)
    await lazy.aclose()
    await lazy.aclose()
    assert inner.closed == 2  # harmless, says the contract


async def test_an_opening_that_fails_or_is_cancelled_is_tried_again() -> None:
    inner, tries = Counted(), 0
    waiting = asyncio.Event()

    async def opener() -> Counted:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise CredentialsError("none")
        if tries == 2:
            waiting.set()
            await asyncio.Event().wait()
        return inner

    lazy = LazyTransport("x", opener)
    with pytest.raises(CredentialsError):
        await lazy.send(ListObjects())
    second = asyncio.ensure_future(lazy.send(ListObjects()))
    await waiting.wait()
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    assert (await lazy.send(ListObjects())).objects == ()
    await lazy.aclose()
    assert (tries, inner.closed) == (3, 1)


async def test_closed_is_not_opened_any_more() -> None:
    async def opener() -> Counted:
        raise AssertionError("opened after it was closed")

    lazy = LazyTransport("x", opener)
    await lazy.aclose()
    with pytest.raises(ConnectionLost):
        await lazy.send(ListObjects())


@pytest.mark.usefixtures("with_keys")
async def test_the_sdk_is_opened_by_the_first_operation_that_needs_it(
    seaweed: DevServer, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = Aioboto3Transport.open.__func__  # type: ignore[attr-defined]

    async def spy(cls: type[Aioboto3Transport], target: S3Target, *given: Any, **options: Any) -> Aioboto3Transport:
        opened.append(target.bucket)
        transport = await real(cls, target, *given, **options)
        assert isinstance(transport, Aioboto3Transport)
        return transport

    monkeypatch.setattr(Aioboto3Transport, "open", classmethod(spy))
    target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url)
    both = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="wire")
    await both.transport.send(PutObject(key="k", body=b"x"))
    await both.transport.send(ListObjects())
    assert opened == []
    created = await both.transport.send(CreateMultipartUpload(key="in parts"))
    await both.transport.send(AbortMultipartUpload(key="in parts", upload_id=created.upload_id))
    assert opened == []
    await asyncio.gather(*(both.transport.send(DeleteObject(key="k")) for _ in range(5)))
    assert opened == [bucket]
    await both.transport.aclose()
