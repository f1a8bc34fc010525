"""Objects that no source maps to are deleted after a successful export: those, no others, and never too many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.options.parse import parse_options
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import Meanwhile, Status

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
Put = Callable[..., None]
DENIED = Status(403, "AccessDenied")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.txt", "sub/b.txt", "sub/cache/c.tmp", ".git/HEAD"):
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "folder"


async def export(folder: Path, bucket: str, options: dict[str, Any], **given: Any) -> asyncsink.Report:
    chosen = {"exclude": ["*.tmp", ".git/"], "delete_extraneous": True, **options, **given}
    return await asyncsink.export_directory(folder, f"s3://{bucket}/study", **chosen)


async def test_what_no_source_maps_to_is_deleted_and_nothing_else(
    folder: Path, bucket: str, options: dict[str, Any], stored: Stored, put: Put, tmp_path: Path
) -> None:
    kept = {"study2/a": b"1", "study.txt": b"2", "study/": b"", "study/.git/objects/1": b"3", "study/old/x.tmp": b"4"}
    gone = {"study/gone.txt": b"5", "study/sub/a b&<é>": b"6", "study/sub/b.txt2": b"7"}
    manifest = tmp_path / "m.jsonl"
    await export(folder, bucket, options, delete_extraneous=False, manifest=manifest)
    put({**kept, **gone})
    (folder / "a.txt").unlink()
    report = await export(folder, bucket, options, manifest=manifest, index="index.csv", complete_marker="done")
    report.raise_for_failures()
    assert stored().keys() == {*kept, "study/sub/b.txt", "study/index.csv", "study/done"}
    extraneous = report.closing.extraneous
    assert extraneous is not None
    assert (extraneous.objects, extraneous.deleted, extraneous.changed, extraneous.failed) == (4, 4, 0, 0)
    assert "Deleted: 4 of 4 objects (8 bytes) that no source has." in report.summary()
    deleted = {deletion.key for deletion in asyncsink.read_manifest(manifest).deletions}
    assert deleted == {*gone, "study/a.txt"}
    assert [path.name for path in tmp_path.glob("m.jsonl*")] == ["m.jsonl"]  # no receipt of a deleted object is needed
    assert (await asyncsink.verify_manifest(manifest, options=options)).ok
    again = await export(folder, bucket, options, index="index.csv", complete_marker="done")
    assert again.closing.extraneous == asyncsink.Extraneous(listed=6)


async def test_too_many_are_refused_before_anything_is_sent(
    folder: Path, bucket: str, options: dict[str, Any], stored: Stored, put: Put
) -> None:
    put({f"study/old/{number:02}": b"x" for number in range(12)})
    before = stored()
    for given, allowed in (({}, 10), ({"delete_max": 11}, 11), ({"delete_max": "50%"}, 6)):
        with pytest.raises(asyncsink.ConfigError, match=rf"no source has 12 objects of the 12 .* allows {allowed}\."):
            await export(folder, bucket, options, **given)
        assert stored() == before
    plan = await asyncsink.plan(
        folder, f"s3://{bucket}/study", exclude=["*.tmp", ".git/"], delete_extraneous=True, **options
    )
    assert stored() == before
    assert "Would be deleted: 12 objects (12 bytes) that no source has:\n  study/old/00" in plan.summary()
    assert "Nothing may be deleted" in plan.summary()
    (await export(folder, bucket, options, delete_max="100%")).raise_for_failures()
    assert stored().keys() == {"study/a.txt", "study/sub/b.txt"}


async def test_a_run_with_a_failure_deletes_nothing(
    folder: Path, bucket: str, options: dict[str, Any], stored: Stored, put: Put
) -> None:
    put({"study/gone.txt": b"5"})
    with FaultProxy(options["endpoint_url"], Rule(DENIED, operation="PutObject", key="study/a.txt")) as proxy:
        report = await export(folder, bucket, {"endpoint_url": proxy.endpoint_url})
    assert stored().keys() == {"study/gone.txt", "study/sub/b.txt"}
    assert "Nothing is deleted: 1 file failed." in report.notices
    with pytest.raises(asyncsink.ConfigError, match=r"Nothing may be deleted: '.*/none' has no key"):
        await asyncsink.export(
            {"out": [str(folder), str(folder / "none")]}, f"s3://{bucket}/study", on_missing="skip",
            delete_extraneous=True, **options,
        )  # fmt: skip


async def test_what_is_replaced_meanwhile_is_left_and_each_answer_counts(
    folder: Path, bucket: str, options: dict[str, Any], stored: Stored, put: Put, s3: Any
) -> None:
    put({"study/one": b"1", "study/two": b"2"})
    change = Meanwhile(lambda _: s3.put_object(Bucket=bucket, Key="study/one", Body=b"other"))
    with FaultProxy(options["endpoint_url"], Rule(change, operation="PutObject", key="study/a.txt", nth=1)) as proxy:
        report = await export(folder, bucket, {"endpoint_url": proxy.endpoint_url})
    assert report.closing.extraneous is not None
    assert (report.closing.extraneous.deleted, report.closing.extraneous.changed) == (1, 1)
    assert stored()["study/one"] == b"other"
    with FaultProxy(options["endpoint_url"], Rule(DENIED, operation="DeleteObjects")) as proxy:
        report = await export(folder, bucket, {"endpoint_url": proxy.endpoint_url}, complete_marker="done")
    assert "study/done" not in stored()
    assert [(failure.key, failure.error, failure.stage) for failure in report.failures] == [
        ("study/one", "AccessDenied", "delete")
    ]
    with pytest.raises(asyncsink.ExportFailed, match="1 extraneous object not deleted"):
        report.raise_for_failures()
    unknown = Status(501, "NotImplemented")
    with FaultProxy(options["endpoint_url"], Rule(unknown, operation="DeleteObjects")) as proxy:
        (await export(folder, bucket, {"endpoint_url": proxy.endpoint_url})).raise_for_failures()
    assert stored().keys() == {"study/a.txt", "study/sub/b.txt"}


def test_options_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    for target, given, told in (
        ("s3://b/p", {"delete_max": 5}, "delete_max bounds delete_extraneous"),
        ("s3://b/p", {"delete_extraneous": True, "delete_max": "some"}, "is no number of objects"),
        (str(tmp_path), {"delete_extraneous": True}, "is no bucket"),
        ("s3://b/p", {"delete_extraneous": True, "files_from": ["a"]}, "contradict each other"),
    ):
        with pytest.raises(asyncsink.ConfigError, match=told):
            parse_options(target, given)
