"""A server of the tests that does not answer any more is replaced, so that one hang does not fail all later tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest

from asyncsink.devserver.seaweedfs import REGION, DevServer, choose_ports
from tests.support.buckets import Buckets


@pytest.fixture
def server(keep_secret: Callable[[str], str]) -> Iterator[DevServer]:
    with DevServer(port=choose_ports().s3) as server:
        keep_secret(server.secret_access_key)
        yield server


def hang(server: DevServer) -> None:
    """Stop the server's process where it is; its watchdog still runs."""
    assert server.watchdog_pid is not None
    children = Path(f"/proc/{server.watchdog_pid}/task/{server.watchdog_pid}/children")
    for pid in children.read_text().split():
        os.kill(int(pid), signal.SIGSTOP)


def names(server: DevServer) -> set[str]:
    client = boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        region_name=REGION,
        aws_access_key_id=server.access_key_id,
        aws_secret_access_key=server.secret_access_key,
    )
    try:
        return {each["Name"] for each in client.list_buckets()["Buckets"]}
    finally:
        client.close()


@pytest.mark.parametrize("step", ["take", "remove", "check"])
def test_a_server_that_hangs_is_started_again_at_the_same_address(server: DevServer, step: str) -> None:
    buckets, address = Buckets(server, answer_seconds=1.0), server.endpoint_url
    if step != "take":
        first = buckets.take()
    hang(server)
    if step == "remove":
        buckets.remove(first)
    elif step == "check":
        buckets.check()
    name = buckets.take()
    assert name in names(server)
    assert server.endpoint_url == address


def test_a_server_that_answers_keeps_its_buckets(server: DevServer) -> None:
    buckets = Buckets(server)
    buckets.check()
    first, second = buckets.take(), buckets.take()
    buckets.check()
    buckets.remove(first)
    left = names(server)
    assert second in left
    assert first not in left
