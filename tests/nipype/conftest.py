"""What the Nipype tests share: the server as the environment names it, and Nipype's and our sink side by side."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncsink.adapters import nipype as ours
from asyncsink.devserver.seaweedfs import DevServer


@pytest.fixture
def server(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> DevServer:
    """The S3 server, where both sinks find it: in the environment."""
    for name, value in {**seaweed.environment, "AWS_ENDPOINT_URL": seaweed.endpoint_url}.items():
        monkeypatch.setenv(name, value)
    return seaweed


@pytest.fixture
def stored(s3: Any) -> Callable[[str], dict[str, bytes]]:
    """Everything in a bucket, read by boto3."""

    def read(bucket: str) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for item in page.get("Contents", []):
                found[item["Key"]] = s3.get_object(Bucket=bucket, Key=item["Key"])["Body"].read()
        return found

    return read


@pytest.fixture
def installed() -> Iterator[Callable[..., None]]:
    """`install`, undone after the test."""
    yield ours.install
    ours.uninstall()


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    """What goes to Nipype's log of interfaces."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("nipype.interface")
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)  # whatever another test has told Nipype's configuration
    yield stream
    logger.setLevel(before)
    logger.removeHandler(handler)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A file as a realignment leaves it."""
    path = tmp_path / "work" / "realigned_file1.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"realigned")
    return path
