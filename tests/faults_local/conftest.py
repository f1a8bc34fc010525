"""What the tests of sources and disks share: options that reach the test server, and an independent look at it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.options.settings import RetryPolicy
from tests.support.files import content_of


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
def files_in() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder, temporary ones too."""
    return content_of
