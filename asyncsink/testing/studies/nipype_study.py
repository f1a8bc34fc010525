"""A small study in Nipype, with real interfaces on real images: one workflow publishes, one continues from S3.

The caller supplies the interfaces that publish and grab, so that Nipype's own and asyncsink's are interchangeable.
Needs nipype and nibabel.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from asyncsink.testing.studies.cohort import build_cohort

SUBSTITUTIONS = [("_subject_", "")]
REGEXP_SUBSTITUTIONS = [(r"(sub-\d+)/(tsnr|mean|mask)\.nii", r"\1/\1_\2.nii")]
FIELDS = {
    "bold": r"func/%s/.*_bold\.nii$",
    "tsnr": r"func/tsnr/%s/.*_tsnr\.nii\.gz$",
    "mask": r"func/mask/%s/.*_mask\.nii\.gz$",
    "report": r"quality/%s/report/.*",
}
"""The files that the second workflow grabs for a subject, as S3DataGrabber's field_template."""
OBJECTS_PER_SUBJECT = 6
MULTIPROC = {"n_procs": 2}
_COMPUTED = {"gunzip": ("out_file",), "tsnr": ("tsnr_file", "mean_file"), "mask": ("mask",), "quality": ("report",)}


def make_raw_images(directory: Path, subjects: int) -> list[str]:
    """Write a compressed 4D image of each subject below `directory`, and return the subjects' names. Blocking.

    Raises:
        ConfigError: nibabel, or the images of its package, are not installed.
    """
    outputs = build_cohort(directory / "scanner", subjects=subjects, large_file_bytes=0)
    images = [path for path in outputs["motion"] if path.endswith("functional_mc.nii")]
    names = [f"sub-{number:02d}" for number in range(1, subjects + 1)]
    for name, image in zip(names, images, strict=True):
        raw = directory / "raw" / name / f"{name}_bold.nii.gz"
        raw.parent.mkdir(parents=True)
        raw.write_bytes(gzip.compress(Path(image).read_bytes(), compresslevel=1, mtime=0))
    return names


def publishing_workflow(base_dir: Path, raw: Path, subjects: Sequence[str], sinks: Mapping[str, Any]) -> Any:
    """Gunzip, TSNR, a mask and a report (nibabel) for each subject, into every one of the sinks.

    Args:
        base_dir: working directory of the workflow.
        raw: the folder "raw" of `make_raw_images`.
        subjects: their names, as iterables.
        sinks: {name of the node: DataSink interface}; their substitutions are set here.
    """
    from nipype import DataGrabber, Function, IdentityInterface, Node
    from nipype.algorithms.confounds import TSNR
    from nipype.algorithms.misc import Gunzip

    workflow = _workflow("publishing", base_dir)
    source = Node(IdentityInterface(["subject"]), name="subjects", iterables=[("subject", list(subjects))])
    images = Node(DataGrabber(infields=["subject"], outfields=["bold"]), name="images")
    images.inputs.trait_set(base_directory=str(raw), template="%s/%s_bold.nii.gz", sort_filelist=True)
    images.inputs.template_args = {"bold": [["subject", "subject"]]}
    gunzip = Node(Gunzip(), name="gunzip")
    tsnr = Node(TSNR(regress_poly=1), name="tsnr")
    mask = Node(Function(["mean_file"], ["mask"], make_mask), name="mask")
    quality = Node(Function(["tsnr_file", "mask"], ["report"], write_report), name="quality")
    workflow.connect(
        [
            (source, images, [("subject", "subject")]),
            (images, gunzip, [("bold", "in_file")]),
            (gunzip, tsnr, [("out_file", "in_file")]),
            (tsnr, mask, [("mean_file", "mean_file")]),
            (tsnr, quality, [("tsnr_file", "tsnr_file")]),
            (mask, quality, [("mask", "mask")]),
        ]
    )
    for name, interface in sinks.items():
        sink = Node(interface, name=name)
        sink.inputs.trait_set(substitutions=SUBSTITUTIONS, regexp_substitutions=REGEXP_SUBSTITUTIONS)
        workflow.connect(
            [
                (gunzip, sink, [("out_file", "func.@bold")]),
                (tsnr, sink, [("tsnr_file", "func.tsnr.@tsnr"), ("mean_file", "func.tsnr.@mean")]),
                (mask, sink, [("mask", "func.mask")]),
                (quality, sink, [("report", "quality")]),
            ]
        )
    return workflow


