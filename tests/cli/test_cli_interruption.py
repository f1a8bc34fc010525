"""Ctrl-C and SIGTERM: nothing is left behind but what the next run goes on with, and that completes.

What stays with a journal is in tests/export/test_interrupted.py.
"""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

Cli = Any
MIB = 1 << 20


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A directory with a small file and one that is sent in parts."""
    folder = tmp_path / "large"
    folder.mkdir()
    (folder / "bold.nii").write_bytes(os.urandom(MIB) * 24)
    return folder


@pytest.fixture(params=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=["SIGINT", "SIGTERM", "SIGHUP"])
def number(request: pytest.FixtureRequest) -> signal.Signals:
    signal_number: signal.Signals = request.param
    return signal_number


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if not path.is_dir()]


def lines_until(stream: Any, words: str) -> Iterator[str]:
    for line in stream:
        yield line
        if words in line:
            return
    raise AssertionError(f"the command ended without saying {words!r}")


def test_a_signal_aborts_the_upload_and_the_next_run_completes(
    cli: Cli, large: Path, stalling: Any, s3: Any, bucket: str, tmp_path: Path, number: signal.Signals
) -> None:
    options = ("--json", "--local-copy", tmp_path / "copies", "--abort-on-interrupt")
    arguments = ("export", large, f"s3://{bucket}", *options)
    process = cli.start(*arguments, "--part-size", "5MiB", "--endpoint-url", stalling.url)
    assert stalling.stalled.wait(60)
    assert s3.list_multipart_uploads(Bucket=bucket).get("Uploads"), "the upload is open when the signal comes"
    process.send_signal(number)
    ended = cli.end(process)
    assert ended.code == 128 + number
    assert ended.stderr.startswith(
        "interrupted: ending what is under way…\nInterrupted: nothing was published to s3://"
    )
    assert ended.json["interrupted"] is True
    assert (ended.json["objects_uploaded"], ended.json["failures"]) == (0, [])
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    assert files_below(tmp_path / "copies") == []
    assert files_below(tmp_path / "tmp") == []
    complete = cli(*arguments)
    assert (complete.code, complete.json["objects_uploaded"]) == (0, 1)
    content = (large / "bold.nii").read_bytes()
    assert s3.get_object(Bucket=bucket, Key="bold.nii")["Body"].read() == content
    assert (tmp_path / "copies/bold.nii").read_bytes() == content


def test_more_signals_do_not_disturb_the_clean_up(cli: Cli, large: Path, stalling: Any, s3: Any, bucket: str) -> None:
    process = cli.start("export", large, f"s3://{bucket}", "--endpoint-url", stalling.url, "--abort-on-interrupt")
    assert stalling.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    for _ in lines_until(process.stderr, "ending what is under way"):
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
    assert cli.end(process).code == 130
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


def test_what_was_published_before_is_told(
    cli: Cli, large: Path, results: Path, stalling: Any, bucket: str, tmp_path: Path
) -> None:
    # One request at a time: the small files are published when the large one, which is last, begins.
    rows = [f"{path},{path.name}" for path in (*sorted(files_below(results)), large / "bold.nii")]
    (tmp_path / "m.csv").write_text("\n".join(["source,key", *rows]))
    process = cli.start(
        "export",
        "--source-manifest",
        "m.csv",
        f"s3://{bucket}",
        "--concurrency",
        "1",
        "--endpoint-url",
        stalling.url,
        "--manifest",
        "sent",
    )
    assert stalling.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert (ended.code, ended.stdout) == (130, "")
    assert "Interrupted: 4 of 5 files (24 bytes) are in s3://" in ended.stderr
    assert f"The manifest of what this run did is '{tmp_path}/sent.partial'" in ended.stderr
    records = [json.loads(line) for line in (tmp_path / "sent.partial").read_text().splitlines()]
    assert [record["record"] for record in records] == ["run", *["receipt"] * 4, "end"]
    assert records[-1]["interrupted"] is True
    assert cli("verify", "sent.partial", "--json", "--endpoint-url", cli.environment["AWS_ENDPOINT_URL"]).code == 1


def test_a_wait_for_stdin_is_given_up(cli: Cli, bucket: str, number: signal.Signals) -> None:
    process = cli.start("export", "-", f"s3://{bucket}", "--verbose", stdin=subprocess.PIPE)
    list(lines_until(process.stderr, "sending by"))
    process.send_signal(number)
    assert cli.end(process).code == 128 + number


def read_terminal(descriptor: int, until: bytes = b"") -> bytes:
    """What is written to a terminal, until these bytes come or everybody has closed it."""
    seen = b""
    while not until or until not in seen:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # EIO: the other side is closed
            return seen
        if not data:
            return seen
        seen += data
    return seen


def test_progress_is_shown_on_a_terminal_and_removed_at_ctrl_c(
    cli: Cli, large: Path, stalling: Any, bucket: str
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*cli.command, "export", large, f"s3://{bucket}", "--endpoint-url", stalling.url],
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    cli.started.append(process)
    os.close(theirs)
    seen = read_terminal(ours, b"0 of 1 file")
    assert "looking at" in seen.decode()
    assert stalling.stalled.wait(60)
    process.send_signal(signal.SIGINT)
    seen += read_terminal(ours)
    os.close(ours)
    assert (process.communicate(timeout=60)[0], process.returncode) == ("", 130)
    text = seen.decode()
    assert "24.0 MiB" in text
    assert "interrupted: ending what is under way…" in text
    assert text.rstrip().endswith("publish the rest.")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is visible again"
    assert "Traceback" not in text


@pytest.mark.parametrize("arguments", [["--quiet"], []], ids=["quiet", "no terminal"])
def test_no_progress_where_nobody_looks(cli: Cli, results: Path, bucket: str, arguments: list[str]) -> None:
    ended = cli("export", results, f"s3://{bucket}", *arguments)
    assert (ended.code, ended.stderr) == (0, "")
    assert "\x1b" not in ended.stdout
