"""`asyncsink grab`, as people use it: exit codes, stdout, stderr."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncsink.cli.main import main
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.options.settings import MIB
from tests.support.files import content_of
from tests.support.object_peer import ObjectPeer

Put = Callable[..., None]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(seaweed: DevServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main(["grab", *map(str, arguments), "--endpoint-url", seaweed.endpoint_url])
        told = capfd.readouterr()
        assert "Traceback" not in told.out + told.err
        assert seaweed.secret_access_key not in told.out + told.err
        return code, told.out, told.err

    return run


def test_a_prefix_into_a_directory(run: Run, bucket: str, put: Put, tmp_path: Path) -> None:
    put({"p/a": b"alpha", "p/sub/b": b"beta"})
    code, out, _ = run(f"s3://{bucket}/p", tmp_path / "t")
    assert code == 0
    assert "All 2 files (9 bytes) are in " in out
    assert content_of(tmp_path / "t") == {"a": b"alpha", "sub/b": b"beta"}
    code, out, _ = run(f"s3://{bucket}/p", tmp_path / "t", "--quiet")
    assert (code, out) == (0, "")
    code, out, _ = run(f"s3://{bucket}/p", tmp_path / "t", "--json")
    told = json.loads(out)
    assert (code, told["objects_fetched"], told["objects_skipped"], told["interrupted"]) == (0, 0, 2, False)


def test_templates(run: Run, bucket: str, put: Put, tmp_path: Path) -> None:
    put({f"sub-0{n}/run-{r}.nii": b"x" for n in (1, 2, 3) for r in (1, 2)})
    given = ("--infield", "subject=sub-01", "--infield", "subject=sub-02", "--json")
    arguments = ("--template-args", '{"first": [["subject", 1]]}')
    code, out, _ = run(f"s3://{bucket}", tmp_path, "--field-template", "first=%s/run-%d[.]nii", *arguments, *given)
    assert code == 0
    assert json.loads(out)["outputs"] == {"first": [str(tmp_path / f"sub-0{n}/run-1.nii") for n in (1, 2)]}
    code, out, _ = run(f"s3://{bucket}", tmp_path, "--template", "*/run-2.nii", "--glob", "--json")
    assert len(json.loads(out)["outputs"]["outfiles"]) == 3


def test_what_ends_with_2_before_anything_is_received(run: Run, bucket: str, put: Put, tmp_path: Path) -> None:
    put({"a": b"x"})
    for given, told in (
        (("--template", "*"), "say --glob where"),
        (("--template", "none"), "or give --allow-empty"),
        (("--template", "*.json", "--glob"), "(* stays within one folder, '**/*.json' finds its names in all below)"),
        (("--template", "%s/anat/.*"), "has %s, and nothing fills it; give --infield NAME=VALUE or --template-args"),
        (("--template-args", "{"), "is no JSON"),
        (("--infield", "subject"), "--infield 'subject' is malformed"),
        (("--template-args", "[" * 100_000), "is no JSON"),
        (("--template", "%d", "--template-args", '{"f": [[1e999]]}'), "cannot be filled with 1 value"),
        (("--template", "%999999999999s", "--infield", "a=b"), "cannot be filled with 1 value"),
    ):
        code, out, err = run(f"s3://{bucket}", tmp_path / "t", *given)
        assert (code, out) == (2, "")
        assert told in err
    assert not (tmp_path / "t").exists()


def test_a_failure_ends_with_1(run: Run, bucket: str, put: Put, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    put({"taken": b"x", "good": b"y"})
    code, out, err = run(f"s3://{bucket}", tmp_path, "--json")
    assert code == 1
    assert json.loads(out)["objects_failed"] == 1
    assert "is a directory and a file was expected" in err


@pytest.mark.anyio
async def test_interrupted_it_ends_with_130_and_goes_on_later(tmp_path: Path) -> None:
    large = os.urandom(17 * MIB)
    environment = os.environ | {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "of-nobody", "TERM": "dumb"}
    async with ObjectPeer({"large": large, "small": b"s"}) as peer:
        given = ("s3://bucket", tmp_path / "t", "--endpoint-url", peer.endpoint_url, "--region", "us-east-1", "--json")
        command = [sys.executable, "-W", "error", "-m", "asyncsink.cli.main", "grab", *map(str, given)]

        async def start() -> asyncio.subprocess.Process:
            pipe = asyncio.subprocess.PIPE
            return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment)

        peer.hold = {8 * MIB}
        process = await start()
        await peer.held.wait()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert process.returncode == 130
        assert json.loads(out)["interrupted"] is True
        assert "Run the same command again" in err.decode()
        assert "Traceback" not in err.decode()
        assert not (tmp_path / "t" / "large").exists()
        peer.hold = set()
        process = await start()
        out, _ = await process.communicate()
        assert (process.returncode, json.loads(out)["objects_failed"]) == (0, 0)
    assert content_of(tmp_path / "t") == {"large": large, "small": b"s"}
