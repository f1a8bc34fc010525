"""Pages that are typed as they stand, on a real server: each block ends well and shows what the page shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.devserver.seaweedfs import DevServer
from tests.support.guide import GUIDE, example

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    "sh": ["bash", "-euo", "pipefail", "-c"],
    "bash": ["bash", "-euo", "pipefail", "-c"],
    "python": [sys.executable, "-c"],
}


def type_in(page: str, place: str, server: DevServer, folder: Path) -> int:
    """Run the blocks of a page one after another in `folder`, with the server's bucket in the place of the page's.

    What a block of text shows was told by the block before it. Returns the number of blocks that were run.
    """
    environment = {**os.environ, **server.environment, "NO_COLOR": "1", "SLURM_JOB_ID": "17"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    named, bucket = place.split("=")
    told, ran = "", 0
    for language, block in BLOCK.findall((GUIDE / page).read_text(encoding="utf-8")):
        if language in PROGRAMS:
            words = [*PROGRAMS[language], block.replace(f"s3://{named}", f"s3://{bucket}")]
            done = subprocess.run(
                words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100
            )
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            told = (done.stdout + done.stderr).replace(bucket, named)
            ran += 1
        elif language == "text":
            assert [line for line in block.splitlines() if line not in told] == [], told
    return ran


def test_every_block_of_the_tutorial_does_what_the_page_says(seaweed: DevServer, bucket: str, tmp_path: Path) -> None:
    assert type_in("tutorial.md", f"cohort={bucket}", seaweed, tmp_path) >= 10


def test_a_dataset_is_published_as_the_page_says(
    seaweed: DevServer, bucket: str, tmp_path: Path, stored: Callable[[], dict[str, bytes]]
) -> None:
    dataset = tmp_path / "dataset"
    content = {"sub-01/func/sub-01_bold.nii.gz": os.urandom(9 << 20), "sub-01/anat/sub-01_T1w.nii.gz": b"T1w" * 1000}
    for number, (name, data) in enumerate(content.items()):
        annexed = dataset / ".git/annex/objects/aa" / f"MD5E-{number}"
        annexed.parent.mkdir(parents=True, exist_ok=True)
        annexed.write_bytes(data)
        link = dataset / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(annexed, link.parent))
    (dataset / ".datalad").mkdir()
    (dataset / ".datalad/config").write_text("[datalad]")
    (dataset / "dataset_description.json").write_text("{}")
    assert type_in("datalad.md", f"my-bucket={bucket}", seaweed, tmp_path) == 4
    assert stored() == {f"study/{name}": data for name, data in content.items()} | {
        "study/dataset_description.json": b"{}"
    }
    assert {path.name for path in (tmp_path / "copy").rglob("*") if path.is_file()} == {
        "sub-01_bold.nii.gz", "sub-01_T1w.nii.gz", "dataset_description.json",
    }  # fmt: skip
    assert "<!doctype html" in (tmp_path / "study-17.html").read_text(encoding="utf-8").lower()


def test_the_program_of_coming_from_boto3(
    tree: Path, bucket: str, options: dict[str, Any], stored: Callable[[], dict[str, bytes]]
) -> None:
    publish = example("coming-from.md", "From boto3").publish
    number, keys = publish(str(tree), f"s3://{bucket}/p", **options)
    assert number == len(stored())
    assert sorted(f"p/{key}" for key in keys) == sorted(stored())
    with pytest.raises(Exception, match="does not exist"):
        publish(str(tree / "gone"), f"s3://{bucket}/p", **options)
