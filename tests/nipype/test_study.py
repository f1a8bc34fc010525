"""A real workflow from images to S3, and a second one that goes on from there, under both plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncsink.adapters.nipype import DataSink, S3DataGrabber
from asyncsink.adapters.nipype_datasink import NipypeDataSink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.testing import nipype_study as study

# Nipype leaves files to the garbage collector, and forks its workers beside our threads.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
Stored = Callable[[str], dict[str, bytes]]
PLUGINS = {"Linear": {}, "MultiProc": study.MULTIPROC}


@pytest.mark.parametrize("plugin", [pytest.param("Linear", marks=pytest.mark.long), "MultiProc"])
def test_a_study_to_s3_and_on_from_there(
    tmp_path: Path, server: DevServer, bucket: str, stored: Stored, plugin: str
) -> None:
    """The same objects and local files as Nipype's DataSink leaves; what is grabbed is what was computed."""
    subjects = study.make_raw_images(tmp_path, 2)
    sinks: dict[str, Any] = {
        name: kind(base_directory=f"s3://{bucket}/{name}", local_copy=str(tmp_path / name))
        for name, kind in (("ours", DataSink), ("nipypes", NipypeDataSink))
    }
    first = study.publishing_workflow(tmp_path / "work", tmp_path / "raw", subjects, sinks)
    computed = study.computed_files(first.run(plugin=plugin, plugin_args=PLUGINS[plugin]))
    objects = stored(bucket)
    by_sink = {
        name: {key.removeprefix(f"{name}/"): data for key, data in objects.items() if key.startswith(f"{name}/")}
        for name in sinks
    }
    assert by_sink["ours"] == by_sink["nipypes"]
    assert len(by_sink["ours"]) == len(subjects) * study.OBJECTS_PER_SUBJECT
    assert "func/tsnr/sub-01/sub-01_tsnr.nii.gz" in by_sink["ours"]
    assert sorted(by_sink["ours"].values()) == study.contents(computed)
    for name in sinks:
        copies = {str(path.relative_to(tmp_path / name)): path for path in (tmp_path / name).rglob("*.*")}
        assert {path: copy.read_bytes() for path, copy in copies.items()} == by_sink[name]

    grabber = S3DataGrabber(infields=["subject"], outfields=list(study.FIELDS))
    grabber.inputs.trait_set(bucket=bucket, bucket_path="ours", local_directory=str(tmp_path / "grabbed"))
    sink = DataSink(base_directory=f"s3://{bucket}/ours", parameterization=False)
    second = study.group_workflow(tmp_path / "work", subjects, grabber, sink)
    grabbed = study.grabbed_files(second.run(plugin=plugin, plugin_args=PLUGINS[plugin]))
    there = {str(path.relative_to(tmp_path / "grabbed")): path.read_bytes() for path in grabbed}
    assert there == {key: data for key, data in by_sink["ours"].items() if "_mean" not in key}
    table = stored(bucket)["ours/group/tsnr.tsv"].decode().splitlines()
    assert [line.split("\t")[0] for line in table] == ["subject", *subjects]
