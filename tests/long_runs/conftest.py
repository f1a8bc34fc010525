"""What the tests of long runs share: a tree of small and large files, a proxy that is asked for each request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import REGION, DevServer
from asyncsink.options.settings import MIB, Secret
from asyncsink.testing.peers import Admit, AdmittingProxy, Identity
from tests.support.files import content_of

Proxy = Callable[..., AdmittingProxy]


@pytest.fixture
def proxy(seaweed: DevServer) -> Proxy:
    """Makes a proxy before the server."""
    known = Identity(seaweed.access_key_id, Secret(seaweed.secret_access_key.encode()))

    def make(admit: Admit, **options: Any) -> AdmittingProxy:
        return AdmittingProxy(seaweed.endpoint_url, known, admit, region=REGION, **options)

    return make


@pytest.fixture
def plain_keys(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> Identity:
    """The server's own credentials, in the environment."""
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    return Identity(seaweed.access_key_id, Secret(seaweed.secret_access_key.encode()))


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 small files, 2 that are sent whole by a thread, and 3 of several parts."""
    root = tmp_path_factory.mktemp("long") / "tree"
    for number in range(120):
        path = root / f"sub-{number % 10:02d}" / f"small-{number:03d}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"{number}".encode() * 50)
    for number in range(2):
        (root / f"whole-{number}.nii").write_bytes(bytes([number]) * (3 * MIB + number))
    for number in range(3):
        (root / f"large-{number}.nii.gz").write_bytes(bytes([65 + number]) * (12 * MIB + number))
    return root


@pytest.fixture
def all_there(s3: Any, bucket: str, tree: Path, stored: Callable[[], dict[str, bytes]]) -> Callable[[], bool]:
    """Whether the bucket has exactly the tree, byte by byte, and no upload is open."""

    def check() -> bool:
        uploads = s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
        return stored() == content_of(tree) and not uploads

    return check


@pytest.fixture
def export(tree: Path, bucket: str) -> Callable[..., Awaitable[asyncsink.Report]]:
    """Exports the tree through a proxy, large files in parts of 5 MiB."""

    def through(way: AdmittingProxy, **more: Any) -> Awaitable[asyncsink.Report]:
        given: dict[str, Any] = {"endpoint_url": way.endpoint_url, "part_size_bytes": 5 * MIB, **more}
        return asyncsink.export_directory(tree, f"s3://{bucket}", **given)

    return through
