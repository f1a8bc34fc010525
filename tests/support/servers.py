"""The two servers of the conformance suite of transports, and what each of them can do."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any, ClassVar

import boto3
import pytest

from asyncsink.testing.transport_kit import Capability
from asyncsink.testing.transport_suite import TransportSuite

MOTO: frozenset[Capability] = frozenset(
    {
        "sse-s3",
        "tags",
        "storage-class",
        "list-uploads",
        "if-match",
        "part-1-head",
        "if-none-match",
        "if-none-match-complete",
    }
)
SEAWEEDFS: frozenset[Capability] = MOTO | {
    "enforces-checksums",
    "answers-checksums",
    "mpu-checksum",
    "checks-signatures",
    "sse-c",
    "unknown-upload",
}


class OnSeaweedFS(TransportSuite):
    """A subclass opens a transport to `bucket` of `seaweed`."""

    capabilities: ClassVar[frozenset[Capability]] = SEAWEEDFS

    @pytest.fixture
    def endpoint_url(self, seaweed: Any) -> str:
        return str(seaweed.endpoint_url)

    @pytest.fixture
    def independent(self, s3: Any, bucket: str) -> tuple[Any, str]:
        return s3, bucket


class OnMoto(TransportSuite):
    """A subclass opens a transport to the bucket of `independent`, as "testing" with the secret "testing"."""

    capabilities: ClassVar[frozenset[Capability]] = MOTO

    @pytest.fixture
    def endpoint_url(self, moto_url: str) -> str:
        return moto_url

    @pytest.fixture
    def independent(self, endpoint_url: str) -> Iterator[tuple[Any, str]]:
        name = f"test-{uuid.uuid4().hex[:20]}"
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        client = boto3.client("s3", endpoint_url=endpoint_url, region_name="us-east-1", **keys)
        client.create_bucket(Bucket=name)
        yield client, name
        client.close()
