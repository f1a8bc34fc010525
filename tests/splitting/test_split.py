"""A source is cut into parts: what the files say, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.splitting.files import read_plan

from .parts import keys_of, lines_of

pytestmark = pytest.mark.anyio
DESTINATION = "s3://bucket/study"


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_parts_are_contiguous_in_the_order_of_keys_and_say_what_was_found(cohort: Path, tmp_path: Path) -> None:
    report = await asyncsink.split(cohort, DESTINATION, tmp_path / "parts", parts=4)
    keys = keys_of(tmp_path / "parts")
    assert [key for part in sorted(keys) for key in part] == sorted(f"study/{name}" for name in names(cohort))
    # Parts with neighbouring numbers are far apart.
    assert sorted(range(4), key=keys.__getitem__) == [0, 2, 1, 3]
    assert len(keys) == len(report.parts) == 4
    assert report.ok
    told = json.loads((tmp_path / "parts/split.json").read_text())
    assert (told["format"], told["version"], told["destination"]) == ("asyncsink split", 1, DESTINATION)
    assert (told["source"], told["objects"]) == (str(cohort), 200)
    assert told["bytes"] == sum(path.stat().st_size for path in cohort.rglob("*.*"))
    for part, own in zip(told["parts"], keys, strict=True):
        content = (tmp_path / "parts" / part["file"]).read_bytes()
        assert (part["first_key"], part["last_key"], part["objects"]) == (own[0], own[-1], len(own))
        assert part["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert part["bytes"] == sum(line["size_bytes"] for line in map(json.loads, content.splitlines()))
    line = lines_of(tmp_path / "parts/part-00000.jsonl")[0]
    found = os.stat(cohort / "sub-00.html")
    assert line == {
        "key": "study/sub-00.html",
        "path": str(cohort / "sub-00.html"),
        "size_bytes": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
    }


async def test_limits_close_parts(cohort: Path, tmp_path: Path) -> None:
    report = await asyncsink.split(cohort, DESTINATION, tmp_path / "parts", part_objects=30, part_bytes="1KiB")
    assert all(part.objects <= 30 and part.bytes <= 1024 for part in report.parts)
    assert sum(part.objects for part in report.parts) == 200


async def test_substitutions_are_sorted_and_recorded(cohort: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "substitutions": [("sub-0", "z-"), ("sub-1", "a-")],
        "tags": {"lab": "one"},
        "checksum": "SHA256",
        "container": "raw",
    }
    await asyncsink.split(cohort, DESTINATION, tmp_path / "parts", parts=3, **options)
    keys = [key for part in sorted(keys_of(tmp_path / "parts")) for key in part]
    assert keys == sorted(keys)
    assert keys[0] == "study/raw/a-0.html"
    assert keys[-1] == "study/raw/z-9/file-8.txt"
    assert json.loads((tmp_path / "parts/split.json").read_text())["options"] == {
        "container": "raw",
        "substitutions": [["sub-0", "z-"], ["sub-1", "a-"]],
        "tags": {"lab": "one"},
        "checksum": "SHA256",
    }


async def test_outputs_and_manifests_can_be_split(cohort: Path, tmp_path: Path) -> None:
    await asyncsink.split({"anat.@t": [cohort / "sub-00", cohort / "sub-01.html"]}, DESTINATION, tmp_path / "outputs")
    expected = ["study/anat/sub-00/" + name for name in names(cohort / "sub-00")] + ["study/anat/sub-01.html"]
    assert keys_of(tmp_path / "outputs") == [expected]
    manifest = tmp_path / "rows.csv"
    manifest.write_text(f"source,key\n{cohort}/sub-01.html,b\n{cohort}/sub-00.html,a\n")
    await asyncsink.split(None, DESTINATION, tmp_path / "rows", source_manifest=manifest)
    assert keys_of(tmp_path / "rows") == [["study/a", "study/b"]]
    described = tmp_path / "outputs.json"
    described.write_text(json.dumps({"@t": str(cohort / "sub-02.html")}))
    await asyncsink.split([described, cohort / "sub-02.html"], DESTINATION, tmp_path / "files")
    assert keys_of(tmp_path / "files") == [["study/outputs.json", "study/sub-02.html"]], "files are data"


async def test_the_last_of_two_sources_has_the_key(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "f.txt").write_text(folder)
    outputs = {"@f": [tmp_path / "one/f.txt", tmp_path / "two/f.txt"]}
    with pytest.raises(asyncsink.KeyCollision):
        await asyncsink.split(outputs, DESTINATION, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
    report = await asyncsink.split(outputs, DESTINATION, tmp_path / "parts", on_collision="last")
    (line,) = lines_of(tmp_path / "parts/part-00000.jsonl")
    assert line["path"] == str(tmp_path / "two/f.txt")
    assert sum(report.plan.left_out.values()) == 1


async def test_names_that_some_server_takes_for_one_are_marked(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for name in ("A.txt", "a.txt", "b.txt"):
        (tmp_path / "source" / name).touch()
    await asyncsink.split(tmp_path / "source", DESTINATION, tmp_path / "parts", parts=3)
    marked = [lines_of(path)[0].get("alike") for path in sorted((tmp_path / "parts").glob("part-*"))]
    assert marked == [["study/a.txt"], None, ["study/A.txt"]]


async def test_what_may_not_be_read_is_in_no_part(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/good").touch()
    (tmp_path / "source/bad\tname").touch()
    with pytest.raises(asyncsink.InvalidKey):
        await asyncsink.split(tmp_path / "source", DESTINATION, tmp_path / "parts")
    report = await asyncsink.split(tmp_path / "source", DESTINATION, tmp_path / "parts", on_unreadable="skip")
    assert keys_of(tmp_path / "parts") == [["study/good"]]
    assert (report.ok, report.objects_failed) == (False, 1)
    assert "bad" in report.failures[0]


async def test_an_empty_source_has_no_parts(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    report = await asyncsink.split(tmp_path / "source", DESTINATION, tmp_path / "parts", parts=4)
    assert report.parts == read_plan(str(tmp_path / "parts")).parts == ()
    assert "holds no files" in report.notices[0]


async def test_a_customer_key_is_in_no_file(cohort: Path, tmp_path: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="sse is a customer key"):
        await asyncsink.split(cohort, DESTINATION, tmp_path / "parts", sse=b"k" * 32)
    assert not (tmp_path / "parts").exists()


async def test_parts_do_not_lie_in_the_source(cohort: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="lies inside the source"):
        await asyncsink.split(cohort, DESTINATION, cohort / "parts")
    assert not (cohort / "parts").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"parts": 0}, "parts=0 is no number"),
        ({"parts": 2, "part_bytes": "1GiB"}, "contradict each other"),
        ({"part_bytes": "x"}, "part_bytes='x' is no size"),
        ({"part_objects": "-1"}, "part_objects='-1'"),
        ({"endpoint_url": "http://x"}, "'endpoint_url' is no option of a split"),
    ],
)
async def test_wrong_options_are_refused(cohort: Path, tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(asyncsink.ConfigError, match=message):
        await asyncsink.split(cohort, DESTINATION, tmp_path / "parts", **given)
    assert not (tmp_path / "parts").exists()


def test_the_command_splits_and_tells(run_inside: Callable[..., Any], cohort: Path, tmp_path: Path) -> None:
    words = ["split", "cohort", DESTINATION, "parts", "--parts", "4", "--substitute", "sub-=s"]
    done = run_inside(*words, "--json", env=dict(os.environ), cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, told["parts"], told["objects_total"]) == (0, 4, 200)
    again = run_inside(*words, env=dict(os.environ), cwd=tmp_path)
    assert again.returncode == 2
    assert b"is not empty" in again.stderr
    assert len(keys_of(tmp_path / "parts")) == 4
    refused = run_inside("split", "-", DESTINATION, "more", env=dict(os.environ), cwd=tmp_path)
    assert refused.returncode == 2
    assert b"SOURCE is -" in refused.stderr
    assert run_inside("split", "gone", DESTINATION, "more", env=dict(os.environ), cwd=tmp_path).returncode == 2
