"""S3's other addresses: the hosts, paths and kinds of signature are those that botocore has for the same bucket."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config

import asyncsink
from asyncsink.errors import ConfigError
from asyncsink.maintenance.verify import verify_manifest
from asyncsink.options.parse import parse_options, parse_target
from asyncsink.options.schema import S3Target
from asyncsink.options.settings import MIB
from asyncsink.routing.attributes import make_end
from asyncsink.s3.http.signing import endpoint_of
from tests.support.hosts import ConnectProxy
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, error
from tests.support.tls import Authority

pytestmark = pytest.mark.anyio

REGION = "us-west-2"
ACCOUNT = "123456789012"
OUTPOST = f"arn:aws:s3-outposts:{REGION}:{ACCOUNT}:outpost"
SESSION = (
    b"<CreateSessionResult><Credentials><SessionToken>of-the-session</SessionToken><SecretAccessKey>s</SecretAccessKey>"
    b"<AccessKeyId>OFSESSION</AccessKeyId><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>"
    b"</CreateSessionResult>"
)
BUCKETS = {
    "access point": f"arn:aws:s3:{REGION}:{ACCOUNT}:accesspoint/myap",
    "access point with a colon": f"arn:aws:s3:{REGION}:{ACCOUNT}:accesspoint:myap",
    "access point of another region": f"arn:aws:s3:eu-west-3:{ACCOUNT}:accesspoint/myap",
    "access point alias": "myap-abcdefghij0123456789abcdefghijusw2a-s3alias",
    "multi-region access point": f"arn:aws:s3::{ACCOUNT}:accesspoint/mfzwi23gnjvgw.mrap",
    "directory bucket": "data--usw2-az1--x-s3",
    "access point of a directory bucket": "myap--usw2-az1--xa-s3",
    "outposts": f"{OUTPOST}/op-01234567890123456/accesspoint/myap",
    "outposts with colons": f"{OUTPOST}:op-01234567890123456:accesspoint:myap",
    "outposts alias": "test-accessp-o0b1d075431d83bebde8xz5w8ijx1qzlbp3i3kuse10--op-s3",
    "object lambda": f"arn:aws:s3-object-lambda:{REGION}:{ACCOUNT}:accesspoint/mylambda",
    "object lambda alias": "my-olap-hrzrlukc5m36ft7okagglf3gmwluquse1b--ol-s3",
    "ordinary": "tryout",
    "name with a dot": "try.out",
}
SETTINGS: dict[str, tuple[dict[str, str], str]] = {
    "dual-stack": ({"AWS_USE_DUALSTACK_ENDPOINT": "true"}, ""),
    "FIPS": ({"AWS_USE_FIPS_ENDPOINT": "true"}, ""),
    "dual-stack and FIPS": ({"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, ""),
    "accelerate": ({}, "[default]\ns3 =\n  use_accelerate_endpoint = true\n"),
    "accelerate and dual-stack": (
        {"AWS_USE_DUALSTACK_ENDPOINT": "true"},
        "[default]\ns3 =\n  use_accelerate_endpoint = true\n",
    ),
}


@dataclass(frozen=True)
class Address:
    """How a request reaches a bucket.

    Attributes:
        host: of the request.
        base: what its path has before the key.
        algorithm: of its signature ("AWS4-HMAC-SHA256").
        scope: region and service, or the service, of its signature.
        session: it is signed for a session of a directory bucket.
    """

    host: str
    base: str
    algorithm: str
    scope: str
    session: bool


def address(host: str, path: str, headers: Any) -> Address:
    signed = re.match(r"(\S+) Credential=[^/]+/[0-9]{8}/(.+)/aws4_request,", headers["authorization"])
    assert signed is not None
    return Address(host, unquote(path).partition("p/")[0], signed[1], signed[2], "x-amz-s3session-token" in headers)


def truth(bucket: str) -> Address:
    """What botocore makes of a PutObject, with the environment and the files of this moment."""
    client = boto3.Session().client("s3", region_name=REGION, config=Config(retries={"total_max_attempts": 1}))
    seen: list[Address] = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        body = SESSION if "?session" in request.url else b""
        headers = {
            name.lower(): value.decode() if isinstance(value, bytes) else value
            for name, value in request.headers.items()
        }
        parts = urlsplit(request.url)
        if not body:
            seen.append(address(parts.netloc, parts.path, headers))
        response = AWSResponse(request.url, 200, {}, None)
        response._content = body
        return response

    client.meta.events.register("before-send.s3.*", answer)
    client.put_object(Bucket=bucket, Key="p/k", Body=b"x")
    client.close()
    return seen[-1]


@pytest.fixture
def here(tmp_path: Path, dummy_keys: None) -> Path:
    source = tmp_path / "out"
    source.mkdir()
    for name in ("a", "b c", "d"):
        (source / name).write_text(name)
    (source / "large").write_bytes(bytes(9 * MIB))
    return tmp_path


class Recording(QuirkyS3):
    """Takes every host for one bucket with the rest of the path as key, and tells ETags that are no MD5."""

    base = ""

    def answer(self, r: Request) -> Answer | Any:
        if self.behind:
            now = datetime.datetime.now(datetime.UTC) - self.behind
            signed_at = datetime.datetime.strptime(r.headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z")
            if abs(now - signed_at) > datetime.timedelta(minutes=15):
                refused = error(403, "RequestTimeTooSkewed", headers={"Date": format_datetime(now, usegmt=True)})
                return refused if r.method != "HEAD" else (*refused[:2], b"")
        if "session" in r.query:
            if self.refused_sessions:
                self.refused_sessions -= 1
                return error(503, "SlowDown")
            return 200, {"Content-Type": "application/xml"}, SESSION
        path = f"{unquote(r.path.partition('?')[0])}/".removeprefix(f"/{self.base}").removesuffix("/")
        if not path and "prefix" in r.query and self.directories:
            assert r.query["prefix"] == "" or r.query["prefix"].endswith("/")
        status, headers, body = self.ordinary(replace(r, bucket="tryout", key=path))
        if status == 206:  # S3 tells no checksum of a part of an object
            headers = {name: value for name, value in headers.items() if "checksum" not in name}
        stored = self.objects["tryout"].get(path)
        if stored is not None and r.method == "PUT" and "partNumber" not in r.query and self.directories:
            stored.etag = f'"{r.number:032x}"'
            headers["ETag"] = stored.etag
        return status, headers, body

    directories = False
    behind = datetime.timedelta(0)
    refused_sessions = 0


@pytest.fixture
def served(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that starts a server for an address, reached through a proxy."""
    opened: list[Any] = []

    def serve(expected: Address) -> Recording:
        server = Recording(certificate=authority.certificate(expected.host))
        server.base, server.directories = expected.base.removeprefix("/"), expected.session
        proxy = ConnectProxy(server.port)
        opened.extend([proxy, server])
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.setenv("AWS_CA_BUNDLE", authority.path)
        return server

    yield serve
    for each in opened:
        each.close()


