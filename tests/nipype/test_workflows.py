"""The sink as a node: iterables, joins, MapNodes, plugins, crash files; beside Nipype's own where that can."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from nipype import Function, IdentityInterface, JoinNode, MapNode, Node, Workflow
from nipype.utils.filemanip import loadpkl

import asyncsink
from asyncsink.adapters.nipype import DataSink, S3DataGrabber
from asyncsink.adapters.nipype_datasink import NipypeDataSink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.testing.studies import nipype_study as study

pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
Stored = Callable[[str], dict[str, bytes]]
PLUGINS = {"Linear": {}, "MultiProc": {"n_procs": 2}}


def make_images(subject: str) -> tuple[str, list[str]]:
    """What a node computes: one image, and a list of two."""
    import os

    names = [f"{subject}_bold.nii", f"{subject}_con1.nii", f"{subject}_con2.nii"]
    for name in names:
        with open(name, "w") as file:
            file.write(name)
    paths = [os.path.abspath(name) for name in names]
    return paths[0], paths[1:]


def workflow_of(base_dir: Path) -> tuple[Workflow, Node, Node]:
    """Subjects by iterables, and a node that computes for each."""
    workflow = Workflow("study", base_dir=str(base_dir))
    workflow.config["execution"] = {
        "crashdump_dir": str(base_dir / "crash"),
        "poll_sleep_duration": "0.01",
        "remove_unnecessary_outputs": "false",
    }
    subjects = Node(IdentityInterface(["subject"]), name="subjects")
    subjects.iterables = [("subject", ["s1", "s2", "s3"])]
    images = Node(Function(["subject"], ["bold", "contrasts"], function=make_images), name="images")
    workflow.connect(subjects, "subject", images, "subject")
    return workflow, subjects, images


def published(graph: Any, name: str = "sink") -> list[list[str]]:
    """`out_file` of the sinks of an executed workflow."""
    return [node.result.outputs.out_file for node in graph.nodes() if node.name == name]


@pytest.mark.parametrize("plugin", PLUGINS)
def test_iterables(tmp_path: Path, server: DevServer, bucket: str, stored: Stored, plugin: str, s3: Any) -> None:
    """Every subject's sink publishes below its own "_subject_…" folder; the same keys, files and out_file as Nipype."""
    seen = []
    for sink_class in (NipypeDataSink, DataSink):
        workflow, subjects, images = workflow_of(tmp_path / "work")
        sink = Node(sink_class(base_directory=f"s3://{bucket}/study", local_copy=str(tmp_path / "copy")), name="sink")
        sink.inputs.substitutions = [("_subject_", "sub-")]
        workflow.connect([(subjects, sink, [("subject", "container")])])
        workflow.connect([(images, sink, [("bold", "func.@bold"), ("contrasts", "stats.con")])])
        graph = workflow.run(plugin=plugin, plugin_args=PLUGINS[plugin])
        copies = sorted(str(path) for path in (tmp_path / "copy").rglob("*") if path.is_file())
        seen.append((stored(bucket), copies, sorted(published(graph))))
        for key in stored(bucket):
            s3.delete_object(Bucket=bucket, Key=key)
        for path in copies:
            os.unlink(path)
    theirs, ours = seen
    assert theirs == ours
    assert len(ours[0]) == len(ours[1]) == 9
    assert "study/s1/func/sub-s1/s1_bold.nii" in ours[0]
    assert len(ours[2]) == 3


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_join_node(tmp_path: Path, server: DevServer, bucket: str, stored: Stored, plugin: str) -> None:
    """One sink for all subjects, and a MapNode of sinks beside it."""
    workflow, _, images = workflow_of(tmp_path)
    join = JoinNode(DataSink(infields=["group.@bold"]), joinsource="subjects", joinfield=["group.@bold"], name="joined")
    join.inputs.base_directory = f"s3://{bucket}/joined"
    join.inputs.parameterization = False
    each = MapNode(DataSink(infields=["con"]), iterfield=["con"], name="mapped")
    each.inputs.base_directory = f"s3://{bucket}/mapped"
    workflow.connect([(images, join, [("bold", "group.@bold")]), (images, each, [("contrasts", "con")])])
    workflow.run(plugin=plugin, plugin_args=PLUGINS[plugin])
    keys = set(stored(bucket))
    assert {key for key in keys if key.startswith("joined")} == {f"joined/group/s{n}_bold.nii" for n in (1, 2, 3)}
    assert {key for key in keys if key.startswith("mapped")} == {
        f"mapped/con/_subject_s{n}/s{n}_con{c}.nii" for n in (1, 2, 3) for c in (1, 2)
    }


