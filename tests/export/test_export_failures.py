"""What goes wrong stays where it went wrong: one file, one leg, one sentence; and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import (
    BucketMissing,
    ConfigError,
    ConnectionLost,
    ExportFailed,
    InvalidKey,
    KeyCollision,
    SourceMissing,
    SourceUnreadable,
)
from asyncsink.options.settings import RetryPolicy
from tests.support.files import content_of, mounted
from tests.support.quirky_s3 import Answer, Request, error, quirky_s3

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
MIB = 1 << 20
QUICK = RetryPolicy(attempts=2, backoff_seconds_base=0.01, backoff_seconds_max=0.02, connect_seconds=1.0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted(tmp_path / "disk", "size=1m") as disk:
        yield disk


async def test_missing_sources_are_refused_before_anything_is_sent(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"good")
    outputs = {"a": str(good), "b": [str(tmp_path / "no1"), str(tmp_path / "no2")]}
    with pytest.raises(SourceMissing, match=r"no1.*1 more problem found; nothing was sent") as caught:
        await asyncsink.export(outputs, f"s3://{bucket}", **options)
    assert len(caught.value.problems) == 2
    assert stored() == {}


async def test_missing_sources_can_be_skipped_and_are_reported(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    good = tmp_path / "good"
    good.write_bytes(b"good")
    outputs = {"a": str(good), "b": str(tmp_path / "no")}
    report = await asyncsink.export(outputs, f"s3://{bucket}", on_missing="skip", **options)
    assert stored() == {"a/good": b"good"}
    assert [(skip.source, skip.already_there) for skip in report.skips] == [(str(tmp_path / "no"), False)]


async def test_collisions_are_found_before_anything_is_sent(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    for name in ("_one/f", "_two/f", "x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    outputs = {"m": [str(tmp_path / "x"), str(tmp_path / "_one/f"), str(tmp_path / "_two/f")]}
    with pytest.raises(KeyCollision, match=r"_one/f.*_two/f"):
        await asyncsink.export(outputs, f"s3://{bucket}", parameterization=False, **options)
    assert stored() == {}
    report = await asyncsink.export(outputs, f"s3://{bucket}", parameterization=False, on_collision="last", **options)
    assert stored() == {"m/f": b"_two/f", "m/x": b"x"}
    assert [skip.source for skip in report.skips] == [str(tmp_path / "_one/f")]


async def test_substitutions_that_merge_two_files_of_a_tree_collide(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    (tree / "b.txt").write_text("b")
    with pytest.raises(KeyCollision):
        await asyncsink.export_directory(
            tree, f"s3://{bucket}", substitutions=[("a.txt", "t"), ("b.txt", "t")], **options
        )
    assert stored() == {}


async def test_illegal_keys_are_refused_before_anything_is_sent(
    tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    root = tmp_path / "t"
    root.mkdir()
    (root / "good").write_text("good")
    (root / "bad\nname").write_text("bad")
    with pytest.raises(InvalidKey, match=r"bad\\nname"):
        await asyncsink.export_directory(root, f"s3://{bucket}", **options)
    assert stored() == {}


async def test_special_files_that_are_named_are_refused_and_never_opened(
    tmp_path: Path, bucket: str, options: dict[str, Any]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(SourceUnreadable, match="FIFO"):
        await asyncsink.export({"x": str(tmp_path / "pipe")}, f"s3://{bucket}", **options)


async def test_a_missing_bucket(tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(BucketMissing, match="there-is-no-such-bucket"):
        await asyncsink.export_directory(tree, "s3://there-is-no-such-bucket/p", **options)


async def test_an_unreachable_endpoint_is_an_error_by_default(tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ConnectionLost, match=r"127\.0\.0\.1:1\b"):
        await asyncsink.export_directory(tree, "s3://bucket", endpoint_url="http://127.0.0.1:1", retry=QUICK)


async def test_unreachable_keeps_every_file_where_the_document_says(
    tree: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rule 46: ~/s3_datasink_<bucket>, which crashes in Nipype, really keeps every file."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    report = await asyncsink.export(
        {"motion": [str(tree / "a.txt"), str(tree / "sub")]},
        "s3://lost-bucket/prefix",
        container="sub001",
        endpoint_url="http://127.0.0.1:1",
        on_unreachable="local",
        local_copy=tmp_path / "copy",
        retry=QUICK,
    )
    report.raise_for_failures()
    kept = tmp_path / "home" / "s3_datasink_lost-bucket" / "prefix"
    expected = {f"sub001/motion/{n}": d for n, d in content_of(tree).items() if n != "empty"}
    assert content_of(kept) == expected
    assert content_of(tmp_path / "copy") == expected
    assert report.transport == "local"
    assert report.out_file[0] == str(kept / "sub001/motion/a.txt")
    assert any("s3_datasink_lost-bucket" in notice for notice in report.notices)


async def test_a_full_disk_under_the_local_copy_costs_only_the_copy(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any], small_disk: Path
) -> None:
    report = await asyncsink.export_directory(tree, f"s3://{bucket}", local_copy=small_disk / "copy", **options)
    assert stored() == content_of(tree)
    assert report.objects_uploaded == 5
    assert report.objects_failed == 0
    (failure,) = report.failures
    assert (failure.stage, failure.error) == ("local copy", "DestinationFull")
    assert failure.source.endswith("large.nii.gz")
    assert [name for name in content_of(small_disk) if "asyncsink-part" in name] == []
    with pytest.raises(ExportFailed):
        report.raise_for_failures()


async def test_a_dead_server_costs_only_s3(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with DevServer(buckets=("own",)) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        sink = asyncsink.AsyncSink(
            "s3://own",
            endpoint_url=server.endpoint_url,
            local_copy=tmp_path / "copy",
            retry=QUICK,
            give_up_after_seconds=1,
        )
        async with sink:
            server.stop()
            with pytest.raises(ExportFailed, match="PutObject"):
                await sink.put("m", tree / "a.txt")
            await sink.submit("m", tree / "sub/large.nii.gz")
    assert sink.report.objects_failed == 2
    assert {failure.stage for failure in sink.report.failures} == {"upload"}
    assert sorted(content_of(tmp_path / "copy")) == ["m/a.txt", "m/large.nii.gz"]


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_cancellation_leaves_nothing_behind_and_the_next_run_completes(
    tmp_path: Path, bucket: str, s3: Any, stored: Stored, options: dict[str, Any], lane: Any
) -> None:
    options = {**options, "transport": lane}
    root = tmp_path / "t"
    root.mkdir()
    (root / "large").write_bytes(os.urandom(96 * MIB))
    destination = f"s3://{bucket}/p"

    def open_uploads() -> list[Any]:
        return list(s3.list_multipart_uploads(Bucket=bucket).get("Uploads", []))

    run = asyncio.create_task(
        asyncsink.export_directory(
            root,
            destination,
            local_copy=tmp_path / "copy",
            manifest=tmp_path / "m",
            concurrency=2,
            abort_on_interrupt=True,
            **options,
        )
    )
    with anyio.fail_after(30):
        while not await asyncio.to_thread(open_uploads):
            assert not run.done()
            await anyio.lowlevel.checkpoint()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert open_uploads() == []
    assert stored() == {}
    assert content_of(tmp_path / "copy") == {}
    assert '"interrupted": true' in (tmp_path / "m.partial").read_text().splitlines()[-1]
    report = await asyncsink.export_directory(root, destination, local_copy=tmp_path / "copy", **options)
    report.raise_for_failures()
    assert stored() == {"p/large": (root / "large").read_bytes()}
    assert content_of(tmp_path / "copy") == content_of(root)


async def test_a_manifest_that_cannot_be_written_is_told_before_anything_is_sent(
    tree: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="manifest"):
        await asyncsink.export_directory(tree, f"s3://{bucket}", manifest=tmp_path, **options)
    assert stored() == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"overwrite": "sometimes"}, "overwrite='sometimes' is not known"),
        ({"overwite": "never"}, "'overwite' is no option of asyncsink. Did you mean 'overwrite'?"),
        ({"checksum": "crc65"}, "checksum='CRC65' is not known"),
        ({"concurrency": 0}, "concurrency=0 is out of range"),
        ({"memory_bytes": "1MiB"}, "less than one part"),
        ({"part_size_bytes": "1MiB"}, "parts of 5 MiB to 5 GiB"),
        ({"local_copy": ""}, "local_copy is empty"),
        ({"encrypt_bucket_keys": True, "sse": "aws:kms"}, "encrypt_bucket_keys asks for AES256"),
        ({"sse": b"short"}, "has 32 bytes"),
        ({"sse_kms_key_id": "k"}, "sse is not 'aws:kms'"),
        ({"anonymous": True, "creds_path": "x"}, "anonymous=True"),
        ({"tags": {str(n): "v" for n in range(11)}}, "at most 10"),
        ({"metadata": {"a b": "v"}}, "'a b' is not legal"),
        ({"metadata": {"AsyncSink-Write": "v"}}, "is asyncsink's own"),
        ({"metadata": {"a": "v" * 2001}}, "S3 takes 2048 bytes of names and values per object, of which"),
        ({"endpoint_url": "ftp://x"}, "endpoint_url='ftp://x' is malformed"),
        ({"regexp_substitutions": [("(", "x")]}, "regexp_substitutions"),
        ({"concurrency": float("inf")}, "concurrency=inf is out of range"),
        ({"memory_bytes": "9" * 400}, "memory_bytes is more than any file or memory has"),
        ({"part_size_bytes": 10**5000}, "part_size_bytes is more than"),
        ({"part_size_bytes": 0}, "must be more than 0"),
        ({"local_copy": "s3://bucket/p"}, "local_copy is a URL"),
        ({"bucket": "bbb\n"}, "is not legal"),
    ],
)
async def test_bad_options_are_refused_in_one_sentence(tree: Path, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await asyncsink.export_directory(tree, "s3://bucket/p", **wrong)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


HIDDEN = "wJalrXUtnFEMI/K7MDENG+bPxRfi/CYE"


@pytest.mark.parametrize(
    ("destination", "wrong"),
    [
        (f"s3://AKIA:x/{HIDDEN}@bucket/p", {}),
        (f"https://AK:{HIDDEN}@host/bucket", {}),
        (f"s3:AK:{HIDDEN}@host", {}),
        ({"secret": HIDDEN}, {}),
        ("s3://bucket", {"endpoint_url": f"https://AK:{HIDDEN}@host/path"}),
        ("s3://bucket", {"endpoint_url": f"https://AK:{HIDDEN.replace('/', '_')}@host"}),
        ("s3://bucket", {"bucket": f"https://AK:{HIDDEN}@host"}),
        ("s3://bucket", {"sse": HIDDEN}),
        ("s3://bucket", {"creds_path": {"secret": HIDDEN}}),
        ("s3://bucket", {"creds_path": f"AWSAccessKeyId=AKIA\nAWSSecretKey={HIDDEN}"}),
        ("s3://bucket", {"profile": [HIDDEN]}),
    ],
)
async def test_what_may_be_a_secret_is_not_repeated(tree: Path, destination: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        await asyncsink.export_directory(tree, destination, **wrong)
    assert HIDDEN not in str(caught.value)
    assert HIDDEN.replace("/", "_") not in str(caught.value)


@pytest.mark.parametrize(
    "destination", ["", "s3://", "s3:/bucket", "s3://B ad", "gs://bucket", "s3://bucket/a/../b", None, 7]
)
async def test_malformed_destinations(tree: Path, destination: Any) -> None:
    with pytest.raises(ConfigError, match="destination"):
        await asyncsink.export_directory(tree, destination)


async def test_a_refusal_of_other_bytes_says_nothing_about_those_that_took_their_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is written anew while the answer to its batch is on the way."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    file = tmp_path / "f"
    file.write_bytes(b"x" * 60)

    def small_only(r: Request) -> Answer | None:
        if r.method == "PUT" and len(r.body) > 50:
            file.write_bytes(b"now it fits")
            return error(400, "EntityTooLarge")
        return None

    with quirky_s3(small_only) as server:
        report = await asyncsink.export_directory(
            tmp_path, "s3://tryout/p", endpoint_url=server.url, region="us-east-1", journal=False, transport="wire"
        )
        assert server.bodies() == {"p/f": b"now it fits"}
    assert [receipt.attempts for receipt in report.receipts] == [1]
    assert (report.requests, report.retries) == (3, 0)
