"""Multipart uploads that nobody will finish: found by age, below a prefix as a folder, and aborted."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest

import asyncsink
from asyncsink.errors import ConfigError
from asyncsink.testing.peers import CannedPeer, canned
from tests.support.moto import moto_server

pytestmark = pytest.mark.anyio
KEYS = ("a", "a/1 é+%", "a/b/2", "ab/3", "c/4")
DATE = "Date: Wed, 01 Jan 2020 12:00:00 GMT"


@pytest.fixture(params=["seaweedfs", "moto"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, str, str]]:
    """A client, a bucket and the server's URL."""
    if request.param == "seaweedfs":
        seaweed = request.getfixturevalue("seaweed")
        for name, value in seaweed.environment.items():
            monkeypatch.setenv(name, value)
        yield request.getfixturevalue("s3"), request.getfixturevalue("bucket"), seaweed.endpoint_url
        return
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with moto_server() as url:
        client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
        name = f"test-{uuid.uuid4().hex[:20]}"
        client.create_bucket(Bucket=name)
        yield client, name, url
        client.close()


def left_open(client: Any, bucket: str) -> list[str]:
    return sorted(upload["Key"] for upload in client.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


async def test_uploads_below_a_folder_are_aborted_and_no_others(
    request: pytest.FixtureRequest, place: tuple[Any, str, str]
) -> None:
    client, bucket, url = place
    for key in KEYS:
        upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        client.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=b"x" * 100)
    seen: list[asyncsink.AbandonedUpload] = []
    options: dict[str, Any] = {"endpoint_url": url, "region": "us-east-1"}

    # moto says of every upload that it began in 2010.
    age = "1h" if "moto" not in request.node.name else timedelta(days=365_000)
    young = await asyncsink.abort_uploads(f"s3://{bucket}/a", older_than=age, observe=seen.append, **options)
    assert (young.total, young.old, young.ok, seen) == (2, 0, True, [])

    dry = await asyncsink.abort_uploads(
        f"s3://{bucket}/a/", older_than=timedelta(0), dry_run=True, observe=seen.append, **options
    )
    assert sorted(upload.key for upload in seen) == ["a/1 é+%", "a/b/2"]
    assert {upload.outcome for upload in dry.uploads} == {"open"}
    assert all(upload.age_seconds >= 0 for upload in seen)
    assert left_open(client, bucket) == sorted(KEYS)

    done = await asyncsink.abort_uploads(f"s3://{bucket}/a", older_than=0, **options)
    assert (done.total, done.aborted, done.failed) == (2, 2, 0)
    assert left_open(client, bucket) == ["a", "ab/3", "c/4"]

    rest = await asyncsink.abort_uploads(f"s3://{bucket}", older_than="0s", **options)
    assert rest.aborted == 3
    assert left_open(client, bucket) == []
    assert rest.summary() == f"Aborted 3 of 3 open uploads below s3://{bucket}."
    assert dry.summary().startswith("2 of 2 open uploads below ")


def page(*uploads: tuple[str, str], more: bool = False, date: str = DATE) -> bytes:
    listed = "".join(
        f"<Upload><Key>{key}</Key><UploadId>id-{key}</UploadId><Initiated>{at}</Initiated></Upload>"
        for key, at in uploads
    )
    marker = f"<NextKeyMarker>{uploads[-1][0]}</NextKeyMarker><NextUploadIdMarker>m</NextUploadIdMarker>"
    body = (
        f"<ListMultipartUploadsResult><IsTruncated>{str(more).lower()}</IsTruncated>{marker if more else ''}{listed}"
        "</ListMultipartUploadsResult>"
    )
    return canned(200, body.encode(), "Content-Type: application/xml", date)


GONE = canned(404, b"<Error><Code>NoSuchUpload</Code><Message>m</Message></Error>")
DENIED = canned(403, b"<Error><Code>AccessDenied</Code><Message>m</Message></Error>")


@pytest.mark.usefixtures("dummy_keys")
async def test_all_pages_are_read_and_ages_are_by_the_servers_clock() -> None:
    first = page(("p/1", "2020-01-01T10:59:59Z"), more=True)
    # What is too young, and what a server lists although it is not below the prefix.
    last = page(("p/2", "2020-01-01T11:00:01Z"), ("p/3", "2020-01-01T11:00:00Z"), ("q/1", "2019-01-01T00:00:00Z"))
    answers = [first, canned(204, b""), parts_of("id-p/1"), canned(204, b""), GONE, last, DENIED]
    async with CannedPeer(*answers) as peer:
        report = await asyncsink.abort_uploads(
            "s3://bkt/p", older_than="1h", endpoint_url=peer.endpoint_url, region="us-east-1"
        )
    assert [(u.key, u.age_seconds, u.outcome) for u in report.uploads] == [
        ("p/1", 3601.0, "aborted"),
        ("p/3", 3600.0, "failed"),
    ]
    assert "AccessDenied" in report.uploads[1].problem
    assert (report.total, report.ok) == (3, False)
    assert b"key-marker=p%2F1" in peer.heads[5]
    assert b"upload-id-marker=m" in peer.heads[5]
    # A part that landed after the first abort is what the second one is for.
    assert [head.split(b" ")[0] for head in peer.heads[1:5]] == [b"DELETE", b"GET", b"DELETE", b"GET"]


