"""A Nipype workflow whose nodes are jobs of Slurm: journals, manifests and merge with one DataSink for each subject."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from nipype import Function, IdentityInterface, Node, Workflow

from asyncsink.adapters.nipype import DataSink
from tests.support.slurm import Slurm

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
SUBJECTS = ["s1", "s2", "s3"]


def make_image(subject: str) -> str:
    """What a node computes, in a job of its own."""
    import os

    with open(f"{subject}_bold.nii", "w") as file:
        file.write(subject)
    return os.path.abspath(f"{subject}_bold.nii")


def manifest_of(subject: str) -> str:
    """Not in the folder of the sink, which Nipype tidies up after each run."""
    import os

    return os.path.abspath(f"sent/{subject}.jsonl")


def journal_of(subject: str) -> str:
    """A sink's own."""
    import os

    return os.path.abspath(f"journals/{subject}.sqlite")


def workflow_of(base_dir: Path, bucket: str, *, own_journals: bool) -> Workflow:
    """A sink for each subject, each with a manifest."""
    workflow = Workflow("study", base_dir=str(base_dir))
    workflow.config["execution"] = {"crashdump_dir": str(base_dir / "crash"), "poll_sleep_duration": "0.1"}
    subjects = Node(IdentityInterface(["subject"]), name="subjects")
    subjects.iterables = [("subject", SUBJECTS)]
    image = Node(Function(["subject"], ["bold"], function=make_image), name="image")
    sink = Node(DataSink(base_directory=f"s3://{bucket}/study"), name="sink")
    workflow.connect([(subjects, image, [("subject", "subject")]), (image, sink, [("bold", "func.@bold")])])
    workflow.connect(subjects, ("subject", manifest_of), sink, "manifest")
    if own_journals:
        workflow.connect(subjects, ("subject", journal_of), sink, "journal")
    return workflow


@pytest.mark.timeout(300)
def test_each_node_is_a_job(
    slurm: Slurm,
    tmp_path: Path,
    bucket: str,
    stored: Callable[[], dict[str, bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All sinks run at once, to one destination: they share the default journal or go without, or each has its own. The
    merged manifests prove everything, also after a second run that finds everything there."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("sent", "journals"):
        (tmp_path / name).mkdir()
    without = "goes on without a journal"

    def run(*, own_journals: bool) -> tuple[int, int, bool]:
        """Objects uploaded, objects that were there, and whether a sink had no journal."""
        before = set((tmp_path / "study" / "batch").glob("slurm-*.out"))
        workflow_of(tmp_path, bucket, own_journals=own_journals).run("SLURM", {"sbatch_args": "--mem=1G"})
        manifests = [tmp_path / "sent" / f"{subject}.jsonl" for subject in SUBJECTS]
        merged = json.loads(slurm.run("asyncsink", "merge", *manifests, "-o", "study.jsonl", "--json"))
        assert (merged["ok"], merged["manifests"]) == (True, len(SUBJECTS))
        verified = json.loads(slurm.run("asyncsink", "verify", "study.jsonl", "--json"))
        assert (verified["ok"], verified["objects_total"]) == (True, len(SUBJECTS))
        told = [path.read_text() for path in set((tmp_path / "study" / "batch").glob("slurm-*.out")) - before]
        return merged["objects_uploaded"], merged["objects_skipped"], any(without in text for text in told)

    assert run(own_journals=False)[:2] == (len(SUBJECTS), 0)
    assert stored() == {f"study/func/_subject_{each}/{each}_bold.nii": each.encode() for each in SUBJECTS}
    assert len(list((tmp_path / "state").rglob("*.sqlite"))) == 1
    assert run(own_journals=True) == (0, len(SUBJECTS), False)
    assert sorted(path.stem for path in (tmp_path / "journals").glob("*.sqlite")) == SUBJECTS
    # Each image was made once, in a job; each sink ran twice.
    assert len(list((tmp_path / "study" / "batch").glob("slurm-*.out"))) == 3 * len(SUBJECTS)