async def published_verified_grabbed(here: Path, bucket: str) -> None:
    manifest = str(here / "m.jsonl")
    options: dict[str, Any] = {"region": REGION}
    for _ in range(2):
        report = await asyncsink.export_directory(
            here / "out", f"s3://{bucket}/p/q", journal=False, manifest=manifest, part_size_bytes=5 * MIB, **options
        )
        report.raise_for_failures()
        assert len(report.receipts) + len(report.skips) == 4
    verified = await verify_manifest(manifest, options=options)
    assert (verified.ok, verified.checked) == (True, 4), verified.problems
    grabbed = await asyncsink.grab(f"s3://{bucket}/p/q", here / "back", **options)
    grabbed.raise_for_failures()
    assert {path.name: path.read_bytes() for path in (here / "back").iterdir()} == {
        path.name: path.read_bytes() for path in (here / "out").iterdir()
    }


@pytest.mark.parametrize("bucket", BUCKETS.values(), ids=BUCKETS.keys())
async def test_each_form_is_addressed_as_botocore_does(here: Path, served: Any, bucket: str) -> None:
    expected = truth(bucket)
    server = served(expected)
    await published_verified_grabbed(here, bucket)
    requests = [r for r in server.log if "session" not in r.query]
    assert {r.method for r in requests} >= {"GET", "PUT", "POST", "HEAD"}
    for r in requests:
        assert replace(address(r.headers["host"], r.path, r.headers), base=expected.base) == expected
        assert unquote(r.path.partition("?")[0]).startswith(expected.base.rstrip("/") or "/")
    assert sorted(server.bodies()) == ["p/q/a", "p/q/b c", "p/q/d", "p/q/large"]


