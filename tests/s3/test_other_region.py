"""A bucket in another region than the one that requests are signed for, and bucket names that are not DNS labels."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import asyncsink
from asyncsink.errors import ConfigError, ConnectionLost, WrongRegion
from asyncsink.options.schema import LaneChoice, Limits, S3Target
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.operations import HeadObject, ListObjects
from asyncsink.s3.stack import open_stack
from tests.support.quirky_s3 import Answer, Request, error, quirky_s3

PLACE = "eu-west-3"
ELSEWHERE = "http://127.0.0.1:1/"


def told_by_header(request: Request) -> Answer:
    return error(301, "PermanentRedirect", headers={"x-amz-bucket-region": PLACE, "Location": ELSEWHERE})


def told_by_body(request: Request) -> Answer:
    body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Message>x</Message><Region>{PLACE}</Region></Error>"
    return 400, {"Content-Type": "application/xml"}, body.encode()


def told_by_message(request: Request) -> Answer:
    return error(400, "AuthorizationHeaderMalformed", f"the region 'us-east-1' is wrong; expecting '{PLACE}'")


def told_by_both(request: Request) -> Answer:
    return error(400, "IllegalLocationConstraintException", headers={"x-amz-bucket-region": PLACE})


def told_while_moving(request: Request) -> Answer:
    return error(307, "TemporaryRedirect", headers={"x-amz-bucket-region": PLACE, "Location": ELSEWHERE})


@dataclass
class Regional:
    """Refuses what is signed for another region than PLACE, in one of the ways that servers have."""

    refuse: Any = told_by_header
    refused: list[Request] = field(default_factory=list)

    def __call__(self, request: Request) -> Answer | None:
        if f"/{PLACE}/s3/" in request.headers.get("authorization", ""):
            return None
        self.refused.append(request)
        answer: Answer = self.refuse(request)
        return answer


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    source = tmp_path / "out"
    source.mkdir()
    for number in range(40):
        (source / f"{number:02}").write_text(str(number))
    (source / "large").write_bytes(bytes(9 * MIB))
    return source


@pytest.fixture(params=["wire", "aioboto3"])
def lane(request: pytest.FixtureRequest) -> LaneChoice:
    return request.param  # type: ignore[no-any-return]


@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize(
    "refuse", [told_by_header, told_by_body, told_by_message, told_by_both, told_while_moving], ids=lambda f: f.__name__
)
def test_the_region_that_the_answer_names_is_signed_for(tree: Path, lane: LaneChoice, refuse: Any) -> None:
    regional = Regional(refuse)
    with quirky_s3(regional) as s3:
        report = asyncsink.export_sync(
            {"m": str(tree)}, "s3://tryout/p", journal=False, endpoint_url=s3.url, transport=lane
        )
        report.raise_for_failures()
        assert len(report.receipts) == 41
        assert len(s3.bodies()) == 41
        assert len(regional.refused) == 1
    (told,) = [notice for notice in report.notices if PLACE in notice]
    assert "us-east-1" in told


@pytest.mark.usefixtures("dummy_keys")
def test_every_command_finds_the_way(tree: Path, tmp_path: Path, run_inside: Any) -> None:
    regional = Regional()
    with quirky_s3(regional) as s3:
        env = s3.environment(tmp_path)
        manifest = tmp_path / "m.jsonl"
        planned = run_inside("plan", tree, "s3://tryout/p", env=env)
        published = run_inside("export", tree, "s3://tryout/p", "--manifest", manifest, env=env)
        assert f'"{PLACE}"' in manifest.read_text().partition("\n")[0]
        # Verified where the manifest says, and where somebody says otherwise.
        verified = run_inside("verify", manifest, env=env)
        refused = len(regional.refused)
        verified_elsewhere = run_inside("verify", manifest, "--region", "us-east-1", env=env)
        grabbed = run_inside("grab", "s3://tryout/p", tmp_path / "back", env=env)
        aborted = run_inside("abort-uploads", "s3://tryout/p", "--older-than", "1h", env=env)
    assert refused == 2
    assert len(regional.refused) == 5
    for ended in (planned, published, verified, verified_elsewhere, grabbed, aborted):
        assert ended.returncode == 0, ended.stderr
        assert ended.stderr.count(PLACE.encode()) == (0 if ended is verified else 2)
        assert ended.stderr.count(b"note:") == (0 if ended is verified else 1)
    assert len(list((tmp_path / "back").iterdir())) == 41


@pytest.mark.anyio
@pytest.mark.usefixtures("dummy_keys")
async def test_a_head_that_names_a_region(lane: LaneChoice) -> None:
    for status in (301, 400):
        regional = Regional(lambda _, status=status: (status, {"x-amz-bucket-region": PLACE}, b""))
        with quirky_s3(regional) as s3:
            s3.ordinary(s3.received("PUT", "/tryout/k", {}, b"body"))
            target = S3Target(bucket="tryout", endpoint_url=s3.url, region="us-east-1")
            async with open_stack(target, RetryPolicy(), Limits(), lane=lane) as stack:
                assert (await stack.transport.send(HeadObject(key="k"))).size_bytes == 4
                assert stack.region == PLACE


@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize(
    "region", ["us-east-1", "", "a b", "evil.example/#", "x" * 80, "-", "eu-west-3\r\nx: y", "..", "\u2028"]
)
def test_a_region_that_cannot_be_signed_for_is_told(tree: Path, lane: LaneChoice, region: str) -> None:
    def refuse(_: Request) -> Answer:
        body = f"<Error><Code>AuthorizationHeaderMalformed</Code><Region>{region}</Region></Error>"
        return 400, {}, body.encode()

    with quirky_s3(refuse) as s3:
        with pytest.raises(ConfigError, match="region"):
            asyncsink.export_sync({"m": str(tree)}, "s3://tryout/p", journal=False, endpoint_url=s3.url, transport=lane)
        assert len(s3.log) == 1


@pytest.mark.usefixtures("dummy_keys")
def test_a_server_that_names_ever_other_regions(tree: Path, lane: LaneChoice) -> None:
    def refuse(request: Request) -> Answer:
        return error(301, "PermanentRedirect", headers={"x-amz-bucket-region": f"eu-west-{request.number}"})

    with quirky_s3(refuse) as s3:
        with pytest.raises(ConfigError, match="eu-west-1"):
            asyncsink.export_sync({"m": str(tree)}, "s3://tryout/p", journal=False, endpoint_url=s3.url, transport=lane)
        assert len(s3.log) == 2


@pytest.mark.anyio
@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize(
    ("told", "host"),
    [
        ("eu-west-3", "tryout.s3.eu-west-3.amazonaws.com"),
        ("us-gov-west-1", None),
        ("cn-north-1", None),
        ("eu-isoe-west-1", None),
        ("evil.example", None),
        ("eu-west-3.evil", None),
    ],
)
async def test_at_amazon_only_regions_of_the_same_partition(
    lane: LaneChoice, told: str, host: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def no_network(name: str, *_: Any, **__: Any) -> Any:
        asked.append(name)
        raise socket.gaierror(socket.EAI_NONAME, "no network here")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(aiohttp.connector, "DefaultResolver", aiohttp.ThreadedResolver)
    target = S3Target(bucket="tryout", region="us-west-2")
    retry = RetryPolicy(attempts=1)
    async with open_stack(target, retry, Limits(), lane=lane) as stack:
        error = WrongRegion("wrong", region=told, signed_for="us-west-2")
        if host is None:
            with pytest.raises(WrongRegion):
                await stack.place.follow(error)
            return
        await stack.place.follow(error)
        with pytest.raises(ConnectionLost):
            await stack.transport.send(ListObjects())
    assert set(asked) == {host}


@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize("bucket", ["my_bucket", "MyBucket", "a", "UPPER.and_lower"])
def test_names_that_the_server_decides_about(tree: Path, lane: LaneChoice, bucket: str) -> None:
    with quirky_s3(buckets=(bucket,)) as s3:
        report = asyncsink.export_sync(
            {"m": str(tree)}, f"s3://{bucket}/p", journal=False, endpoint_url=s3.url, transport=lane
        )
        report.raise_for_failures()
        assert len(s3.bodies(bucket)) == 41
        assert all(request.path.startswith(f"/{bucket}") for request in s3.log)


@pytest.mark.parametrize(
    "bucket", ["", ".", "..", "a b", "a\nb", "b?c", "b#c", "x" * 256, "caf\u00e9", "a\\b", "a@b", "%2e"]
)
def test_names_that_are_none(bucket: str) -> None:
    with pytest.raises(ConfigError, match=r"bucket|destination"):
        asyncsink.export_sync({}, f"s3://{bucket}/p", journal=False, endpoint_url="http://127.0.0.1:1")


@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize("bucket", ["tryout", "My_Bucket"])
def test_the_datasinks_publish_where_nipypes_own_does(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nipype.interfaces import io as nio

    from asyncsink.adapters.nipype import DataSink

    source = tmp_path / "a"
    source.write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with quirky_s3(Regional(), buckets=(bucket,)) as s3:
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3.url)
        for kind, folder in ((nio.DataSink, "theirs"), (DataSink, "ours")):
            sink = kind()
            sink.inputs.base_directory = f"s3://{bucket}/{folder}"
            sink.inputs.m = str(source)
            sink.run()
        assert sorted(s3.bodies(bucket)) == ["ours/m/a", "theirs/m/a"]
