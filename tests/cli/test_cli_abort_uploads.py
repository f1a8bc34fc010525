"""abort-uploads as people type it."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture
def uploads(s3: Any, bucket: str) -> dict[str, str]:
    """Open uploads of a bucket: their ids by their keys."""
    keys = ("study/a", "study/b\u202egnp", "study-2/c")
    return {key: s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"] for key in keys}


def left_open(s3: Any, bucket: str) -> list[str]:
    return sorted(upload["Key"] for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []))


def test_uploads_are_shown_and_then_aborted(inside: Any, s3: Any, bucket: str, uploads: dict[str, str]) -> None:
    dry = inside("abort-uploads", f"s3://{bucket}/study", "--older-than", "0s", "--dry-run")
    assert dry.code == 0
    assert sorted(line.split("  ")[0] for line in dry.stdout.splitlines()[:2]) == ["would abort"] * 2
    assert uploads["study/a"] in dry.stdout
    assert "\\u202e" in dry.stdout  # written out: it would turn the rest of the line around
    assert "2 open uploads" in dry.stdout
    assert left_open(s3, bucket) == sorted(uploads)

    young = inside("abort-uploads", f"s3://{bucket}/study", "--older-than", "7d", "--json").json
    assert (young["uploads_total"], young["uploads_old"], young["uploads"]) == (2, 0, [])

    done = inside("abort-uploads", f"s3://{bucket}/study", "--older-than", "0s", "--json")
    assert done.code == 0
    assert {each["key"]: each["upload_id"] for each in done.json["uploads"]} == {
        key: uploads[key] for key in uploads if key.startswith("study/")
    }
    assert {each["outcome"] for each in done.json["uploads"]} == {"aborted"}
    assert left_open(s3, bucket) == ["study-2/c"]


def test_a_key_that_the_server_lists_otherwise_is_told_and_ends_with_1(inside: Any, s3: Any, bucket: str) -> None:
    s3.create_multipart_upload(Bucket=bucket, Key="p/x\x01y")
    done = inside("abort-uploads", f"s3://{bucket}/p", "--older-than", "0s")
    assert done.code == 1
    assert "may still be open" in done.stderr
    assert "may still be open; 0 aborted" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["s3://bucket/p"], "--older-than"),
        (["s3://bucket/p", "--older-than", "yesterday"], "--older-than='yesterday' is no duration; expected"),
        (["s3://bucket/p\udc80", "--older-than", "1h"], "not valid UTF-8"),
        (["somewhere", "--older-than", "1h"], "has no multipart uploads"),
        (["s3://no-such-bucket-here/p", "--older-than", "1h"], "no-such-bucket-here"),
    ],
)
def test_what_cannot_be_done_is_told_in_a_sentence(inside: Any, arguments: list[str], told: str) -> None:
    ended = inside("abort-uploads", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert told in ended.stderr
    assert inside("abort-uploads", *arguments, "--json").json["interrupted"] is False
