"""Opening a client: settings, credentials and endpoints are checked before anything is sent."""

from __future__ import annotations

import asyncio
import hashlib
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import aioboto3
import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config

from asyncsink.errors import AccessDenied, AsyncSinkError, ConfigError, ConnectionLost, CredentialsError
from asyncsink.options.schema import LaneChoice, Limits, S3Target, SignPayload
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.options.values import check_endpoint
from asyncsink.s3.credentials.file import bucket_settings
from asyncsink.s3.endpoint import payload_must_be_signed
from asyncsink.s3.http.signing import endpoint_of
from asyncsink.s3.operations import HeadObject, ListObjects, PutObject
from asyncsink.s3.sdk.client import open_client
from asyncsink.s3.sdk.transport import Aioboto3Transport
from asyncsink.s3.stack import open_stack
from asyncsink.testing.peers import CannedPeer, SilentPeer, canned
from tests.support.tls import Authority

pytestmark = pytest.mark.anyio
STORED = canned(200, b"", 'ETag: "e"')


async def opened(target: S3Target, **options: Any) -> Aioboto3Transport:
    return await Aioboto3Transport.open(target, RetryPolicy(), Limits(), **options)


@pytest.mark.usefixtures("dummy_keys")
async def test_the_settings() -> None:
    target = S3Target(bucket="tst", endpoint_url="http://127.0.0.1:1")
    async with open_client(target, RetryPolicy(stall_seconds=7), Limits(concurrency=40)) as (client, *_):
        config = client.meta.config
        assert config.retries["total_max_attempts"] == 1
        assert config.s3 == {"payload_signing_enabled": False, "addressing_style": "path"}
        assert config.request_checksum_calculation == "when_required"
        assert config.response_checksum_validation == "when_required"
        assert config.max_pool_connections == 48
        assert config.connector_args["keepalive_timeout"] < 5
        assert client.meta.endpoint_url == "http://127.0.0.1:1"


@pytest.mark.usefixtures("dummy_keys")
async def test_amazon_is_addressed_by_host_and_path_style_is_kept() -> None:
    async with open_client(S3Target(bucket="tst"), RetryPolicy(), Limits()) as (client, *_):
        assert client.meta.config.s3["addressing_style"] == "auto"
        assert client.meta.endpoint_url.endswith("amazonaws.com")
    styled = S3Target(bucket="tst", endpoint_url="https://s3.example.org", addressing_style="virtual")
    async with open_client(styled, RetryPolicy(), Limits()) as (client, *_):
        assert client.meta.config.s3["addressing_style"] == "virtual"


@pytest.mark.usefixtures("dummy_keys")
async def test_the_endpoint_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2")
    async with open_client(S3Target(bucket="tst"), RetryPolicy(), Limits()) as (client, *_):
        assert client.meta.endpoint_url == "http://127.0.0.1:2"
        assert client.meta.config.s3["addressing_style"] == "path"


async def test_no_credentials() -> None:
    with pytest.raises(CredentialsError, match="creds_path="):
        await opened(S3Target(bucket="tst", endpoint_url="http://127.0.0.1:1"))


async def test_half_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKID")
    with pytest.raises(CredentialsError, match="AWS_SECRET_ACCESS_KEY"):
        await opened(S3Target(bucket="tst"))


