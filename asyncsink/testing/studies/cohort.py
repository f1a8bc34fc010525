"""A small neuroimaging cohort, arranged like the outputs of a workflow: for the demo, tests and benchmarks.

Every image is a real one: nibabel ships NIfTI, MINC, AFNI, PAR/REC and TrackVis files with its package. Each subject
has them with seeded variation in the voxels, so that no two files are alike and a second build gives the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asyncsink.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

CONTRASTS = 4
_NOISE = 8
"""Bound of the variation of voxels, in stored units: well below the signal, and enough to defeat compression."""
_NIFTI1_VOLUMES_MAX = 32767  # NIfTI-1 stores the number of volumes in 16 bits
_NIFTI_OFFSETS = {348: 352, 540: 544}  # start of the voxels after a NIfTI-1 and a NIfTI-2 header

Outputs = dict[str, list[str]]


def build_cohort(
    directory: str | os.PathLike[str],
    *,
    subjects: int = 12,
    large_file_bytes: int = 300_000_000,
    seed: int = 0,
) -> Outputs:
    """Write a cohort below `directory` (made if missing) and return it as DataSink's inputs.

    Blocking: about a hundredth of a second per subject, and one second per 300 MB of `large_file_bytes`.

    Args:
        directory: files with the same names are replaced.
        subjects: each has 27 files in folders such as `work/_subject_id_sub-01/_contrast_1/estimate`.
        large_file_bytes: size of one 4D image of the first subject, rounded down to whole volumes of 0.6 MB (at least
            one); 0 for none. It is written in bounded memory.
        seed: determines the voxels.

    Returns:
        {DataSink attribute: [absolute path of a file or directory, …]}, such as "motion.@parameters" and "anat.@t1".

    Raises:
        ConfigError: nibabel, or the images of its package, are not installed.
        OSError: the directory cannot be written.
    """
    images = _package_images()
    outputs: Outputs = {}
    for number in range(1, subjects + 1):
        _Subject(Path(directory).absolute(), images, outputs, number, seed).build()
    if large_file_bytes and subjects:
        path = Path(directory).absolute() / "work" / "_subject_id_sub-01" / "acquire" / "bold_timeseries.nii"
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_time_series(path, images / "example4d.nii.gz", large_file_bytes, seed)
        outputs["func.bold.@timeseries"] = [str(path)]
    return outputs


def _package_images() -> Path:
    """The directory of the images that nibabel ships."""
    try:
        import nibabel
    except ImportError as error:
        raise ConfigError(
            "The demo cohort is made of nibabel's images, and nibabel is not installed; pip install 'asyncsink[demo]'."
        ) from error
    images = Path(nibabel.__file__).parent / "tests" / "data"
    if not (images / "example4d.nii.gz").is_file():
        raise ConfigError(
            f"nibabel {nibabel.__version__} is installed without its images (expected in {images}); "
            "pip install --force-reinstall nibabel, from its wheel."
        )
    return images


class _Subject:
    """Writes one subject's files and adds them to the outputs."""

    def __init__(self, directory: Path, images: Path, outputs: Outputs, number: int, seed: int) -> None:
        import numpy as np

        self._name = f"_subject_id_sub-{number:02d}"
        self._directory = directory
        self._images = images
        self._outputs = outputs
        self._random = np.random.default_rng((seed, number))

    def build(self) -> None:
        self._realign()
        self._anatomy()
        for contrast in range(1, CONTRASTS + 1):
            self._estimate(contrast)
        self._scanner()
        self._quality()

    def _output(self, attribute: str, path: Path) -> None:
        self._outputs.setdefault(attribute, []).append(str(path))

    def _folder(self, *names: str) -> Path:
        folder = self._directory.joinpath(*names)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _realign(self) -> None:
        folder = self._folder("work", self._name, "realign")
        self._vary("functional.nii", folder / "functional_mc.nii")
        self._vary("resampled_anat_moved.nii", folder / "functional_mean.nii")
        rows = self._random.normal(0.0, 0.05, (20, 6)).cumsum(axis=0)  # mm and radians, one row per volume
        parameters = folder / "rp_functional.txt"
        parameters.write_text("".join("  ".join(f"{value: .7e}" for value in row) + "\n" for row in rows))
        self._output("motion", folder / "functional_mc.nii")
        self._output("motion.@mean", folder / "functional_mean.nii")
        self._output("motion.@parameters", parameters)

    def _anatomy(self) -> None:
        folder = self._folder("preproc", self._name, "bias_correct")
        self._vary("anatomical.nii", folder / "anatomical.nii.gz")
        self._vary("reoriented_anat_moved.nii", folder / "anatomical_reoriented.nii.gz")
        self._output("anat.@t1", folder / "anatomical.nii.gz")
        self._output("anat.@reoriented", folder / "anatomical_reoriented.nii.gz")
        folder = self._folder("preproc", self._name, "smooth")
        self._vary("example_nifti2.nii.gz", folder / "bold_smooth.nii.gz")
        self._output("func.bold.@preproc", folder / "bold_smooth.nii.gz")

    def _estimate(self, contrast: int) -> None:
        folder = self._folder("work", self._name, f"_contrast_{contrast}", "estimate")
        for kind in ("con", "spmT"):
            path = folder / f"{kind}_{contrast:04d}.nii"
            self._vary("functional.nii", path)
            self._output(f"contrasts.@{kind}", path)
        described = {"contrast": contrast, "weights": [int(column == contrast) for column in range(1, CONTRASTS + 1)]}
        (folder / "contrast.json").write_text(json.dumps(described, indent=1) + "\n")
        self._output("contrasts.@design", folder / "contrast.json")

    def _scanner(self) -> None:
        """Formats copied unchanged: pairs of header and voxels, MINC, tracts."""
        folder = self._folder("work", self._name, "convert")
        copies = {
            "scanner.parrec": ("phantom_EPI_asc_CLEAR_2_1.PAR", "phantom_EPI_asc_CLEAR_2_1.REC"),
            "scanner.afni": ("scaled+tlrc.HEAD", "scaled+tlrc.BRIK"),
            "scanner.@minc": ("tiny.mnc",),
            "tracts.@standard": ("standard.trk",),
        }
        for attribute, names in copies.items():
            for name in names:
                shutil.copyfile(self._images / name, folder / name)
                self._output(attribute, folder / name)

    def _quality(self) -> None:
        """A directory with subdirectories, published as one output."""
        folder = self._folder("work", self._name, "quality", "report")
        slices = self._folder("work", self._name, "quality", "report", "slices")
        (folder / "summary.json").write_text(json.dumps({"snr": round(float(self._random.normal(60, 5)), 3)}) + "\n")
        (folder / "outliers.txt").touch()  # without outliers the file is empty, as workflows leave it
        for axis in ("axial", "coronal", "sagittal"):
            self._vary("anatomical.nii", slices / f"{axis}.nii.gz")
        self._output("qc", folder)

    def _vary(self, name: str, target: Path) -> None:
        """Write one of nibabel's NIfTI images with this subject's noise; compressed where the target ends in .gz."""
        import nibabel
        import numpy as np

        image: Any = nibabel.load(self._images / name)
        voxels = np.asanyarray(image.dataobj.get_unscaled())
        noise = self._random.integers(-_NOISE, _NOISE, voxels.shape, dtype=np.int16)
        header = image.header.copy()
        header.set_slope_inter(image.dataobj.slope, image.dataobj.inter)  # loading cleared them in the header
        content = _nifti_bytes(header, _add(voxels, noise))
        if target.suffix == ".gz":
            content = gzip.compress(content, compresslevel=1, mtime=0)
        target.write_bytes(content)


