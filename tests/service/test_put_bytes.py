"""`put_bytes`: what is in memory is published under its exact key, compared, counted and recorded like any file."""

from __future__ import annotations

import array
import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import ConfigError, InvalidKey, PutFailed, SourceChanged
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Event, Failure, Finished, Receipt, Skip
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.s3_toxics import SLOW_DOWN, Meanwhile, Status
from tests.support.parts_proxy import FORWARD, HANG, PartsProxy
from tests.support.streams import PART_BYTES, body_of, nothing_is_held

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
LANES = ["wire", "aioboto3"]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", "none"])
async def test_bytes_of_every_size_arrive_with_every_checksum(
    bucket: str, stored: Stored, options: dict[str, Any], lane: Any, algorithm: str
) -> None:
    bodies = {"empty": b"", "é/small +%.json": b"{}", "medium": body_of((1 << 20) + 1), "parts": body_of(11 << 20)}
    async with asyncsink.AsyncSink(
        f"s3://{bucket}/in", transport=lane, checksum=algorithm, part_size_bytes=PART_BYTES, **options
    ) as sink:
        receipts = [await sink.put_bytes(key, data) for key, data in bodies.items()]
        nothing_is_held(sink)
    assert stored() == {f"in/{key}": data for key, data in bodies.items()}
    for receipt, (key, data) in zip(receipts, bodies.items(), strict=True):
        assert isinstance(receipt, Receipt)
        assert (receipt.source, receipt.key, receipt.size_bytes) == ("bytes", f"in/{key}", len(data))
        assert receipt.url == f"s3://{bucket}/in/{key}"
        assert receipt.confirmed_by in ("server-checksum", "etag")
        if algorithm == "none":
            assert receipt.checksum is None
        elif algorithm in ("CRC64NVME", "CRC32C", "CRC32") or key != "parts":
            assert receipt.checksum == checksum_of(data, algorithm)  # type: ignore[arg-type]
    assert list(sink.report.receipts) == receipts


async def test_every_kind_of_buffer(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    numpy = pytest.importorskip("numpy")
    table = numpy.arange(12, dtype="<u2").reshape(3, 4)
    bodies: dict[str, Any] = {
        "bytes": b"abc",
        "bytearray": bytearray(b"abc"),
        "view": memoryview(b"abcdef")[::2],
        "backwards": memoryview(b"cba")[::-1],
        "array": array.array("H", [1, 2, 3]),
        "table": table,
        "columns": table[:, 1:3],
        "fortran": numpy.asfortranarray(table),
        "nothing": table[:0],
        "scalar": numpy.float64(2.5),
    }
    expected = {name: memoryview(data).tobytes() for name, data in bodies.items()}
    assert expected["fortran"] == expected["table"] == table.tobytes()
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await asyncio.gather(*[sink.put_bytes(name, data) for name, data in bodies.items()])
    assert stored() == expected
    bodies["bytearray"].extend(b"d")  # nothing holds it any more


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("text", "is a str; expected bytes: encode it"),
        (7, "is of type int; expected bytes, bytearray, memoryview or another buffer"),
        ([b"a"], "is of type list"),
        (None, "is of type NoneType"),
    ],
)
async def test_what_is_no_buffer_is_refused(bucket: str, options: dict[str, Any], data: Any, message: str) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        with pytest.raises(ConfigError, match=message) as refused:
            await sink.put_bytes("qc.json", data)
        nothing_is_held(sink)
    assert "qc.json" in str(refused.value)
    assert not sink.report.objects_total


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "../a", "a/../b", ".", "a\nb", "\udcff", "x" * 1025])
async def test_a_key_that_could_leave_the_prefix_is_refused(bucket: str, options: dict[str, Any], key: str) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}/in", **options) as sink:
        with pytest.raises(InvalidKey):
            await sink.put_bytes(key, b"x")
        with pytest.raises(ConfigError, match="expected a str"):
            await sink.put_bytes(Path("a"), b"x")  # type: ignore[arg-type]
        await sink.put_bytes("a/..b/c..", b"these dots are harmless")
    assert sink.report.objects_total == 1


