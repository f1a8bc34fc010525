"""Streams that wait for what they sent, endpoints that are no URLs, and a process without a stderr."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Any
Keys = Callable[[], list[str]]


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
    done = subprocess.run(
        ["sh", "-c", '"$@" 2>&-', "sh", *command],
        check=False,
        env=cli.environment,
        cwd=cli.directory,
        capture_output=True,
        text=True,
    )
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
