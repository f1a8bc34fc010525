"""What the tests of the HTTP client need beside `asyncsink.testing`: credentials, a transport, bodies.

Test modules cannot import this file, so that the classes come to them as fixtures.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest

from asyncsink.model import SourceFile
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import MIB, RetryPolicy, Secret
from asyncsink.s3.http.client import HttpTransport
from asyncsink.s3.pacing import Bandwidth, Pacer
from asyncsink.sources.reader import OpenSource
from tests.support.requests import Bodies, Open


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Credentials as a provider gives them."""

    access_key_id: str = "AKIDEXAMPLE"
    secret_access_key: Secret = Secret(b"example-secret")  # noqa: RUF009 - frozen
    session_token: Secret | None = None
    expires_at: datetime | None = None


Provider = Callable[[], Awaitable[Keys]]


def static_credentials(key_id: str, secret: str) -> Provider:
    """A provider of credentials that never change."""

    async def provide() -> Keys:
        return Keys(access_key_id=key_id, secret_access_key=Secret(secret.encode()))

    return provide


@pytest.fixture(scope="session")
def keys() -> type[Keys]:
    """Makes credentials."""
    return Keys


@pytest.fixture(scope="session")
def provider() -> Callable[[str, str], Provider]:
    """Makes a provider of credentials that never change."""
    return static_credentials


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Lanes have threads and sockets of their own, on whatever loop; the conformance suite runs on uvloop too."""
    return "asyncio"


@pytest.fixture(scope="session")
def wire(provider: Any) -> Open:
    """Opens a transport, and looks that nothing of it stays."""

    @contextlib.asynccontextmanager
    async def open_wire(
        url: str,
        retry: RetryPolicy | None = None,
        *,
        credentials: Any = None,
        pacer: Pacer | None = None,
        bandwidth: Bandwidth | None = None,
        verify: bool = True,
        bucket: str = "bkt",
        **target: Any,
    ) -> AsyncIterator[HttpTransport]:
        before = {thread.ident for thread in threading.enumerate()}
        pacer = pacer or Pacer(64)
        transport = await HttpTransport.open(
            S3Target(bucket=bucket, endpoint_url=url, **target),
            retry or RetryPolicy(),
            region="us-east-1",
            credentials=credentials or provider("AKID", "secret"),
            pacer=pacer,
            bandwidth=bandwidth,
            verify=verify,
        )
        try:
            yield transport
        finally:
            lanes = [*transport._lanes.small, *transport._lanes.large]
            await transport.aclose()
            for thread in threading.enumerate():
                if thread.ident not in before and thread.name.startswith(("asyncsink-small", "asyncsink-large")):
                    thread.join(30)
                    assert not thread.is_alive()
            assert not any(lane._connections or lane._busy or lane._lent for lane in lanes)
            assert pacer.in_flight == 0, "a token was lost"

    return open_wire


@pytest.fixture(params=["memory", "part", "whole"])
def bodies(request: pytest.FixtureRequest, file: OpenSource) -> Bodies:
    """Requests with a body that is in memory, or is read as a part or as a whole file."""
    return Bodies(request.param, file)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSource]:
    """32 MiB, of which no two MiB are alike."""
    path = tmp_path_factory.mktemp("source") / "file"
    path.write_bytes(b"".join(bytes([number]) * MIB for number in range(32)))
    status = path.stat()
    with OpenSource(SourceFile(str(path), status.st_size, status.st_mtime_ns)) as source:
        yield source