async def test_names_that_data_sink_would_change_stay_as_they_are(
    bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    keys = ["v1.2/a", "user@example.org", "_work/_temp/x", "a b/%41+", "-x"]
    async with asyncsink.AsyncSink(
        f"s3://{bucket}/in", container="c", substitutions=[("a", "b")], parameterization=False, **options
    ) as sink:
        for key in keys:
            await sink.put_bytes(key, key.encode())
    assert stored() == {f"in/{key}": key.encode() for key in keys}


@pytest.mark.parametrize("journal", [True, False])
async def test_what_is_there_already_is_compared_and_never_believed_from_the_journal(
    bucket: str, stored: Stored, s3: Any, options: dict[str, Any], tmp_path: Path, journal: bool
) -> None:
    options["journal"] = tmp_path / "journal.sqlite" if journal else False
    overwrite: Any = "journal" if journal else "checksum"
    large = body_of(6 << 20)
    for expected in (Receipt, Skip):
        async with asyncsink.AsyncSink(
            f"s3://{bucket}", overwrite=overwrite, part_size_bytes=PART_BYTES, **options
        ) as sink:
            assert isinstance(await sink.put_bytes("a", b"one"), expected)
            assert isinstance(await sink.put_bytes("large", large), expected)
            assert isinstance(await sink.put_bytes("a", b"one"), Skip)
    s3.put_object(Bucket=bucket, Key="a", Body=b"two")
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite=overwrite, **options) as sink:
        assert isinstance(await sink.put_bytes("a", b"one"), Receipt)
    assert stored() == {"a": b"one", "large": large}


@pytest.mark.parametrize(
    ("overwrite", "second"), [("never", Skip), ("always", Receipt), ("size", Skip), ("size-mtime", Receipt)]
)
async def test_the_policies_hold(
    bucket: str, stored: Stored, options: dict[str, Any], overwrite: Any, second: type
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite=overwrite, **options) as sink:
        assert isinstance(await sink.put_bytes("a", b"one"), Receipt)
        assert isinstance(await sink.put_bytes("a", b"two"), second)
    assert stored() == {"a": b"two" if second is Receipt else b"one"}


async def test_a_file_after_bytes_and_bytes_after_a_file_replace_each_other_with_a_journal(
    bucket: str, stored: Stored, options: dict[str, Any], tmp_path: Path
) -> None:
    """The journal must not say of a file that it is there, when bytes have replaced it."""
    file = tmp_path / "motion.txt"
    file.write_text("file")
    options |= {"journal": tmp_path / "journal.sqlite", "overwrite": "journal", "on_collision": "last"}
    for _ in range(2):
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            await sink.put("a", file)
            assert stored() == {"a/motion.txt": b"file"}
            await sink.put_bytes("a/motion.txt", b"data")
            assert stored() == {"a/motion.txt": b"data"}


