"""Whole exports to a real S3 server, compared byte for byte by another client."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest
from boto3.s3.transfer import TransferConfig
from botocore.config import Config

import asyncsink
from asyncsink.errors import ConfigError
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
MIB = 1 << 20


async def test_document_example(tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    """spec/nipype-with-amazon-web-services.txt: s3://mybucket/path/to/output/dir/sub001/motion/realigned_file1.nii.gz."""
    source = tmp_path / "work" / "realigned_file1.nii.gz"
    source.parent.mkdir()
    source.write_bytes(b"realigned")
    report = await asyncsink.export(
        {"motion": str(source)}, f"s3://{bucket}/path/to/output/dir", container="sub001", **options
    )
    assert stored() == {"path/to/output/dir/sub001/motion/realigned_file1.nii.gz": b"realigned"}
    assert report.out_file == [f"s3://{bucket}/path/to/output/dir/sub001/motion/realigned_file1.nii.gz"]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_tree_arrives_whole_with_its_local_copy(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, s3: Any, options: dict[str, Any], lane: Any
) -> None:
    report = await asyncsink.export_directory(
        tree, f"s3://{bucket}/p", local_copy=tmp_path / "copy", encrypt_bucket_keys=True, transport=lane, **options
    )
    report.raise_for_failures()
    expected = content_of(tree)
    assert stored() == {f"p/{name}": data for name, data in expected.items()}
    assert content_of(tmp_path / "copy") == expected
    assert report.transport == lane
    assert report.bytes_uploaded == sum(map(len, expected.values()))
    assert {receipt.confirmed_by for receipt in report.receipts} == {"server-checksum"}
    assert report.out_file == [f"s3://{bucket}/p", str(tmp_path / "copy")]
    for receipt in report.receipts:
        head = s3.head_object(Bucket=bucket, Key=receipt.key, ChecksumMode="ENABLED")
        assert head["ServerSideEncryption"] == "AES256"
        assert f"CRC64NVME:{head['ChecksumCRC64NVME']}" == str(receipt.checksum)
    large = s3.head_object(Bucket=bucket, Key="p/sub/large.nii.gz")
    assert large["ETag"].strip('"').endswith("-3")
    assert large["ContentType"] == "application/gzip"


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_a_rerun_of_an_unchanged_tree_sends_nothing(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any], lane: Any
) -> None:
    destination = f"s3://{bucket}/p"
    options = {**options, "transport": lane, "journal": False}
    await asyncsink.export_directory(tree, destination, local_copy=tmp_path / "copy", **options)
    again = await asyncsink.export_directory(tree, destination, local_copy=tmp_path / "copy", **options)
    assert (again.objects_uploaded, again.bytes_uploaded, again.objects_skipped) == (0, 0, 5)
    # One LIST for all, and one HEAD for the object whose ETag says nothing about its content.
    assert again.requests == 2
    assert {skip.local_copy != "" for skip in again.skips} == {True}


