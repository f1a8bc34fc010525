"""`asyncsink run` on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

VARIABLES = ("SLURM_ARRAY_TASK_ID", "AWS_BATCH_JOB_ARRAY_INDEX", "PBS_ARRAY_INDEX", "LSB_JOBINDEX")


@pytest.fixture
def parts(inside: Any, results: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four parts of one file each."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert inside("split", results, f"s3://{bucket}/study", "parts", "--parts", "4").code == 0
    return tmp_path / "parts"


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_task_of_an_array_publishes_the_part_of_its_number(
    inside: Any, parts: Path, keys: Callable[[], list[str]], variable: str
) -> None:
    ended = inside("run", parts, "--part", "auto", "--json", **{variable: "2"})
    assert ended.code == 0
    (told,) = ended.json["parts"]
    assert (told["part"], told["objects_uploaded"]) == (2, 1)
    assert keys() == [json.loads((parts / "part-00002.jsonl").read_text())["key"]]


def test_ranges_and_what_is_missing(inside: Any, parts: Path, keys: Callable[[], list[str]]) -> None:
    assert inside("run", parts, "--part", "0-1").code == 0
    Path(json.loads((parts / "part-00002.jsonl").read_text())["path"]).write_text("changed")
    ended = inside("run", parts, "--part", "missing", "--json")
    assert ended.code == 1
    assert [told["part"] for told in ended.json["parts"]] == [2, 3]
    assert [told["objects_failed"] for told in ended.json["parts"]] == [1, 0]
    assert "SourceChanged" in json.dumps(ended.json["parts"][0]["failures"])
    assert len(keys()) == 3
    again = inside("run", parts, "--part", "missing", "--json")
    assert [told["part"] for told in again.json["parts"]] == [2]
    (parts / "receipts-00002.jsonl").write_bytes((parts / "receipts-00001.jsonl").read_bytes())
    whole = inside("run", parts, "--part", "missing")
    assert (whole.code, whole.stdout) == (0, "No part is missing: all have complete receipts, without failures.\n")


def test_each_of_several_parts_has_its_own_page(inside: Any, parts: Path, tmp_path: Path) -> None:
    ended = inside("run", parts, "--part", "0-1", "--report", "all.html")
    assert ended.code == 0
    assert sorted(each.name for each in tmp_path.glob("all*.html")) == ["all-0.html", "all-1.html"]
    assert [line for line in ended.stdout.splitlines() if "page" in line] == ["page: all-0.html.", "page: all-1.html."]
    alone = inside("run", parts, "--part", "2", "--report", "all.html")
    refused = inside("merge", parts, "-o", "merged.jsonl", "--report", "all.html")
    assert "asyncsink merge has no option --report; asyncsink run or " in refused.stderr
    assert "page: all.html." in alone.stdout
    assert (tmp_path / "all.html").is_file()


@pytest.mark.parametrize(
    ("part", "variables", "message"),
    [
        ("auto", {}, "this is no task of an array job"),
        ("auto", {"LSB_JOBINDEX": "0"}, "this is no task of an array job"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "one"}, "SLURM_ARRAY_TASK_ID='one' is no number"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "4"}, "Part 4 does not exist"),
        ("4", {}, "has parts 0 to 3"),
        ("2-7", {}, "Part 7 does not exist"),
        ("3-2", {}, "is no part"),
        ("-1", {}, "is no part"),
        ("all", {}, "is no part"),
    ],
)
def test_parts_that_do_not_exist_are_refused(
    inside: Any, parts: Path, part: str, variables: dict[str, str], message: str
) -> None:
    ended = inside("run", parts, f"--part={part}", **variables)
    assert (ended.code, ended.stdout) == (2, "")
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_parts_that_are_not_those_of_the_split_are_refused(
    inside: Any, parts: Path, keys: Callable[[], list[str]], tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        ended = inside("run", *words)
        assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
        return str(ended.stderr)

    assert "holds no split.json" in refused(tmp_path, "--part", "0")
    part = parts / "part-00001.jsonl"
    part.write_bytes(part.read_bytes().replace(b"study", b"other"))
    assert "its digest differs" in refused(parts, "--part", "1")
    part.unlink()
    assert "No such file" in refused(parts, "--part", "1")
    plan = json.loads((parts / "split.json").read_text())
    for change, message in (
        ({"version": 2}, "of version 2"),
        ({"format": "other"}, "is of no split"),
        ({"parts": [{}]}, "is damaged"),
    ):
        (parts / "split.json").write_text(json.dumps({**plan, **change}))
        assert message in refused(parts, "--part", "0")
    (parts / "split.json").write_text("{")
    assert "is no JSON" in refused(parts, "--part", "0")
    assert keys() == []


def test_a_root_on_the_command_line(inside: Any, parts: Path, results: Path, keys: Callable[[], list[str]]) -> None:
    moved = results.rename(results.with_name("moved"))
    ended = inside("run", parts, "--part", "0-3", "--root", f"{results}={moved}", "--json")
    assert ended.code == 0
    assert sum(told["objects_uploaded"] for told in ended.json["parts"]) == len(keys()) == 4
    assert inside("run", parts, "--part", "0", "--root", "nothing").code == 2
