"""What the fault tests share: proxies before the test server, an impatient policy, and an independent look at it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from asyncsink.config import MIB, RetryPolicy
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.testing.fault_proxy import FaultProxy, Rule

IMPATIENT = RetryPolicy(
    attempts=8,
    backoff_seconds_base=0.01,
    backoff_seconds_max=0.05,
    connect_seconds=5.0,
    stall_seconds=0.5,
    complete_seconds=0.5,
    abort_seconds=5.0,
)
"""Long enough for a server on a busy machine, short enough for a test that waits for it."""


class OpenProxy(Protocol):
    """Starts a fault proxy before the test server; it is stopped when the test ends."""

    def __call__(self, *rules: Rule, seed: int = 0) -> FaultProxy: ...


@pytest.fixture
def harm(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenProxy]:
    """Proxies, and an environment with which the engine reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    with contextlib.ExitStack() as stack:
        yield lambda *rules, seed=0: stack.enter_context(FaultProxy(seaweed.endpoint_url, *rules, seed=seed))


@pytest.fixture
def stored(s3: Any, bucket: str) -> Callable[[], dict[str, bytes]]:
    """Everything in the bucket, read by boto3 past every proxy."""

    def read() -> dict[str, bytes]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {name: s3.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names}

    return read


@pytest.fixture
def open_uploads(s3: Any, bucket: str) -> Callable[[], list[str]]:
    """Keys of the multipart uploads that nobody has ended."""
    return lambda: [upload["Key"] for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])]


@pytest.fixture(scope="session")
def content() -> dict[str, bytes]:
    """One file for each way of sending: whole from memory, whole by one hop to a thread, in three parts; and none."""
    return {
        "empty": b"",
        "small.json": b'{"small": true}',
        "sub/medium.nii": os.urandom(2 * MIB + 1),
        "sub/parts.nii.gz": os.urandom(5 * MIB) + bytes(5 * MIB) + b"the end",
    }


@pytest.fixture
def tree(tmp_path: Path, content: dict[str, bytes]) -> Path:
    """These files."""
    root = tmp_path / "tree"
    for name, data in content.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root
