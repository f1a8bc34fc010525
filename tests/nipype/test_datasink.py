"""The DataSink adapter by itself: inputs, results, failures, as Nipype sees them."""

from __future__ import annotations

import asyncio
import copy
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from nipype.interfaces import io as nio
from nipype.interfaces.base import TraitError, Undefined

import asyncsink
from asyncsink.adapters.nipype import DataSink, S3DataGrabber
from asyncsink.adapters.nipype_inputs import OF_WHOLE_EXPORTS, sentence_of
from asyncsink.devserver.seaweedfs import REGION, DevServer
from asyncsink.options.schema import OPTIONS
from tests.support.files import content_of

Stored = Callable[[str], dict[str, bytes]]


def sink_of(base: object, **inputs: Any) -> DataSink:
    return DataSink(base_directory=str(base), **inputs)


def test_document_example(scan: Path, server: DevServer, bucket: str, stored: Stored) -> None:
    ds = DataSink()
    ds.inputs.base_directory = f"s3://{bucket}/path/to/output/dir"
    ds.inputs.container = "sub001"
    ds.inputs.encrypt_bucket_keys = True
    ds.inputs.motion = str(scan)
    result = ds.run()
    url = f"s3://{bucket}/path/to/output/dir/sub001/motion/realigned_file1.nii.gz"
    assert result.outputs.out_file == [url]
    assert stored(bucket) == {"path/to/output/dir/sub001/motion/realigned_file1.nii.gz": b"realigned"}
    assert ds.report is not None
    assert ds.report.objects_uploaded == 1


def test_all_of_datasinks_inputs_and_all_of_our_options_are_inputs() -> None:
    names = set(DataSink().inputs.copyable_trait_names())
    ours = set(OPTIONS) - set(OF_WHOLE_EXPORTS)  # a node publishes a part of a prefix, and must not delete the rest
    assert names == set(nio.DataSink().inputs.copyable_trait_names()) | ours
    assert isinstance(DataSink(), nio.DataSink)


def test_options_are_used(scan: Path, server: DevServer, bucket: str, tmp_path: Path, s3: Any) -> None:
    ds = sink_of(f"s3://{bucket}", endpoint_url=server.endpoint_url, checksum="SHA256", transport="aioboto3")
    ds.inputs.manifest = str(tmp_path / "manifest.jsonl")
    ds.inputs.metadata = {"study": "one"}
    ds.inputs.motion = str(scan)
    ds.run()
    head = s3.head_object(Bucket=bucket, Key="motion/realigned_file1.nii.gz", ChecksumMode="ENABLED")
    assert head["Metadata"]["study"] == "one"
    assert "ChecksumSHA256" in head
    assert ds.report is not None
    assert ds.report.transport == "aioboto3"
    assert (tmp_path / "manifest.jsonl").read_text().count("receipt") > 0


def test_a_bucket_of_boto3s(scan: Path, tmp_path: Path, seaweed: DevServer, bucket: str, stored: Stored) -> None:
    """Rule 47: endpoint, region and credentials come with it; nothing is in the environment, or asked of a file."""
    resource = boto3.resource(
        "s3",
        endpoint_url=seaweed.endpoint_url,
        region_name=REGION,
        aws_access_key_id=seaweed.access_key_id,
        aws_secret_access_key=seaweed.secret_access_key,
    )
    wrong = tmp_path / "wrong.csv"
    wrong.write_text("no credentials")
    ds = sink_of("s3://elsewhere/p", bucket=resource.Bucket(bucket), motion=str(scan), creds_path=str(wrong))
    assert ds.run().outputs.out_file == ["s3://elsewhere/p/motion/realigned_file1.nii.gz"]
    assert stored(bucket) == {"p/motion/realigned_file1.nii.gz": b"realigned"}
    resource.meta.client.close()


def test_a_name_in_infields_is_an_output(scan: Path, tmp_path: Path) -> None:
    ds = DataSink(infields=["metadata"], base_directory=str(tmp_path / "out"))
    ds.inputs.metadata = str(scan)
    assert ds.run().outputs.out_file == [str(tmp_path / "out" / "metadata" / scan.name)]


