"""What the export tests share: options that reach the test server, and an independent look at the bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer
from tests.support.holding_proxy import HoldingProxy


@pytest.fixture
def options(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and environment with which the engine reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return {"endpoint_url": seaweed.endpoint_url}


@pytest.fixture
async def proxy(seaweed: DevServer) -> AsyncIterator[HoldingProxy]:
    """In front of the server; it holds the answers that a test names."""
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
