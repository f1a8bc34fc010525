"""What the tests of sources and disks share: options that reach the test server, and an independent look at it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.options.settings import RetryPolicy


@pytest.fixture
def options(options: dict[str, Any]) -> dict[str, Any]:
    """Options that reach the server, with small parts and short pauses between attempts."""
    quick = RetryPolicy(attempts=3, backoff_seconds_base=0.01, backoff_seconds_max=0.02)
    return options | {"part_size_bytes": "5MiB", "retry": quick}


@pytest.fixture
def stored(s3: Any, bucket: str, stored: Callable[[], dict[str, bytes]]) -> Callable[[], dict[str, bytes]]:
    """Everything in the bucket, read by boto3; there may be no open upload beside it."""

    def read() -> dict[str, bytes]:
        assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
        return stored()

    return read


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    """Where local copies go."""
    return tmp_path / "copies"


@pytest.fixture
def export(root: Path, bucket: str, options: dict[str, Any]) -> Callable[..., Awaitable[asyncsink.Report]]:
    """Exports `root`, a module's own fixture, to the bucket."""
    return lambda **more: asyncsink.export_directory(root, f"s3://{bucket}", **options | more)
