"""`runs`: what earlier runs have left, as people see it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.manifests import failure_of, receipt_of, write_manifest

Cli = Any


def test_journals_and_receipts_are_listed_shown_and_removed(
    inside: Cli, results: Path, bucket: str, tmp_path: Path
) -> None:
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    place = f"s3://{bucket}/study"
    empty = inside("runs", **state)
    assert (empty.code, empty.stdout.count("  none\n")) == (0, 2)
    assert inside("export", results, place, "--manifest", "study.jsonl", "-q", **state).code == 0
    listed = inside("runs", **state)
    _, journal, _, _, receipt = listed.stdout.splitlines()
    assert (listed.code, listed.stderr) == (0, "")
    assert f"  {place} at http" in journal
    assert journal.endswith("  4 objects")
    assert receipt.endswith(f"  study.jsonl  {place}  4 objects sent: complete")
    told = inside("runs", "--json", **state).json
    assert [each["objects_total"] for each in told["journals"]] == [4]
    assert [(each["path"], each["state"]) for each in told["receipts"]] == [("study.jsonl", "complete")]
    shown = inside("runs", "show", place, **state).stdout
    assert ["remembers    4 objects" in shown, "receipt      study.jsonl" in shown] == [True, True]
    assert inside("runs", "rm", place, "-n", **state).stdout.endswith("\n1 journal would be removed.\n")
    assert inside("runs", "rm", place, **state).stdout.endswith("\n1 journal removed.\n")
    assert inside("runs", "--json", **state).json["journals"] == []
    assert (tmp_path / "study.jsonl").exists(), "a receipt is the user's own file"


def test_the_failures_of_a_receipt_are_shown_by_cause(inside: Cli, tmp_path: Path) -> None:
    write_manifest(tmp_path / "k.jsonl", [receipt_of("a"), *(failure_of(f"b{number}") for number in range(5))])
    shown = inside("runs", "show", "k.jsonl")
    assert (shown.code, "objects      1 object sent, 5 failed: not everything was published" in shown.stdout) == (
        0,
        True,
    )
    assert "5 files: " in shown.stderr
    assert len(inside("runs", "show", "k.jsonl", "--json").json["failures"]) == 5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["show", "nowhere"], "'nowhere' is neither a destination (s3://bucket/prefix) nor a file"),
        (["rm"], "Nothing is named; give destinations, or --older-than such as 30d."),
        (["rm", "--older-than", "soon"], "--older-than"),
        (["rm", "k.jsonl"], "has no journal. A receipt is a file of yours"),
        (["shwo"], "There is no command 'shwo'.\n  try: asyncsink runs show\n"),
        (["--in", "nowhere"], "The folder 'nowhere' cannot be read"),
    ],
)
def test_wrong_words_are_refused(inside: Cli, tmp_path: Path, words: list[str], said: str) -> None:
    write_manifest(tmp_path / "k.jsonl", [receipt_of("a")])
    refused = inside("runs", *words, XDG_STATE_HOME=str(tmp_path / "state"))
    assert (refused.code, refused.stdout) == (2, "")
    assert said in refused.stderr
