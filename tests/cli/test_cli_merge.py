"""`merge`, and `verify` of several manifests: what they say, and their exit codes."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import failure_of, manifest_of, receipt_of, write_manifest

Cli = Any


@pytest.fixture
def sent(inside: Cli, results: Path, bucket: str, tmp_path: Path) -> list[str]:
    """The manifests of two jobs, each with 4 objects."""
    names = ["sub-1.jsonl", "sub-2.jsonl"]
    for number, name in enumerate(names, 1):
        assert inside("export", results, f"s3://{bucket}/sub-{number}", "--manifest", name, "--quiet").code == 0
    return names


def test_manifests_of_many_jobs_become_one_that_is_verified(
    inside: Cli, sent: list[str], s3: Any, bucket: str, tmp_path: Path
) -> None:
    merged = inside("merge", *sent, "-o", "study.jsonl")
    assert (merged.code, merged.stderr) == (0, "")
    assert merged.stdout == f"{tmp_path / 'study.jsonl'} has 8 objects of 2 manifests.\n"
    verified = inside("verify", "study.jsonl")
    assert (verified.code, verified.stdout.splitlines()[0]) == (0, "All 8 objects are as study.jsonl says.")
    both = inside("verify", *sent, "--json")
    assert (both.code, both.json["ok"], both.json["objects_total"], both.json["manifest"]) == (
        0,
        True,
        8,
        "2 manifests",
    )
    assert both.json["manifests"] == dict.fromkeys(sent, "")
    s3.delete_object(Bucket=bucket, Key="sub-2/a.txt")
    gone = inside("verify", *sent)
    assert (gone.code, gone.stdout.splitlines()[0]) == (1, "1 of 8 objects is not as 2 manifests say.")
    assert f"s3://{bucket}/sub-2/a.txt: it is not there" in gone.stderr


def test_what_is_wrong_with_each_is_named(inside: Cli, sent: list[str], bucket: str, tmp_path: Path) -> None:
    lines = (tmp_path / "sub-2.jsonl").read_text().splitlines()
    (tmp_path / "sub-2.jsonl").write_text("\n".join([*lines[:-1], ""]))
    merged = inside("merge", *sent, "-o", "study.jsonl")
    assert merged.code == 1
    assert "It does not prove everything: 1 problem." in merged.stdout
    assert merged.stderr.startswith("  sub-2.jsonl: The manifest has no end")
    assert manifest_of(tmp_path / "study.jsonl")[2].interrupted
    told = inside("merge", *sent, "-o", "study.jsonl", "--json")
    assert (told.code, told.json["ok"], told.json["objects_total"], told.json["complete"]) == (1, False, 8, False)
    assert [problem["name"] for problem in told.json["problems"]] == ["sub-2.jsonl"]
    verified = inside("verify", *sent)
    assert verified.code == 1
    assert "sub-2.jsonl: The manifest has no end" in verified.stdout
    assert verified.stdout.startswith("2 manifests do not list everything; all 8 objects in them are as they say.\n")


def test_a_directory_stands_for_the_receipts_of_a_split(inside: Cli, results: Path, bucket: str) -> None:
    """Split, published in parts, and merged: what is missing is named by number until it is there."""
    assert inside("split", results, f"s3://{bucket}/p", "split", "--parts", "4").code == 0
    for number in (0, 2):
        assert inside("run", "split", "--part", number).code == 0
    merged = inside("merge", "split", "-o", "all.jsonl")
    assert merged.code == 1
    missing = (
        "Parts 1, 3 of the 4 parts of the split 'split' have no receipts; publish what is missing with "
        "`asyncsink run split --part missing`."
    )
    assert merged.stderr == f"  split: {missing}\n"
    verified = inside("verify", "split")
    assert (verified.code, verified.stdout.splitlines()[1]) == (1, missing)
    assert inside("run", "split", "--part", "missing").code == 0
    assert inside("merge", "split", "-o", "all.jsonl").code == 0
    assert inside("verify", "split", "--json").json["objects_total"] == 4
    assert inside("run", "split", "--part", "0-3").code == 0, "a second time: nothing is sent, and nothing is lost"
    again = inside("merge", "split", "-o", "all.jsonl", "--json")
    assert (again.code, again.json["objects_total"], again.json["notices"]) == (0, 4, [])
    assert inside("verify", "all.jsonl", "--read-back").code == 0


def test_overlaps_and_failures_are_named(inside: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path / "1", [receipt_of("a", "one"), receipt_of("b", "one")])
    write_manifest(tmp_path / "2", [receipt_of("a", "two"), failure_of("c")], started=1)
    merged = inside("merge", "1", "2", "-o", "out")
    assert merged.code == 1
    assert "2 failures stand in it." in merged.stdout
    assert (
        "s3://results/a: Two manifests have different objects under this key, '1' and '2': the checksums"
        in merged.stderr
    )
    assert "2: The manifest's own run left 1 entry unpublished." in merged.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["1", "gone", "-o", "out"], "gone"),
        (["1", "results/a.txt", "-o", "out"], "a.txt', line 1"),
        (["1", "-o", "1"], "choose another name"),
        (["1", "-o", "results/a.txt"], "is no manifest"),
        (["1", "-o", "no/such/place"], "no/such/place"),
        (["results", "-o", "out"], "holds no receipts-*.jsonl"),
        (["1"], "--out"),
        (["-o", "out"], "MANIFEST"),
    ],
)
def test_wrong_words_are_one_sentence(
    inside: Cli, results: Path, tmp_path: Path, arguments: list[str], words: str
) -> None:
    before = write_manifest(tmp_path / "1", [receipt_of("a")]).read_bytes()
    ended = inside("merge", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("asyncsink: error: ")
    assert words in ended.stderr.splitlines()[0]
    assert (tmp_path / "1").read_bytes() == before
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()


def test_a_merge_that_is_interrupted_leaves_nothing(cli: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path / "1", [receipt_of(f"{number:06}") for number in range(60_000)])
    process = cli.start("merge", "1", "-o", "out")
    while not (tmp_path / "out.partial").exists():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    ended = cli.end(process)
    assert (ended.code, ended.stdout, ended.stderr) == (130, "", "Interrupted: nothing was merged.\n")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
