"""verify, devserver and demo, from their start to their last word."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError

Cli = Any


def test_verify_proves_a_manifest_and_notices_what_changed(
    inside: Cli, results: Path, s3: Any, bucket: str, tmp_path: Path
) -> None:
    assert inside("export", results, f"s3://{bucket}", "--manifest", "sent.jsonl").code == 0
    good = inside("verify", "sent.jsonl")
    assert (good.code, good.stderr) == (0, "")
    assert good.stdout.startswith("All 4 objects are as sent.jsonl says.\n")
    read_back = inside("verify", "sent.jsonl", "--read-back", "--json")
    assert (read_back.code, read_back.json["ok"], read_back.json["confirmed_by"]) == (0, True, {"read-back": 4})
    s3.put_object(Bucket=bucket, Key="a.txt", Body=b"ALPHA")
    s3.delete_object(Bucket=bucket, Key="é.par")
    bad = inside("verify", "sent.jsonl")
    assert bad.code == 1
    assert bad.stdout.startswith("2 of 4 objects are not as sent.jsonl says.\n")
    assert len(bad.stderr.splitlines()) == 2
    assert f"s3://{bucket}/é.par: it is not there" in bad.stderr
    told = inside("verify", "sent.jsonl", "--json")
    assert (told.code, told.json["objects_failed"], len(told.json["failures"])) == (1, 2, 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_development_server_starts_serves_and_stops(cli: Cli, tmp_path: Path, number: signal.Signals) -> None:
    process = cli.start("devserver", "--bucket", "first", "--bucket", "second", "--dir", tmp_path / "kept")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("# asyncsink export"):
            break
    variables = dict(shlex.split(line)[1].split("=", 1) for line in lines if line.startswith("export "))
    assert all(line.startswith(("export ", "#")) for line in lines), "the text may be pasted into a shell"
    client = boto3.Session().client(
        "s3",
        endpoint_url=variables["AWS_ENDPOINT_URL"],
        region_name=variables["AWS_REGION"],
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=variables["AWS_SECRET_ACCESS_KEY"],
        config=Config(retries={"total_max_attempts": 1}),
    )
    assert {found["Name"] for found in client.list_buckets()["Buckets"]} == {"first", "second"}
    process.send_signal(number)
    ended = cli.end(process)
    assert (ended.code, ended.stderr) == (0, "stopped\n")
    with pytest.raises(EndpointConnectionError):
        client.list_buckets()
    client.close()
    assert (tmp_path / "kept").is_dir()
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_taken_port_is_one_sentence(inside: Cli, seaweed: Any) -> None:
    ended = inside("devserver", "--port", seaweed.port)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"asyncsink: error: Port {seaweed.port}")


def test_the_demo_keeps_every_promise_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    ended = cli("demo", "--subjects", "2", "--large-file", "20MB")
    assert (ended.code, ended.stderr) == (0, "")
    steps = [line for line in ended.stdout.splitlines() if line.startswith("[")]
    assert [step[:5] for step in steps] == [f"[{number}/6]" for number in range(1, 7)]
    assert "0 bytes sent" in steps[-1]
    assert "What this showed" in ended.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_demo_in_nipype_keeps_every_promise_and_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    ended = cli("demo", "--nipype", "--subjects", "1")
    assert (ended.code, ended.stderr) == (0, "")
    steps = [line for line in ended.stdout.splitlines() if line.startswith("[")]
    assert [step[:5] for step in steps] == [f"[{number}/6]" for number in range(1, 7)]
    assert "the same 6 objects" in steps[2]
    assert "5 objects" in steps[5]
    assert "What this showed" in ended.stdout
    assert "%" not in ended.stdout
    assert list((tmp_path / "tmp").iterdir()) == []


def test_the_demo_in_nipype_without_its_extra_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "sitecustomize.py").write_text("import sys\nsys.modules['nipype'] = None\n")
    ended = cli("demo", "--nipype", PYTHONPATH=os.pathsep.join([str(absent), *sys.path]))
    assert ended.code == 2
    assert "pip install 'asyncsink[nipype]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_demo_goes_its_own_way(inside: Cli, tmp_path: Path) -> None:
    # Somebody's profile, endpoint and proxy must not decide how it goes.
    foreign = {
        "AWS_PROFILE": "nobody-has-this",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://[::1]:1",
    }
    assert inside("demo", "--subjects", "1", "--large-file", "6MB", **foreign).code == 0


@pytest.mark.parametrize("which", [("--large-file", "20MB"), ("--nipype",)])
def test_the_demo_cleans_up_when_it_is_interrupted(cli: Cli, tmp_path: Path, which: tuple[str, ...]) -> None:
    process = cli.start("demo", "--subjects", "2", *which)
    for line in process.stdout:
        if line.startswith("[2/6]"):
            break
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert ended.code == 130
    assert ended.stderr == "interrupted: the server is stopped, and the demo's files are removed\n"
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_broken_promise_of_the_demo_is_exit_1(cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import filecmp\nfilecmp.cmp = lambda *_, **__: False\n")
    ended = cli("demo", "--subjects", "1", "--large-file", "1MB", PYTHONPATH=str(broken))
    assert ended.code == 1
    assert "Not as promised: the local copy of " in ended.stderr
    assert "What this showed" not in ended.stdout


def test_the_demo_without_its_extras_is_one_sentence(cli: Cli, tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    absent.mkdir()
    (absent / "sitecustomize.py").write_text("import sys\nsys.modules['nibabel'] = None\n")
    ended = cli("demo", PYTHONPATH=str(absent))
    assert ended.code == 2
    assert "pip install 'asyncsink[demo]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_the_manifest_of_a_killed_run_is_said_to_be_incomplete(
    inside: Cli, results: Path, bucket: str, tmp_path: Path
) -> None:
    assert inside("export", results, f"s3://{bucket}", "--manifest", "sent.jsonl").code == 0
    lines = (tmp_path / "sent.jsonl").read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["record"] == "end"
    (tmp_path / "sent.jsonl").write_text("".join(lines[:-1]))
    ended = inside("verify", "sent.jsonl")
    assert ended.code == 1
    assert "was killed" in ended.stdout


# -- abort-uploads as people type it -----------------------------------------------------------------------------------


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
