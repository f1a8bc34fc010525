"""What the reader's tests share: readers on the test server, directly and behind fault proxies, on both lanes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.options.settings import RetryPolicy
from asyncsink.testing.fault_proxy import FaultProxy, Rule

QUICK = RetryPolicy(attempts=4, backoff_seconds_base=0.01, backoff_seconds_max=0.05, stall_seconds=8.0)


@pytest.fixture(params=["wire", "aioboto3"])
def lane(request: pytest.FixtureRequest) -> str:
    """Both ways to S3."""
    return str(request.param)


@pytest.fixture
def reader(options: dict[str, Any], bucket: str, lane: str) -> Callable[..., asyncsink.S3Reader]:
    """A reader of the test's bucket, not opened yet."""

    def make(prefix: str = "", **given: Any) -> asyncsink.S3Reader:
        given = {"retry": QUICK, "transport": lane, **options, **given}
        return asyncsink.S3Reader(f"s3://{bucket}/{prefix}", **given)

    return make


@pytest.fixture
def harmed(
    seaweed: DevServer, reader: Callable[..., asyncsink.S3Reader]
) -> Iterator[Callable[..., tuple[FaultProxy, asyncsink.S3Reader]]]:
    """A fault proxy with rules before the test server, and a reader behind it."""
    with contextlib.ExitStack() as stack:

        def make(*rules: Rule, **given: Any) -> tuple[FaultProxy, asyncsink.S3Reader]:
            proxy = stack.enter_context(FaultProxy(seaweed.endpoint_url, *rules))
            return proxy, reader(endpoint_url=proxy.endpoint_url, **given)

        yield make