async def test_what_changed_is_sent_and_nothing_else(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    destination = f"s3://{bucket}/p"
    await asyncsink.export_directory(tree, destination, **options)
    (tree / "a.txt").write_bytes(b"ALPHA")
    large = bytearray((tree / "sub/large.nii.gz").read_bytes())
    large[12 * MIB] ^= 1
    (tree / "sub/large.nii.gz").write_bytes(large)
    (tree / "new").write_bytes(b"new")
    report = await asyncsink.export_directory(tree, destination, **options)
    assert {receipt.key for receipt in report.receipts} == {"p/a.txt", "p/sub/large.nii.gz", "p/new"}
    assert stored() == {f"p/{name}": data for name, data in content_of(tree).items()}


@pytest.mark.parametrize("part_mib", [5, 7, 8, 16])
async def test_what_another_tool_put_there_is_not_sent_again(
    tree: Path, bucket: str, s3: Any, options: dict[str, Any], part_mib: int
) -> None:
    """boto3's managed transfer, with part sizes of its own and no checksums that we know."""
    how = TransferConfig(multipart_threshold=part_mib * MIB, multipart_chunksize=part_mib * MIB)
    plain = Config(request_checksum_calculation="when_required", s3={"addressing_style": "path"})
    for name in content_of(tree):
        # A client per file: after an empty body, SeaweedFS's late 100-continue confuses botocore's next request.
        client = boto3.Session().client("s3", endpoint_url=options["endpoint_url"], config=plain)
        client.upload_file(str(tree / name), bucket, f"p/{name}", Config=how)
        client.close()
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", **options)
    assert report.bytes_uploaded == 0, [receipt.key for receipt in report.receipts]
    assert report.objects_skipped == 5


async def test_size_decides_nothing(tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    source = tmp_path / "d" / "f"
    source.parent.mkdir()
    source.write_bytes(b"one")
    await asyncsink.export_directory(source.parent, f"s3://{bucket}", **options)
    before = os.stat(source)
    source.write_bytes(b"two")
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    await asyncsink.export_directory(source.parent, f"s3://{bucket}", **options)
    assert stored() == {"f": b"two"}


@pytest.mark.parametrize(
    ("policy", "sent"), [("never", 0), ("size", 0), ("size-mtime", 1), ("checksum", 1), ("always", 2)]
)
async def test_overwrite_policies(tmp_path: Path, bucket: str, options: dict[str, Any], policy: Any, sent: int) -> None:
    root = tmp_path / "d"
    root.mkdir()
    (root / "same").write_bytes(b"same")
    os.utime(root / "same", (1_000_000_000, 1_000_000_000))
    (root / "edited").write_bytes(b"one")
    await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    (root / "edited").write_bytes(b"two")
    os.utime(root / "edited", (4_000_000_000, 4_000_000_000))
    report = await asyncsink.export_directory(root, f"s3://{bucket}", overwrite=policy, **options)
    assert report.objects_uploaded == sent


@pytest.mark.parametrize("checksum", ["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", "none"])
async def test_every_checksum_is_confirmed_and_recognised_again(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any], checksum: str
) -> None:
    report = await asyncsink.export_directory(tree, f"s3://{bucket}", checksum=checksum, **options)
    report.raise_for_failures()
    assert stored() == content_of(tree)
    assert {receipt.confirmed_by for receipt in report.receipts} <= {"server-checksum", "etag"}
    again = await asyncsink.export_directory(tree, f"s3://{bucket}", checksum=checksum, **options)
    assert again.bytes_uploaded == 0


async def test_object_options_arrive(tree: Path, bucket: str, s3: Any, options: dict[str, Any]) -> None:
    await asyncsink.export_directory(
        tree,
        f"s3://{bucket}",
        tags={"study": "ds 1", "é": "x"},
        metadata={"lab": "A"},
        content_type="text/x-own",
        **options,
    )
    for key in ("a.txt", "sub/large.nii.gz"):
        head = s3.head_object(Bucket=bucket, Key=key)
        assert head["ContentType"] == "text/x-own"
        token = {} if key == "a.txt" else {"asyncsink-write": head["Metadata"].get("asyncsink-write")}
        assert head["Metadata"] == {"lab": "A"} | token
        tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
        assert {tag["Key"]: tag["Value"] for tag in tags} == {"study": "ds 1", "é": "x"}


async def test_customer_keys(tree: Path, bucket: str, s3: Any, options: dict[str, Any]) -> None:
    secret = bytes(range(32))
    report = await asyncsink.export_directory(tree, f"s3://{bucket}", sse=secret, **options)
    report.raise_for_failures()
    for name, data in content_of(tree).items():
        got = s3.get_object(Bucket=bucket, Key=name, SSECustomerAlgorithm="AES256", SSECustomerKey=secret)
        assert got["Body"].read() == data
    again = await asyncsink.export_directory(tree, f"s3://{bucket}", sse=secret, **options)
    assert again.bytes_uploaded == 0


async def test_datasink_rules_end_to_end(tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    work = tmp_path / "wf" / "_subject_id_sub-01" / "_contrast_1"
    work.mkdir(parents=True)
    (work / "con.nii").write_bytes(b"con")
    (work / "dir" / "in").mkdir(parents=True)
    (work / "dir" / "x").write_bytes(b"x")
    (work / "dir" / "in" / "y").write_bytes(b"y")
    report = await asyncsink.export(
        {"contrasts.@con": [[work / "con.nii"]], "masks": (work / "dir",), "nothing": []},
        f"S3://{bucket}/out/",
        container="c",
        substitutions=[("_subject_id_", ""), ("_contrast_1", "first")],
        regexp_substitutions=[(r"sub-(\d+)", r"s\1")],
        **options,
    )
    assert stored() == {
        "out/c/contrasts/s01/first/con.nii": b"con",
        "out/c/masks/s01/first/dir/x": b"x",
        "out/c/masks/s01/first/dir/in/y": b"y",
    }
    # Rule 25: the destination's case is kept; rule 34: a directory is one entry.
    assert report.out_file == [
        f"S3://{bucket}/out/c/contrasts/s01/first/con.nii",
        f"S3://{bucket}/out/c/masks/s01/first/dir",
    ]


async def test_a_bucket_object_of_the_caller(tree: Path, seaweed: Any, bucket: str, stored: Stored) -> None:
    """Rule 47: name, endpoint, region and credentials are the boto3 Bucket's; rule 24: only the bucket is replaced."""
    resource = boto3.Session().resource(
        "s3",
        endpoint_url=seaweed.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id=seaweed.access_key_id,
        aws_secret_access_key=seaweed.secret_access_key,
    )
    report = await asyncsink.export_directory(tree, "s3://another-name/p", bucket=resource.Bucket(bucket))
    resource.meta.client.close()
    report.raise_for_failures()
    assert sorted(stored()) == sorted(f"p/{name}" for name in content_of(tree))


async def test_one_huge_file_among_many_tiny_ones(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    for number in range(300):
        (root / f"tiny{number:03}").write_bytes(str(number).encode())
    (root / "huge").write_bytes(os.urandom(40 * MIB))
    report = await asyncsink.export_directory(root, f"s3://{bucket}", concurrency=16, memory_bytes="32MiB", **options)
    report.raise_for_failures()
    assert stored() == content_of(root)


async def test_concurrency_of_one(tree: Path, bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    report = await asyncsink.export_directory(tree, f"s3://{bucket}", concurrency=1, memory_bytes="8MiB", **options)
    report.raise_for_failures()
    assert stored() == content_of(tree)


# -- remove_dest_dir: a directory source replaces its destination directory; nothing else is ever removed --------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "work" / "masks"
    folder.mkdir(parents=True)
    (folder / "new").write_bytes(b"new")
    return folder


@pytest.mark.parametrize(("remove", "left"), [(True, {"m/masks/new"}), (False, {"m/masks/new", "m/masks/old"})])
async def test_only_the_directory_that_is_filled_is_replaced(
    source: Path, tmp_path: Path, remove: bool, left: set[str]
) -> None:
    out = tmp_path / "out"
    for name in ("m/masks/old", "m/other", "top"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(b"old")
    await asyncsink.export({"m": source}, out, remove_dest_dir=remove)
    assert set(content_of(out)) == left | {"m/other", "top"}


async def test_the_destination_itself_is_never_removed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious").write_bytes(b"!")
    await asyncsink.export({"@m": source}, out, remove_dest_dir=True, substitutions=[("masks", "")])
    assert set(content_of(out)) == {"precious", "new"}


async def test_a_source_inside_what_would_be_removed_is_refused(tmp_path: Path) -> None:
    inside = tmp_path / "out" / "m" / "m"
    inside.mkdir(parents=True)
    (inside / "f").write_bytes(b"f")
    with pytest.raises(ConfigError, match="remove_dest_dir would remove"):
        await asyncsink.export({"@x": inside}, tmp_path / "out", remove_dest_dir=True)
    assert (inside / "f").read_bytes() == b"f"


async def test_on_s3_it_does_nothing_but_the_local_copy_obeys(
    source: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    """Rule 31."""
    s3.put_object(Bucket=bucket, Key="m/masks/old", Body=b"old")
    (tmp_path / "copy/m/masks").mkdir(parents=True)
    (tmp_path / "copy/m/masks/old").write_bytes(b"old")
    await asyncsink.export(
        {"m": source}, f"s3://{bucket}", remove_dest_dir=True, local_copy=tmp_path / "copy", **options
    )
    listed = {item["Key"] for item in s3.list_objects_v2(Bucket=bucket)["Contents"]}
    assert listed == {"m/masks/old", "m/masks/new"}
    assert set(content_of(tmp_path / "copy")) == {"m/masks/new"}
