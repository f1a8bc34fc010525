"""The shared fixtures keep their promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

SUBJECT = """
import logging, pytest
SECRET = "wJalrXUtnFEMI"

@pytest.fixture(autouse=True)
def _register(keep_secret):
    keep_secret(SECRET)

def test_logs():
    logging.getLogger("asyncsink.s3").debug("signing with %s", SECRET)

def test_prints():
    print(SECRET)

def test_shows():
    value = SECRET
    assert value == "something else"

def test_keeps_quiet():
    pass

def test_environment(monkeypatch):
    import os
    assert "AWS_SESSION_TOKEN" not in os.environ
    assert "https_proxy" not in os.environ
    assert not os.path.exists(os.environ["AWS_CONFIG_FILE"])
"""


def test_a_secret_in_a_log_fails_the_test_and_is_not_repeated(tmp_path: Path) -> None:
    shutil.copyfile(Path(__file__).parents[1] / "conftest.py", tmp_path / "conftest.py")
    (tmp_path / "test_subject.py").write_text(SUBJECT)
    foreign = {"AWS_SESSION_TOKEN": "theirs", "https_proxy": "http://proxy.invalid:1"}
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rA",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            str(tmp_path),
            str(tmp_path),
        ],
        env=os.environ | foreign,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 failed, 2 passed" in run.stdout, run.stdout
    assert "wJalrXUtnFEMI" not in run.stdout + run.stderr


def test_each_test_has_an_empty_bucket(s3: Any, bucket: str) -> None:
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    s3.put_object(Bucket=bucket, Key="a", Body=b"x")
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