def test_installed_in_a_workflow_of_many_processes(
    tmp_path: Path, server: DevServer, bucket: str, stored: Stored, installed: Callable[..., None], s3: Any
) -> None:
    """The options of `install` reach the processes that run the nodes."""
    from nipype.interfaces import io as nio

    installed(metadata={"by": "install"})
    workflow, _, images = workflow_of(tmp_path)
    sink = Node(nio.DataSink(base_directory=f"s3://{bucket}"), name="sink")
    workflow.connect(images, "bold", sink, "metadata")
    workflow.run(plugin="MultiProc", plugin_args={"n_procs": 2})
    keys = sorted(stored(bucket))
    assert keys == [f"metadata/_subject_s{n}/s{n}_bold.nii" for n in (1, 2, 3)]
    assert s3.head_object(Bucket=bucket, Key=keys[0])["Metadata"]["by"] == "install"


@pytest.mark.parametrize("plugin", PLUGINS)
def test_a_crash_file(tmp_path: Path, server: DevServer, bucket: str, plugin: str) -> None:
    """What cannot be published crashes its node as Nipype expects; the crash file can be read, and holds no secret."""
    workflow, _, images = workflow_of(tmp_path)
    sink = Node(DataSink(base_directory=f"s3://{bucket}-missing"), name="sink")
    workflow.connect(images, "bold", sink, "motion")
    with pytest.raises(RuntimeError):
        workflow.run(plugin=plugin, plugin_args=PLUGINS[plugin])
    crashes = sorted((tmp_path / "crash").glob("*.pklz"))
    assert crashes
    crash = loadpkl(str(crashes[0]))
    assert isinstance(crash["node"].interface, DataSink)
    sentence = "".join(crash["traceback"])
    assert f"{bucket}-missing" in sentence
    assert "asyncsink.errors" in sentence
    assert server.secret_access_key not in repr(crash)


def test_a_bucket_object_in_a_workflow_is_refused_in_words(tmp_path: Path, server: DevServer, bucket: str) -> None:
    """Nipype's own ends in a RecursionError there; the bucket's name does the same, and can be copied."""
    client_bucket = boto3.session.Session().resource("s3").Bucket(bucket)
    for given in (client_bucket, bucket):
        workflow, _, images = workflow_of(tmp_path)
        workflow.connect(images, "bold", Node(DataSink(base_directory="s3://other/p", bucket=given), name="sink"), "m")
        if given is bucket:
            assert len(published(workflow.run())) == 3
        else:
            with pytest.raises(asyncsink.ConfigError, match="give the bucket's name"):
                workflow.run()
    client_bucket.meta.client.close()


def test_an_unchanged_workflow_sends_nothing_again(tmp_path: Path, server: DevServer, bucket: str) -> None:
    """A relative manifest is in the folder of each sink: iterables make three of them here."""

    def run() -> list[str]:
        workflow, _, images = workflow_of(tmp_path)
        sink = Node(DataSink(base_directory=f"s3://{bucket}", manifest="published.jsonl"), name="sink")
        workflow.connect(images, "bold", sink, "motion")
        workflow.run()
        return [path.read_text() for path in (tmp_path / "study").rglob("published.jsonl")]

    first, again = run(), run()
    assert [text.count('"receipts": 1, "skips": 0') for text in first] == [1, 1, 1]
    assert [text.count('"receipts": 0, "skips": 1') for text in again] == [1, 1, 1]