@pytest.mark.parametrize("name", ["trait_added", "trait_modified"])
def test_an_output_with_the_name_of_an_event_of_traits_is_published(scan: Path, tmp_path: Path, name: str) -> None:
    ds = DataSink(base_directory=str(tmp_path / "out"))
    setattr(ds.inputs, name, str(scan))
    assert ds.run().outputs.out_file == [str(tmp_path / "out" / name / scan.name)]


def test_the_event_of_traits_itself_is_no_output(scan: Path, tmp_path: Path) -> None:
    ds = DataSink(infields=["motion"], base_directory=str(tmp_path / "out"))
    ds.inputs.motion = str(scan)
    assert ds.inputs._outputs["trait_added"] == "motion"
    assert ds.run().outputs.out_file == [str(tmp_path / "out" / "motion" / scan.name)]


@pytest.mark.parametrize("name", ["metadata", "overwrite", "anonymous", "content_type"])
def test_a_path_connected_to_an_option_is_refused_with_the_way_to_publish_it(scan: Path, name: str) -> None:
    with pytest.raises(asyncsink.ConfigError, match=rf"'{name}' is an option of asyncsink's.*infields"):
        setattr(DataSink().inputs, name, str(scan))


def test_inputs_have_the_options_types_choices_and_sentences() -> None:
    inputs = DataSink().inputs
    for name in set(OPTIONS) - set(nio.DataSink().inputs.copyable_trait_names()) - set(OF_WHOLE_EXPORTS):
        assert inputs.trait(name).desc == sentence_of(OPTIONS[name])
        assert getattr(inputs, name) is Undefined
        setattr(inputs, name, None)
    inputs.trait_set(overwrite="size", part_size_bytes="8MiB", memory_bytes=1 << 30, shard=(0, 4), exclude=["*.tmp"])
    inputs.trait_set(journal=False, manifest=Path("manifest.jsonl"), give_up_after_seconds=timedelta(minutes=1))
    for name, value in (("overwrite", "sometimes"), ("related_files", "yes"), ("metadata", ["a"]), ("retry", 3)):
        with pytest.raises(TraitError, match=name):
            setattr(inputs, name, value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("overwrite", "chekcsum", r"overwrite='chekcsum' is not known; .* Did you mean 'checksum'\?"),
        ("memory_bytes", "lots", "memory_bytes='lots' is no size; give bytes or a text such as '256MiB'"),
        ("part_size_bytes", "1MiB", "S3 takes parts of 5 MiB to 5 GiB"),
        ("concurrency", "many", "expected 1 to .* or 'auto'"),
        ("retries", -1, "expected 0 to 100 further rounds"),
        ("shard", "4/4", "expected 'I/N' with I from 0 to N - 1"),
        ("checksum", "crc99", "checksum='CRC99' is not known"),
        ("give_up_after_seconds", "soon", "give_up_after_seconds"),
        ("storage_class", "cheap", "expected a name such as 'STANDARD_IA'"),
        ("tags", {str(number): "" for number in range(11)}, "tags"),
        ("manifest", 3, "manifest is of type int; expected a path"),
        ("exclude", "*.tmp", r"expected a list of patterns, \['\*.tmp'\]"),
        ("journal", True, "journal=True names no file"),
    ],
)
def test_a_wrong_value_is_refused_where_it_is_given(name: str, value: Any, said: str) -> None:
    """Not when the node runs, hours later. Nipype's own inputs raise a TraitError; so does it."""
    for given in (lambda: DataSink(**{name: value}), lambda: setattr(DataSink().inputs, name, value)):
        with pytest.raises(asyncsink.ConfigError, match=said) as refused:
            given()
        assert isinstance(refused.value, TraitError)
        assert refused.value.option == name


