"""`ls`: folders with their totals, objects, and exit codes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from asyncsink.download.objects import FolderEntry, ObjectEntry, in_folders
from tests.support.quirky_s3 import StoredObject, quirky_s3

Cli = Any


@pytest.fixture
def published(inside: Cli, results: Path, s3: Any, bucket: str) -> str:
    assert inside("export", results, f"s3://{bucket}/study", "--quiet").code == 0
    s3.put_object(Bucket=bucket, Key="study/x\x1b[31m.txt", Body=b"red")
    return f"s3://{bucket}/study"


def shown(line: str) -> str:
    """A line without its date."""
    return line[16:].strip()


def test_folders_have_totals_and_objects_are_found_by_pattern(inside: Cli, published: str) -> None:
    folders = inside("ls", published)
    assert (folders.code, folders.stderr) == (0, "")
    *lines, totals = folders.stdout.splitlines()
    assert [shown(line) for line in lines] == [
        "5 bytes  a.txt",
        "16 bytes  sub/  (2 objects)",
        r"3 bytes  x\x1b[31m.txt",
        "3 bytes  é.par",
    ]
    assert totals == f"5 objects, 27 bytes, below {published}."
    everything = inside("ls", published, "-r").stdout.splitlines()
    assert [shown(line) for line in everything[1:3]] == ["4 bytes  sub/b=1.nii", "12 bytes  sub/deep/c.json"]
    assert [shown(line) for line in inside("ls", published, "--match", "**/*.json").stdout.splitlines()[:-1]] == [
        "12 bytes  sub/deep/c.json"
    ]
    told = inside("ls", published, "--json").json
    assert (told["objects_total"], told["bytes_total"], told["interrupted"]) == (5, 27, False)
    assert [(each["key"], each["size_bytes"]) for each in told["entries"][:2]] == [("a.txt", 5), ("sub/", 16)]


def test_one_object_and_the_beginning_of_names_are_found(inside: Cli, published: str) -> None:
    assert shown(inside("ls", f"{published}/a.txt").stdout.splitlines()[0]) == "5 bytes  a.txt"
    assert shown(inside("ls", f"{published}/su").stdout.splitlines()[0]) == "16 bytes  sub/  (2 objects)"


def test_nothing_there_is_exit_code_1(inside: Cli, published: str) -> None:
    nothing = inside("ls", f"{published}/none/")
    assert (nothing.code, nothing.stdout, nothing.stderr) == (1, "", f"There is nothing below {published}/none/.\n")
    unmatched = inside("ls", published, "--match", "*.mgz")
    assert (unmatched.code, unmatched.stderr) == (1, f"Nothing below {published} matches '*.mgz'.\n")
    here = inside("ls", "results")
    assert (here.code, "is a local directory; expected s3://bucket/prefix" in here.stderr) == (2, True)


def test_a_listing_ends_where_nobody_reads_it(cli: Cli) -> None:
    """`asyncsink ls -r s3://… | head` does not list the rest of the bucket."""
    with quirky_s3(page=1) as s3:
        s3.objects["tryout"] = {f"many/{number:02}": StoredObject(b"") for number in range(50)}
        process = cli.start("ls", "-r", "s3://tryout/many", stdin=subprocess.DEVNULL, AWS_ENDPOINT_URL=s3.url)
        process.stdout.close()
        assert process.wait(60) == 0
        assert 0 < len(s3.requests("GET")) < 10


@pytest.mark.anyio
async def test_a_folder_that_comes_in_two_runs_is_told_twice() -> None:
    async def entries() -> Any:
        for key, size_bytes in (("a/1", 1), ("a/2", 2), ("b", 4), ("a/3", 8), ("c/", 0)):
            yield ObjectEntry(key=key, size_bytes=size_bytes)

    assert [each async for each in in_folders(entries())] == [
        FolderEntry(key="a/", objects_total=2, size_bytes=3),
        ObjectEntry(key="b", size_bytes=4),
        FolderEntry(key="a/", objects_total=1, size_bytes=8),
        FolderEntry(key="c/"),
    ]
