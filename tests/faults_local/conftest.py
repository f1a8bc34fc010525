"""What the tests of sources and disks share: options that reach the test server, and an independent look at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.options.settings import RetryPolicy


@pytest.fixture
def options(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options and environment with which the engine reaches the server."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    quick = RetryPolicy(attempts=3, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
    return {"endpoint_url": seaweed.endpoint_url, "part_size_bytes": "5MiB", "retry": quick}


@pytest.fixture
def stored(s3: Any, bucket: str) -> Callable[[], dict[str, bytes]]:
    """Everything in the bucket, read by boto3; there may be no open upload beside it."""

    def read() -> dict[str, bytes]:
        assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
        found = s3.list_objects_v2(Bucket=bucket).get("Contents", [])
        return {item["Key"]: s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read() for item in found}

    return read


@pytest.fixture
def files_in() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, temporary ones too."""

    def read(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