def group_workflow(base_dir: Path, subjects: Sequence[str], grabber: Any, sink: Any) -> Any:
    """Grab each subject's published files, and publish one table of all.

    Args:
        base_dir: working directory of the workflow.
        subjects: their names, as iterables.
        grabber: S3DataGrabber(infields=["subject"], outfields=list(FIELDS)) with bucket, bucket_path and
            local_directory; its templates are set here.
        sink: DataSink interface for the table.
    """
    from nipype import Function, IdentityInterface, JoinNode, Node

    workflow = _workflow("group", base_dir)
    source = Node(IdentityInterface(["subject"]), name="subjects", iterables=[("subject", list(subjects))])
    grab = Node(grabber, name="grabber")
    grab.inputs.trait_set(template="unused", field_template=FIELDS, sort_filelist=True)
    grab.inputs.template_args = {field: [["subject"]] for field in FIELDS}
    row = Node(Function(["subject", "tsnr_file", "mask"], ["row"], measure_subject), name="row")
    table = JoinNode(
        Function(["rows"], ["table"], write_table), joinsource="subjects", joinfield=["rows"], name="table"
    )
    workflow.connect(
        [
            (source, grab, [("subject", "subject")]),
            (source, row, [("subject", "subject")]),
            (grab, row, [("tsnr", "tsnr_file"), ("mask", "mask")]),
            (row, table, [("row", "rows")]),
            (table, Node(sink, name="sink"), [("table", "group")]),
        ]
    )
    return workflow


def computed_files(graph: Any) -> list[Path]:
    """Every file that an executed publishing workflow gave to its sinks."""
    found: list[Path] = []
    for node in graph.nodes():
        for output in _COMPUTED.get(node.name, ()):
            path = Path(getattr(node.result.outputs, output))
            found += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return found


def grabbed_files(graph: Any) -> list[Path]:
    """Every file that an executed group workflow grabbed."""
    outputs = [node.result.outputs.get() for node in graph.nodes() if node.name == "grabber"]
    values = [value for each in outputs for value in each.values()]
    return [Path(path) for value in values for path in ([value] if isinstance(value, str) else value)]


def contents(files: Iterable[Path]) -> list[bytes]:
    """The contents of the files, sorted: equal for two sets of files with the same bytes under any names."""
    return sorted(path.read_bytes() for path in files)


# These functions run in nodes: Nipype takes the source of each function alone, so each imports what it needs.


def make_mask(mean_file: str) -> str:
    """A mask of voxels above the mean of a time series' mean image: roughly the brain."""
    import os

    import nibabel
    import numpy as np

    image: Any = nibabel.load(mean_file)
    voxels = np.asanyarray(image.dataobj)
    path = os.path.abspath("mask.nii.gz")
    nibabel.save(type(image)((voxels > voxels.mean()).astype("uint8"), image.affine), path)
    return path


def write_report(tsnr_file: str, mask: str) -> str:
    """A folder with subfolders, like a report: one JSON file, and one text for the slices."""
    import json
    import os

    import nibabel
    import numpy as np

    image: Any = nibabel.load(tsnr_file)
    inside_image: Any = nibabel.load(mask)
    tsnr, inside = np.asanyarray(image.dataobj), np.asanyarray(inside_image.dataobj) > 0
    folder = os.path.abspath("report")
    os.makedirs(os.path.join(folder, "slices"), exist_ok=True)
    with open(os.path.join(folder, "summary.json"), "w") as file:
        json.dump({"voxels": int(inside.sum()), "tsnr": float(tsnr[inside].mean())}, file)
    with open(os.path.join(folder, "slices", "axial.txt"), "w") as file:
        file.writelines(f"{tsnr[:, :, number].mean():.4f}\n" for number in range(tsnr.shape[2]))
    return folder


def measure_subject(subject: str, tsnr_file: str, mask: str) -> str:
    """One row of the table: the subject, and its mean tSNR inside the mask."""
    import nibabel
    import numpy as np

    image: Any = nibabel.load(tsnr_file)
    inside: Any = nibabel.load(mask)
    return f"{subject}\t{np.asanyarray(image.dataobj)[np.asanyarray(inside.dataobj) > 0].mean():.4f}"


def write_table(rows: list[str]) -> str:
    """All rows in a file."""
    import os

    path = os.path.abspath("tsnr.tsv")
    with open(path, "w") as file:
        file.write("\n".join(["subject\ttsnr", *sorted(rows)]) + "\n")
    return path


def _workflow(name: str, base_dir: Path) -> Any:
    from nipype import Workflow

    workflow = Workflow(name, base_dir=os.fspath(base_dir))
    workflow.config["execution"] = {
        "crashdump_dir": str(base_dir / "crash"),
        "poll_sleep_duration": "0.01",
        "remove_unnecessary_outputs": "false",
    }
    return workflow
