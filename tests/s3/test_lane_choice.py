"""Which lane carries the hot requests, and why."""

from __future__ import annotations

from typing import Any

import boto3
import pytest

from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError
from asyncsink.options.schema import LaneChoice, Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.operations import HeadObject, ListObjects, PutObject
from asyncsink.s3.pacing import Pacer
from asyncsink.s3.stack import LaneRouter, open_lanes

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _credentials(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)


async def lane_of(target: S3Target, choice: LaneChoice = "auto", caller_bucket: Any = None) -> str:
    lanes = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice=choice, caller_bucket=caller_bucket)
    await lanes.transport.aclose()
    return lanes.name


async def test_both_lanes_serve_one_bucket(seaweed: DevServer, bucket: str) -> None:
    target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url)
    lanes = await open_lanes(target, RetryPolicy(), Limits(), Pacer(64), choice="auto")
    transport = lanes.transport
    assert (lanes.name, lanes.endpoint_url) == ("wire", seaweed.endpoint_url)
    assert isinstance(transport, LaneRouter)
    await transport.send(PutObject(key="k", body=b"body"))
    assert (await transport.send(HeadObject(key="k"))).size_bytes == 4
    assert [listed.key for listed in (await transport.send(ListObjects())).objects] == ["k"]
    await transport.aclose()
    await transport.aclose()


async def test_the_lane_can_be_asked_for(seaweed: DevServer, bucket: str) -> None:
    target = S3Target(bucket=bucket, endpoint_url=seaweed.endpoint_url)
    assert await lane_of(target, "aioboto3") == "aioboto3"
    assert await lane_of(target, "wire") == "wire"


async def test_the_environments_endpoint_counts(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", seaweed.endpoint_url)
    lanes = await open_lanes(S3Target(bucket="some-bucket"), RetryPolicy(), Limits(), Pacer(64), choice="auto")
    assert (lanes.name, lanes.endpoint_url) == ("wire", seaweed.endpoint_url)
    await lanes.transport.aclose()


async def test_amazon_needs_a_region_that_is_certain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    assert await lane_of(S3Target(bucket="some-bucket", region="eu-west-1")) == "wire"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    assert await lane_of(S3Target(bucket="some-bucket")) == "aioboto3"


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (S3Target(bucket="data--use1-az4--x-s3", region="us-east-1"), "S3 Express"),
        (S3Target(bucket="arn:aws:s3:us-east-1:123456789012:accesspoint/a", region="us-east-1"), "ARN"),
    ],
)
async def test_other_kinds_of_buckets_are_not_for_the_wire(target: S3Target, reason: str) -> None:
    assert await lane_of(target) == "aioboto3"
    with pytest.raises(ConfigError, match=reason):
        await lane_of(target, "wire")


async def test_a_proxy_is_not_bypassed(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    target = S3Target(bucket="some-bucket", region="us-east-1", endpoint_url="https://s3.example.org")
    assert await lane_of(target) == "aioboto3"


@pytest.mark.parametrize("variable", ["AWS_USE_DUALSTACK_ENDPOINT", "AWS_USE_FIPS_ENDPOINT"])
async def test_other_endpoints_of_amazon(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, "true")
    assert await lane_of(S3Target(bucket="some-bucket", region="us-east-1")) == "aioboto3"


async def test_a_callers_own_bucket_object_sees_every_request(seaweed: DevServer, bucket: str) -> None:
    resource = boto3.Session().resource("s3", endpoint_url=seaweed.endpoint_url, region_name="us-east-1")
    target = S3Target(bucket=bucket)
    assert await lane_of(target, caller_bucket=resource.Bucket(bucket)) == "aioboto3"
    resource.meta.client.close()