@pytest.mark.usefixtures("dummy_keys")
async def test_what_the_server_does_not_know_is_not_called_aborted() -> None:
    listed = page(("p/1", "2020-01-01T10:00:00Z"), ("p/x\ufffdy", "2020-01-01T10:00:00Z"))
    async with CannedPeer(listed, GONE, GONE) as peer:
        report = await asyncsink.abort_uploads(
            "s3://bkt/p", older_than="1h", endpoint_url=peer.endpoint_url, region="us-east-1"
        )
    assert {u.key: u.outcome for u in report.uploads} == {"p/1": "gone", "p/x\ufffdy": "failed"}
    assert (report.aborted, report.gone, report.failed, report.ok) == (0, 1, 1, False)
    assert "characters that the server cannot list" in next(u.problem for u in report.uploads if u.problem)
    assert "may still be open; 0 aborted, 1 had ended before" in report.summary()


def parts_of(upload_id: str) -> bytes:
    body = f"<ListPartsResult><UploadId>{upload_id}</UploadId><IsTruncated>false</IsTruncated></ListPartsResult>"
    return canned(200, body.encode(), "Content-Type: application/xml")


async def test_what_is_no_bucket_has_no_uploads(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="has no multipart uploads"):
        await asyncsink.abort_uploads(tmp_path, older_than="1h")


def stamp(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.usefixtures("dummy_keys")
@pytest.mark.parametrize("date", ["Fri, 01 Jan 2038 12:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT", "soon"])
async def test_no_young_upload_is_aborted_because_a_date_lies(date: str) -> None:
    listed = page(("p/young", stamp(minutes=5)), date=f"Date: {date}")
    async with CannedPeer(listed, canned(204, b""), GONE) as peer:
        report = await asyncsink.abort_uploads(
            "s3://bkt/p", older_than="7d", endpoint_url=peer.endpoint_url, region="us-east-1"
        )
    assert (report.total, report.old, report.ok) == (1, 0, True)
    assert len(peer.heads) == 1
    assert [notice.split(" (")[0] for notice in report.notices] == ([] if date == "soon" else ["The server's clock"])


@pytest.mark.usefixtures("dummy_keys")
async def test_uploads_without_a_time_are_left_alone_and_told() -> None:
    times = ("yesterday", "", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", stamp(days=-2))
    listed = page(*((f"p/{number}", time) for number, time in enumerate(times)), date="Date: now")
    listed = listed.replace(b"<Initiated></Initiated>", b"         " + b" " * 14)  # missing, as long as before
    async with CannedPeer(listed, canned(204, b""), GONE) as peer:
        report = await asyncsink.abort_uploads(
            "s3://bkt/p", older_than="0s", endpoint_url=peer.endpoint_url, region="us-east-1"
        )
    assert {upload.key: upload.outcome for upload in report.uploads} == dict.fromkeys(
        [f"p/{number}" for number in range(5)], "undated"
    )
    assert (report.total, report.old, report.undated, report.ok) == (5, 0, 5, False)
    assert all("left alone" in upload.problem for upload in report.uploads)
    assert "5 left alone" in report.summary()
    assert len(peer.heads) == 1


@pytest.mark.usefixtures("dummy_keys")
async def test_a_time_without_a_zone_is_utc() -> None:
    listed = page(("p/old", stamp(hours=3).removesuffix("Z")), date="Date: now")
    async with CannedPeer(listed, canned(204, b""), GONE) as peer:
        report = await asyncsink.abort_uploads(
            "s3://bkt/p", older_than="2h", endpoint_url=peer.endpoint_url, region="us-east-1"
        )
    assert (report.aborted, report.undated) == (1, 0)


@pytest.mark.parametrize("age", [-1, "-1s", timedelta(seconds=-1), float("nan"), "0", True])
async def test_an_age_that_is_none_is_refused(age: Any) -> None:
    with pytest.raises(ConfigError, match=r"older_than=.* is no duration"):
        await asyncsink.abort_uploads("s3://bkt/p", older_than=age)


@pytest.mark.usefixtures("dummy_keys")
async def test_the_parts_of_another_upload_are_not_believed() -> None:
    listed = page(("p/1", "2020-01-01T10:00:00Z"))
    answers = [listed, canned(204, b""), *[parts_of("another")] * 20]
    async with CannedPeer(*answers) as peer:
        report = await asyncsink.abort_uploads(
            "s3://bkt/p",
            older_than="1h",
            endpoint_url=peer.endpoint_url,
            region="us-east-1",
            retry=asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.001, backoff_seconds_max=0.001),
        )
    assert (report.aborted, report.failed) == (0, 1)
    assert "the parts of another upload" in report.uploads[0].problem