@pytest.mark.parametrize("form", ["ordinary", "access point", "object lambda", "directory bucket"])
async def test_a_clock_that_is_wrong_is_corrected_at_each_form(here: Path, served: Any, form: str) -> None:
    server = served(truth(BUCKETS[form]))
    server.behind = datetime.timedelta(days=2)
    await published_verified_grabbed(here, BUCKETS[form])
    assert sorted(server.bodies()) == ["p/q/a", "p/q/b c", "p/q/d", "p/q/large"]


@pytest.mark.parametrize("refused", [1, 2])
async def test_a_session_that_is_refused_is_asked_for_again(here: Path, served: Any, refused: int) -> None:
    bucket = BUCKETS["directory bucket"]
    server = served(truth(bucket))
    server.refused_sessions = refused
    await published_verified_grabbed(here, bucket)
    assert server.refused_sessions == 0
    assert sorted(server.bodies()) == ["p/q/a", "p/q/b c", "p/q/d", "p/q/large"]


@pytest.mark.parametrize(("variables", "config"), SETTINGS.values(), ids=SETTINGS.keys())
async def test_each_kind_of_endpoint_is_addressed_as_botocore_does(
    here: Path, served: Any, variables: dict[str, str], config: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (here / "config").write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(here / "config"))
    expected = truth("tryout")
    server = served(expected)
    await published_verified_grabbed(here, "tryout")
    assert {replace(address(r.headers["host"], r.path, r.headers), base="/") for r in server.log} == {expected}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("form", ["ordinary", "name with a dot", "access point alias", "object lambda alias"])
def test_the_wire_lane_has_the_same_hosts(form: str) -> None:
    expected = truth(BUCKETS[form])
    endpoint = endpoint_of(S3Target(bucket=BUCKETS[form]), REGION)
    assert (endpoint.authority, endpoint.base_path) == (expected.host, expected.base)


@pytest.mark.parametrize("bucket", BUCKETS.values(), ids=BUCKETS.keys())
@pytest.mark.parametrize("prefix", ["", "p", "accesspoint/x", "a/accesspoint:y", "p/arn:aws:s3", "é"])
def test_the_prefix_begins_behind_the_bucket(bucket: str, prefix: str) -> None:
    url = f"s3://{bucket}/{prefix}".rstrip("/")
    target = parse_target(url, {})
    assert isinstance(target, S3Target)
    assert (target.bucket, target.prefix) == (bucket, prefix)
    settings = parse_options(url, {})
    assert make_end(settings.routing, url).bytes_max == 1024 - (len(prefix.encode()) + 1 if prefix else 0)


@pytest.mark.parametrize(
    "bucket",
    [
        "arn:aws:s3:us-west-2:1:accesspoint/a",
        f"arn:aws:s3:us-west-2:{ACCOUNT}:bucket/a",
        f"arn:aws:sns:us-west-2:{ACCOUNT}:topic",
        "arn:aws:s3:::tryout",
        f"{OUTPOST}/op-01234567890123456",
        f"{OUTPOST}/op-01234567890123456/bucket/b",
        "arn:",
    ],
)
def test_other_arns_are_refused(bucket: str) -> None:
    with pytest.raises(ConfigError, match="ARN"):
        parse_target(f"s3://{bucket}/p", {})
    with pytest.raises(ConfigError, match="ARN"):
        parse_target("s3://tryout/p", {"bucket": bucket})


def test_an_arn_as_the_bucket_option() -> None:
    target = parse_target("s3://tryout/p", {"bucket": BUCKETS["outposts"]})
    assert isinstance(target, S3Target)
    assert (target.bucket, target.prefix) == (BUCKETS["outposts"], "p")
