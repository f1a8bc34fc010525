"""What the tests of parts share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """200 files of 20 subjects; reports beside the subjects' folders, as fMRIPrep writes them."""
    root = tmp_path / "cohort"
    for subject in range(20):
        folder = root / f"sub-{subject:02}"
        folder.mkdir(parents=True)
        (root / f"sub-{subject:02}.html").write_text(f"report {subject}")
        for number in range(9):
            (folder / f"file-{number}.txt").write_text(f"content {subject} {number}" * (number + 1))
    return root