def test_inputs_that_belong_together_come_in_any_order() -> None:
    inputs = DataSink(sse_kms_key_id="alias/lab", part_size_bytes="1GiB").inputs
    inputs.trait_set(sse="aws:kms", memory_bytes="4GiB")


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    """An example, every input once, below its subject, with its type and a sentence."""
    page = DataSink.help(returnhelp=True)
    assert page is not None
    DataSink.help()
    assert capsys.readouterr().out == f"{page}\n"
    assert 'workflow.connect(realigner, "realigned_files", sink, "motion")' in page
    for name in [*(set(OPTIONS) - set(OF_WHOLE_EXPORTS)), "base_directory"]:
        assert page.count(f"\n    {name}: ") == 1, name
    assert "\n    overwrite: 'never', 'always', 'size', 'size-mtime', 'checksum' or 'journal'\n" in page
    assert "(default nipype)" in page, "the defaults are DataSink's ways"
    assert "; repeatable" not in page
    assert page.index("Connection and credentials:") < page.index("endpoint_url:") < page.index("What every object is")
    grabs = S3DataGrabber.help(returnhelp=True)
    assert grabs is not None
    assert all(
        f"\n    {name}: " in grabs for name in ("bucket", "local_directory", "template", "match", "memory_bytes")
    )


def test_an_option_that_is_gone_is_refused_and_becomes_no_output() -> None:
    with pytest.raises(asyncsink.ConfigError, match="compat='nipype' applies substitutions to the whole URL"):
        DataSink(substitution_scope="full")


def test_a_source_given_as_the_manifest_is_not_overwritten(scan: Path, tmp_path: Path) -> None:
    ds = sink_of(tmp_path / "out", motion=str(scan), manifest=str(scan))
    with pytest.raises(asyncsink.ConfigError, match="manifest"):
        ds.run()
    assert scan.read_bytes() == b"realigned"


def test_a_customer_key_is_refused_and_not_repeated(keep_secret: Callable[[str], str]) -> None:
    key = keep_secret("0123456789abcdef-customer-key-32")
    for value in (key, key.encode()):
        with pytest.raises(asyncsink.ConfigError, match="hash and crash files") as caught:
            DataSink(sse=value)
        assert "customer-key-32" not in str(caught.value)


