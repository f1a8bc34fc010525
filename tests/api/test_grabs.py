"""Grabs from a real server: trees bit for bit, nothing twice, S3DataGrabber's shapes, and what is refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import BucketMissing, ConfigError, GrabFailed, SourceMissing
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
Put = Callable[..., None]
MIB = 1 << 20

TREE = {
    "a.txt": b"alpha",
    "sub/b c+%.json": b"{}",
    "sub/deep/é✓.tsv": "näme\n".encode(),
    "empty": b"",
    "looks-like-an-error": b"<Error><Code>SlowDown</Code></Error>",
    "large.nii.gz": os.urandom(17 * MIB + 1),
    "exact": os.urandom(8 * MIB),
}


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_tree_comes_back_bit_for_bit(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path, lane: str
) -> None:
    put({f"study/{key}": body for key, body in TREE.items()} | {"study2/other": b"not this"})
    target = tmp_path / "new" / "target"
    report = await asyncsink.grab(f"s3://{bucket}/study", target, transport=lane, **options)
    report.raise_for_failures()
    assert content_of(target) == TREE
    assert (report.objects_fetched, report.bytes_fetched) == (len(TREE), sum(map(len, TREE.values())))
    assert (report.transport, report.outputs) == (lane, {})
    assert {r.url for r in report.receipts} == {str(target / name) for name in TREE}
    assert {r.source for r in report.receipts} == {f"s3://{bucket}/study/{name}" for name in TREE}
    umask = os.umask(0)
    os.umask(umask)
    assert {stat.S_IMODE((target / name).stat().st_mode) for name in TREE} == {0o666 & ~umask}


async def test_a_second_grab_receives_nothing(
    options: dict[str, Any], bucket: str, put: Put, put_in_parts: Put, tmp_path: Path
) -> None:
    put(TREE)
    put_in_parts("parts", TREE["large.nii.gz"])
    put_in_parts("parts-without-checksum", TREE["large.nii.gz"], checksum=False)
    first = await asyncsink.grab(f"s3://{bucket}", tmp_path / "t", **options)
    first.raise_for_failures()
    again = await asyncsink.grab(f"s3://{bucket}", tmp_path / "t", **options)
    again.raise_for_failures()
    assert (first.objects_fetched, again.objects_fetched) == (len(TREE) + 2, 0)
    reasons = {skip.key: skip.reason for skip in again.skips}
    assert reasons.keys() == TREE.keys() | {"parts", "parts-without-checksum"}
    assert reasons["a.txt"] == reasons["parts"] == "same checksum"
    assert reasons["parts-without-checksum"] == "same multipart ETag"


async def test_what_differs_is_received_again(options: dict[str, Any], bucket: str, put: Put, tmp_path: Path) -> None:
    put({"same": b"12345", "edited": b"12345", "grown": b"12345", "link": b"12345"})
    target = tmp_path / "t"
    target.mkdir()
    (target / "same").write_bytes(b"12345")
    (target / "edited").write_bytes(b"12346")
    (target / "grown").write_bytes(b"123456")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"12345")
    (target / "link").symlink_to(elsewhere)
    report = await asyncsink.grab(f"s3://{bucket}", target, **options)
    assert sorted(r.key for r in report.receipts) == ["edited", "grown", "link"]
    assert set(content_of(target).values()) == {b"12345"}
    assert not (target / "link").is_symlink()
    assert elsewhere.read_bytes() == b"12345"


async def test_how_bytes_were_confirmed(
    options: dict[str, Any], bucket: str, put: Put, put_in_parts: Put, tmp_path: Path
) -> None:
    data = os.urandom(11 * MIB)
    put({"crc": b"abc"}, ChecksumAlgorithm="CRC64NVME")
    put({"sha": data}, ChecksumAlgorithm="SHA256")
    put_in_parts("parts", data)
    put_in_parts("parts-md5", data, checksum=False)
    put_in_parts("odd-parts", data, checksum=False, part_bytes=5 * MIB + 12345)
    report = await asyncsink.grab(f"s3://{bucket}", tmp_path, **options)
    report.raise_for_failures()
    confirmed = {r.key: r.confirmed_by for r in report.receipts}
    assert confirmed == {
        "crc": "server-checksum",
        "sha": "server-checksum",
        "parts": "server-checksum",
        "parts-md5": "etag",
        "odd-parts": "etag",
    }
    assert {r.key: r.checksum.algorithm for r in report.receipts if r.checksum} == {
        "crc": "CRC64NVME",
        "sha": "SHA256",
        "parts": "CRC64NVME",
    }


async def test_a_single_object(options: dict[str, Any], bucket: str, put: Put, tmp_path: Path) -> None:
    put({"a/scan.nii": b"scan", "a/scan.nii.bak": b"no"})
    report = await asyncsink.grab(f"s3://{bucket}/a/scan.nii", tmp_path, **options)
    assert content_of(tmp_path) == {"scan.nii": b"scan"}
    assert report.objects_fetched == 1


async def test_folder_markers_are_left_out_and_told(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path
) -> None:
    put({"a/": b"", "a/b": b"x"})
    report = await asyncsink.grab(f"s3://{bucket}", tmp_path, **options)
    assert content_of(tmp_path) == {"a/b": b"x"}
    (skip,) = report.skips
    assert (skip.key, skip.already_there) == ("a/", False)
    assert "1 folder marker" in report.summary()


async def test_the_objects_time_is_the_files(
    options: dict[str, Any], bucket: str, put: Put, s3: Any, tmp_path: Path
) -> None:
    put({"k": b"x"})
    await asyncsink.grab(f"s3://{bucket}", tmp_path, **options)
    modified = s3.head_object(Bucket=bucket, Key="k")["LastModified"]
    assert int((tmp_path / "k").stat().st_mtime) == int(modified.timestamp())


# Templates

COHORT = {
    f"ds/sub-{subject}/{kind}/run-{run}.nii.gz": f"{subject}{kind}{run}".encode()
    for subject in ("01", "02")
    for kind in ("func", "anat")
    for run in (1, 2, 10)
}


async def test_outputs_in_the_shapes_of_s3datagrabber(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path
) -> None:
    put(COHORT | {"ds/sub-01/func/run-1.nii.gz.bak": b"no", "ds/sub-03/other": b"no", "ds/sub-01/func/": b""})
    report = await asyncsink.grab(
        f"s3://{bucket}/ds",
        tmp_path,
        field_template={"func": "%s/func/.*gz", "first": "%s/anat/run-1%s", "all": "%s/anat/.*"},
        template_args={"func": [["subject"]], "first": [["subject", ".nii.gz"]], "all": [["sub-02"]]},
        infields={"subject": ["sub-01", "sub-02"]},
        **options,
    )
    report.raise_for_failures()

    def paths(subject: str, kind: str, *runs: int) -> list[str]:
        return [str(tmp_path / f"sub-{subject}" / kind / f"run-{run}.nii.gz") for run in runs]

    assert report.outputs == {
        "func": [paths("01", "func", 1, 2, 10), paths("02", "func", 1, 2, 10)],
        "first": [paths("01", "anat", 1)[0], paths("02", "anat", 1)[0]],
        "all": paths("02", "anat", 1, 2, 10),
    }
    wanted = {k: v for k, v in COHORT.items() if "anat" not in k or "sub-02" in k or "run-1." in k}
    expected = {key.removeprefix("ds/"): body for key, body in wanted.items()}

    assert content_of(tmp_path) == expected


async def test_a_glob(options: dict[str, Any], bucket: str, put: Put, tmp_path: Path) -> None:
    put(COHORT)
    report = await asyncsink.grab(
        f"s3://{bucket}/ds", tmp_path, template="sub-*/anat/run-1.*", template_syntax="glob", **options
    )
    assert report.outputs == {"outfiles": [str(tmp_path / f"sub-0{n}/anat/run-1.nii.gz") for n in (1, 2)]}


async def test_a_template_without_a_match_is_an_error_before_anything_is_received(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path
) -> None:
    put(COHORT)
    given: dict[str, Any] = {"template": "%s/anat/run-1.nii.gz", "infields": {"s": ["sub-01", "sub-07", "sub-02"]}}
    target = tmp_path / "t"
    with pytest.raises(SourceMissing, match=r"'outfiles' finds nothing: .* matches 'sub-07/anat/run-1.nii.gz'"):
        await asyncsink.grab(f"s3://{bucket}/ds", target, **given, **options)
    assert not target.exists()
    report = await asyncsink.grab(f"s3://{bucket}/ds", target, **given, raise_on_empty=False, **options)
    first, missing, second = report.outputs["outfiles"]
    assert (first, missing, second) == (
        str(target / "sub-01/anat/run-1.nii.gz"), None, str(target / "sub-02/anat/run-1.nii.gz")
    )  # fmt: skip


@pytest.mark.parametrize("others", [{}, {"anat": "sub-01/anat/run-1.nii.gz"}])
async def test_an_empty_list_as_an_argument_finds_nothing(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path, others: dict[str, str]
) -> None:
    put(COHORT)
    given: dict[str, Any] = {
        "field_template": {"func": "%s/func/.*", **others},
        "template_args": {"func": [["s"]]},
        "infields": {"s": []},
    } | ({"template_args": {"func": [["s"]], "anat": []}} if others else {})
    with pytest.raises(SourceMissing, match="'func' finds nothing: one of its arguments is an empty list"):
        await asyncsink.grab(f"s3://{bucket}/ds", tmp_path, **given, **options)
    report = await asyncsink.grab(f"s3://{bucket}/ds", tmp_path, **given, raise_on_empty=False, **options)
    assert report.outputs["func"] is None
    assert sorted(content_of(tmp_path)) == sorted(others.values())


async def test_an_empty_source(options: dict[str, Any], bucket: str, put: Put, tmp_path: Path) -> None:
    put({"other/k": b"x"})
    with pytest.raises(SourceMissing, match="holds no objects"):
        await asyncsink.grab(f"s3://{bucket}/nothing", tmp_path / "t", **options)
    report = await asyncsink.grab(f"s3://{bucket}/nothing", tmp_path / "t", raise_on_empty=False, **options)
    assert report.objects_fetched == 0
    put({"marked/": b"", "marked/too/": b""})
    with pytest.raises(SourceMissing, match="holds no objects"):
        await asyncsink.grab(f"s3://{bucket}/marked", tmp_path / "t", **options)
    report = await asyncsink.grab(f"s3://{bucket}/marked", tmp_path / "t", raise_on_empty=False, **options)
    assert (report.objects_fetched, len(report.skips)) == (0, 2)
    put({"marked/too/k": b"x"})
    assert (await asyncsink.grab(f"s3://{bucket}/marked", tmp_path / "t", **options)).objects_fetched == 1


# What is refused


async def test_a_missing_bucket(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(BucketMissing):
        await asyncsink.grab("s3://no-such-bucket-anywhere", tmp_path / "t", **options)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("source", "directory", "given", "told"),
    [
        ("/tmp/x", "t", {}, "is a local directory"),
        ("s3://bucket", "s3://other", {}, "is a URL"),
        ("s3://bucket", "", {}, "is empty"),
        ("s3://bucket", "t", {"tempalte": "x"}, "Did you mean 'template'"),
        ("s3://bucket", "t", {"infields": {"a": 1}}, "without a pattern for it"),
        ("s3://bucket", "t", {"template": "*"}, "template_syntax='glob'"),
        ("s3://bucket", "t", {"template": "%s", "template_args": {"f": ["x"]}}, "list of lists"),
        ("s3://bucket", "t", {"template": "a", "match": "end"}, "match='end' is not known"),
        ("s3://bucket", "t", {"overwrite": "never"}, "no option of a grab"),
        ("s3://bucket", "t", {"template": "a", "outfields": 5}, "outfields is no list of names"),
        ("s3://bucket/x\udc80", "t", {}, "not valid UTF-8"),
        ("s3://bucket", "t", {"template": ""}, "template is empty"),
        ("s3://bucket//h", "t", {}, r'between slashes \("//"\)'),
        ("s3://bucket/q//a b", "t", {}, r'between slashes \("//"\)'),
        ("s3://bucket/x\udc80", "t", {"transport": "aioboto3"}, "not valid UTF-8"),
    ],
)
async def test_wrong_options(source: str, directory: str, given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        await asyncsink.grab(source, directory, **given)


async def test_links_inside_the_target_that_lead_out_are_refused(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path
) -> None:
    outside, target = tmp_path / "outside", tmp_path / "t"
    outside.mkdir()
    target.mkdir()
    (target / "linked").symlink_to(outside)
    put({"linked/evil": b"x", "linked/deep/evil": b"x", "linked/large": bytes(9 * MIB), "good": b"y"})
    report = await asyncsink.grab(f"s3://{bucket}", target, **options)
    assert list(outside.iterdir()) == []
    assert {f.key for f in report.failures} == {"linked/evil", "linked/deep/evil", "linked/large"}
    assert all("would be written outside" in f.message for f in report.failures)
    assert (target / "good").read_bytes() == b"y"
    with pytest.raises(GrabFailed, match="3 of 4 objects not grabbed"):
        report.raise_for_failures()


async def test_a_directory_in_the_way_and_a_file_in_the_way(
    options: dict[str, Any], bucket: str, put: Put, tmp_path: Path
) -> None:
    (tmp_path / "t" / "taken").mkdir(parents=True)
    (tmp_path / "t" / "file").write_bytes(b"mine")
    put({"taken": b"x", "file/below": b"x", "good": b"y"})
    report = await asyncsink.grab(f"s3://{bucket}", tmp_path / "t", **options)
    assert {f.key for f in report.failures} == {"taken", "file/below"}
    assert (tmp_path / "t" / "file").read_bytes() == b"mine"
    assert (tmp_path / "t" / "good").read_bytes() == b"y"


async def test_a_callers_own_bucket(options: dict[str, Any], bucket: str, put: Put, s3: Any, tmp_path: Path) -> None:
    import boto3

    put({"p/k": b"x"})
    own = boto3.resource(
        "s3",
        endpoint_url=options["endpoint_url"],
        region_name="us-east-1",
        aws_access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
    ).Bucket(bucket)
    report = await asyncsink.grab("s3://another/p", tmp_path, bucket=own)
    assert (tmp_path / "k").read_bytes() == b"x"
    assert [r.source for r in report.receipts] == [f"s3://{bucket}/p/k"]
    own.meta.client.close()


def test_grab_sync_and_inside_a_running_loop(options: dict[str, Any], bucket: str, put: Put, tmp_path: Path) -> None:
    import asyncio

    put({"k": b"x"})
    assert asyncsink.grab_sync(f"s3://{bucket}", tmp_path / "a", **options).objects_fetched == 1

    async def inside() -> int:
        return asyncsink.grab_sync(f"s3://{bucket}", tmp_path / "b", **options).objects_fetched

    assert asyncio.run(inside()) == 1


@pytest.mark.anyio
async def test_large_objects_through_the_lane_without_threads(
    options: dict[str, Any], bucket: str, put_in_parts: Callable[..., None], tmp_path: Path
) -> None:
    body = os.urandom(17 * 1024 * 1024 + 3)
    put_in_parts("study/large", body)
    report = await asyncsink.grab(f"s3://{bucket}/study", tmp_path, transport="aioboto3", **options)
    report.raise_for_failures()
    assert content_of(tmp_path) == {"large": body}
    assert report.receipts[0].confirmed_by == "server-checksum"
