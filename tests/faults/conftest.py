"""What the fault tests share: proxies before the test server, an impatient policy, and an independent look at it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.report.report import Report
from asyncsink.testing.fault_proxy import FaultProxy, Rule

IMPATIENT = RetryPolicy(
    attempts=8,
    backoff_seconds_base=0.01,
    backoff_seconds_max=0.05,
    connect_seconds=5.0,
    stall_seconds=8.0,
    complete_seconds=8.0,
    abort_seconds=8.0,
)
"""Retries at once; patient enough for a server on a busy machine, so that every retry is the fault's."""

WATCHFUL = replace(IMPATIENT, stall_seconds=1.0, complete_seconds=1.0)
"""For faults that are noticed by waiting. A busy machine may look like one more of them."""


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


@dataclass
class Run:
    """One export through a proxy, and what must be true of it whatever happened on the way."""

    proxy: FaultProxy
    report: Report
    content: dict[str, bytes]
    stored: Callable[[], dict[str, bytes]]
    open_uploads: Callable[[], list[str]]

    def published(self, *names: str) -> None:
        """Exactly these files (none named: all) are there with their bytes, and the receipts say so; no upload is open.

        Every request is counted, and what was repeated is counted as such.
        """
        expected = {name: self.content[name] for name in names or self.content}
        assert self.stored() == expected
        assert self.open_uploads() == []
        told = {r.key: (r.size_bytes, r.checksum) for r in self.report.receipts}
        algorithm = next((checksum.algorithm for _, checksum in told.values() if checksum is not None), "CRC64NVME")
        sent = {name: (len(data), checksum_of(data, algorithm)) for name, data in expected.items()}
        assert {key: size for key, (size, _) in told.items()} == {name: size for name, (size, _) in sent.items()}
        for key, (_, checksum) in told.items():
            assert checksum is None or checksum == sent[key][1]
        if not names:
            assert list(self.report.failures) == []

    def repeated(self, hits: int) -> None:
        """So many faults happened, each was answered by sending once more, and the report counts what it sent.

        Both lanes send once more at once where a kept connection ends before the first byte of an answer: the server
        may just have closed it for being idle. The report does not count that; the proxy does. What a busy machine's
        proxy had not read in time, the report counts, as one more that was repeated.
        """
        assert self.proxy.count() == hits
        at_once = len(self.proxy.requests) - self.report.requests
        assert self.report.retries + at_once >= hits
        assert self.report.retries or at_once == hits

    def failed(self, error: str, *names: str) -> None:
        """These were not published, for this reason, in one sentence; everything else was."""
        assert sorted((f.key, f.error) for f in self.report.failures) == sorted((name, error) for name in names)
        assert not any("\n" in f.message for f in self.report.failures)
        self.published(*(set(self.content) - set(names)))


@pytest.fixture
def patient() -> RetryPolicy:
    """For all others."""
    return IMPATIENT


@pytest.fixture
def watchful() -> RetryPolicy:
    """For faults that are noticed by waiting."""
    return WATCHFUL


@pytest.fixture(params=["wire", "aioboto3"])
def lane(request: pytest.FixtureRequest) -> Any:
    """Both ways to the server."""
    return request.param


@pytest.fixture
def export(
    lane: Any,
    harm: OpenProxy,
    tree: Path,
    bucket: str,
    content: dict[str, bytes],
    stored: Callable[[], dict[str, bytes]],
    open_uploads: Callable[[], list[str]],
) -> Callable[..., Awaitable[Run]]:
    """Publishes `tree`, or one file of it `alone`, through a proxy with the rules that are given, and options that
    differ from the usual."""

    async def run(*rules: Rule, alone: str = "", **options: Any) -> Run:
        files = {name: data for name, data in content.items() if alone in ("", name)}
        for name in content.keys() - files:
            (tree / name).unlink()
        proxy = harm(*rules)
        settings: dict[str, Any] = {"transport": lane, "retry": IMPATIENT, "part_size_bytes": 5 * MIB, **options}
        report = await asyncsink.export_directory(tree, f"s3://{bucket}", endpoint_url=proxy.endpoint_url, **settings)
        return Run(proxy, report, files, stored, open_uploads)

    return run
