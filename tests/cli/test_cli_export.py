"""export and plan: what is published, what is told, and the exit codes 0 and 1."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from tests.support.processes import run

Cli = Any
Keys = Callable[[], list[str]]
REQUIRED = {
    "objects_total", "objects_uploaded", "objects_skipped", "objects_failed", "bytes_uploaded", "elapsed_seconds",
    "requests", "retries", "transport", "failures", "interrupted",
}  # fmt: skip


def test_a_directory_is_published_and_the_second_run_sends_nothing(
    cli: Cli, results: Path, s3: Any, bucket: str, keys: Keys
) -> None:
    first = cli("export", results, f"s3://{bucket}/study")
    assert (first.code, first.stderr) == (0, "")
    assert first.stdout.startswith(f"All 4 files (24 bytes) are in s3://{bucket}/study.\n")
    assert keys() == ["study/a.txt", "study/sub/b=1.nii", "study/sub/deep/c.json", "study/é.par"]
    assert s3.get_object(Bucket=bucket, Key="study/sub/b=1.nii")["Body"].read() == b"beta"
    again = cli("export", results, f"s3://{bucket}/study", "--json")
    assert again.code == 0
    assert (again.json["bytes_uploaded"], again.json["objects_skipped"], again.json["objects_total"]) == (0, 4, 4)


def test_json_is_one_object_with_the_promised_names(inside: Cli, results: Path, bucket: str) -> None:
    ended = inside("export", results, f"s3://{bucket}", "--json")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.json.keys() >= REQUIRED
    assert ended.json["objects_uploaded"] == 4
    assert ended.json["bytes_uploaded"] == 24


def test_the_installed_command_is_the_same(cli: Cli, results: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("asyncsink")
    done = subprocess.run([script, "export", results, tmp_path / "out"], env=cli.environment, check=False)
    assert done.returncode == 0
    assert (tmp_path / "out/sub/deep/c.json").read_text() == '{"gamma": 3}'


def test_quiet_tells_nothing(inside: Cli, results: Path, bucket: str) -> None:
    ended = inside("export", results, f"s3://{bucket}", "--quiet")
    assert (ended.code, ended.stdout, ended.stderr) == (0, "", "")


def test_verbose_logs_to_stderr_and_leaves_stdout_alone(inside: Cli, results: Path, bucket: str) -> None:
    ended = inside("export", results, f"s3://{bucket}", "-vv", "--json")
    assert ended.code == 0
    assert ended.json["objects_uploaded"] == 4
    assert f"-> s3://{bucket}/a.txt" in ended.stderr


def test_one_failure_among_successes_is_exit_1_and_is_told_once(
    cli: Cli, results: Path, bucket: str, keys: Keys
) -> None:
    lines = [json.dumps({"source": str(results / "a.txt")}), json.dumps({"source": str(results / "gone.nii")})]
    ended = cli("export", "-", f"s3://{bucket}", stdin="\n".join(lines))
    assert ended.code == 1
    assert keys() == ["a.txt"]
    assert ended.stdout.startswith(f"1 of 2 files was not published to s3://{bucket}.\n")
    assert ended.stderr.endswith("Run the same command again to publish what is missing.\n")
    assert (ended.stdout + ended.stderr).count("gone.nii' does not exist") == 1
    assert "SourceMissing" not in ended.stderr
    told = cli("export", "-", f"s3://{bucket}", "--json", stdin="\n".join(lines))
    assert told.code == 1
    assert (told.json["objects_skipped"], told.json["objects_failed"]) == (1, 1)
    assert told.json["failures"][0]["error"] == "SourceMissing"


def test_what_would_fail_again_is_not_proposed_again(cli: Cli, results: Path, bucket: str) -> None:
    lines = [json.dumps({"source": str(results / "a.txt"), "key": key}) for key in ("fine", "../up")]
    ended = cli("export", "-", f"s3://{bucket}", "--on-unreadable", "skip", stdin="\n".join(lines))
    assert ended.code == 1
    assert "../up" in ended.stderr
    assert "InvalidKey" not in ended.stderr
    assert "Run the same command again" not in ended.stdout + ended.stderr


def test_failures_of_one_cause_are_told_once_with_three_names(cli: Cli, bucket: str) -> None:
    lines = [json.dumps({"source": f"gone-{number:02d}"}) for number in range(12)]
    ended = cli("export", "-", f"s3://{bucket}", stdin="\n".join(lines))
    assert ended.code == 1
    assert ended.stderr.count("does not exist") == 1
    assert "  12 files: Source … does not exist" in ended.stderr
    assert "gone-02 and 9 more\n  (--json and --manifest list all of them.)\n" in ended.stderr


@pytest.mark.parametrize("suffix", ["json", "yaml", "yml"])
def test_an_outputs_file_follows_datasinks_rules(
    inside: Cli, results: Path, tmp_path: Path, bucket: str, keys: Keys, suffix: str
) -> None:
    outputs = tmp_path / f"outputs.{suffix}"
    outputs.write_text('{"motion.@par": ["results/a.txt", "results/sub/b=1.nii"], "qc": "results/sub/deep"}')
    ended = inside(
        "export", "--outputs", outputs, f"s3://{bucket}/study", "--container", "run", "--no-parameterization",
        "--substitute", r"b\=1=b-one", "--regexp-substitute", r"\.(txt)$=.\1.old",
    )  # fmt: skip
    assert (ended.code, ended.stderr) == (0, "")
    assert keys() == ["study/run/motion/a.txt.old", "study/run/motion/b-one.nii", "study/run/qc/deep/c.json"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("m.csv", "source,key\nresults/a.txt,raw/first\nresults/sub/b=1.nii,\n"),
        ("m.tsv", "key\tsource\nraw/first\tresults/a.txt\n\tresults/sub/b=1.nii\n"),
        ("m.jsonl", '{"source": "results/a.txt", "key": "raw/first"}\n{"source": "results/sub/b=1.nii"}\n'),
    ],
)
def test_a_manifest_names_sources_and_keys(
    inside: Cli, results: Path, tmp_path: Path, bucket: str, keys: Keys, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content)
    assert inside("export", "--source-manifest", name, f"s3://{bucket}/p").code == 0
    assert keys() == ["p/b=1.nii", "p/raw/first"]


def test_json_lines_on_stdin(cli: Cli, results: Path, bucket: str, keys: Keys) -> None:
    lines = '{"source": "results/a.txt", "key": "k"}\n\n{"source": "results/sub", "attribute": "x.@y"}\n'
    ended = cli("export", "-", f"s3://{bucket}", "--json", stdin=lines)
    assert (ended.code, ended.stderr) == (0, "")
    assert keys() == ["k", "x/sub/b=1.nii", "x/sub/deep/c.json"]
    assert cli("export", "-", f"s3://{bucket}", stdin="").code == 0


def test_plan_sends_nothing_and_says_what_would_be_sent(
    inside: Cli, results: Path, bucket: str, keys: Keys, tmp_path: Path
) -> None:
    for number in range(25):
        (results / f"n{number:02d}").write_text("1234")
    (tmp_path / "only.csv").write_text("source,key\nresults/a.txt,a.txt\n")
    assert inside("export", "--source-manifest", "only.csv", f"s3://{bucket}", "--no-journal").code == 0
    plan = inside("plan", "results", f"s3://{bucket}")
    assert plan.code == 0
    assert keys() == ["a.txt"]
    assert plan.stdout.splitlines()[1:5] == [
        "  new                   28 files  119 bytes",
        "  unchanged              1 file     5 bytes",
        "  largest          12 bytes  sub/deep/c.json",
        "                    4 bytes  n00",
    ]
    assert inside("export", "results", f"s3://{bucket}", "--dry-run").stdout == plan.stdout
    prices = tmp_path / "prices.toml"
    prices.write_text('put = 0.005\ncurrency = "EUR"\n')
    same = inside("plan", results, f"s3://{bucket}", "--json", "--prices", prices)
    assert (same.code, same.stderr) == (0, "")
    assert (same.json["objects_planned"], same.json["objects_skipped"], len(same.json["planned"])) == (28, 1, 28)
    figures = same.json["plan"]
    assert figures["new"] == {"objects": 28, "bytes": 119}
    assert figures["requests"]["PutObject"] == 28
    # The plan has sent what it promises that an export will send again.
    assert same.json["requests"] == sum(figures["requests"].values()) - 28
    assert figures["cost"] == {
        "requests": pytest.approx(sum(figures["requests"].values()) * 0.005 / 1000, abs=1e-4),
        "storage_month": 0.0,
        "currency": "EUR",
    }
    listed = inside("plan", results, f"s3://{bucket}/", "--list", "--container", "run").stdout.splitlines()
    assert listed[:2] == [
        "  new               5 bytes  a.txt → run/a.txt",
        "  new               4 bytes  n00 → run/n00",
    ]
    (tmp_path / "o.json").write_text('{"x": "results/a.txt", "y": ["results/sub"]}')
    outputs = inside("plan", "--outputs", "o.json", f"s3://{bucket}/p", "--list").stdout.splitlines()
    assert outputs[0] == "  new               5 bytes  a.txt → x/a.txt"
    assert outputs[2] == "  new              12 bytes  sub/deep/c.json → y/sub/deep/c.json"
    refused = inside("plan", "results", f"s3://{bucket}", "--prices", "put0.005")
    assert (refused.code, refused.stdout) == (2, "")
    assert "--prices 'put0.005' is neither prices nor a file; expected some of put=0.005" in refused.stderr
    assert listed[29] == ""
    assert listed[30].startswith(f" {results}")
    assert keys() == ["a.txt"]


def test_what_an_object_is_given(inside: Cli, results: Path, s3: Any, bucket: str) -> None:
    ended = inside(
        "export", results, f"s3://{bucket}", "--encrypt-bucket-keys", "--storage-class", "STANDARD_IA",
        "--tag", "study=pilot", "--tag", r"a\=b=c=d", "--metadata", "lab=two=three", "--checksum", "crc32c",
        "--content-type", "application/x-nifti", "--part-size", "5MiB", "--memory", "64MiB", "--concurrency", "3",
    )  # fmt: skip
    assert (ended.code, ended.stderr) == (0, "")
    head = s3.head_object(Bucket=bucket, Key="a.txt")
    assert head["ServerSideEncryption"] == "AES256"
    assert head["StorageClass"] == "STANDARD_IA"
    assert head["Metadata"] == {"lab": "two=three"}
    assert head["ContentType"] == "application/x-nifti"
    tags = s3.get_object_tagging(Bucket=bucket, Key="a.txt")["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags} == {"study": "pilot", "a=b": "c=d"}


def test_a_customer_key_comes_from_a_file(inside: Cli, results: Path, s3: Any, bucket: str, tmp_path: Path) -> None:
    key = bytes(range(32))
    (tmp_path / "sse.key").write_bytes(key)
    assert inside("export", results, f"s3://{bucket}", "--sse", "file:sse.key", "--manifest", "m").code == 0
    answer = s3.get_object(Bucket=bucket, Key="a.txt", SSECustomerAlgorithm="AES256", SSECustomerKey=key)
    assert answer["Body"].read() == b"alpha"
    verified = inside("verify", "m", "--sse", "file:sse.key", "--read-back", "--json")
    assert (verified.code, verified.json["confirmed_by"]) == (0, {"read-back": 4})


def test_a_local_copy_and_another_bucket(inside: Cli, results: Path, bucket: str, keys: Keys, tmp_path: Path) -> None:
    ended = inside("export", results, "s3://some-other-bucket/p", "--bucket", bucket, "--local-copy", "copies")
    assert (ended.code, ended.stderr) == (0, "")
    assert len(keys()) == 4
    assert (tmp_path / "copies/sub/b=1.nii").read_text() == "beta"


def test_credentials_from_a_file(inside: Cli, results: Path, seaweed: Any, bucket: str, tmp_path: Path) -> None:
    pair = f"Access key ID,Secret access key\n{seaweed.access_key_id},{seaweed.secret_access_key}\n"
    (tmp_path / "keys.csv").write_text(pair)
    bare = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_ENDPOINT_URL": ""}
    ended = inside(
        "export", results, f"s3://{bucket}", "--creds-path", "keys.csv", "--endpoint-url", seaweed.endpoint_url,
        "--region", "us-east-1", "--addressing-style", "path", **bare,
    )  # fmt: skip
    assert (ended.code, ended.stderr) == (0, "")


def test_missing_sources_may_be_skipped(inside: Cli, bucket: str, results: Path, keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("source,key\nresults/a.txt,a\nresults/gone,b\n")
    ended = inside("export", "--source-manifest", "m.csv", f"s3://{bucket}", "--on-missing", "skip", "--json")
    assert (ended.code, ended.json["objects_skipped"], keys()) == (0, 1, ["a"])
    assert ended.json["not_published"] == [{"source": f"{results}/gone", "reason": "source is missing"}]
    assert ended.stderr == f"  {results}/gone: not sent: source is missing\n"
    quiet = inside("export", "--source-manifest", "m.csv", f"s3://{bucket}", "--on-missing", "skip", "--quiet")
    assert (quiet.code, quiet.stdout, quiet.stderr) == (0, "", "")


def test_a_line_that_is_wrong_is_named_once(cli: Cli, bucket: str) -> None:
    ended = cli("export", "-", f"s3://{bucket}", stdin="{}\n")
    assert ended.code == 1
    assert ended.stderr.startswith("  stdin line 1 names no source")
    assert ended.stderr.count("stdin line 1") == 1


@pytest.mark.parametrize("how", [[], ["--quiet"], ["--json"], ["--verbose"]], ids=["plain", "quiet", "json", "verbose"])
def test_what_a_person_should_know_is_always_told_once(
    inside: Cli, results: Path, tmp_path: Path, how: list[str]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    destination = "s3://nobody-made-this-bucket/p"
    ended = inside("export", results, destination, "--on-unreachable", "local", *how, HOME=str(home))
    assert ended.code == 0
    assert ended.stderr.count("Every file is kept in") == 1
    assert "asyncsink: note: The bucket cannot be used" in ended.stderr
    assert "Every file is kept" not in ended.stdout or how == ["--json"]


def test_a_result_that_cannot_be_written_is_one_sentence(cli: Cli, results: Path, tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*cli.command, "export", results, tmp_path / "out", "--json"],
            env=cli.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == (
        "asyncsink: error: The run is over, but its result cannot be written to standard output "
        "(No space left on device).\n"
    )


def test_a_reader_that_has_seen_enough_is_no_error(cli: Cli, results: Path, bucket: str) -> None:
    process = cli.start("export", results, f"s3://{bucket}")
    process.stdout.close()
    process.stdout = None
    assert process.communicate(timeout=100)[1] == ""
    assert process.returncode == 0


# -- Streams that wait for what they sent, endpoints that are no URLs, and a process without a stderr ------------------


def test_a_stream_is_published_as_it_comes(cli: Cli, tmp_path: Path, bucket: str, keys: Keys) -> None:
    """Whoever writes the next line when the object before is there gets to the end."""
    process = cli.start(
        "export", "-", f"s3://{bucket}", "--overwrite", "always", "--concurrency", 2, stdin=subprocess.PIPE
    )
    assert process.stdin is not None
    for number in range(40):
        path = tmp_path / f"{number:02}.txt"
        path.write_text(str(number))
        process.stdin.write(json.dumps({"source": str(path), "key": path.name}) + "\n")
        process.stdin.flush()
        while len(keys()) <= number:
            assert process.poll() is None
    assert cli.end(process).code == 0


def test_without_a_stderr(cli: Cli, results: Path, bucket: str) -> None:
    command = [*cli.command, "export", str(results), f"s3://{bucket}", "--json"]
    done = run(["sh", "-c", '"$@" 2>&-', "sh", *command], env=cli.environment, cwd=cli.directory)
    assert done.returncode == 0
    assert json.loads(done.stdout)["objects_failed"] == 0


@pytest.mark.parametrize("url", ["http://[::1:9000", "http://h\u2100st"])
def test_an_endpoint_that_is_no_url(inside: Cli, results: Path, bucket: str, url: str) -> None:
    for ended in (
        inside("export", results, f"s3://{bucket}", "--endpoint-url", url),
        inside("export", results, f"s3://{bucket}", AWS_ENDPOINT_URL=url),
    ):
        assert ended.code == 2
        assert "endpoint" in ended.stderr
        assert "bug" not in ended.stderr


# -- --shard on the command line ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--shard", "3/3"], "--shard 3/3 is no part of a whole"), (["--shard", "x"], "--shard x is no part of a whole")],
)
def test_wrong_values_are_refused(inside: Any, results: Path, arguments: list[str], message: str) -> None:
    ended = inside("export", results, "there", *arguments)
    assert ended.code == 2
    assert message in ended.stderr


def test_shards_on_the_command_line(inside: Any, results: Path, tmp_path: Path) -> None:
    uploaded = [
        inside("export", results, tmp_path / "there", "--shard", f"{index}/2", "--json").json for index in range(2)
    ]
    assert sum(told["objects_uploaded"] for told in uploaded) == 4
    assert all(told["objects_total"] == told["objects_uploaded"] for told in uploaded)


def test_a_home_on_a_network_file_system_has_its_journal_on_this_machine(
    inside: Cli, results: Path, s3: Any, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One note says where; the next run finds it there, and sends nothing again."""
    state = tmp_path / "state"

    def statfs(path: str) -> int:
        os.stat(path)
        return 0x6969 if path == str(tmp_path) else 0

    monkeypatch.setattr("asyncsink.journal.file_systems.statfs_type", statfs)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    first = inside("export", results, f"s3://{bucket}/p", XDG_STATE_HOME=str(state))
    assert first.code == 0
    (note,) = first.stderr.splitlines()
    (journal,) = (tmp_path / "tmp" / f"asyncsink-{os.geteuid()}" / "journals").iterdir()
    assert note.startswith(f"asyncsink: note: The journal of this destination is '{journal}', on this machine only: ")
    assert f"{str(state / 'asyncsink' / 'journals')!r} is on NFS, a network file system." in note
    assert note.endswith("name another file with --journal.")
    again = inside("export", results, f"s3://{bucket}/p", "--overwrite", "journal", "--json", XDG_STATE_HOME=str(state))
    assert (again.code, again.json["objects_skipped"]) == (0, 4)
    assert not state.exists()
    named = inside(
        "export", results, f"s3://{bucket}/p", "--journal", tmp_path / "own.sqlite", XDG_STATE_HOME=str(state)
    )
    assert (named.code, "rollback journal" in named.stderr) == (0, True)