async def test_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "credentials"
    file.write_text("[lab]\naws_access_key_id=LABKEY\naws_secret_access_key=s\naws_session_token=t\n[half]\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with pytest.raises(CredentialsError, match="'nobody'"):
        await opened(S3Target(bucket="tst", profile="nobody"))
    async with CannedPeer(STORED) as peer:
        transport = await opened(S3Target(bucket="tst", endpoint_url=peer.endpoint_url, profile="lab"))
        await transport.send(PutObject(key="k", body=b"x"))
        await transport.aclose()
        assert b"LABKEY" in peer.heads[0]
        assert b"x-amz-security-token: t" in peer.heads[0].lower()
    monkeypatch.setenv("AWS_PROFILE", "gone")
    with pytest.raises(CredentialsError, match="'gone'"):
        await opened(S3Target(bucket="tst"))


async def test_a_credential_process_that_prints_a_secret_and_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config"
    file.write_text("[profile p]\ncredential_process = sh -c 'echo hidden-word >&2; exit 1'\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    with pytest.raises(CredentialsError) as caught:
        await opened(S3Target(bucket="tst", profile="p"))
    assert "hidden-word" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("dummy_keys")
async def test_creds_path_goes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "credentials.csv"
    file.write_text("User Name,Access Key Id,Secret Access Key\nme,FILEKEY,file-secret\n")
    async with CannedPeer(STORED) as peer:
        transport = await opened(
            S3Target(bucket="tst", endpoint_url=peer.endpoint_url, creds_path=str(file), request_payer=True)
        )
        await transport.send(PutObject(key="k", body=b"x"))
        assert b"FILEKEY" in peer.heads[0]
        assert b"x-amz-request-payer: requester" in peer.heads[0].lower()
        assert "file-secret" not in repr(transport)
        await transport.aclose()
    with pytest.raises(CredentialsError, match="cannot be read"):
        await opened(S3Target(bucket="tst", creds_path=str(tmp_path / "missing")))


async def test_anonymous_requests_are_not_signed() -> None:
    async with CannedPeer(canned(403, b"")) as peer:
        transport = await opened(S3Target(bucket="tst", endpoint_url=peer.endpoint_url, anonymous=True))
        with pytest.raises(AccessDenied):
            await transport.send(HeadObject(key="k"))
        await transport.aclose()
        assert b"authorization" not in peer.heads[0].lower()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "127.0.0.1:8333",
        "http://",
        "http://a b",
        "http://x:99999",
        "http://x?y=1",
        "https://[::1",
        "http://x:0",
    ],
)
async def test_endpoints_that_are_none(url: str) -> None:
    with pytest.raises(ConfigError, match="endpoint_url"):
        check_endpoint(url)
    with pytest.raises(ConfigError, match="endpoint_url"):
        await opened(S3Target(bucket="tst", endpoint_url=url))


def test_a_password_in_the_endpoint_is_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        check_endpoint("https://me:geheim@s3.example.org")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "signed"),
    [
        ("", False),
        ("https://s3.example.org", False),
        ("http://127.0.0.1:1", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:8333", False),
        ("http://localhost", False),
        ("http://10.0.0.7:9000", True),
        ("http://minio:9000", True),
    ],
)
def test_payloads_are_signed_over_plain_http_to_another_machine(url: str, signed: bool) -> None:
    assert payload_must_be_signed(url) is signed
    assert payload_must_be_signed(url, "always") is True
    assert payload_must_be_signed(url, "never") is False
    target = S3Target(bucket="bkt", endpoint_url=url)
    assert endpoint_of(target, "us-east-1").sign_payload is signed
    assert endpoint_of(replace(target, sign_payload="always"), "us-east-1").sign_payload is True


@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize("lane", ["aioboto3", "wire"])
@pytest.mark.parametrize(("choice", "signed"), [("auto", False), ("always", True), ("never", False)])
async def test_signed_and_unsigned_payloads(lane: LaneChoice, choice: SignPayload, signed: bool) -> None:
    for data in (b"x" * 1000, b"x" * MIB):
        async with CannedPeer(STORED) as peer:
            target = S3Target(bucket="tst", endpoint_url=peer.endpoint_url, region="us-east-1", sign_payload=choice)
            async with open_stack(target, RetryPolicy(), Limits(), lane=lane) as stack:
                await stack.transport.send(PutObject(key="k", body=data))
            head = peer.heads[0].lower()
        assert (b"unsigned-payload" in head) is not signed
        assert (hashlib.sha256(data).hexdigest().encode() in head) is signed
        assert f"content-length: {len(data)}".encode() in head
        assert b"expect:" not in head


