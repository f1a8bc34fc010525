"""The demo cohort: real images, the same bytes every time, arranged as a workflow's outputs."""

from __future__ import annotations

import builtins
import hashlib
import os
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from asyncsink.errors import ConfigError
from asyncsink.testing.studies import cohort
from asyncsink.testing.studies.cohort import build_cohort

VOLUME_BYTES = 128 * 96 * 24 * 2


def files_below(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def digests(directory: Path) -> dict[str, str]:
    return {str(p.relative_to(directory)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files_below(directory)}


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        build_cohort(tmp_path / name, subjects=2, large_file_bytes=2_000_000, seed=seed)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    assert first.keys() == other.keys()
    differing = {name for name in first if first[name] != other[name]}
    assert {Path(name).suffix for name in first.keys() - differing}.isdisjoint({".nii", ".gz"})
    images = [name for name in first if name.endswith((".nii", ".nii.gz"))]
    assert len({first[name] for name in images}) == len(images), "no two images are alike"


def test_outputs_name_everything_that_was_written(tmp_path: Path) -> None:
    outputs = build_cohort(tmp_path, subjects=3, large_file_bytes=1)
    assert {"motion", "motion.@parameters", "anat.@t1", "func.bold.@preproc", "qc"} <= outputs.keys()
    named = [Path(path) for paths in outputs.values() for path in paths]
    assert all(path.is_absolute() and path.exists() for path in named)
    assert any(path.is_dir() for path in named)
    reached = [file for path in named for file in (files_below(path) if path.is_dir() else [path])]
    assert sorted(reached) == files_below(tmp_path)
    assert len(reached) == 3 * 29 + 1
    assert any("_contrast_1" in path.parts and "_subject_id_sub-01" in path.parts for path in named)


@pytest.mark.filterwarnings("ignore:unclosed file.*REC:ResourceWarning")  # nibabel's, in its PAR/REC reader
def test_every_image_loads_and_keeps_its_values(tmp_path: Path) -> None:
    build_cohort(tmp_path, subjects=1, large_file_bytes=0)
    kinds = (".nii", ".nii.gz", ".mnc", ".PAR", ".HEAD")
    images = [path for path in files_below(tmp_path) if path.name.endswith(kinds)]
    for path in images:
        image: Any = nibabel.load(path)
        assert np.isfinite(np.nanmax(image.get_fdata()))
    source: Any = nibabel.load(Path(nibabel.__file__).parent / "tests/data/functional.nii")
    varied: Any = nibabel.load(next(path for path in images if path.name == "functional_mc.nii"))
    assert np.allclose(varied.affine, source.affine)
    assert np.allclose(varied.get_fdata(), source.get_fdata(), atol=8 * source.dataobj.slope)
    assert not np.array_equal(varied.get_fdata(), source.get_fdata())
    tracts = next(path for path in files_below(tmp_path) if path.suffix == ".trk")
    with tracts.open("rb") as file:
        load: Any = nibabel.streamlines.load
        assert len(load(file).streamlines) == 120


@pytest.mark.parametrize("wanted", [1, 352 + 3 * VOLUME_BYTES, 352 + 4 * VOLUME_BYTES - 1])
def test_the_large_image_has_the_size_that_was_asked_for(tmp_path: Path, wanted: int) -> None:
    (path,) = build_cohort(tmp_path, subjects=1, large_file_bytes=wanted)["func.bold.@timeseries"]
    size = os.path.getsize(path)
    assert size == 352 + VOLUME_BYTES or wanted - VOLUME_BYTES < size <= wanted
    image: Any = nibabel.load(path)
    assert image.shape == (128, 96, 24, (size - 352) // VOLUME_BYTES)
    assert image.get_fdata().max() > 1000


def test_an_image_of_more_volumes_than_nifti_1_can_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "_NIFTI1_VOLUMES_MAX", 2)
    (path,) = build_cohort(tmp_path, subjects=1, large_file_bytes=3_000_000)["func.bold.@timeseries"]
    image: Any = nibabel.load(path)
    assert isinstance(image, nibabel.Nifti2Image)
    assert image.shape[3] == 5
    assert os.path.getsize(path) == 544 + 5 * VOLUME_BYTES


def test_the_large_image_is_written_in_bounded_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        build_cohort(tmp_path, subjects=1, large_file_bytes=60_000_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30_000_000


def test_nibabel_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "nibabel":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"asyncsink\[demo\]"):
        build_cohort(tmp_path)


def test_nibabel_without_its_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nibabel, "__file__", str(tmp_path / "nibabel" / "__init__.py"))
    with pytest.raises(ConfigError, match="installed without its images"):
        build_cohort(tmp_path)
