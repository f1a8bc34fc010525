"""--processes on the command line: a killed process costs its files only, and a signal leaves nothing behind."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Cli = Any
MIB = 1 << 20
LARGE, SMALL = 3, 60


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three files that are sent in parts, one for each process, and 60 small ones."""
    root = tmp_path / "tree"
    root.mkdir()
    for number in range(LARGE):
        (root / f"big-{number}.nii").write_bytes(os.urandom(MIB) * 24)
    for number in range(SMALL):
        (root / f"small-{number:02}.txt").write_text(f"{number}")
    return root


def start(cli: Cli, tree: Path, bucket: str, url: str, *arguments: object) -> subprocess.Popen[str]:
    process: subprocess.Popen[str] = cli.start(
        "export", tree, f"s3://{bucket}", "--processes", LARGE, "--part-size", "5MiB", "--endpoint-url", url,
        *arguments, PYTHONWARNINGS="error",
    )  # fmt: skip
    return process


def uploads(s3: Any, bucket: str) -> set[str]:
    return {upload["Key"] for upload in s3.list_multipart_uploads(Bucket=bucket).get("Uploads", [])}


def children_in_the_middle(process: subprocess.Popen[str], s3: Any, bucket: str, manifest: Path) -> list[int]:
    """Wait until each of the three processes has a large file that cannot go on, and has told of all small files; the
    two that the first has started.

    What the server has and no process has told yet is still in hand: a signal would find it not confirmed.
    """
    while len(uploads(s3, bucket)) < LARGE or not manifest.exists() or manifest.read_text().count('"receipt"') < SMALL:
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == LARGE - 1
    return [int(child) for child in children]


def release(stalling: Any) -> None:
    """From now on everything passes, and what stalled is sent again."""
    stalling._limit = sys.maxsize
    stalling._released.set()


def test_a_killed_process_costs_what_it_had_in_hand(
    cli: Cli, tree: Path, stalling: Any, s3: Any, bucket: str, tmp_path: Path
) -> None:
    process = start(cli, tree, bucket, stalling.url, "--json", "--manifest", "sent.jsonl", "--abort-on-interrupt")
    first, _ = children_in_the_middle(process, s3, bucket, tmp_path / "sent.jsonl.partial")
    os.kill(first, signal.SIGKILL)
    release(stalling)
    ended = cli.end(process)
    assert ended.code == 1
    (failure,) = ended.json["failures"]
    assert failure["source"] == str(tree / failure["key"])
    assert failure["key"].startswith("big-")
    assert "its process was killed by SIGKILL. Export it again" in failure["message"]
    assert (ended.json["objects_uploaded"], ended.json["objects_total"]) == (SMALL + 2, SMALL + 3)
    written = [json.loads(line) for line in (tmp_path / "sent.jsonl").read_text().splitlines()]
    assert len(written[1:-1]) == len({record["key"] for record in written[1:-1]}) == SMALL + 3
    again = cli("export", tree, f"s3://{bucket}", "--json", "--processes", 2)
    assert (again.code, again.json["objects_uploaded"], again.json["objects_skipped"]) == (0, 1, SMALL + 2)
    for path in tree.iterdir():
        assert s3.get_object(Bucket=bucket, Key=path.name)["Body"].read() == path.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_reaches_every_process(
    cli: Cli, tree: Path, stalling: Any, s3: Any, bucket: str, number: signal.Signals, tmp_path: Path
) -> None:
    process = start(cli, tree, bucket, stalling.url, "--json", "--manifest", "sent.jsonl", "--abort-on-interrupt")
    children = children_in_the_middle(process, s3, bucket, tmp_path / "sent.jsonl.partial")
    process.send_signal(number)
    ended = cli.end(process)
    assert ended.code == 128 + number
    assert ended.stderr.startswith("interrupted: ending what is under way…\nInterrupted: 60 of ")
    assert (ended.json["objects_uploaded"], ended.json["failures"]) == (SMALL, [])
    assert uploads(s3, bucket) == set()
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_without_a_journal_processes_abort_what_they_have_when_their_parent_is_killed(
    cli: Cli, tree: Path, stalling: Any, s3: Any, bucket: str, tmp_path: Path
) -> None:
    """With one the next run goes on with their uploads; without, only that of their parent is left."""
    process = start(cli, tree, bucket, stalling.url, "--manifest", "sent.jsonl", "--no-journal")
    children_in_the_middle(process, s3, bucket, tmp_path / "sent.jsonl.partial")
    process.kill()
    process.communicate()
    while len(uploads(s3, bucket)) > 1:
        pass  # asking the server is the wait


