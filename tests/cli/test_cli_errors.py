"""Everything that can be wrong before the first object is sent: exit 2, one clear sentence, and nothing published."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Any
WRONG_SECRET = "wrong/secret+not-to-be-shown-000000000"


def refused(ended: Any, *words: str) -> None:
    """It ended with 2, and said so in one sentence that has these words."""
    assert ended.code == 2, ended
    assert ended.stdout == ""
    lines = ended.stderr.splitlines()
    assert lines[0].startswith("asyncsink: error: ")
    assert all(word in lines[0] for word in words), lines[0]
    assert all(line.startswith(("  ", "Try: ")) for line in lines[1:])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "results", "s3:/bucket"], ["s3:/bucket", "write s3://bucket."]),
        (["export", "results", "https://t.s3.eu-west-1.amazonaws.com/x"], ["unknown scheme", "write s3://t/x."]),
        (["export", "results", "arn:aws:s3:::t/x"], ["write s3://t/x."]),
        (["verify", "s3://t/x"], ["is a bucket", "asyncsink check DIR s3://t/x"]),
        (["split", "results", "s3://t/x"], ["DIR is missing", "asyncsink split results s3://t/x parts"]),
        (["check", "results"], ["asyncsink check derivatives s3://"]),
        (["plan", "results"], ["asyncsink plan derivatives s3://"]),
        (["export", "results", "gs://bucket/p"], ["unknown scheme", "gs"]),
        (["export", "results", "s3://Bad Bucket/p"], ["Bad Bucket", "not legal"]),
        (["export", "results", "s3://bucket/../p"], ["'..'"]),
        (["export", "results", ""], ["destination"]),
        (["export", "gone", "s3://bucket"], ["SOURCE 'gone'", "No such file"]),
        (["export", "results/a.txt", "s3://bucket/p/a.txt"], ["name of the file", "write s3://bucket/p/"]),
        (["export", "results"], ["Only one of SOURCE and DESTINATION", "'results'"]),
        (["export", "results", "--outputs", "o.json", "s3://bucket"], ["--outputs and SOURCE"]),
        (
            ["export", "--outputs", "o.json", "--source-manifest", "m.csv", "s3://bucket"],
            ["--source-manifest both say"],
        ),
        (["export", "results", "-", "s3://bucket"], ["SOURCE -", "stands alone"]),
        (["export", "results", "s3://bucket", "--exclude-from", "gone"], ["--exclude-from", "gone'", "No such file"]),
        (["export", "results", "s3://bucket", "--include", "["], ["--include '[' is a malformed pattern"]),
        (["export", "results", "s3://bucket", "--files-from", "leaving"], ["line 1 is '../x'", "not below"]),
        (["export", "results", "results", "s3://bucket", "--files-from", "results/a.txt"], ["one directory"]),
        (["export", "results", "s3://bucket", "--files-from", "-"], ["--files-from is -"]),
        (["export", "results", "s3://bucket", "--preset", "bidz"], ["--preset", "Did you mean 'bids'?"]),
        (["export", "results", "s3://bucket", "--newer-than", "monday"], ["--newer-than", "2026-11-30"]),
        (["export", "results", "s3://bucket", "--min-size", "2M", "--max-size", "1M"], ["--min-size", "no file"]),
        (["export", "results", "s3://bucket", "--set", "*.nii"], ["--set '*.nii'", "PATTERN:NAME=VALUE"]),
        (["export", "results", "s3://bucket", "--set", "*.nii:storage_class=cold"], ["storage", "STANDARD_IA"]),
        (["export", "--outputs", "broken.yaml", "s3://bucket"], ["broken.yaml", "line 1"]),
        (["export", "--source-manifest", "broken.csv", "s3://bucket"], ["broken.csv", "columns"]),
        (["export", "results", "s3://bucket", "--overwrite", "chekcsum"], ["--overwrite", "Did you mean 'checksum'?"]),
        (["export", "results", "s3://bucket", "--symlinks", "folow"], ["--symlinks", "Did you mean 'follow'?"]),
        (["export", "results", "s3://bucket", "--compat", "x"], ["--compat", "'nipype'"]),
        (["export", "results", "s3://bucket", "--checksum", "crc65"], ["checksum", "CRC65"]),
        (["export", "results", "s3://bucket", "--part-size", "8 apples"], ["--part-size", "8 apples"]),
        (["export", "results", "s3://bucket", "--part-size", "1MiB"], ["5 MiB to 5 GiB"]),
        (["export", "results", "s3://bucket", "--memory", "1MiB"], ["memory"]),
        (["export", "results", "s3://bucket", "--bandwidth", "fast"], ["--bandwidth", "fast"]),
        (["export", "results", "s3://bucket", "--bandwidth", "5kB"], ["--bandwidth", "16,384"]),
        (["export", "results", "s3://bucket", "--concurrency", "many"], ["concurrency", "many"]),
        (["export", "results", "s3://bucket", "--concurrency", "0"], ["concurrency", "1 to"]),
        (["export", "results", "s3://bucket", "--substitute", "nothing"], ["--substitute", "OLD=NEW"]),
        (["export", "results", "s3://bucket", "--substitute", "=new"], ["--substitute", "OLD=NEW"]),
        (["export", "results", "s3://bucket", "--regexp-substitute", "(=x"], ["("]),
        (["export", "results", "s3://bucket", "--regexp-substitute", "(=x"], ["--regexp-substitute '(=x'"]),
        (["export", "results", "s3://bucket", "--overwrite", "chekcsum"], ["--overwrite chekcsum is not known"]),
        (
            ["export", "results", "s3://bucket", "--creds-path", "a", "--profile", "b"],
            ["--creds-path and --profile both name credentials"],
        ),
        (["grab", "s3://b", "x", "--infield", "a=1"], ["--infield is given", "give --template or --field-template"]),
        (
            ["grab", "s3://b", "x", "--template", "x", "--template-args", "y"],
            ["--template-args y is no JSON; expected"],
        ),
        (["export", "results", "s3://bucket", "--tag", "a=1", "--tag", "a=2"], ["--tag", "twice"]),
        (["export", "results", "s3://bucket", "--metadata", "a b=1"], ["a b"]),
        (["export", "results", "s3://bucket", "--acl", "publik"], ["publik"]),
        (["export", "results", "s3://bucket", "--sse", "AES"], ["--sse", "file:PATH"]),
        (["export", "results", "s3://bucket", "--sse", "file:gone"], ["--sse", "gone", "No such file"]),
        (["export", "results", "s3://bucket", "--sse", "file:results/a.txt"], ["--sse", "32"]),
        (["export", "results", "s3://bucket", "--sse-kms-key-id", "k"], ["sse"]),
        (
            ["export", "results", "s3://bucket", "--endpoint-url", "localhost"],
            ["--endpoint-url localhost is malformed"],
        ),
        (["export", "results", "s3://bucket", "--local-copy", ""], ["--local-copy is empty"]),
        (["export", "results", "s3://bucket", "--local-copy", "s3://a/b"], ["--local-copy", "expected a directory"]),
        (["export", "results", "s3://bucket", "--creds-path", "gone"], ["--creds-path gone"]),
        (["export", "results", "s3://bucket", "--memory", "9" * 400], ["--memory"]),
        (["export", "results", "s3://bucket", "--ca-bundle", "gone"], ["--ca-bundle gone", "(No such file"]),
        (["export", "results", "s3://bucket", "--ca-bundle", "results/a.txt"], ["(it holds no certificate"]),
        (["export", "results", "s3://bucket", "--set", "*.nii"], ["NAME is storage-class, content-type,"]),
        (["export", "results", "s3://bucket", "--container", "a/../b"], ["--container", "below the destination"]),
        (["export", "results", "s3://bucket", "--retries", "x"], ["--retries x is no number"]),
        (["split", "results", "s3://bucket", "parts", "--parts", "0"], ["--parts 0"]),
        (["split", "results", "s3://bucket", "parts", "--part-bytes", "x"], ["--part-bytes x"]),
        (["split", "results", "s3://b", "p", "--parts", "2", "--part-bytes", "9"], ["--parts and the limits --part-b"]),
        (["recipe", "pbs"], ["There is no recipe 'pbs'"]),
        (["plan", "results", "out", "--manifest", "m.jsonl"], ["plan writes no manifest"]),
        (["export", "results", "out", "--dry-run", "--manifest", "m.jsonl"], ["plan writes no manifest"]),
        (["export", "results", "s3://bucket", "--profile", "nobody-has-this"], ["nobody-has-this"]),
        (["export", "results", "out", "--manifest", "no/such/folder"], ["manifest", "no/such/folder"]),
        (["export", "results", "s3://bucket", "--parameterization", "--no-parameterization"], ["contradict"]),
        (["export", "results", "--bucket", "bucket", "out"], ["out", "s3://"]),
        (["export", "results", "s3://bucket", "--overwrit", "never"], ["--overwrit"]),
        (["export", "results", "s3://bucket", "more"], ["s3://bucket"]),
        (["export", "results"], ["DESTINATION"]),
        (["exprot", "results", "s3://bucket"], ["exprot"]),
        (["verify", "gone.jsonl"], ["gone.jsonl"]),
        (["verify", "results/a.txt"], ["a.txt", "line 1: this is no JSON object; expected the manifest"]),
        (["devserver", "--port", "x"], ["--port"]),
        (["devserver", "--bucket", "X"], ["X", "bucket"]),
        (["demo", "--large-file", "big"], ["--large-file"]),
    ],
)
def test_wrong_words(inside: Cli, results: Path, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    (tmp_path / "broken.yaml").write_text("[1, 2")
    (tmp_path / "broken.csv").write_text("from,to\na,b\n")
    (tmp_path / "leaving").write_text("../x\n")
    refused(inside(*arguments), *words)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["export", "results", "s3:/bucket"], ["s3:/bucket", "write s3://bucket."]),
        (["export", "gone", "s3://bucket"], ["SOURCE 'gone'", "No such file"]),
        (["export", "results", "s3://bucket", "--overwrite", "chekcsum"], ["--overwrite", "Did you mean 'checksum'?"]),
        (["export", "results", "s3://bucket", "--overwrit", "never"], ["--overwrit"]),
    ],
)
def test_wrong_words_end_the_process_with_2(cli: Cli, results: Path, arguments: list[str], words: list[str]) -> None:
    refused(cli(*arguments), *words)


def test_a_missing_bucket(inside: Cli, results: Path) -> None:
    refused(inside("export", results, "s3://nobody-made-this-bucket"), "nobody-made-this-bucket", "Create the bucket")


def test_a_wrong_secret_is_named_and_never_shown(cli: Cli, results: Path, bucket: str) -> None:
    ended = cli("export", results, f"s3://{bucket}", AWS_SECRET_ACCESS_KEY=WRONG_SECRET)
    refused(ended, "SignatureDoesNotMatch")
    loud = cli("export", results, f"s3://{bucket}", "--verbose", AWS_SECRET_ACCESS_KEY=WRONG_SECRET)
    assert loud.code == 2


def test_https_where_the_server_speaks_http(inside: Cli, results: Path, seaweed: Any) -> None:
    url = seaweed.endpoint_url.replace("http:", "https:")
    ended = inside("export", results, "s3://bucket", "--endpoint-url", url)
    refused(ended, f"{url} does not speak TLS, but plain HTTP", "http://…")
    assert "_ssl.c" not in ended.stderr


def test_config_names_a_wrong_value(inside: Cli) -> None:
    refused(inside("config", ASYNCSINK_RETRIES="many"), "--retries many is no number")
    refused(inside("config", "grab", ASYNCSINK_PART_SIZE="1k"), "--part-size")
    assert "ASYNCSINK_PART_SIZE" in inside("config", ASYNCSINK_PART_SIZE="1k").stderr
    assert inside("config", ASYNCSINK_RETRIES="7").code == 0


def test_an_unreachable_endpoint(inside: Cli, results: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    ended = inside("export", results, "s3://bucket", "--endpoint-url", f"http://127.0.0.1:{port}")
    refused(ended, f"127.0.0.1:{port}")


@pytest.mark.parametrize("content", ["", "nothing here", "Access key ID,Secret access key\n", "AWSAccessKeyId=\n"])
def test_a_broken_credentials_file_is_not_repeated(inside: Cli, results: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "creds").write_text(f"{content}\n{WRONG_SECRET}")
    refused(inside("export", results, "s3://bucket", "--creds-path", "creds"), "creds", "Accepted are")


def test_a_key_given_as_sse_is_not_repeated(inside: Cli, results: Path, keep_secret: Callable[[str], str]) -> None:
    refused(inside("export", results, "s3://bucket", "--sse", WRONG_SECRET), "--sse")
    inside("export", results, "s3://bucket", "--sse", WRONG_SECRET, "--json", "--verbose")


@pytest.mark.parametrize("destination", [f"s3://AKIA:x/{WRONG_SECRET}@bucket/p", f"https://AK:{WRONG_SECRET}@host/b"])
def test_credentials_in_the_destination_are_not_repeated(inside: Cli, results: Path, destination: str) -> None:
    refused(inside("export", "results", destination), "not shown", "--creds-path")
    assert inside("export", "results", destination, "--json").json["destination"] == ""


def test_a_collision(inside: Cli, results: Path, tmp_path: Path, bucket: str, s3: Any) -> None:
    (tmp_path / "m.csv").write_text("source,key\nresults/a.txt,same\nresults/é.par,same\n")
    refused(inside("export", "--source-manifest", "m.csv", f"s3://{bucket}"), "same", "a.txt", "é.par")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_an_illegal_key(inside: Cli, results: Path, tmp_path: Path, bucket: str) -> None:
    (tmp_path / "m.csv").write_text("source,key\nresults/a.txt,../up\n")
    refused(inside("export", "--source-manifest", "m.csv", f"s3://{bucket}"), "../up")


def test_several_problems_are_listed_and_nothing_is_sent(
    inside: Cli, results: Path, tmp_path: Path, bucket: str, s3: Any
) -> None:
    rows = "".join(f"gone-{number:02d},k{number}\n" for number in range(15))
    (tmp_path / "m.csv").write_text(f"source,key\nresults/a.txt,a\n{rows}")
    ended = inside("export", "--source-manifest", "m.csv", f"s3://{bucket}")
    refused(ended, "gone-00", "14 more problems")
    assert ended.stderr.count("\n  also: ") == 10
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_a_source_that_is_no_file(inside: Cli, tmp_path: Path, bucket: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "m.csv").write_text("source,key\npipe,a\n")
    refused(inside("export", "--source-manifest", "m.csv", f"s3://{bucket}"), "pipe", "FIFO")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_source(inside: Cli, results: Path) -> None:
    results.chmod(0)
    try:
        refused(inside("export", results, "s3://bucket"), "results", "Permission denied")
    finally:
        results.chmod(0o755)


def test_a_refusal_is_one_json_object_too(inside: Cli, results: Path, tmp_path: Path, bucket: str) -> None:
    (tmp_path / "m.csv").write_text("source,key\ngone,a\ngone-too,b\n")
    ended = inside("export", "--source-manifest", "m.csv", f"s3://{bucket}", "--json")
    assert ended.code == 2
    assert ended.stderr.startswith("asyncsink: error: ")
    assert ended.json["error"]["type"] == "SourceMissing"
    assert len(ended.json["error"]["problems"]) == 1
    assert (ended.json["objects_uploaded"], ended.json["interrupted"]) == (0, False)
    wrong = inside("export", results, f"s3://{bucket}", "--json", "--no-such-option")
    assert (wrong.code, wrong.json["error"]["type"]) == (2, "UsageError")
    assert inside("verify", "gone.jsonl", "--json").json["error"]["type"] == "ConfigError"


def test_a_bug_is_one_sentence_that_shows_no_detail(cli: Cli, results: Path, tmp_path: Path) -> None:
    # A module of this name in front of the library's own makes the run fail as no run should.
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import asyncsink.engine.export\n"
        "async def run_source(*_, **__):\n"
        f"    raise ZeroDivisionError({WRONG_SECRET!r})\n"
        "asyncsink.engine.export.run_source = run_source\n"
    )
    ended = cli("export", results, "out", "--json", PYTHONPATH=str(broken))
    assert ended.code == 1
    assert "unexpected ZeroDivisionError in sitecustomize.py:3" in ended.stderr
    assert "please report it" in ended.json["error"]["message"]


def test_the_json_object_of_a_long_plan_is_whole(inside: Cli, results: Path, tmp_path: Path) -> None:
    ended = inside("plan", results, tmp_path / "out", "--json")
    assert json.loads(ended.stdout)["planned"][0]["reason"]
