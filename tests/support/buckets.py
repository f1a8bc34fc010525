"""Fresh buckets on the server of the tests, which is replaced where it does not answer any more."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, HTTPClientError

from asyncsink.devserver.seaweedfs import REGION, DevServer

AT_ONCE = 16


class Buckets:
    """Makes and removes the buckets of tests.

    On a busy machine, the master inside of SeaweedFS may stop answering its filer: from then on every request for a new
    volume or collection waits. The server is then started again, at the same address, with the same credentials and
    without the old buckets.

    Args:
        server: running, at a fixed port.
        answer_seconds: longest wait for an answer; a request is sent twice.
    """

    def __init__(self, server: DevServer, *, answer_seconds: float = 20.0) -> None:
        self._server = server
        self._answer_seconds = answer_seconds
        self._ready: list[str] = []
        self._taken: set[str] = set()

    def take(self) -> str:
        """The name of a fresh, empty bucket.

        The first object of a bucket waits 200 ms until SeaweedFS has made the bucket's volumes. Many buckets wait for
        that together; between two calls nothing goes on, so that no test meets a thread or a connection of others.
        """
        if not self._ready:
            try:
                self._make()
            except (ClientError, HTTPClientError):
                self._restart()
                self._make()
        name = self._ready.pop()
        self._taken.add(name)
        return name

    def remove(self, name: str) -> None:
        """Remove a bucket; SeaweedFS removes what is inside, and the bucket's volumes with it."""
        if name not in self._taken:
            return  # it went with an earlier server
        self._taken.remove(name)
        try:
            with closing(self._client()) as client:
                client.delete_bucket(Bucket=name)
        except HTTPClientError:
            self._restart()

    def check(self) -> None:
        """Start the server again unless it stores an object: the next test is not to fail for the same reason."""
        if not self._ready:
            return  # the next `take` finds out
        try:
            self._fill(self._ready[-1])
        except (ClientError, HTTPClientError):
            self._restart()

    def _make(self) -> None:
        def make(_: int) -> str:
            name = f"test-{uuid.uuid4().hex[:20]}"
            client.create_bucket(Bucket=name)
            self._fill(name, client)
            return name

        with closing(self._client()) as client, ThreadPoolExecutor(AT_ONCE) as threads:
            self._ready.extend(threads.map(make, range(AT_ONCE)))

    def _fill(self, name: str, client: Any = None) -> None:
        if client is None:
            with closing(self._client()) as own:
                self._fill(name, own)
            return
        client.put_object(Bucket=name, Key="first", Body=b"1")
        client.delete_object(Bucket=name, Key="first")

    def _restart(self) -> None:
        self._ready.clear()
        self._taken.clear()
        self._server.stop()
        self._server.start()

    def _client(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self._server.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self._server.access_key_id,
            aws_secret_access_key=self._server.secret_access_key,
            config=Config(
                s3={"addressing_style": "path"},
                max_pool_connections=AT_ONCE,
                connect_timeout=self._answer_seconds,
                read_timeout=self._answer_seconds,
                retries={"total_max_attempts": 2},
            ),
        )
