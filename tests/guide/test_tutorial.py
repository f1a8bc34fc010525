"""The tutorial, typed as it stands, on a real server: each block ends well and shows what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.guide import GUIDE, example

PAGE = (GUIDE / "tutorial.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_tutorial_does_what_the_page_says(seaweed: Any, bucket: str, tmp_path: Path) -> None:
    environment = {**os.environ, **seaweed.environment, "NO_COLOR": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    told, ran = "", 0
    for language, block in BLOCK.findall(PAGE):
        if language in ("sh", "python"):
            words = ["bash", "-euo", "pipefail", "-c"] if language == "sh" else [sys.executable, "-c"]
            text = block.replace("s3://cohort", f"s3://{bucket}")
            done = subprocess.run(
                [*words, text], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=100
            )
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            told = (done.stdout + done.stderr).replace(bucket, "cohort")
            ran += 1
        elif language == "text":
            assert [line for line in block.splitlines() if line not in told] == [], told
    assert ran >= 10


def test_the_program_of_coming_from_boto3(
    tree: Path, bucket: str, options: dict[str, Any], stored: Callable[[], dict[str, bytes]]
) -> None:
    publish = example("coming-from.md", "From boto3").publish
    number, keys = publish(str(tree), f"s3://{bucket}/p", **options)
    assert number == len(stored())
    assert sorted(f"p/{key}" for key in keys) == sorted(stored())
    with pytest.raises(Exception, match="does not exist"):
        publish(str(tree / "gone"), f"s3://{bucket}/p", **options)