async def test_a_wrong_ca_bundle(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    for name in ("no.pem", "missing.pem"):
        with pytest.raises(ConfigError, match="ca_bundle"):
            await opened(S3Target(bucket="tst", ca_bundle=str(tmp_path / name)))


@pytest.mark.usefixtures("dummy_keys")
async def test_an_invalid_bucket_name() -> None:
    transport = await opened(S3Target(bucket="no spaces", endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(ConfigError, match="no spaces"):
        await transport.send(ListObjects())
    await transport.aclose()


# Buckets that the caller brings (Nipype rule 47)


def boto3_bucket(**options: Any) -> Any:
    return boto3.resource("s3", region_name="eu-west-1", **options).Bucket("theirs")


KEYS = {"aws_access_key_id": "THEIRKEY", "aws_secret_access_key": "their-secret", "aws_session_token": "their-token"}


async def test_the_settings_of_a_boto3_bucket(tmp_path: Path) -> None:
    bucket = boto3_bucket(endpoint_url="http://127.0.0.1:5", verify=False, **KEYS)
    settings = await bucket_settings(bucket)
    assert (settings.name, settings.endpoint_url, settings.region) == ("theirs", "http://127.0.0.1:5", "eu-west-1")
    assert settings.credentials is not None
    assert settings.credentials.access_key_id == "THEIRKEY"
    assert settings.credentials.session_token is not None
    assert settings.verify is False
    for word in KEYS.values():
        assert word not in repr(settings)
    bucket.meta.client.close()
    amazon = boto3_bucket(**KEYS)
    assert (await bucket_settings(amazon)).endpoint_url == ""
    amazon.meta.client.close()
    anonymous = boto3_bucket(config=Config(signature_version=UNSIGNED))
    assert (await bucket_settings(anonymous)).anonymous
    anonymous.meta.client.close()


@pytest.mark.parametrize("kind", ["boto3", "aioboto3", "name"])
async def test_requests_as_the_callers_bucket_would_send_them(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with CannedPeer(STORED) as peer:
        target = S3Target(bucket="mine", endpoint_url=peer.endpoint_url if kind == "name" else "")
        if kind == "boto3":
            bucket = boto3_bucket(endpoint_url=peer.endpoint_url, **KEYS)
            transport = await opened(target, caller_bucket=bucket)
            bucket.meta.client.close()
        elif kind == "aioboto3":
            session = aioboto3.Session(**KEYS, region_name="eu-west-1")
            async with session.resource("s3", endpoint_url=peer.endpoint_url) as resource:
                transport = await opened(target, caller_bucket=await resource.Bucket("theirs"))
        else:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "THEIRKEY")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "their-secret")
            monkeypatch.setenv("AWS_SESSION_TOKEN", "their-token")
            monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
            transport = await opened(target, caller_bucket="theirs")
        await transport.send(PutObject(key="k", body=b"x"))
        await transport.aclose()
    (head,) = peer.heads
    assert head.startswith(b"PUT /theirs/k ")
    assert b"Credential=THEIRKEY/" in head
    assert b"/eu-west-1/s3/" in head
    assert b"their-token" in head


async def test_what_is_no_bucket() -> None:
    async def unawaited() -> None:
        """What somebody passes who forgot to await."""

    with pytest.raises(ConfigError, match="await resource"):
        await bucket_settings(unawaited())
    resource = boto3.resource("s3", region_name="eu-west-1", **KEYS)
    for value in (7, b"name", "", object(), resource, resource.Object("b", "k"), resource.meta.client):
        with pytest.raises(ConfigError, match="bucket="):
            await bucket_settings(value)
    resource.meta.client.close()


# TLS


@pytest.mark.usefixtures("dummy_keys")
async def test_tls_with_and_without_trust(authority: Authority) -> None:
    async with CannedPeer(STORED, tls=authority.server_context("127.0.0.1")) as peer:
        stranger = await opened(S3Target(bucket="tst", endpoint_url=peer.endpoint_url))
        with pytest.raises(ConfigError, match="ca_bundle="):
            await stranger.send(PutObject(key="k", body=b"x"))
        await stranger.aclose()
        trusting = await opened(S3Target(bucket="tst", endpoint_url=peer.endpoint_url, ca_bundle=authority.path))
        await trusting.send(PutObject(key="k", body=bytes(MIB)))
        await trusting.aclose()
        assert b"UNSIGNED-PAYLOAD" in peer.heads[0]
        assert b"x-amz-trailer" not in peer.heads[0].lower()


@pytest.mark.usefixtures("dummy_keys")
async def test_tls_to_a_peer_that_never_shakes_hands() -> None:
    async with SilentPeer() as peer:
        url = peer.endpoint_url.replace("http:", "https:")
        policy = RetryPolicy(connect_seconds=0.2, stall_seconds=0.2, complete_seconds=0.2)
        transport = await Aioboto3Transport.open(S3Target(bucket="tst", endpoint_url=url), policy, Limits())
        with pytest.raises(AsyncSinkError):
            await transport.send(ListObjects())
        await transport.aclose()


@pytest.mark.usefixtures("dummy_keys")
async def test_tls_to_a_peer_that_speaks_plain_http() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        transport = await opened(S3Target(bucket="tst", endpoint_url=url))
        with pytest.raises(ConfigError, match=f"{url} does not speak TLS"):
            await transport.send(ListObjects())
        await transport.aclose()


@pytest.mark.usefixtures("dummy_keys")
async def test_a_refused_connection_is_said_in_plain_words() -> None:
    transport = await opened(S3Target(bucket="tst", endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(ConnectionLost, match=r"could not be made or was lost \(connection refused\)"):
        await transport.send(ListObjects())
    await transport.aclose()
