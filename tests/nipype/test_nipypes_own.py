"""Nipype's own tests of DataSink, as installed with it, with ours in its place."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import nipype.interfaces.tests
import pytest

from tests.support.moto import moto_server

TESTS = Path(nipype.interfaces.tests.__file__).parent
PLUGIN = """
from asyncsink.adapters.nipype import install
from asyncsink.adapters.nipype_datasink import NipypeDataSink


def refuse(self):
    raise AssertionError("Nipype's own DataSink was used")


NipypeDataSink._list_outputs = refuse
install()
"""
FAKES3 = """#!/bin/sh
# Nipype's tests start a program of this name as their S3 server, and ask it at once.
exec sleep 600
"""
PORT = 4567


def _is_in_use(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


def test_nipypes_own_tests_pass(tmp_path: Path) -> None:
    """Those that start a fake S3 server too, for which moto serves."""
    (tmp_path / "asyncsink_in_place.py").write_text(PLUGIN)
    server = tmp_path / "bin" / "fakes3"
    server.parent.mkdir()
    server.write_text(FAKES3)
    server.chmod(0o755)
    command = [
        *(sys.executable, "-m", "pytest", "-q", "-rA", "-p", "asyncsink_in_place", "-p", "no:cacheprovider"),
        *("-c", os.devnull, f"--rootdir={tmp_path}", f"--basetemp={tmp_path / 'temp'}"),
        *("-k", "datasink or DataSink or aws_keys", "-W", "ignore"),
        *(str(TESTS / "test_io.py"), str(TESTS / "test_auto_DataSink.py")),
    ]
    environment = {
        **os.environ,
        "PATH": f"{server.parent}:{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path]),
    }
    if _is_in_use(PORT):
        pytest.skip(f"port {PORT}, which Nipype's tests name, is in use")
    with moto_server(PORT):
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    passed = {line.split("::")[1] for line in done.stdout.splitlines() if line.startswith("PASSED")}
    assert done.returncode == 0, done.stdout + done.stderr
    assert passed >= {
        "test_datasink",
        "test_datasink_to_s3",
        "test_aws_keys_from_env",
        "test_datasink_localcopy",
        "test_datasink_substitutions",
        "test_datasink_copydir_1",
        "test_datasink_copydir_2",
        "test_DataSink_inputs",
        "test_DataSink_outputs",
    }
    assert "skipped" not in done.stdout.splitlines()[-1]
