"""What is known without the AWS SDK is what the SDK decides; and what is not certain is left to it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncsink.errors import AsyncSinkError, CredentialsError
from asyncsink.options.schema import Limits, S3Target
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.credentials.file import freeze
from asyncsink.s3.credentials.static_config import StaticS3Config, known_connection
from asyncsink.s3.http.signing import endpoint_of
from asyncsink.s3.sdk.client import open_client

HERE = "http://127.0.0.1:8333"
PAIR = {"AWS_ACCESS_KEY_ID": "AKIDENV", "AWS_SECRET_ACCESS_KEY": "env-secret"}
TARGET = S3Target(bucket="some-bucket", endpoint_url=HERE)
AMAZON = S3Target(bucket="some-bucket", region="eu-west-1")
ABSENT = {"AWS_CONFIG_FILE": os.devnull + "/config", "AWS_SHARED_CREDENTIALS_FILE": os.devnull + "/credentials"}


@contextmanager
def surroundings(variables: dict[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_") or name.lower().endswith("_proxy") or name == "REQUESTS_CA_BUNDLE":
                patch.delenv(name)
        for name, value in (ABSENT | variables).items():
            patch.setenv(name, value)
        yield


def known(target: S3Target, **variables: str) -> StaticS3Config | None:
    with surroundings(variables):
        return known_connection(target)


async def as_the_sdk_decides(target: S3Target) -> dict[str, Any]:
    async with open_client(target, RetryPolicy(), Limits()) as (client, *_):
        session = client._endpoint.http_session
        held = client._request_signer._credentials
        seen: list[str] = []

        def look(request: Any, **_: Any) -> None:
            seen.append(request.url)
            raise LookupError("nothing is sent")

        client.meta.events.register_first("before-send.s3.HeadObject", look)
        with pytest.raises(LookupError):
            await client.head_object(Bucket=target.bucket, Key="k")
        (address,) = seen
        return {
            "endpoint_url": client.meta.endpoint_url,
            "region": client.meta.region_name,
            "verify": session._verify,
            "proxy": session._proxy_config.proxy_url_for(client.meta.endpoint_url),
            "credentials": None if held is None or target.anonymous else await freeze(held),
            "addressed": urlsplit(address).netloc + urlsplit(address).path,
            "other_endpoint": client.meta.config.use_dualstack_endpoint or client.meta.config.use_fips_endpoint,
        }


def compare(target: S3Target, found: StaticS3Config) -> None:
    """In the surroundings of the moment."""
    sdk = asyncio.run(as_the_sdk_decides(target))
    assert (sdk["proxy"], sdk["other_endpoint"]) in [(None, None), (None, False)]
    assert found.region == sdk["region"]
    assert found.ca_bundle == (sdk["verify"] if isinstance(sdk["verify"], str) else "")
    assert sdk["verify"] is not False
    assert found.endpoint_url in (sdk["endpoint_url"], "")
    bound = replace(target, endpoint_url=found.endpoint_url)
    ours = endpoint_of(bound, found.region)
    # The SDK still calls us-east-1's endpoint by its old, global name.
    assert f"{ours.authority}{ours.base_path}k".replace("s3.us-east-1.amazonaws", "s3.amazonaws") == sdk["addressed"]
    if found.credentials is None or sdk["credentials"] is None:
        assert found.credentials is sdk["credentials"] is None
        return
    assert found.credentials.access_key_id == sdk["credentials"].access_key_id
    assert found.credentials.secret_access_key.reveal() == sdk["credentials"].secret_access_key.reveal()
    tokens = [held.session_token and held.session_token.reveal() for held in (found.credentials, sdk["credentials"])]
    assert tokens[0] == tokens[1]


VARIABLES = {
    "AWS_ACCESS_KEY_ID": ["AKIDENV", "", "AKID2"],
    "AWS_SECRET_ACCESS_KEY": ["env-secret", ""],
    "AWS_SESSION_TOKEN": ["token==", ""],
    "AWS_DEFAULT_REGION": ["eu-central-1", "garage", "", "fips-us-east-1", "us-gov-west-1", "cn-north-1", "aws-global"],
    "AWS_REGION": ["ap-south-1"],
    "AWS_ENDPOINT_URL": ["http://127.0.0.1:9000", "https://s3.example.org/", "http://[::1]:9000", ""],
    "AWS_ENDPOINT_URL_S3": ["https://minio.example.org:9001", "https://s3.eu-west-1.amazonaws.com"],
    "AWS_CA_BUNDLE": [os.devnull, ""],
    "REQUESTS_CA_BUNDLE": [os.devnull],
    "AWS_EC2_METADATA_DISABLED": ["true"],
    "AWS_PAGER": [""],
    "AWS_USE_DUALSTACK_ENDPOINT": ["true"],
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": ["true"],
    "AWS_S3_US_EAST_1_REGIONAL_ENDPOINT": ["regional"],
    "HTTPS_PROXY": ["http://proxy.example.org:3128"],
    "http_proxy": ["http://proxy.example.org:3128"],
    "NO_PROXY": ["127.0.0.1,example.org", "*"],
}
# Most variables are absent most of the time, so that both answers are met.
PRESENT = st.fixed_dictionaries(
    {}, optional={name: st.sampled_from(values) for name, values in VARIABLES.items() if name not in PAIR}
)
TARGETS = st.builds(
    S3Target,
    bucket=st.sampled_from(["some-bucket", "dotted.bucket.name", "data--use1-az4--x-s3"]),
    endpoint_url=st.sampled_from(["", HERE, "http://localhost:9000", "https://s3.example.org"]),
    region=st.sampled_from(["", "us-east-1", "eu-west-1", "us-gov-west-1", "cn-north-1", "mx-central-1", "garage"]),
    anonymous=st.booleans(),
)


@given(TARGETS, PRESENT, st.sampled_from([PAIR, PAIR, PAIR, {}, {"AWS_ACCESS_KEY_ID": "AKIDENV"}]), st.data())
@settings(max_examples=80, deadline=None)
def test_what_is_known_is_what_the_sdk_decides(
    target: S3Target, variables: dict[str, str], pair: dict[str, str], data: st.DataObject
) -> None:
    kept = data.draw(st.sets(st.sampled_from(sorted(variables)), max_size=4)) if variables else set()
    said = {name: value for name, value in variables.items() if name in kept} | pair
    with surroundings(said):
        found = known_connection(target)
        if found is not None:
            compare(target, found)


@pytest.mark.parametrize(
    ("target", "variables"),
    [
        (TARGET, PAIR),
        (TARGET, PAIR | {"AWS_DEFAULT_REGION": "garage"}),
        (TARGET, PAIR | {"AWS_SESSION_TOKEN": "t", "AWS_CA_BUNDLE": "/some/bundle.pem"}),
        (TARGET, PAIR | {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "x", "AWS_PAGER": ""}),
        (S3Target(bucket="some-bucket"), PAIR | {"AWS_ENDPOINT_URL": "http://localhost:9000/"}),
        (replace(TARGET, endpoint_url="http://127.0.0.1:60859"), PAIR),
        (replace(TARGET, endpoint_url="http://127.0.0.1:65535"), PAIR),
        (S3Target(bucket="some-bucket"), PAIR | {"AWS_ENDPOINT_URL_S3": HERE, "AWS_ENDPOINT_URL": "http://other:1"}),
        (replace(TARGET, anonymous=True), {}),
        (replace(TARGET, addressing_style="virtual", endpoint_url="https://s3.example.org"), PAIR),
        (TARGET, PAIR | {"https_proxy": "http://proxy.example.org:3128"}),
        (TARGET, PAIR | {"http_proxy": "http://proxy.example.org:3128", "no_proxy": "127.0.0.1"}),
        (AMAZON, PAIR),
        (replace(AMAZON, bucket="dotted.bucket.name"), PAIR),
        (replace(AMAZON, addressing_style="path"), PAIR),
        *((replace(AMAZON, region=region), PAIR) for region in ("us-east-1", "cn-north-1", "us-gov-west-1")),
    ],
)
def test_the_usual_surroundings_are_known(target: S3Target, variables: dict[str, str]) -> None:
    with surroundings(variables):
        found = known_connection(target)
        assert found is not None
        compare(target, found)


@pytest.mark.parametrize(
    ("target", "variables"),
    [
        (TARGET, {}),
        (TARGET, {"AWS_ACCESS_KEY_ID": "AKIDENV"}),
        (TARGET, PAIR | {"AWS_SECRET_ACCESS_KEY": ""}),
        (TARGET, PAIR | {"AWS_SECRET_ACCESS_KEY": "n\nl"}),
        (replace(TARGET, profile="lab"), PAIR),
        *(
            (TARGET, PAIR | {name: "true"})
            for name in (
                "AWS_PROFILE",
                "AWS_DEFAULT_PROFILE",
                "AWS_SECURITY_TOKEN",
                "AWS_CREDENTIAL_EXPIRATION",
                "AWS_USE_FIPS_ENDPOINT",
                "AWS_USE_DUALSTACK_ENDPOINT",
                "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
                "AWS_DATA_PATH",
                "AWS_MAX_ATTEMPTS",
                "AWS_SOMETHING_NEW",
            )
        ),
        (TARGET, PAIR | {"AWS_CA_BUNDLE": ""}),
        (TARGET, PAIR | {"AWS_DEFAULT_REGION": ""}),
        (TARGET, PAIR | {"AWS_DEFAULT_REGION": "us-east-1-fips"}),
        (TARGET, PAIR | {"AWS_DEFAULT_REGION": "Not_A_Region"}),
        (TARGET, PAIR | {"http_proxy": "http://proxy.example.org:3128"}),
        (TARGET, PAIR | {"HTTP_PROXY": "http://proxy.example.org:3128", "NO_PROXY": "elsewhere.example.org"}),
        (AMAZON, PAIR | {"HTTPS_PROXY": "http://proxy.example.org:3128", "NO_PROXY": "example.org"}),
        (replace(AMAZON, region=""), PAIR | {"AWS_DEFAULT_REGION": "eu-west-1"}),
        (replace(AMAZON, region="us-iso-east-1"), PAIR),
        (replace(AMAZON, region="eusc-de-east-1"), PAIR),
        (replace(TARGET, endpoint_url="https://s3.eu-west-1.amazonaws.com"), PAIR),
        (replace(TARGET, endpoint_url="https://vpce-1a2b.s3.eu-west-1.vpce.amazonaws.com"), PAIR),
        (replace(TARGET, endpoint_url="http://under_score:9000"), PAIR),
        (replace(TARGET, endpoint_url="http://127.0.0.1:99999"), PAIR),
        (replace(TARGET, endpoint_url="http://127.0.0.1:65536"), PAIR),
        (replace(TARGET, endpoint_url="http://user:word@127.0.0.1"), PAIR),
        (replace(TARGET, bucket="arn:aws:s3:us-east-1:123456789012:accesspoint/a"), PAIR),
        (replace(AMAZON, bucket="data--use1-az4--x-s3"), PAIR),
    ],
)
def test_what_is_not_certain_is_left_to_the_sdk(target: S3Target, variables: dict[str, str]) -> None:
    assert known(target, **variables) is None


def test_a_system_that_may_know_proxies_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("urllib.request.getproxies", lambda: {"http": "http://proxy.example.org:3128"})
    monkeypatch.setattr("urllib.request.proxy_bypass", lambda host: host.startswith("localhost"))
    assert known(TARGET, **PAIR) is None
    assert known(replace(TARGET, endpoint_url="http://localhost:9000"), **PAIR) is not None


# Files


@pytest.mark.parametrize(
    ("text", "certain"),
    [
        ("[default]\naws_access_key_id = FILEKEY\naws_secret_access_key = a/b+c==\n", True),
        ("# mine\n\n[default]\naws_access_key_id=F\n[lab]\naws_access_key_id=F\naws_session_token=t\n", True),
        ("", True),
        ("[default]\naws_access_key_id = F\nregion = eu-west-1\n", False),
        ("[default]\nca_bundle = /x\n", False),
        ("[default]\ns3 =\n  addressing_style = path\n", False),
        ("[default]\naws_access_key_id = F\n continued\n", False),
        ("[default]\naws_access_key_id = F\naws_access_key_id = G\n", False),
        ("[default]\n[default]\n", False),
        ("[DEFAULT]\naws_access_key_id = F\n", False),
        ("aws_access_key_id = F\n", False),
        ("[default]\nnonsense\n", False),
        ("[défaut]\naws_access_key_id = F\n", False),
        ("[default]\n" + "#\n" * 40_000, False),
    ],
)
def test_a_shared_credentials_file_beside_the_environments_pair(tmp_path: Path, text: str, certain: bool) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    with surroundings(PAIR | {"AWS_SHARED_CREDENTIALS_FILE": str(file)}):
        found = known_connection(TARGET)
        assert (found is not None) is certain
        if found is not None:
            compare(TARGET, found)


WRITTEN = "[default]\naws_access_key_id = FILEKEY\naws_secret_access_key = file/secret+==\n"


@pytest.mark.parametrize(
    ("config", "credentials", "variables", "certain"),
    [
        ("[default]\nregion = eu-west-3\noutput = json\n", WRITTEN, {}, True),
        ("[default]\nregion=eu-west-3\n[profile lab]\nregion = eu-north-1\n", WRITTEN, {}, True),
        ("[profile lab]\nregion = eu-north-1\n", WRITTEN + "aws_session_token = t==\n", {}, True),
        ("[default]\nregion = eu-west-3\n", WRITTEN, PAIR, True),
        ("[default]\nregion = eu-west-3\n", WRITTEN, {"AWS_DEFAULT_REGION": "eu-south-1"}, True),
        ("", WRITTEN, {}, True),
        ("", WRITTEN, {"AWS_ACCESS_KEY_ID": ""}, False),
        ("", WRITTEN, {"AWS_SESSION_TOKEN": "t"}, False),
        ("", "[default]\naws_access_key_id = FILEKEY\n", {}, False),
        ("", "[lab]\naws_access_key_id = FILEKEY\naws_secret_access_key = s\n", {}, False),
        ("[default]\nregion = us-east-1-fips\n", WRITTEN, {}, False),
        ("[default]\nregion = eu-west-3 # mine\n", WRITTEN, {}, False),
        ("[default]\nregion =\n", WRITTEN, {}, False),
        ("[default]\nregion = eu-west-3\n[profile default]\nregion = eu-north-1\n", WRITTEN, {}, False),
        ("[default]\nregion = eu-west-3\nuse_fips_endpoint = true\n", WRITTEN, {}, False),
        ("[default]\nrole_arn = arn:aws:iam::1:role/r\n", WRITTEN, {}, False),
        ("[default]\ncredential_process = /bin/false\n", "", {}, False),
        ("[default]\nendpoint_url = http://other:1\n", WRITTEN, {}, False),
        ("[default]\ns3 =\n    addressing_style = virtual\n", WRITTEN, {}, False),
        ("[sso-session s]\nsso_region = us-east-1\n", WRITTEN, {}, False),
        ("nonsense", WRITTEN, {}, False),
    ],
)
def test_files_as_aws_configure_writes_them(
    tmp_path: Path, config: str, credentials: str, variables: dict[str, str], certain: bool
) -> None:
    (tmp_path / "config").write_text(config)
    (tmp_path / "credentials").write_text(credentials)
    places = {"AWS_CONFIG_FILE": "$THERE/config", "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials")}
    with surroundings(variables | places | {"THERE": str(tmp_path)}):
        found = known_connection(TARGET)
        assert (found is not None) is certain
        if found is not None:
            compare(TARGET, found)


def test_the_home_directory(tmp_path: Path) -> None:
    with surroundings(PAIR | {"HOME": str(tmp_path)}):
        for name in ABSENT:
            del os.environ[name]  # `surroundings` puts back what was there before
        found = known_connection(TARGET)
        assert found is not None
        compare(TARGET, found)
        (tmp_path / ".aws" / "models").mkdir(parents=True)
        assert known_connection(TARGET) is None
        (tmp_path / ".aws" / "models").rmdir()
        (tmp_path / ".aws" / "config").write_text("[default]\nca_bundle = /some/bundle.pem\n")
        assert known_connection(TARGET) is None


def test_creds_path_goes_before_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "credentials.csv"
    file.write_text("User Name,Access Key Id,Secret Access Key\nme,FILEKEY,file-secret\n")
    target = replace(TARGET, creds_path=str(file))
    with surroundings(PAIR):
        found = known_connection(target)
        assert found is not None
        assert found.credentials is not None
        assert found.credentials.access_key_id == "FILEKEY"
        assert "file-secret" not in repr(found)
        compare(target, found)
    with pytest.raises(CredentialsError, match="no-such-file"):
        known(replace(TARGET, creds_path=str(tmp_path / "no-such-file")))


def test_both_refuse_the_same_options() -> None:
    broken = replace(TARGET, endpoint_url="http://127.0.0.1:99999")
    with surroundings(PAIR):
        assert known_connection(broken) is None
        with pytest.raises(AsyncSinkError):
            asyncio.run(as_the_sdk_decides(broken))
