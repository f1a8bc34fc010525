"""`asyncsink explain`: the words of the command for the steps of a key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.support.guide import GUIDE

Cli = Any


def test_the_guides_example_is_what_the_command_prints(inside: Cli, tmp_path: Path) -> None:
    (tmp_path / "work/_subject_id_s1").mkdir(parents=True)
    (tmp_path / "work/_subject_id_s1/con_0001.nii").write_text("x")
    page = (GUIDE / "names.md").read_text(encoding="utf-8")
    line, shown = re.findall(r"^```(?:sh)?\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[-2:]
    words = line.replace("\\\n", " ").split()
    assert words[:2] == ["asyncsink", "explain"]
    ended = inside(*words[1:], COLUMNS="80")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout == shown.replace(" /work/", f" {tmp_path}/work/")


def test_the_source_of_the_export_decides(inside: Cli, results: Path, tmp_path: Path) -> None:
    (tmp_path / "o.yaml").write_text("qc.@x: results/sub\n")
    (tmp_path / "m.csv").write_text("source,key\nresults/a.txt,raw/first\n")
    key = {
        ("results/sub/b=1.nii", "--source", "results"): "p/sub/b-one.nii",
        ("sub/b=1.nii", "--source", "results"): "p/sub/b-one.nii",
        ("results/sub/b=1.nii", "--outputs", "o.yaml"): "p/qc/sub/b=1.nii",
        ("results/sub/b=1.nii", "--attribute", "x.@y"): "p/x/b-one.nii",
        ("results/sub/b=1.nii", "--attribute", "x", "--source", "results/sub"): "p/x/sub/b=1.nii",
        ("results/a.txt", "--source-manifest", "m.csv"): "p/raw/first",
    }
    for (path, *how), expected in key.items():
        ended = inside("explain", path, "s3://b/p", *how, "--substitute", r"b\=1=b-one", "--json")
        assert (ended.code, ended.stderr) == (0, "")
        assert [each["key"] for each in ended.json["explained"]] == [expected]
    alone = inside("explain", "results/sub/b=1.nii", "results/a.txt", "s3://b/p", "--json")
    assert [each["key"] for each in alone.json["explained"]] == ["p/b=1.nii", "p/a.txt"]
    assert "As asyncsink export PATH… DESTINATION has it; --source names" in alone.stderr
    both = inside(
        "explain", "results/a.txt", "s3://b", "--source", "results/sub", "--source", "results/a.txt", "--json"
    )
    assert [each["key"] for each in both.json["explained"]] == ["a.txt"]
    whole = inside("explain", "results", "s3://b/p", "--substitute", r"b\=1=b-one", "--exclude", "*.txt")
    assert whole.code == 1
    assert whole.stdout.startswith(
        f" {results}/a.txt\n  ! it is not sent: excluded by '*.txt'\n\n {results}/sub/b=1.nii\n"
    )
    assert r"--substitute b\=1=b-one: replaced (rule 19)" in whole.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["s3://b/a.txt", "s3://b"], "What is exported is not named; add --source"),
        (["results/a.txt", "s3://b", "--outputs", "o.yaml", "--attribute", "x"], "a list of files has its own"),
        (["results/a.txt", "s3://b", "--outputs", "o.yaml", "--source", "x"], "--outputs and SOURCE both say"),
        (["nowhere", "s3://b"], "'nowhere' cannot be read"),
        (["results/none", "s3://b", "--source", "results"], "'results/none' does not exist"),
        (["o.yaml", "s3://b", "--source", "results"], "is not among the files of the source"),
        (["results/a.txt", "s3://b", "--source", "-"], "--source - is a stream"),
        (["results/a.txt", "s3://b", "--source", "nowhere"], "'nowhere' cannot be read"),
        (["results", "s3://b", "--substitute", "x"], "--substitute 'x' is malformed"),
    ],
)
def test_what_cannot_be_explained(inside: Cli, results: Path, tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "o.yaml").write_text("qc: results/sub\n")
    ended = inside("explain", *words)
    assert (ended.code, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_what_chose_a_file_and_its_options_is_said(inside: Cli, results: Path) -> None:
    (results / ".git").mkdir()
    (results / ".git/HEAD").write_text("x")
    (results / "sub/.asyncsinkignore").write_text("deep/\n")
    options = ("--source", "results", "--preset", "bids", "--max-size", "4B", "--set", "*.nii:storage_class=GLACIER_IR")
    said = {
        name: inside("explain", name, "s3://b", *options).stdout
        for name in (".git/HEAD", "sub/deep/c.json", "a.txt", "sub/b=1.nii")
    }
    assert "! it is not sent: " in said[".git/HEAD"]
    assert "of the preset bids" in said[".git/HEAD"]
    assert ".asyncsinkignore" in said["sub/deep/c.json"]
    assert "larger than 4 bytes" in said["a.txt"]
    assert "storage class GLACIER_IR" in said["sub/b=1.nii"]