def test_the_command_and_python_have_one_journal(
    inside: Cli, results: Path, bucket: str, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below $XDG_STATE_HOME, as the command has it from its environment and a program from its own."""
    state = tmp_path / "state"
    monkeypatch.setenv("XDG_STATE_HOME", str(state))
    report = asyncio.run(asyncsink.export_directory(results, f"s3://{bucket}/p", **options))
    assert report.objects_uploaded == 4
    (journal,) = (state / "asyncsink" / "journals").glob("*.sqlite")
    again = inside("export", results, f"s3://{bucket}/p", "--overwrite", "journal", "--json", XDG_STATE_HOME=str(state))
    assert (again.code, again.json["objects_skipped"]) == (0, 4)
    assert list((state / "asyncsink" / "journals").glob("*.sqlite")) == [journal]
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    asyncio.run(asyncsink.export_directory(results, f"s3://{bucket}/p", **options))
    (at_home,) = (tmp_path / ".local" / "state" / "asyncsink" / "journals").glob("*.sqlite")
    assert at_home.name == journal.name


def test_a_storage_class_that_is_none_is_not_proposed_again(inside: Cli, results: Path, bucket: str) -> None:
    ended = inside("export", "results", f"s3://{bucket}/x", "--storage-class", "WRONG")
    assert ended.code == 1
    assert "  4 files: InvalidStorageClass" in ended.stderr
    assert "Run the same command again" not in ended.stdout + ended.stderr
