"""The recipe for Dask workers that are Slurm jobs, run as it is printed, but for the number of workers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.slurm import Slurm

pytest.importorskip("dask_jobqueue")
pytest.importorskip("asyncsink.adapters.dask")


@pytest.mark.timeout(300)
def test_a_directory_by_workers_that_are_jobs(
    slurm: Slurm, tmp_path: Path, bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    """Source, destination and options are those of the split, which has been given a substitution."""
    for subject in range(4):
        folder = tmp_path / "study" / f"sub-{subject}"
        folder.mkdir(parents=True)
        (folder / "bold.nii").write_text(str(subject))
    destination = f"s3://{bucket}/published"
    slurm.run("asyncsink", "split", "study", destination, "parts", "--substitute", "bold=func")
    script = slurm.run("asyncsink", "recipe", "dask-slurm", "parts")
    assert "scale(jobs=8)" in script
    (tmp_path / "publish.py").write_text(script.replace("jobs=8", "jobs=2"))
    told = slurm.run(sys.executable, "publish.py")
    assert f"All 4 files (4 bytes) are in {destination}." in told
    assert stored() == {f"published/sub-{subject}/func.nii": str(subject).encode() for subject in range(4)}
    assert len(list(tmp_path.glob("slurm-*.out"))) == 2
