"""A manifest's promises against the bucket: kept, broken, or impossible to prove."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import BucketMissing, ConfigError, ConnectionLost, CredentialsError

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
QUICK = asyncsink.RetryPolicy(attempts=2, backoff_seconds_base=0.01, backoff_seconds_max=0.02)


@pytest.fixture
async def manifest(tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]) -> Path:
    path = tmp_path / "m.jsonl"
    await asyncsink.export_directory(tree, f"s3://{bucket}/p", manifest=path, **options)
    return path


async def test_a_kept_promise(manifest: Path, bucket: str) -> None:
    """The header of the manifest says where the server is; nothing else is needed."""
    report = await asyncsink.verify_manifest(manifest)
    assert report.ok
    assert report.confirmed_by == {"checksum": 5}
    assert report.summary() == f"All 5 objects are as {manifest} says.\nProven by checksum."


async def test_reading_back(manifest: Path) -> None:
    report = await asyncsink.verify_manifest(manifest, read_back=True)
    assert (report.ok, report.confirmed_by) == (True, {"read-back": 5})


async def test_a_rerun_that_sent_nothing_has_a_manifest_as_good(
    manifest: Path, tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    again = tmp_path / "again.jsonl"
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", manifest=again, **options)
    assert report.objects_uploaded == 0
    assert (await asyncsink.verify_manifest(again, read_back=True)).confirmed_by == {"read-back": 5}


@pytest.mark.parametrize("read_back", [False, True])
async def test_a_tampered_object_is_found(manifest: Path, bucket: str, s3: Any, read_back: bool) -> None:
    s3.put_object(Bucket=bucket, Key="p/a.txt", Body=b"ALPHA")
    report = await asyncsink.verify_manifest(manifest, read_back=read_back)
    assert not report.ok
    assert (report.checked, report.problems_total) == (5, 1)
    ((source, url, message),) = report.problems
    assert (source.endswith("a.txt"), url) == (True, f"s3://{bucket}/p/a.txt")
    assert "checksum" in message or "ETag" in message


async def test_another_size_and_a_missing_object_are_found(manifest: Path, bucket: str, s3: Any) -> None:
    s3.put_object(Bucket=bucket, Key="p/a.txt", Body=b"longer than before")
    s3.delete_object(Bucket=bucket, Key="p/sub/large.nii.gz")
    report = await asyncsink.verify_manifest(manifest)
    assert {message for _, _, message in report.problems} == {"it has 18 bytes; 5 were published", "it is not there"}


async def test_a_manifest_without_an_end_is_not_a_proof(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join(lines[:-1]) + "\n")
    report = await asyncsink.verify_manifest(manifest)
    assert not report.ok
    assert report.problems_total == 0
    assert "no end" in report.summary()


async def test_a_failed_local_copy_takes_nothing_from_what_is_on_s3(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    path = tmp_path / "m"
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "sub").write_bytes(b"a file where a directory has to be")
    await asyncsink.export_directory(tree, f"s3://{bucket}", manifest=path, local_copy=tmp_path / "copy", **options)
    assert len(path.read_text().splitlines()) == 2 + 5 + 3
    assert (await asyncsink.verify_manifest(path)).ok


async def test_an_export_with_failures_is_not_a_proof(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    told = {"error": "SourceMissing", "message": "It is gone.", "stage": "source", "attempts": 0, "entry": 0}
    failure = json.dumps({"record": "failure", "source": "/gone", "key": "p/gone", "url": "s3://b/p/gone"} | told)
    manifest.write_text("\n".join([*lines[:-1], failure, lines[-1]]) + "\n")
    report = await asyncsink.verify_manifest(manifest)
    assert (report.ok, report.problems_total) == (False, 0)
    assert "left 1 entry unpublished" in report.summary()


async def test_a_malformed_manifest_is_told_in_one_sentence(manifest: Path) -> None:
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:3], "{broken", *lines[3:]]) + "\n")
    with pytest.raises(ConfigError, match="line 4"):
        await asyncsink.verify_manifest(manifest)


async def test_local_destinations_are_verified_by_reading(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "m"
    await asyncsink.export_directory(tree, tmp_path / "out", manifest=path)
    assert (await asyncsink.verify_manifest(path)).confirmed_by == {"read-back": 5}
    (tmp_path / "out" / "a.txt").write_bytes(b"ALPHA")
    (tmp_path / "out" / "empty").unlink()
    report = await asyncsink.verify_manifest(path)
    assert report.problems_total == 2


async def test_customer_keys_are_needed_to_look(
    tree: Path, tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    path, secret = tmp_path / "m", bytes(range(32))
    await asyncsink.export_directory(tree, f"s3://{bucket}", manifest=path, sse=secret, **options)
    assert (await asyncsink.verify_manifest(path, options={"sse": secret}, read_back=True)).ok
    assert not (await asyncsink.verify_manifest(path, options={"retry": QUICK})).ok


async def test_what_cannot_be_asked_is_told_once(
    manifest: Path, bucket: str, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConnectionLost):
        await asyncsink.verify_manifest(manifest, options={"endpoint_url": "http://127.0.0.1:1", "retry": QUICK})
    with pytest.raises(ConfigError, match="nowhere"):
        await asyncsink.verify_manifest(manifest.with_name("nowhere"))
    other = manifest.with_name("other")
    lines = manifest.read_text().splitlines()
    header = json.loads(lines[0]) | {"destination": "s3://there-is-no-such-bucket"}
    other.write_text("\n".join([json.dumps(header), *lines[1:]]))
    with pytest.raises(BucketMissing):
        await asyncsink.verify_manifest(other)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something-else-entirely")
    with pytest.raises(CredentialsError):
        await asyncsink.verify_manifest(manifest)


async def test_several_manifests_are_summed_wherever_their_objects_are(
    manifest: Path, tree: Path, tmp_path: Path, bucket: str, s3: Any
) -> None:
    """Of a bucket, of another prefix and of a directory; what is wrong with one of them is named with it."""
    second, local = tmp_path / "second", tmp_path / "local"
    await asyncsink.export_directory(tree, f"s3://{bucket}/q", manifest=second)
    await asyncsink.export_directory(tree, tmp_path / "out", manifest=local)
    report = await asyncsink.verify_manifest([manifest, second, local])
    assert (report.ok, report.checked, report.manifest) == (True, 15, "3 manifests")
    assert report.confirmed_by == {"checksum": 10, "read-back": 5}
    s3.delete_object(Bucket=bucket, Key="q/a.txt")
    (tmp_path / "out" / "a.txt").unlink()
    local.rename(tmp_path / "local.partial")
    second.write_text("\n".join([*second.read_text().splitlines()[:-1], ""]))
    report = await asyncsink.verify_manifest([manifest, second, local])
    assert {url for _, url, _ in report.problems} == {f"s3://{bucket}/q/a.txt", str(tmp_path / "out" / "a.txt")}
    assert [path for path, sentence in report.manifests.items() if sentence] == [str(second)]
    assert report.summary().count("has no end") == 1


async def test_a_list_of_one_is_that_one(manifest: Path) -> None:
    report = await asyncsink.verify_manifest([manifest])
    assert report.as_dict() == (await asyncsink.verify_manifest(manifest)).as_dict()


async def test_one_manifest_that_is_missing_is_told_before_anything_is_asked(manifest: Path, tmp_path: Path) -> None:
    checked: list[int] = []
    with pytest.raises(ConfigError, match="gone"):
        await asyncsink.verify_manifest([manifest, tmp_path / "gone"], observe=checked.append)
    assert not checked