async def test_a_local_copy_is_made_of_the_same_bytes(
    bucket: str, stored: Stored, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside files with the names that stand for content, which nothing may be linked to."""
    monkeypatch.chdir(tmp_path)
    for name in ("bytes", "stream"):
        (tmp_path / name).write_text("a file of that name")
    copies = tmp_path / "copies"
    bodies = {"a/small": b"small", "a/medium": body_of(2 << 20), "parts": body_of(11 << 20)}
    async with asyncsink.AsyncSink(
        f"s3://{bucket}",
        local_copy=copies,
        local_copy_mode="hardlink",
        related_files=True,
        part_size_bytes=PART_BYTES,
        **options,
    ) as sink:
        receipts = [await sink.put_bytes(key, data) for key, data in bodies.items()]
    assert stored() == bodies
    for receipt, (key, data) in zip(receipts, bodies.items(), strict=True):
        assert receipt.local_copy == str(copies / key)
        assert (copies / key).read_bytes() == data
    assert sorted(path.name for path in copies.rglob("*") if path.is_file()) == ["medium", "parts", "small"]


async def test_a_directory_as_destination(tmp_path: Path) -> None:
    bodies = {"a/small": b"small", "empty": b"", "parts": body_of(11 << 20)}
    async with asyncsink.AsyncSink(tmp_path / "out", part_size_bytes=PART_BYTES) as sink:
        for key, data in bodies.items():
            assert isinstance(await sink.put_bytes(key, data), Receipt)
            assert isinstance(await sink.put_bytes(key, data), Skip)
    assert {
        str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()
    } == bodies


async def test_manifest_events_and_report_count_them_and_verify_proves_them(
    bucket: str, options: dict[str, Any], tmp_path: Path
) -> None:
    manifest, events = tmp_path / "receipts.jsonl", list[Event]()

    async def watch(sink: asyncsink.AsyncSink) -> None:
        events.extend([event async for event in sink.events()])

    async with asyncio.TaskGroup() as group:
        async with asyncsink.AsyncSink(f"s3://{bucket}", manifest=manifest, **options) as sink:
            group.create_task(watch(sink))
            await asyncio.sleep(0)
            await asyncio.gather(*[sink.put_bytes(f"k/{n}", b"%d" % n) for n in range(40)])
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    receipts = [line for line in lines if line["record"] == "receipt"]
    assert {line["source"] for line in receipts} == {"bytes"}
    assert len(receipts) == sink.report.objects_uploaded == 40
    outcomes = [event.outcome for event in events if isinstance(event, Finished)]
    assert sorted(each.key for each in outcomes) == sorted(f"k/{n}" for n in range(40))
    verified = await asyncsink.verify_manifest(manifest, read_back=True, options=options)
    assert verified.ok
    assert verified.checked == 40


async def test_calls_of_one_key_follow_each_other(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="always", **options) as sink:
        receipts = await asyncio.gather(*[sink.put_bytes("one", b"%d" % n) for n in range(50)])
        nothing_is_held(sink)
    assert [receipt.checksum for receipt in sink.report.receipts] == [receipt.checksum for receipt in receipts]
    assert stored() == {"one": b"49"}


async def test_calls_that_come_together_are_sent_together(
    seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncsink.engine.transfer.small_files import SmallFiles

    batches, publish = list[int](), SmallFiles.publish

    async def counted(self: SmallFiles, transfers: Any, *rest: Any) -> None:
        batches.append(len(transfers))
        await publish(self, transfers, *rest)

    monkeypatch.setattr(SmallFiles, "publish", counted)
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        await asyncio.gather(*[sink.put_bytes(f"{n:03}", b"%d" % n) for n in range(100)])
    assert sum(batches) == 100
    assert len(batches) <= 4
    assert stored() == {f"{n:03}": b"%d" % n for n in range(100)}


@pytest.mark.parametrize("lane", LANES)
async def test_a_failure_is_its_callers_only(
    seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any], lane: Any
) -> None:
    denied = Status(403, "AccessDenied")
    with FaultProxy(seaweed.endpoint_url, Rule(denied, operation="PutObject", key="bad*")) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncsink.AsyncSink(f"s3://{bucket}", transport=lane, **options) as sink:
            keys = [f"good{n}" for n in range(10)] + ["bad"]
            ended = await asyncio.gather(*[sink.put_bytes(key, key.encode()) for key in keys], return_exceptions=True)
            nothing_is_held(sink)
    assert all(isinstance(each, Receipt) for each in ended[:-1])
    failed = ended[-1]
    assert isinstance(failed, PutFailed)
    assert isinstance(failed.cause, asyncsink.AccessDenied)
    assert (failed.failure.source, failed.failure.key) == ("bytes", "bad")
    assert stored() == {f"good{n}": b"good%d" % n for n in range(10)}
    assert (sink.report.objects_uploaded, sink.report.objects_failed) == (10, 1)


async def test_a_retry_sends_the_same_bytes_though_the_caller_has_changed_its_buffer(
    seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    """Below a part's size the content is a copy; the buffer is changed at the first attempt, and sent at the second."""
    data = bytearray(body_of(300_000))
    before = bytes(data)

    def change(_: object) -> None:
        data[:] = bytes(len(data))

    rule = Rule(Meanwhile(change, then=SLOW_DOWN), operation="PutObject", times=1)
    with FaultProxy(seaweed.endpoint_url, rule) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            receipt = await sink.put_bytes("a", data)
    assert isinstance(receipt, Receipt)
    assert receipt.checksum == checksum_of(before, "CRC64NVME")
    assert stored() == {"a": before}


@pytest.mark.parametrize("lane", LANES)
async def test_a_large_buffer_that_is_changed_while_it_is_sent_is_not_published(
    seaweed: DevServer, bucket: str, stored: Stored, s3: Any, options: dict[str, Any], lane: Any
) -> None:
    data = bytearray(body_of(11 << 20))

    def change(_: object) -> None:
        data[-1] ^= 1

    rule = Rule(Meanwhile(change), operation="UploadPart", part_number=1, times=1)
    with FaultProxy(seaweed.endpoint_url, rule) as proxy:
        options["endpoint_url"] = proxy.endpoint_url
        async with asyncsink.AsyncSink(
            f"s3://{bucket}", transport=lane, part_size_bytes=PART_BYTES, memory_bytes=PART_BYTES, **options
        ) as sink:
            with pytest.raises(PutFailed, match="The buffer was written to while it was being published") as failed:
                await sink.put_bytes("a", data)
            nothing_is_held(sink)
    assert isinstance(failed.value.cause, SourceChanged)
    assert stored() == {}
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    (failure,) = sink.report.failures
    assert isinstance(failure, Failure)
    assert failure.stage == "source"


async def test_cancelled_before_it_was_begun_it_is_never_sent_and_its_key_is_free(
    seaweed: DevServer, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        turns = sink._session.run.resources.key_turns  # type: ignore[union-attr]
        await turns.take("one")
        waiting = asyncio.create_task(sink.put_bytes("one", b"first"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        turns.end(("one",))
        queued = asyncio.create_task(sink.put_bytes("two", b"second"))
        await asyncio.sleep(0)  # it stands in the queue before the workers
        queued.cancel()
        with pytest.raises(asyncio.CancelledError):
            await queued
        await sink.put_bytes("two", b"third")
        nothing_is_held(sink)
    assert stored() == {"two": b"third"}


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("size", [1000, 2 << 20, 6 << 20])
async def test_cancelled_while_it_is_sent_its_request_ends_and_its_key_is_free(
    seaweed: DevServer, bucket: str, stored: Stored, s3: Any, options: dict[str, Any], lane: Any, size: int
) -> None:
    hanging = True
    async with PartsProxy(seaweed.endpoint_url, lambda _: HANG if hanging else FORWARD) as proxy:
        options |= {"endpoint_url": proxy.endpoint_url, "transport": lane, "part_size_bytes": PART_BYTES}
        async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
            task = asyncio.create_task(sink.put_bytes("a", body_of(size)))
            await proxy.hung.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            nothing_is_held(sink)
            hanging, sent = False, len(proxy.parts)
            assert isinstance(await sink.put_bytes("b", b"another"), Receipt)
            assert len(proxy.parts) == sent + 1
            assert isinstance(await sink.put_bytes("a", b"again"), Receipt)
    assert stored() == {"a": b"again", "b": b"another"}
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    assert sink.report.objects_total == 2


async def test_a_closed_sink_takes_nothing(bucket: str, options: dict[str, Any]) -> None:
    sink = asyncsink.AsyncSink(f"s3://{bucket}", **options)
    with pytest.raises(ConfigError, match="not open"):
        await sink.put_bytes("a", b"x")
    async with sink:
        pass
    with pytest.raises(ConfigError, match="closed"):
        await sink.put_bytes("a", b"x")


async def test_closing_waits_for_what_was_accepted(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        tasks = [asyncio.create_task(sink.put_bytes(f"{n}", b"x")) for n in range(20)]
        await asyncio.sleep(0)
    assert all(isinstance(receipt, Receipt) for receipt in await asyncio.gather(*tasks))
    assert len(stored()) == sink.report.objects_uploaded == 20
