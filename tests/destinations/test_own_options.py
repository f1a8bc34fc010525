"""Transfers with object options and an overwrite policy of their own, at a real server."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyncsink.destinations.base import RunForecast, Unknown
from asyncsink.destinations.object_options import OWN_KEPT_MAX, OptionsOf
from asyncsink.errors import AlreadyThere
from asyncsink.integrity.checksums import checksum_of
from asyncsink.integrity.sameness import Existing
from asyncsink.model import JournalEntry, SourceFile, Transfer
from asyncsink.options.schema import ObjectOptions, S3Target, Settings
from asyncsink.options.settings import MIB
from asyncsink.s3.multipart.parts import plan_parts
from asyncsink.s3.operations import FileStored, ObjectAttributes, ObjectHead, Ordinary
from asyncsink.sources.reader import AtRest
from asyncsink.testing.destination_suite import transfer_of

from .test_s3 import FORECAST, Bench, bench

__all__ = ["bench"]
pytestmark = pytest.mark.anyio
OWN = ObjectOptions(content_type="text/x-own", metadata=(("who", "me"),), tags=(("a", "b c"),))
RUN = {"content_type": "text/x-run", "metadata": (("who", "run"),)}


def facts_of(s3: Any, bucket: str, key: str) -> tuple[Any, ...]:
    head = s3.head_object(Bucket=bucket, Key=key)
    tags = s3.get_object_tagging(Bucket=bucket, Key=key)["TagSet"]
    who = head["Metadata"].get("who")
    return head["ContentType"], who, {tag["Key"]: tag["Value"] for tag in tags}


IS_OWN = ("text/x-own", "me", {"a": "b c"})
IS_RUNS = ("text/x-run", "run", {})


async def test_whole_objects_and_parts_have_the_transfers_own_options(bench: Bench, bucket: str, s3: Any) -> None:
    body = b"x" * 5 * MIB
    async with bench.open(**RUN) as (destination, _):
        await destination.prepare(FORECAST)
        for key, objects in (("plain", None), ("own", OWN)):
            transfer = replace(transfer_of(key, body), objects=objects)
            await destination.put(transfer, body, checksum_of(body, "CRC64NVME"))
            transfer = replace(transfer, key=f"{key}.parts")
            writer = await destination.start(transfer, plan_parts(len(body), 5 * MIB), "CRC64NVME")
            await writer.write_part(1, 0, body, checksum_of(body, "CRC64NVME"))
            await writer.complete(checksum_of(body, "CRC64NVME"))
    for key, expected in (("plain", IS_RUNS), ("own", IS_OWN)):
        assert facts_of(s3, bucket, key) == expected
        assert facts_of(s3, bucket, f"{key}.parts") == expected


async def test_a_batch_holds_transfers_with_options_of_their_own(
    bench: Bench, bucket: str, s3: Any, tmp_path: Path
) -> None:
    s3.put_object(Bucket=bucket, Key="never", Body=b"theirs")
    own: dict[str, dict[str, Any]] = {"plain": {}, "own": {"objects": OWN}, "never": {"overwrite": "never"}}
    transfers = []
    for name, options in own.items():
        (tmp_path / name).write_bytes(b"ours")
        status = (tmp_path / name).stat()
        transfers.append(Transfer(SourceFile(str(tmp_path / name), 4, status.st_mtime_ns), name, name, **options))
    async with bench.open(**RUN) as (destination, _):
        await destination.prepare(FORECAST)
        assert destination.takes_files("CRC64NVME")
        results: list[Any] = [None] * 3
        await destination.put_files(transfers, "CRC64NVME", AtRest(), results)
        assert [type(result) for result in results] == [FileStored, FileStored, Ordinary]
        with pytest.raises(AlreadyThere):
            await destination.put(transfers[2], b"ours", None)
    assert (facts_of(s3, bucket, "plain"), facts_of(s3, bucket, "own")) == (IS_RUNS, IS_OWN)
    assert s3.get_object(Bucket=bucket, Key="never")["Body"].read() == b"theirs"


async def test_what_is_left_of_an_upload_goes_on_only_with_the_same_options(bench: Bench, bucket: str, s3: Any) -> None:
    """An upload has its attributes from its beginning."""
    body, plan = b"x" * 5 * MIB, plan_parts(6 * MIB, 5 * MIB)
    transfer = replace(transfer_of("k", bytes(6 * MIB)), objects=OWN)
    async with bench.open() as (destination, _):
        await destination.prepare(FORECAST)
        writer = await destination.start(transfer, plan, None)
        await writer.write_part(1, 0, body, None)
        destination._uploads._kept["k"] = transfer.source, writer._upload  # type: ignore[attr-defined]
        other = await destination.start(replace(transfer, objects=replace(OWN, metadata=())), plan, None)
        assert not other.stored
        (upload,) = s3.list_multipart_uploads(Bucket=bucket)["Uploads"]
        assert upload["UploadId"] == other._upload.upload_id  # type: ignore[attr-defined]
        await other.abort()


@pytest.mark.parametrize("listed", [True, False])
async def test_an_object_with_other_options_is_not_what_a_transfer_asks_for(
    bench: Bench, bucket: str, s3: Any, listed: bool
) -> None:
    def put(key: str, **given: Any) -> None:
        s3.put_object(Bucket=bucket, Key=key, Body=b"x", ContentType="text/x-own", **given)

    put("p/same", Metadata={"who": "me"})
    put("p/other", Metadata={"who": "them"})
    asked = [replace(transfer_of(key, b"x"), objects=replace(OWN, tags=())) for key in ("p/same", "p/other", "p/none")]
    async with bench.open() as (destination, _):
        await destination.prepare(
            FORECAST if listed else RunForecast(objects_total=None, common_prefix="q/", sample_key="")
        )
        found = [*await destination.look_many(asked), *[await destination.look(each, closely=False) for each in asked]]
    outdated = [each.outdated if isinstance(each, Existing) else each for each in found]
    assert outdated == ["", "metadata differ", None] * 2
    assert Unknown.UNKNOWN not in found


HEAD = ObjectHead(size_bytes=1, content_type="text/x-own", metadata={"who": "me", "asyncsink-write": "0"}, etag="e")


@pytest.mark.parametrize(
    ("wanted", "recorded", "reason"),
    [
        (ObjectOptions(metadata=(("Who", " me "),)), False, ""),
        (ObjectOptions(metadata=(("who", "me"),), content_type="text/plain"), False, "content type differs"),
        (ObjectOptions(), False, "metadata differ"),
        (ObjectOptions(metadata=(("who", "me"),), storage_class="STANDARD"), False, ""),
        (ObjectOptions(metadata=(("who", "me"),), storage_class="GLACIER"), True, "storage class differs"),
        (OWN, False, "tags, ACL or KMS key may differ"),
        (OWN, True, ""),
        (ObjectOptions(metadata=(("who", "me"),), acl="private"), False, "tags, ACL or KMS key may differ"),
    ],
)
def test_other_options(wanted: ObjectOptions, recorded: bool, reason: str) -> None:
    known = JournalEntry(published=True, etag="e") if recorded else None
    transfer = replace(transfer_of("k", b"x"), objects=wanted, known=known)
    assert OptionsOf(Settings(target=S3Target(bucket="b")), "b").other_than(transfer, HEAD) == reason


def test_equal_options_share_their_attributes_and_few_are_kept() -> None:
    options = OptionsOf(Settings(target=S3Target(bucket="b")), "b")

    def attributes(number: int, key: str = "k.txt") -> ObjectAttributes:
        own = ObjectOptions(metadata=(("n", str(number)),))
        return options.attributes(replace(transfer_of(key, b"x"), objects=own))

    assert attributes(1) is attributes(1)
    assert attributes(1, "k.json") is not attributes(1)
    for number in range(3 * OWN_KEPT_MAX):
        assert attributes(number).metadata == (("n", str(number)),)
        assert len(options._own_attributes) <= OWN_KEPT_MAX


@pytest.mark.parametrize(("etag_suffix", "outdated"), [("", ""), ("?", "tags, ACL or KMS key may differ")])
async def test_the_journal_shows_what_no_head_shows(bench: Bench, etag_suffix: str, outdated: str) -> None:
    async with bench.open() as (destination, _):
        await destination.prepare(FORECAST)
        transfer = replace(transfer_of("k", b"x"), objects=OWN)
        stored = await destination.put(transfer, b"x", None)
        known = JournalEntry(published=True, etag=stored.etag + etag_suffix)
        existing = await destination.look(replace(transfer, known=known), closely=False)
        assert existing is not None
        assert existing.outdated == outdated
