"""Fixtures of several folders: options that reach the test server, what its bucket holds, and trees to publish."""

from __future__ import annotations

import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer
from tests.support.holding_proxy import HoldingProxy
from tests.support.quirky_s3 import QuirkyS3, quirky_s3
from tests.support.tls import Authority, TlsProxy


@pytest.fixture
def options(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and environment with which the engine reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url}


@pytest.fixture
def dummy_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials for servers that check none."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-nobody")


@pytest.fixture
async def proxy(seaweed: DevServer) -> AsyncIterator[HoldingProxy]:
    """A proxy before the server; it holds the answers that a test names."""
    async with HoldingProxy(seaweed.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def stored(s3: Any, bucket: str) -> Callable[[], dict[str, bytes]]:
    """Everything in the bucket, read by boto3."""

    def read() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", []):
                found[item["Key"]] = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        return found

    return read


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small tree: nested, empty, unicode, and one file of three parts."""
    root = tmp_path / "tree"
    files = {
        "a.txt": b"alpha",
        "sub/b c+%.json": b"{}",
        "sub/deep/é✓.tsv": "näme\n".encode(),
        "empty": b"",
        "sub/large.nii.gz": bytes(range(256)) * 4096 * 16 + b"!",
    }
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """300 small files."""
    root = tmp_path / "many"
    for number in range(300):
        path = root / f"sub-{number % 20:02}" / f"file-{number:03} é.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number}".encode() * (number % 7))
    return root


@pytest.fixture
def put(s3: Any, bucket: str) -> Callable[..., None]:
    """Store objects with boto3: {key: bytes}."""

    def store(objects: dict[str, bytes], **given: Any) -> None:
        for key, body in objects.items():
            if body:
                s3.put_object(Bucket=bucket, Key=key, Body=body, **given)
                continue
            # After an empty body, boto3 and this server wait for each other for a minute on the kept connection.
            kind = "application/octet-stream"
            named = {"Bucket": bucket, "Key": key, "ContentType": kind}
            url = s3.generate_presigned_url("put_object", Params=named)
            request = urllib.request.Request(url, data=b"", method="PUT", headers={"Content-Type": kind})
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200

    return store


@pytest.fixture
def put_in_parts(s3: Any, bucket: str) -> Callable[..., None]:
    """Store an object with boto3 in parts of 5 MiB, with or without a checksum of the whole."""

    def store(key: str, body: bytes, *, checksum: bool = True, part_bytes: int = 5 << 20) -> None:
        extra = {"ChecksumAlgorithm": "CRC64NVME", "ChecksumType": "FULL_OBJECT"} if checksum else {}
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key, **extra)["UploadId"]
        parts = []
        for number, start in enumerate(range(0, len(body), part_bytes), 1):
            piece = body[start : start + part_bytes]
            given = {"ChecksumAlgorithm": "CRC64NVME"} if checksum else {}
            stored = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece, **given)
            told = {"ChecksumCRC64NVME": stored["ChecksumCRC64NVME"]} if "ChecksumCRC64NVME" in stored else {}
            parts.append({"PartNumber": number, "ETag": stored["ETag"], **told})
        s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})

    return store


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A certificate authority that no machine trusts."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def tls_proxy() -> type[TlsProxy]:
    """Makes a TLS proxy."""
    return TlsProxy


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[QuirkyS3]:
    """A server that the environment leads to."""
    with quirky_s3() as server:
        for name, value in server.environment(tmp_path).items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    """A moto server of the module's own."""
    from tests.support.moto import moto_server  # takes half a second, and few modules need it

    with moto_server() as url:
        yield url
