"""What an export would do: planned and explained, and then done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ConfigError

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


async def test_an_export_sends_what_was_planned_by_the_planned_requests(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    options |= {"substitutions": [("sub/", "renamed/")], "transport": "aioboto3"}
    plan = await asyncsink.plan(tree, f"s3://{bucket}/p", **options)
    assert (plan.dry_run, stored(), plan.receipts) == (True, {}, [])
    sent: Counter[str] = Counter()

    def count(event: asyncsink.Event) -> None:
        if isinstance(event, asyncsink.Requested):
            sent[event.operation] += 1

    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", observe=count, **options)
    assert {(each.source, each.key, each.size_bytes) for each in plan.planned} == {
        (each.source, each.key, each.size_bytes) for each in report.receipts
    }
    figures = plan.figures()
    assert figures.requests == sent
    assert figures.requests["UploadPart"] > 1
    assert figures.new.as_dict() == {"objects": len(report.receipts), "bytes": report.bytes_uploaded}
    again = await asyncsink.plan({"sub": os.fspath(tree / "sub")}, f"s3://{bucket}/p", **options)
    assert {each.reason for each in again.planned} == {"not there"}
    assert all("/renamed/" in each.key or each.key.startswith("p/renamed/") for each in again.planned)
    same = await asyncsink.plan(tree, f"s3://{bucket}/p", **options)
    assert (list(same.planned), same.counts.already_there) == ([], len(report.receipts))


async def test_a_plan_of_both_kinds_in_a_notebook_and_what_it_refuses(tree: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    plan = asyncsink.plan_sync(tree, there, journal=False)
    assert not there.exists()
    assert plan.figures().requests == {}
    assert plan.summary().splitlines()[1].startswith("  new ")
    outputs = asyncsink.plan_sync({"motion": tree / "sub"}, there, journal=False, exclude=["*.gz"])
    assert {each.key.split("/")[0] for each in outputs.planned} == {"motion"}
    assert [skip.reason for skip in outputs.skips] == ["excluded by '*.gz'"]
    with pytest.raises(ConfigError, match="A plan writes no manifest"):
        await asyncsink.plan(tree, there, manifest=tmp_path / "m.jsonl")
    with pytest.raises(ConfigError, match="outputs_or_directory is of type int"):
        await asyncsink.plan(5, there)  # type: ignore[arg-type]


def outputs_of(folder: Path) -> dict[str, Any]:
    for name in ("_subject_id_s1/con_0001.nii", "_subject_id_s1/_mn0/mask.nii", "masks/brain.nii", "masks/.git/HEAD"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return {
        "contrasts.@con": folder / "_subject_id_s1/con_0001.nii",
        "qc": [folder / "_subject_id_s1/_mn0/mask.nii", folder / "masks"],
    }


@pytest.mark.parametrize("compat", ["strict", "nipype"])
async def test_the_explained_keys_are_those_of_the_export(tmp_path: Path, compat: Any) -> None:
    options: dict[str, Any] = {
        "container": "run-1",
        "substitutions": [("_subject_id_", "sub-"), ("absent", "x")],
        "regexp_substitutions": [(r"con_(\d+)", r"contrast-\1")],
        "local_copy": tmp_path / "copy",
        "exclude": [".git/"],
        "storage_class": "GLACIER_IR",
        "journal": False,
        "compat": compat,
    }
    outputs = outputs_of(tmp_path / "work")
    plan = await asyncsink.plan(outputs, tmp_path / "there", **options)
    assert len(plan.planned) == 3
    for planned in plan.planned:
        (explained,) = asyncsink.explain(planned.source, outputs, tmp_path / "there", **options)
        assert (explained.key, explained.url, explained.attribute) == (planned.key, planned.url, planned.attribute)
        assert explained.local_copy == f"{tmp_path}/copy/{planned.key}"


def test_an_explanation_names_each_step_and_its_rules(tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "container": "run-1",
        "substitutions": [("_subject_id_", "sub-"), ("absent", "x")],
        "regexp_substitutions": [(r"con_(\d+)", r"contrast-\1")],
        "storage_class": "GLACIER_IR",
        "tags": {"study": "pilot"},
    }
    outputs = outputs_of(tmp_path)
    path = tmp_path / "_subject_id_s1/con_0001.nii"
    (con,) = asyncsink.explain(path, outputs, "s3://b/study", **options)
    assert str(con).splitlines() == [
        f" {path}",
        " → s3://b/study/run-1/contrasts/sub-s1/contrast-0001.nii",
        "",
        "  1  a source keeps its own name (rule 13)",
        "   → con_0001.nii",
        '  2  folders of its path that begin with "_" are kept: _subject_id_s1 (rule 14)',
        "   → _subject_id_s1/con_0001.nii",
        "  3  the attribute 'contrasts.@con' gives the folder 'contrasts'; '@con' names",
        "     none (rule 9)",
        "   → contrasts/_subject_id_s1/con_0001.nii",
        "  4  the container's folder 'run-1' (container)",
        "   → run-1/contrasts/_subject_id_s1/con_0001.nii",
        "  5  substitutions ('_subject_id_', 'sub-'): replaced (rule 19)",
        "     run-1/contrasts/_subject_id_s1/con_0001.nii",
        "   → run-1/contrasts/sub-s1/con_0001.nii",
        "  6  substitutions ('absent', 'x'): nothing to replace (rule 19)",
        r"  7  regexp_substitutions ('con_(\\d+)', 'contrast-\\1'): replaced (rule 19)",
        "     run-1/contrasts/sub-s1/con_0001.nii",
        "   → run-1/contrasts/sub-s1/contrast-0001.nii",
        "  8  the key is legal: 40 of 1,018 bytes, no '..', no '//' (rules 12, 23)",
        "  9  the destination's prefix 'study'",
        "   → study/run-1/contrasts/sub-s1/contrast-0001.nii",
        "     its object is given: content type application/octet-stream, storage class",
        "       GLACIER_IR, tags study=pilot",
    ]
    assert con.as_dict()["steps"][4]["pair"] == ("_subject_id_", "sub-")
    (head,) = asyncsink.explain(tmp_path / "masks/.git/HEAD", outputs, "s3://b", exclude=[".git"])
    assert (head.key, head.left_out, head.refuses_run) == ("", "excluded by '.git'", False)
    (refused,) = asyncsink.explain(path, outputs, "s3://b", substitutions=[("con_0001.nii", "..")])
    assert refused.refuses_run
    assert "has the segment '..'" in refused.left_out
    assert refused.steps[-1].after.endswith("..")


def test_paths_are_those_of_the_source_or_relative_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs_of(tmp_path / "tree")
    monkeypatch.chdir(tmp_path)
    for given in ("tree/masks/brain.nii", "masks/brain.nii", tmp_path / "tree/masks/brain.nii"):
        (found,) = asyncsink.explain(given, "tree", "s3://b/p", parameterization=False)
        assert (found.key, found.attribute) == ("p/masks/brain.nii", "")
    assert len(asyncsink.explain("masks", "tree", "s3://b")) == 2
    assert len(asyncsink.explain("tree", "tree", "s3://b")) == 3  # of four
    (found,) = asyncsink.explain("s3://b/p/m/masks/brain.nii", {"m": "tree/masks"}, "s3://b/p")
    assert found.source == f"{tmp_path}/tree/masks/brain.nii"
    with pytest.raises(ConfigError, match="No file of the source gets the key 'p/none'"):
        asyncsink.explain("s3://b/p/none", "tree", "s3://b/p")
    with pytest.raises(ConfigError, match="is no object below the destination s3://b/p"):
        asyncsink.explain("s3://c/p/none", "tree", "s3://b/p")
    with pytest.raises(ConfigError, match="'tree/none' does not exist"):
        asyncsink.explain("tree/none", "tree", "s3://b")
    with pytest.raises(ConfigError, match="is not among the files of the source"):
        asyncsink.explain("tree/masks/brain.nii", {"x": "tree/_subject_id_s1"}, "s3://b")
    (refused,) = asyncsink.explain("tree/masks/brain.nii", {"x..y": "tree/masks/brain.nii"}, "s3://b")
    assert "has an empty component" in refused.left_out
    assert refused.refuses_run