def _add(voxels: np.ndarray[Any, Any], noise: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The sum in the voxels' own type, without wrapping around at its ends."""
    import numpy as np

    if not np.issubdtype(voxels.dtype, np.integer):
        return np.asarray(voxels + noise, dtype=voxels.dtype)
    ends = np.iinfo(voxels.dtype)
    return np.asarray(np.clip(voxels.astype(np.int64) + noise, ends.min, ends.max), dtype=voxels.dtype)


def _nifti_bytes(header: Any, voxels: np.ndarray[Any, Any]) -> bytes:
    """A single-file NIfTI of stored voxels, without a new scaling, so that values keep their units."""
    file = io.BytesIO()
    _write_header(header, file)
    file.write(voxels.astype(header.get_data_dtype()).tobytes(order="F"))
    return file.getvalue()


def _write_header(header: Any, file: Any) -> None:
    offset = _NIFTI_OFFSETS[int(header["sizeof_hdr"])]
    header.extensions.clear()
    header["vox_offset"] = offset
    header.write_to(file)
    file.write(b"\0" * (offset - file.tell()))


def _write_time_series(path: Path, source: Path, size_bytes: int, seed: int) -> None:
    """A 4D image that repeats the volumes of a real one, each with noise of its own."""
    import nibabel
    import numpy as np
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    image: Any = nibabel.load(source)
    volumes = np.asanyarray(image.dataobj.get_unscaled()).astype("<i2")
    kind: type[Nifti1Header] = Nifti1Header
    per_volume = volumes[..., 0].nbytes
    count = max(1, (size_bytes - _NIFTI_OFFSETS[348]) // per_volume)
    if count > _NIFTI1_VOLUMES_MAX:
        kind = Nifti2Header
        count = (size_bytes - _NIFTI_OFFSETS[540]) // per_volume
    header: Any = kind()
    header.set_data_dtype("<i2")
    header.set_data_shape((*volumes.shape[:3], count))
    header.set_zooms((*image.header.get_zooms()[:3], image.header.get_zooms()[3]))
    header.set_sform(image.affine, code=1)
    header.set_slope_inter(1, 0)
    random = np.random.default_rng((seed, 0))
    with path.open("wb") as file:
        _write_header(header, file)
        for number in range(count):
            volume = volumes[..., number % volumes.shape[3]]
            noise = random.integers(-_NOISE, _NOISE, volume.shape, dtype=np.int16)
            file.write(_add(volume, noise).tobytes(order="F"))
