"""Every log at its lowest level, ours and the libraries': nothing secret is in it, on either lane."""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import AsyncSinkError
from asyncsink.options.settings import RetryPolicy

pytestmark = pytest.mark.anyio
MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name, size in {"small.txt": 100, "whole.bin": 2 * MIB, "parts.bin": 11 * MIB}.items():
        (folder / name).write_bytes(os.urandom(size))
    return folder


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_no_log_holds_a_secret(
    lane: str,
    root: Path,
    bucket: str,
    seaweed: Any,
    keep_secret: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    key = os.urandom(32)
    token = "session-token-that-is-not-shown-" + os.urandom(16).hex()
    secrets = [
        seaweed.secret_access_key,
        base64.b64encode(key).decode(),
        keep_secret(token),
        keep_secret(base64.b64encode(hashlib.sha256(key).digest()).decode()),
    ]
    keep_secret(secrets[1])
    options: dict[str, Any] = {
        "endpoint_url": seaweed.endpoint_url,
        "transport": lane,
        "part_size_bytes": "5MiB",
        "sse": key,
        "retry": RetryPolicy(attempts=2, backoff_seconds_base=0.01),
    }
    with caplog.at_level(logging.DEBUG):
        report = await asyncsink.export_directory(root, f"s3://{bucket}", **options)
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        try:
            await asyncsink.export_directory(root, f"s3://{bucket}/again", **options)
        except AsyncSinkError as error:
            told = str(error)
        else:
            told = ""
    report.raise_for_failures()
    names = {record.name.partition(".")[0] for record in caplog.records}
    assert "asyncsink" in names
    lines = [f"{record.name}: {record.getMessage()}" for record in caplog.records] + [told, repr(report)]
    leaks = {line.split(" ")[0] for line in lines for secret in secrets if secret in line}
    caplog.clear()
    assert not leaks
