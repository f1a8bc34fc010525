"""The grabber as an interface and as a node: S3DataGrabber's inputs, shapes and rules, and what it did wrong."""

from __future__ import annotations

import asyncio
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nipype import IdentityInterface, JoinNode, MapNode, Node, Workflow
from nipype.interfaces import io as nio

import asyncsink
from asyncsink.adapters import nipype as ours
from asyncsink.adapters.nipype import S3DataGrabber
from asyncsink.adapters.nipype_grabber import OUR_GRAB_OPTIONS, NipypeS3DataGrabber
from asyncsink.devserver.seaweedfs import DevServer
from tests.support.combinations import crossed

# Nipype leaves files to the garbage collector, and forks its workers beside our threads.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)
PLUGINS = {"Linear": {}, "MultiProc": {"n_procs": 2}}
KEYS = (
    *(f"ds/sub-{n}/func/sub-{n}_run-{run}_bold.nii.gz" for n in ("01", "02") for run in (1, 2, 10)),
    *(f"ds/sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in ("01", "02")),
    "ds/sub-01/anat/sub-01_T1w.nii.gz.bak",
    "ds2/sub-01/anat/sub-01_T1w.nii.gz",
)


@pytest.fixture
def raw(server: DevServer, bucket: str, s3: Any) -> str:
    """A bucket of two subjects; every object holds its own key."""
    for key in KEYS:
        s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    return bucket


def grabber_of(bucket: str, directory: Path, kind: Any = S3DataGrabber, **inputs: Any) -> Any:
    """Nipype's own example, as its documentation has it."""
    grabber = kind(infields=["subject"], outfields=["func", "anat"])
    grabber.inputs.bucket, grabber.inputs.bucket_path = bucket, "ds"
    grabber.inputs.local_directory, grabber.inputs.sort_filelist = str(directory), True
    grabber.inputs.template = "unused"
    grabber.inputs.field_template = {"func": r"%s/func/.*_bold\.nii\.gz", "anat": r"%s/anat/%s_T1w\.nii\.gz$"}
    grabber.inputs.template_args = {"func": [["subject"]], "anat": [["subject", "subject"]]}
    grabber.inputs.trait_set(**inputs)
    return grabber


def test_inputs_are_nipypes_and_ours(tmp_path: Path) -> None:
    """By name, and none of Nipype's is replaced by an option of ours."""
    theirs = set(NipypeS3DataGrabber(infields=["s"], outfields=["o"]).inputs.copyable_trait_names())
    names = set(S3DataGrabber(infields=["s"], outfields=["o"]).inputs.copyable_trait_names())
    assert names == theirs | set(OUR_GRAB_OPTIONS)
    assert {"endpoint_url", "creds_path", "match", "template_syntax"} <= set(OUR_GRAB_OPTIONS)
    assert not {"sse", "anonymous", "bucket"} & set(OUR_GRAB_OPTIONS)


def test_shapes(raw: str, tmp_path: Path) -> None:
    """One match is a scalar, several are a naturally sorted list; the path is that below bucket_path."""
    outputs = grabber_of(raw, tmp_path, subject="sub-01").run().outputs
    assert outputs.anat == f"{tmp_path}/sub-01/anat/sub-01_T1w.nii.gz"
    assert outputs.func == [f"{tmp_path}/sub-01/func/sub-01_run-{run}_bold.nii.gz" for run in (1, 2, 10)]
    assert Path(outputs.anat).read_text() == "ds/sub-01/anat/sub-01_T1w.nii.gz"


def test_lists_are_gone_through_together(raw: str, tmp_path: Path) -> None:
    """A list entry may have several matches, which Nipype's own crashes on."""
    outputs = grabber_of(raw, tmp_path, subject=["sub-02", "sub-01"]).run().outputs
    assert [Path(path).name for path in outputs.anat] == ["sub-02_T1w.nii.gz", "sub-01_T1w.nii.gz"]
    assert [len(paths) for paths in outputs.func] == [3, 3]


def test_matching_starts_at_the_beginning_unless_the_whole_is_asked_for(raw: str, tmp_path: Path) -> None:
    anat = {"anat": "%s/anat/.*T1w.nii.gz"}
    grab = grabber_of(raw, tmp_path, subject="sub-01", field_template=anat, template_args={"anat": [["subject"]]})
    assert [Path(path).suffix for path in grab.run().outputs.anat] == [".gz", ".bak"]
    grab.inputs.match = "full"
    assert Path(grab.run().outputs.anat).suffix == ".gz"


def test_globs(raw: str, tmp_path: Path) -> None:
    """Nipype's documentation has template = "*", which is no regular expression."""
    grab = grabber_of(raw, tmp_path, subject="sub-01", template="*", template_args={"func": []})
    grab.inputs.field_template = {}
    with pytest.raises(asyncsink.ConfigError, match="template_syntax"):
        grab.run()
    grab.inputs.field_template = {"func": "%s/func/*_bold.nii.gz"}
    grab.inputs.template_args = {"func": [["subject"]]}
    grab.inputs.template_syntax = "glob"
    assert len(grab.run().outputs.func) == 3


def test_without_infields_and_bucket_path(raw: str, tmp_path: Path) -> None:
    """Nipype's own fails with an empty bucket_path, and with a single match."""
    grab = S3DataGrabber()
    grab.inputs.trait_set(bucket=raw, local_directory=str(tmp_path / "new"), sort_filelist=True)
    grab.inputs.template = "ds2/.*"
    assert grab.run().outputs.outfiles == f"{tmp_path}/new/ds2/sub-01/anat/sub-01_T1w.nii.gz"


def test_what_is_missing(raw: str, tmp_path: Path) -> None:
    """An error, or None in its own place only."""
    grab = grabber_of(raw, tmp_path, subject=["sub-01", "sub-99"])
    with pytest.raises(asyncsink.SourceMissing, match="sub-99"):
        grab.run()
    assert not list(tmp_path.iterdir())
    grab.inputs.raise_on_empty = False
    assert grab.run().outputs.anat == [f"{tmp_path}/sub-01/anat/sub-01_T1w.nii.gz", None]


def test_inputs_that_are_missing(raw: str, tmp_path: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="'subject' because it was listed in 'infields'"):
        grabber_of(raw, tmp_path).run()
    grab = S3DataGrabber()
    grab.inputs.trait_set(bucket=raw, template="x", sort_filelist=True)
    with pytest.raises(asyncsink.ConfigError, match="local_directory"):
        grab.run()
    with pytest.raises(asyncsink.ConfigError, match="template_args names no output"):
        grabber_of(raw, tmp_path, subject="sub-01", template_args={}).run()


def test_an_argument_may_name_any_input_of_nipypes_but_none_of_ours(raw: str, tmp_path: Path, s3: Any) -> None:
    """So a template that has "profile" for an argument keeps it; but an infield of that name is an infield."""
    s3.put_object(Bucket=raw, Key=f"ds/{raw}/profile", Body=b"1")
    grab = S3DataGrabber(outfields=["one"])
    grab.inputs.trait_set(bucket=raw, bucket_path="ds/", local_directory=str(tmp_path), sort_filelist=True)
    grab.inputs.trait_set(template="%s/%s", template_args={"one": [["bucket", "profile"]]})
    assert grab.run().outputs.one == f"{tmp_path}/{raw}/profile"
    grab = S3DataGrabber(infields=["profile"], outfields=["one"])
    grab.inputs.trait_set(bucket=raw, bucket_path="ds", local_directory=str(tmp_path), sort_filelist=True)
    grab.inputs.trait_set(template="%s/anat/.*w.nii.gz$", profile="sub-02")
    assert grab.run().outputs.one == f"{tmp_path}/sub-02/anat/sub-02_T1w.nii.gz"


def test_what_is_here_is_not_grabbed_again(raw: str, tmp_path: Path, told: io.StringIO) -> None:
    grab = grabber_of(raw, tmp_path, subject="sub-01")
    grab.run()
    assert (len(grab.report.receipts), len(grab.report.skips)) == (4, 0)
    grab.run()
    assert (len(grab.report.receipts), len(grab.report.skips)) == (0, 4)
    assert "Already here: 4 files" in told.getvalue()


def test_pickled_after_a_run(raw: str, tmp_path: Path) -> None:
    grab = grabber_of(raw, tmp_path, subject="sub-02")
    first = grab.run().outputs
    copy = pickle.loads(pickle.dumps(grab))
    assert copy.report is None
    assert copy.run().outputs.get() == first.get()


def test_inside_a_running_loop(raw: str, tmp_path: Path) -> None:
    async def cell() -> Any:
        return grabber_of(raw, tmp_path, subject="sub-02").run().outputs.anat

    assert Path(asyncio.run(cell())).exists()


@crossed(
    "way,plugin",
    ["installed", "imported"],
    PLUGINS,
    usual=lambda way, plugin: (way == "installed") == (plugin == "MultiProc"),
)
def test_in_workflows(raw: str, tmp_path: Path, plugin: str, way: str, installed: Callable[..., None]) -> None:
    """Iterables, a join of what they grabbed, and a MapNode, all into one directory."""
    kind = S3DataGrabber
    if way == "installed":
        installed(concurrency=4)
        kind = nio.S3DataGrabber
        assert kind is not S3DataGrabber
        assert kind is not NipypeS3DataGrabber
    here = tmp_path / "here"
    here.mkdir()
    workflow = Workflow("grabs", base_dir=str(tmp_path / "work"))
    workflow.config["execution"] = {"poll_sleep_duration": "0.01", "crashdump_dir": str(tmp_path / "crash")}
    subjects = Node(IdentityInterface(["subject"]), name="subjects")
    subjects.iterables = [("subject", ["sub-01", "sub-02"])]
    each = Node(grabber_of(raw, here, kind), name="each")
    joined = JoinNode(IdentityInterface(["files"]), joinsource="subjects", joinfield="files", name="joined")
    mapped = MapNode(grabber_of(raw, here, kind), iterfield=["subject"], name="mapped")
    mapped.inputs.subject = ["sub-02", "sub-01"]
    workflow.connect([(subjects, each, [("subject", "subject")]), (each, joined, [("anat", "files")])])
    workflow.add_nodes([mapped])
    graph = workflow.run(plugin=plugin, plugin_args=PLUGINS[plugin])
    results = {node.name: node.result.outputs for node in graph.nodes()}
    anat = [f"{here}/sub-{n}/anat/sub-{n}_T1w.nii.gz" for n in ("01", "02")]
    assert sorted(results["joined"].files) == anat
    assert results["mapped"].anat == anat[::-1]
    assert [len(paths) for paths in results["mapped"].func] == [3, 3]
    files = {str(path) for path in here.rglob("*") if path.is_file()}
    assert files == {f"{here}{key[2:]}" for key in KEYS if key.startswith("ds/") and not key.endswith(".bak")}
    assert all(Path(path).read_text() == f"ds{path.removeprefix(str(here))}" for path in files)


def test_install_replaces_it_and_uninstall_puts_it_back(installed: Callable[..., None]) -> None:
    installed(region="eu-west-1", overwrite="always", sse="AES256")
    grab = nio.S3DataGrabber(infields=["subject"])
    assert grab._installed == {"region": "eu-west-1"}
    ours.uninstall()
    assert nio.S3DataGrabber is NipypeS3DataGrabber


def test_the_region_that_nipype_gives_is_nobodys_word(raw: str, tmp_path: Path, installed: Callable[..., None]) -> None:
    from asyncsink.adapters.nipype_grabber import grab_arguments

    installed(region="eu-west-1")
    grab = grabber_of(raw, tmp_path, nio.S3DataGrabber, subject="sub-01")
    assert grab_arguments(grab.inputs, ["subject"], grab._installed)[2]["region"] == "eu-west-1"
    grab.inputs.region = "us-west-2"
    assert grab_arguments(grab.inputs, ["subject"], grab._installed)[2]["region"] == "us-west-2"
    grab = grabber_of(raw, tmp_path, subject="sub-01")
    assert "region" not in grab_arguments(grab.inputs, ["subject"], {})[2]
    grab.inputs.region = "us-east-1"
    assert grab_arguments(grab.inputs, ["subject"], {})[2]["region"] == "us-east-1"