def test_the_manifests_of_all_sinks_become_one(tmp_path: Path, server: DevServer, bucket: str) -> None:
    """As many as there are nodes. Nipype empties a node's folder before it runs again, the manifest in it included: the
    skips of the second run take over what the first run's merged manifest proves."""

    async def merge_and_verify() -> tuple[int, int]:
        found = sorted((tmp_path / "study").rglob("published.jsonl"))
        merged = await asyncsink.merge_manifests(found, tmp_path / "study.jsonl")
        assert (merged.ok, merged.merged, merged.notices) == (True, 3, [])
        assert (await asyncsink.verify_manifest(tmp_path / "study.jsonl")).confirmed_by == {"checksum": 3}
        return merged.counts.objects_uploaded, merged.counts.objects_skipped

    def run() -> tuple[int, int]:
        workflow, _, images = workflow_of(tmp_path)
        sink = Node(DataSink(base_directory=f"s3://{bucket}", manifest="published.jsonl"), name="sink")
        workflow.connect(images, "bold", sink, "motion")
        workflow.run()
        return asyncio.run(merge_and_verify())

    assert [run(), run()] == [(3, 0), (0, 3)]


def test_inside_a_running_loop(tmp_path: Path, server: DevServer, bucket: str, stored: Stored) -> None:
    """As in a notebook, whose cells run inside an event loop."""

    async def cell() -> None:
        workflow, _, images = workflow_of(tmp_path)
        workflow.connect(images, "bold", Node(DataSink(base_directory=f"s3://{bucket}"), name="sink"), "motion")
        workflow.run()

    asyncio.run(cell())
    assert len(stored(bucket)) == 3


def test_many_sinks_of_two_files_at_once(tmp_path: Path, server: DevServer, bucket: str, stored: Stored) -> None:
    """C-PAC's pattern: a sink for every resource, two files each, attributes f"{subdir}.@data", threads side by side.

    All sinks share one file, which every local copy links.
    """
    shared = tmp_path / "work" / "provenance.json"
    shared.parent.mkdir()
    shared.write_text("{}")
    together = threading.Barrier(4)

    def publish(number: int, sink_class: Any, prefix: str) -> list[str]:
        subdir = ("anat", "func", "regressors", "xfm")[number % 4]
        data = tmp_path / "work" / f"resource-{number}.nii.gz"
        data.write_bytes(b"%d" % number)
        sink = sink_class(parameterization=False)
        sink.inputs.base_directory = f"s3://{bucket}/{prefix}"
        sink.inputs.container = f"pipeline_default/sub-{number % 3}"
        sink.inputs.creds_path = ""
        sink.inputs.encrypt_bucket_keys = True
        sink.inputs.local_copy = str(tmp_path / prefix)
        sink.inputs.regexp_substitutions = [(r"resource-(\d+)", r"desc-\1_bold"), (r"/$", "")]
        setattr(sink.inputs, f"{subdir}.@data", str(data))
        setattr(sink.inputs, f"{subdir}.@json", str(shared))
        if sink_class is DataSink:
            together.wait()
        found: list[str] = sink.run().outputs.out_file
        return found

    with ThreadPoolExecutor(4) as threads:
        ours = list(threads.map(lambda number: publish(number, DataSink, "ours"), range(12)))
    theirs = [publish(number, NipypeDataSink, "nipype") for number in range(12)]
    assert [[path.replace("/nipype/", "/ours/") for path in paths] for paths in theirs] == ours
    objects = stored(bucket)
    of_ours = {key: objects[key] for key in objects if key.startswith("ours/")}
    assert of_ours == {key.replace("nipype/", "ours/"): objects[key] for key in objects if key.startswith("nipype/")}
    assert len(of_ours) == 12 + 12


# -- A real workflow from images to S3, and a second one that goes on from there, under both plugins -------------------


STUDY_PLUGINS = {"Linear": {}, "MultiProc": study.MULTIPROC}


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
    computed = study.computed_files(first.run(plugin=plugin, plugin_args=STUDY_PLUGINS[plugin]))
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
    grabbed = study.grabbed_files(second.run(plugin=plugin, plugin_args=STUDY_PLUGINS[plugin]))
    there = {str(path.relative_to(tmp_path / "grabbed")): path.read_bytes() for path in grabbed}
    assert there == {key: data for key, data in by_sink["ours"].items() if "_mean" not in key}
    table = stored(bucket)["ours/group/tsnr.tsv"].decode().splitlines()
    assert [line.split("\t")[0] for line in table] == ["subject", *subjects]
