"""A cluster of real worker processes, one for the tests of a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, LocalCluster

from asyncsink.devserver.seaweedfs import DevServer


@pytest.fixture(scope="module")
def cluster(seaweed: DevServer) -> Iterator[LocalCluster]:
    """Two workers; each has the server's credentials from its environment, as a machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in seaweed.environment.items():
            patch.setenv(name, value)
        made = LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=50,
        )
    with made:
        yield made


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[Client]:
    """A synchronous client, as notebooks have it."""
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        yield client


@pytest.fixture
def uploads(s3: Any, bucket: str) -> Callable[[], list[tuple[str, int]]]:
    """The key of each open multipart upload of the bucket, and how many parts it has."""

    def parts_of(upload: dict[str, Any]) -> int | None:
        try:
            listed = s3.list_parts(Bucket=bucket, Key=upload["Key"], UploadId=upload["UploadId"])
        except s3.exceptions.NoSuchUpload:
            return None  # it has ended since the listing
        return len(listed.get("Parts", []))

    def read() -> list[tuple[str, int]]:
        found = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return [(each["Key"], parts) for each in found if (parts := parts_of(each)) is not None]

    return read


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A directory with a few small files, and one whose upload takes seconds at SLOW."""
    root = tmp_path / "slow"
    root.mkdir()
    (root / "large.bin").write_bytes(os.urandom(20 << 20))
    for number in range(5):
        (root / f"small-{number}.txt").write_text(f"{number}")
    return root