def test_without_a_base_directory_it_writes_to_the_current_one(
    scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ds = DataSink()
    ds.inputs.motion = str(scan)
    assert ds.inputs.base_directory is Undefined
    assert ds.run().outputs.out_file == [str(tmp_path / "motion" / scan.name)]


def test_local_copy_takes_the_place_of_a_local_base_directory(scan: Path, tmp_path: Path) -> None:
    ds = sink_of(tmp_path / "base", local_copy=str(tmp_path / "copy"), motion=str(scan))
    assert ds.run().outputs.out_file == [str(tmp_path / "copy" / "motion" / scan.name)]
    assert not (tmp_path / "base").exists()


def test_an_absolute_container_takes_the_place_of_a_local_base_directory(scan: Path, tmp_path: Path) -> None:
    """Rule 11, as kept with compat="nipype"."""
    ds = sink_of(tmp_path / "base", container=str(tmp_path / "there"), motion=str(scan))
    assert ds.run().outputs.out_file == [str(tmp_path / "there" / "motion" / scan.name)]


def test_an_empty_local_copy_is_refused(scan: Path, tmp_path: Path, bucket: str) -> None:
    """Rule 35."""
    for base in (tmp_path / "base", f"s3://{bucket}/p"):
        with pytest.raises(asyncsink.ConfigError, match="local_copy is empty"):
            sink_of(base, local_copy="", motion=str(scan)).run()


def test_a_directory_keeps_its_empty_folders_in_local_trees(
    tmp_path: Path, server: DevServer, bucket: str, stored: Stored
) -> None:
    """Rule 27: S3 has no empty directories, and the local copy has them."""
    subject = tmp_path / "subject"
    (subject / "trash" / "deep").mkdir(parents=True)
    (subject / "mri").mkdir()
    (subject / "mri" / "T1.mgz").write_bytes(b"T1")
    ds = sink_of(f"s3://{bucket}", local_copy=str(tmp_path / "copy"), recon=str(subject))
    ds.run()
    assert stored(bucket) == {"recon/subject/mri/T1.mgz": b"T1"}
    assert (tmp_path / "copy/recon/subject/trash/deep").is_dir()


def test_a_link_upwards_does_not_hold_up_a_local_tree(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    (tree / "a" / "file").write_bytes(b"x")
    (tree / "a" / "up").symlink_to(tree)
    (tree / "empty").mkdir()
    ds = sink_of(tmp_path / "out", t=str(tree))
    ds.run()
    assert content_of(tmp_path / "out") == {"t/tree/a/file": b"x"}
    assert sorted(path.name for path in (tmp_path / "out").rglob("*")) == ["a", "empty", "file", "t", "tree"]


@pytest.mark.parametrize(("hard", "links"), [("true", 2), ("false", 1)])
def test_files_are_linked_as_nipypes_configuration_says(
    scan: Path, tmp_path: Path, hard: str, links: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 36; directories never are."""
    from nipype import config

    monkeypatch.setitem(config._sections["execution"], "try_hard_link_datasink", hard)
    sink_of(tmp_path / "out", motion=str(scan)).run()
    assert (tmp_path / "out/motion" / scan.name).stat().st_nlink == links
    sink_of(tmp_path / "trees", motion=str(scan.parent)).run()
    assert (tmp_path / "trees/motion/work" / scan.name).stat().st_nlink == 1


def test_related_files_come_along_locally(tmp_path: Path) -> None:
    """Rule 30."""
    for name in ("a.img", "a.hdr"):
        (tmp_path / name).write_bytes(name.encode())
    sink_of(tmp_path / "out", m=str(tmp_path / "a.img")).run()
    assert set(content_of(tmp_path / "out")) == {"m/a.img", "m/a.hdr"}


def test_any_iterable_of_paths(scan: Path, tmp_path: Path) -> None:
    ds = sink_of(tmp_path / "out", motion={str(scan)}, more=(path for path in [scan]))
    assert len(ds.run().outputs.out_file) == 2


def test_a_missing_source_fails_s3_and_is_left_out_locally(
    tmp_path: Path, server: DevServer, bucket: str, told: io.StringIO, stored: Stored, scan: Path
) -> None:
    """Rule 7."""
    missing = str(tmp_path / "missing.nii")
    with pytest.raises(asyncsink.SourceMissing, match=r"missing\.nii' does not exist"):
        sink_of(f"s3://{bucket}", motion=[str(scan), missing]).run()
    assert stored(bucket) == {}
    assert sink_of(tmp_path / "out", motion=[str(scan), missing]).run().outputs.out_file == [
        str(tmp_path / "out" / "motion" / scan.name)
    ]
    assert "missing.nii" in told.getvalue()


def test_what_is_not_published_raises_with_a_sentence(scan: Path, server: DevServer, bucket: str) -> None:
    ds = sink_of(f"s3://{bucket}-missing", motion=str(scan))
    with pytest.raises(asyncsink.TransferError, match=f"{bucket}-missing"):
        ds.run()


def test_failures_of_single_files_raise(tmp_path: Path, scan: Path) -> None:
    blocked = tmp_path / "out" / "motion"
    blocked.mkdir(parents=True)
    (blocked / scan.name).mkdir()
    ds = sink_of(tmp_path / "out", motion=str(scan))
    with pytest.raises(asyncsink.ExportFailed, match="is a directory"):
        ds.run()
    assert ds.report is not None
    assert len(ds.report.failures) == 1


def test_a_missing_credentials_file_means_the_environment(
    scan: Path, server: DevServer, bucket: str, stored: Stored, told: io.StringIO, tmp_path: Path
) -> None:
    """Rule 42, as kept with compat="nipype"."""
    sink_of(f"s3://{bucket}", creds_path=str(tmp_path / "no.csv"), motion=str(scan)).run()
    assert len(stored(bucket)) == 1
    assert "no.csv' does not exist" in told.getvalue()


def test_without_credentials_the_bucket_is_tried_anonymously(
    scan: Path, seaweed: DevServer, bucket: str, told: io.StringIO
) -> None:
    """Rule 45; where that is refused too, the missing credentials are the error."""
    ds = sink_of(f"s3://{bucket}", endpoint_url=seaweed.endpoint_url, region=REGION, motion=str(scan))
    with pytest.raises(asyncsink.CredentialsError, match="There are no credentials"):
        ds.run()
    assert "rule 45" in told.getvalue()


def test_inside_a_running_loop(scan: Path, server: DevServer, bucket: str, stored: Stored) -> None:
    async def notebook() -> list[str]:
        result: list[str] = sink_of(f"s3://{bucket}", motion=str(scan)).run().outputs.out_file
        return result

    assert asyncio.run(notebook()) == [f"s3://{bucket}/motion/{scan.name}"]
    assert len(stored(bucket)) == 1


def test_copies_and_pickles_leave_the_report_behind(scan: Path, tmp_path: Path) -> None:
    ds = sink_of(tmp_path / "out", motion=str(scan), overwrite="always")
    ds.run()
    assert ds.report is not None
    for twin in (copy.deepcopy(ds), pickle.loads(pickle.dumps(ds))):
        assert twin.report is None
        assert twin.inputs.overwrite == "always"
        assert twin.run().outputs.out_file == [str(tmp_path / "out" / "motion" / scan.name)]


def test_the_manifest_is_no_part_of_a_nodes_identity(tmp_path: Path) -> None:
    def identity(**inputs: Any) -> str:
        return str(sink_of(tmp_path, **inputs).inputs.get_hashval()[1])

    assert identity(manifest=str(tmp_path / "a")) == identity()
    assert identity(storage_class="GLACIER") != identity()


def test_installed_for_code_that_cannot_be_edited(
    scan: Path, server: DevServer, bucket: str, installed: Callable[..., None], stored: Stored
) -> None:
    import nipype

    installed(endpoint_url=server.endpoint_url, overwrite="always")
    assert nipype.DataSink is nio.DataSink
    ds = nio.DataSink(base_directory=f"s3://{bucket}")
    ds.inputs.metadata = str(scan)  # no option here: the code does not know of it
    installed()  # for sinks to come
    assert not nio.DataSink()._installed
    for sink in (ds, pickle.loads(pickle.dumps(ds))):
        sink.run()
        assert sink.report.objects_uploaded == 1
    assert set(stored(bucket)) == {f"metadata/{scan.name}"}
    assert isinstance(ds, DataSink.__mro__[2])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"container": "c"}, "input of DataSink"),
        ({"overwrit": "always"}, "Did you mean 'overwrite'"),
        ({"sse": b"k" * 32}, "customer key"),
    ],
)
def test_install_refuses_options(installed: Callable[..., None], options: dict[str, Any], match: str) -> None:
    before = nio.DataSink
    with pytest.raises(asyncsink.ConfigError, match=match):
        installed(**options)
    assert nio.DataSink is before


def test_uninstall_puts_nipypes_own_back(installed: Callable[..., None]) -> None:
    import nipype

    from asyncsink.adapters.nipype import uninstall

    own = nio.DataSink
    installed()
    assert nio.DataSink is not own
    uninstall()
    assert nio.DataSink is nipype.DataSink is own


def test_nothing_is_said_on_stdout(
    scan: Path, server: DevServer, bucket: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rule 33. Nipype's own logging is off: it goes where its user says."""
    import logging

    logging.disable(logging.CRITICAL)
    try:
        sink_of(f"s3://{bucket}", motion=str(scan)).run()
    finally:
        logging.disable(logging.NOTSET)
    assert capfd.readouterr().out == ""


def test_without_nipype_a_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['nipype'] = None; import asyncsink.adapters.nipype"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.stderr.strip().endswith("install it with: pip install 'asyncsink[nipype]'")