def test_a_signal_to_one_process_ends_it_in_order(
    cli: Cli, tree: Path, stalling: Any, s3: Any, bucket: str, tmp_path: Path
) -> None:
    process = start(cli, tree, bucket, stalling.url, "--json", "--manifest", "sent.jsonl", "--abort-on-interrupt")
    children = children_in_the_middle(process, s3, bucket, tmp_path / "sent.jsonl.partial")
    for child in children:
        os.kill(child, signal.SIGTERM)
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert process.poll() is None
    release(stalling)
    ended = cli.end(process)
    assert (ended.code, ended.json["objects_failed"], ended.json["objects_uploaded"]) == (1, 2, SMALL + 1)
    assert all("its process was stopped by SIGTERM." in failure["message"] for failure in ended.json["failures"])
    assert uploads(s3, bucket) == set()


def test_a_process_that_hangs_does_not_hold_up_the_aborts_of_the_first(
    cli: Cli, tree: Path, stalling: Any, s3: Any, bucket: str, tmp_path: Path
) -> None:
    process = start(cli, tree, bucket, stalling.url, "--json", "--manifest", "sent.jsonl", "--abort-on-interrupt")
    children = children_in_the_middle(process, s3, bucket, tmp_path / "sent.jsonl.partial")
    for child in children:
        os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    while len(uploads(s3, bucket)) == LARGE:
        assert process.poll() is None
    for child in children:
        os.kill(child, signal.SIGCONT)  # they are there still: nobody had to be killed
    ended = cli.end(process)
    assert (ended.code, ended.json["objects_uploaded"], ended.json["failures"]) == (130, SMALL, [])
    assert uploads(s3, bucket) == set()


def test_one_progress_bar(cli: Cli, tree: Path, bucket: str) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*cli.command, "export", tree, f"s3://{bucket}", "--processes", "2", "--verbose"],
        env=cli.environment | {"PYTHONWARNINGS": "error"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    cli.started.append(process)
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # EIO: the other side is closed
            break
        if not data:
            break
        seen += data
    os.close(ours)
    out = process.communicate(timeout=60)[0]
    assert (process.returncode, out.startswith("All 63 files (72.0 MiB) are in s3://")) == (0, True)
    text = seen.decode()
    assert set(re.findall(r"/(\d+) files", text)) == {"63"}
    assert text.count("2 processes publish") == 1
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "--processes 0 is out of range; expected 1 to 64, or 'auto'."),
        (["--processes", "many"], "--processes many is out of range"),
        (["--shard", "3/3"], "--shard 3/3 is no part of a whole"),
        (["--shard", "x"], "--shard x is no part of a whole"),
    ],
)
def test_wrong_values_are_refused(inside: Any, results: Path, arguments: list[str], message: str) -> None:
    ended = inside("export", results, "there", *arguments)
    assert ended.code == 2
    assert message in ended.stderr


def test_stdin_is_refused(cli: Cli, tmp_path: Path) -> None:
    ended = cli("export", "-", tmp_path / "there", "--processes", 2)
    assert ended.code == 2
    assert "--processes 2 cannot be used here: the source is a stream" in ended.stderr


def test_shards_on_the_command_line(inside: Any, results: Path, tmp_path: Path) -> None:
    uploaded = [
        inside("export", results, tmp_path / "there", "--shard", f"{index}/2", "--json", "--processes", "auto").json
        for index in range(2)
    ]
    assert sum(told["objects_uploaded"] for told in uploaded) == 4
    assert all(told["objects_total"] == told["objects_uploaded"] for told in uploaded)
