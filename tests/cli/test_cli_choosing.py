"""What a command publishes: SOURCE words, what is left out of them, and what objects are given by their keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.engine.planning import key_ledger

Cli = Any
Keys = Callable[[], list[str]]


def test_files_are_data_whatever_their_suffix(
    inside: Cli, results: Path, tmp_path: Path, bucket: str, keys: Keys
) -> None:
    for name in ("task.json", "events.tsv", "table.csv", "lines.jsonl", "config.yaml"):
        (tmp_path / name).write_text('{"RepetitionTime": 2}')
    names = sorted(path.name for path in tmp_path.glob("*.*"))
    ended = inside("export", *names, "results/sub", f"s3://{bucket}/x/")
    assert (ended.code, ended.stderr) == (0, "")
    assert keys() == sorted([*(f"x/{name}" for name in names), "x/sub/b=1.nii", "x/sub/deep/c.json"])
    one = inside("export", "task.json", f"s3://{bucket}/one", "--container", "run-1", "--substitute", "task=bids", "-q")
    assert (one.code, "one/run-1/bids.json" in keys()) == (0, True)
    assert inside("check", *names, "results/sub", f"s3://{bucket}/x").code == 0


@pytest.mark.parametrize(
    ("name", "content", "flag"),
    [
        ("o.json", '{"motion": "results/a.txt"}', "--outputs"),
        ("m.csv", "source,key\nresults/a.txt,k\n", "--source-manifest"),
    ],
)
def test_a_file_that_was_a_list_once_is_data_and_the_flag_is_named(
    inside: Cli, results: Path, tmp_path: Path, name: str, content: str, flag: str
) -> None:
    (tmp_path / name).write_text(content)
    for command, rest in (("export", ()), ("split", (tmp_path / "parts",))):
        ended = inside(command, name, tmp_path / "out", *rest)
        assert ended.code == 0
        assert f"write {flag} {name} in its place" in ended.stderr
    assert (tmp_path / "out" / name).read_text() == content
    assert inside("export", flag, name, tmp_path / "listed").stderr == ""
    assert [path.name for path in (tmp_path / "listed").rglob("*.*")] != [name]


def test_what_is_left_out_is_counted_with_its_reason(inside: Cli, results: Path, tmp_path: Path, bucket: str) -> None:
    (results / ".git").mkdir()
    (results / ".git/config").write_text("x")
    (results / "sub/.asyncsinkignore").write_text("deep/\n")
    (tmp_path / "patterns").write_text("# mine\n*.par\n")
    (tmp_path / "list").write_text("a.txt\nsub\né.par\n.git/config\n")
    words = ("--preset", "datalad", "--exclude-from", "patterns", "--max-size", "4", "--json")
    plan = inside("plan", "results", f"s3://{bucket}/x", "--no-journal", *words, "--files-from", "list")
    assert [each["key"] for each in plan.json["planned"]] == ["x/sub/b=1.nii"]
    told = inside("export", "results", tmp_path / "out", "--exclude", "*.par")
    assert told.code == 0
    assert "note: Left out (excluded by '*.par')" in told.stderr
    assert "not sent" not in told.stderr, "what was chosen is no fault"
    assert plan.json["skip_reasons"] == {
        "larger than 4 bytes": 1,
        "excluded by 'deep/' of .asyncsinkignore": 1,
        "asyncsink's own file": 1,
        "excluded by '*.par' of patterns": 1,
        "excluded by '.git' of the preset datalad": 1,
    }


def test_keys_that_match_are_given_other_options(
    inside: Cli, results: Path, s3: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (
        "--storage-class", "STANDARD", "--set", "*.nii:storage_class=STANDARD_IA", "--set", "sub/:tag=part=sub",
        "--set", "*.json:content-type=text/plain", "--set", "c.json:metadata=lab=one", "--json",
    )  # fmt: skip
    monkeypatch.setattr(key_ledger, "IN_MEMORY_MAX", 1)  # what the survey found goes through its file
    first = inside("export", "results", f"s3://{bucket}/p", *words)
    assert first.json["objects_uploaded"] == 4

    def given(key: str) -> tuple[Any, ...]:
        head = s3.head_object(Bucket=bucket, Key=key)
        tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        metadata = {name: value for name, value in head["Metadata"].items() if name == "lab"}
        return head.get("StorageClass", "STANDARD"), head["ContentType"], metadata, [tag["Value"] for tag in tags]

    expected = {
        "p/a.txt": ("STANDARD", "text/plain", {}, []),
        "p/sub/b=1.nii": ("STANDARD_IA", "application/octet-stream", {}, ["sub"]),
        "p/sub/deep/c.json": ("STANDARD", "text/plain", {"lab": "one"}, ["sub"]),
    }
    assert {key: given(key) for key in expected} == expected
    assert inside("export", "results", f"s3://{bucket}/p", *words).json["objects_skipped"] == 4
    # A part of a split gives the same.
    assert inside("split", "results", f"s3://{bucket}/q", "parts", "--parts", 1, *words).code == 0
    assert json.loads((results.parent / "parts/split.json").read_text())["options"]["object_options"]["sub/"] == {
        "tags": {"part": "sub"}
    }
    assert inside("run", "parts", "--part", 0).code == 0
    assert {key: given(key.replace("p/", "q/", 1)) for key in expected} == expected
