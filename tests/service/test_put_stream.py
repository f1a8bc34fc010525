"""`put_stream` and `open`: streams of any kind and length become one object, compared with what was promised of it."""

from __future__ import annotations

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiofiles
import pytest

import asyncsink
from asyncsink.errors import ConfigError, IntegrityError, SourceError
from asyncsink.integrity.checksums import checksum_of
from asyncsink.model import Checksum, Event, Finished, Receipt, Skip
from tests.support.streams import PART_BYTES, SMALLEST, Reader, body_of, nothing_is_held, pieces

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
LANES = ["wire", "aioboto3"]
SIZES = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 2 * PART_BYTES, 13 << 20]


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "CRC32", "SHA256", "MD5", "none"])
async def test_streams_of_every_length_arrive_with_every_checksum(
    bucket: str, stored: Stored, options: dict[str, Any], lane: Any, algorithm: str
) -> None:
    async with asyncsink.AsyncSink(
        f"s3://{bucket}/in", transport=lane, checksum=algorithm, part_size_bytes=PART_BYTES, **options
    ) as sink:
        receipts = [await sink.put_stream(f"é/{size}", pieces(body_of(size))) for size in SIZES]
        nothing_is_held(sink)
    assert stored() == {f"in/é/{size}": body_of(size) for size in SIZES}
    for receipt, size in zip(receipts, SIZES, strict=True):
        assert isinstance(receipt, Receipt)
        assert (receipt.source, receipt.size_bytes) == ("stream", size)
        assert receipt.confirmed_by in ("server-checksum", "etag")
        parts = -(-size // PART_BYTES)
        assert receipt.etag.endswith(f"-{parts}") == (size >= PART_BYTES)
        if algorithm in ("CRC64NVME", "CRC32C", "CRC32"):
            assert receipt.checksum == checksum_of(body_of(size), algorithm)  # type: ignore[arg-type]
        elif algorithm == "SHA256" and size >= PART_BYTES:
            assert receipt.checksum is not None
            assert receipt.checksum.value.endswith(f"-{parts}")
    assert list(sink.report.receipts) == receipts


async def test_every_kind_of_stream(bucket: str, stored: Stored, options: dict[str, Any], tmp_path: Path) -> None:
    data = body_of(7 << 20)
    (tmp_path / "file").write_bytes(data)
    pipe_out, pipe_in = os.pipe()

    def write_pipe() -> None:
        with open(pipe_in, "wb") as file:
            file.write(data)

    def reader() -> asyncio.StreamReader:
        fed = asyncio.StreamReader()
        fed.feed_data(data)
        fed.feed_eof()
        return fed

    async with asyncsink.AsyncSink(f"s3://{bucket}", part_size_bytes=PART_BYTES, **options) as sink:
        await sink.put_stream("generator", pieces(data))
        await sink.put_stream("reader", Reader(data))
        await sink.put_stream("stream reader", reader())
        await sink.put_stream("bytesio", io.BytesIO(data))
        with (tmp_path / "file").open("rb") as file:
            await sink.put_stream("file", file)
        async with aiofiles.open(tmp_path / "file", "rb") as opened:
            await sink.put_stream("aiofiles", opened)
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(write_pipe))
            with os.fdopen(pipe_out, "rb") as file:
                await sink.put_stream("pipe", file)
        nothing_is_held(sink)
    found = stored()
    assert len(found) == 7
    assert all(body == data for body in found.values())


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"abc", "is of type bytes; expected an async iterable .*await `put_bytes` with it"),
        (bytearray(b"abc"), "put_bytes"),
        ("scan.dcm", "a path is for `put`; give the opened file"),
        (Path("scan.dcm"), "a path is for `put`"),
        ([b"abc"], "make its iterator an async one"),
        (7, "is of type int"),
        (None, "is of type NoneType"),
    ],
)
async def test_what_is_no_stream_is_refused(bucket: str, options: dict[str, Any], stream: Any, message: str) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        with pytest.raises(ConfigError, match=message):
            await sink.put_stream("a", stream)
        nothing_is_held(sink)
    assert not sink.report.objects_total


async def gives(*given: Any) -> AsyncIterator[Any]:
    for each in given:
        yield each


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (gives(b"a", "text"), "A piece of the stream for 'a' is a str; expected bytes: encode it"),
        (gives(b"a", 7), "is of type int; expected bytes"),
        (gives(None), "is of type NoneType"),
        (io.StringIO("text"), "is a str; expected bytes"),
        (gives(b"a", [b"b"]), "is of type list"),
    ],
)
async def test_a_stream_that_gives_no_bytes_is_refused(
    bucket: str, stored: Stored, options: dict[str, Any], stream: Any, message: str
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        with pytest.raises(SourceError, match=message):
            await sink.put_stream("a", stream)
        nothing_is_held(sink)
    assert stored() == {}
    (failure,) = sink.report.failures
    assert (failure.source, failure.key, failure.stage) == ("stream", "a", "source")


@pytest.mark.parametrize("size", [3, 11 << 20])
@pytest.mark.parametrize("algorithm", ["CRC64NVME", "CRC32C", "SHA256", "MD5"])
async def test_a_promised_checksum_of_any_algorithm_is_kept(
    bucket: str, stored: Stored, options: dict[str, Any], size: int, algorithm: Any
) -> None:
    data = body_of(size)
    promised, other = checksum_of(data, algorithm), checksum_of(data + b"x", algorithm)
    async with asyncsink.AsyncSink(f"s3://{bucket}", part_size_bytes=PART_BYTES, **options) as sink:
        receipt = await sink.put_stream("kept", pieces(data), checksum=promised, size_bytes=size)
        assert isinstance(receipt, Receipt)
        with pytest.raises(IntegrityError, match=r"The stream for 'broken' has .* were promised") as refused:
            await sink.put_stream("broken", pieces(data), checksum=other)
        nothing_is_held(sink)
    assert (refused.value.expected, refused.value.actual) == (str(other), str(promised))
    assert stored() == {"kept": data}
    assert (sink.report.objects_uploaded, sink.report.objects_failed) == (1, 1)


@pytest.mark.parametrize("size", [3, 11 << 20])
async def test_a_promised_length_is_kept(
    bucket: str, stored: Stored, s3: Any, options: dict[str, Any], size: int
) -> None:
    data, given = body_of(size), 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal given
        async for piece in pieces(data + bytes(PART_BYTES)):
            given += len(piece)
            yield piece

    async with asyncsink.AsyncSink(f"s3://{bucket}", part_size_bytes=PART_BYTES, **options) as sink:
        assert isinstance(await sink.put_stream("kept", pieces(data), size_bytes=size), Receipt)
        with pytest.raises(IntegrityError, match=f"has {size:,} bytes, and {size + 1:,} bytes were promised"):
            await sink.put_stream("short", pieces(data), size_bytes=size + 1)
        with pytest.raises(IntegrityError, match="or more, and"):
            await sink.put_stream("long", counted(), size_bytes=size)
        nothing_is_held(sink)
    assert given < size + (1 << 19)  # it is read no further than necessary
    assert stored() == {"kept": data}
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")


@pytest.mark.parametrize(
    ("promise", "message"),
    [
        ({"size_bytes": -1}, "size_bytes=-1 is no length"),
        ({"size_bytes": 1.5}, "size_bytes=1.5 is no length"),
        ({"size_bytes": True}, "size_bytes=True is no length"),
        ({"checksum": "CRC32:abc"}, "expected asyncsink.Checksum"),
        ({"checksum": Checksum("CRC32", "abc")}, "cannot be compared"),
        ({"checksum": Checksum("SHA256", "AAAA-2")}, "cannot be compared"),
        ({"checksum": Checksum("CRC32", None)}, "no base64 of a CRC32 digest"),  # type: ignore[arg-type]
        ({"checksum": Checksum("SHA1", "AAAA")}, "algorithm 'SHA1' is not known; expected one of CRC64NVME, CRC32C"),  # type: ignore[arg-type]
        ({"size_bytes": 10_000 * PART_BYTES + 1}, "do not fit into memory_bytes"),
    ],
)
async def test_a_promise_that_no_stream_keeps_is_refused_before_anything_is_read(
    bucket: str, options: dict[str, Any], promise: dict[str, Any], message: str
) -> None:
    async def untouched() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""

    async with asyncsink.AsyncSink(f"s3://{bucket}", **SMALLEST, **options) as sink:
        with pytest.raises(ConfigError, match=message):
            await sink.put_stream("a", untouched(), **promise)
        nothing_is_held(sink)


@pytest.mark.parametrize("promised", [False, True])
async def test_pieces_of_every_size(bucket: str, stored: Stored, options: dict[str, Any], promised: bool) -> None:
    data = body_of(12 << 20)

    async def single() -> AsyncIterator[bytes]:
        for start in range(100_000):
            yield data[start : start + 1]

    async def huge() -> AsyncIterator[Any]:
        yield data

    async def mixed() -> AsyncIterator[Any]:
        for size, start in ((PART_BYTES, 0), (0, 5), (1, PART_BYTES)):
            yield memoryview(data)[start : start + size]
        yield bytearray(data[PART_BYTES + 1 :])

    async def reused() -> AsyncIterator[Any]:
        """One buffer for all pieces, as programs with `readinto` have."""
        buffer = bytearray(70_001)
        for start in range(0, len(data), len(buffer)):
            piece = data[start : start + len(buffer)]
            buffer[: len(piece)] = piece
            yield memoryview(buffer)[: len(piece)]
            buffer[:] = bytes(len(buffer))

    length: Any = {"size_bytes": len(data)} if promised else {}
    async with asyncsink.AsyncSink(f"s3://{bucket}", **SMALLEST, **options) as sink:
        await sink.put_stream("single", single(), size_bytes=100_000 if promised else None)
        await sink.put_stream("huge", huge(), **length)
        await sink.put_stream("mixed", mixed(), **length)
        await sink.put_stream("reused", reused(), **length)
        nothing_is_held(sink)
    assert stored() == {"single": data[:100_000], "huge": data, "mixed": data, "reused": data}


async def test_whole_parts_of_a_huge_piece_are_sent_without_a_copy(bucket: str, options: dict[str, Any]) -> None:
    """The memory of a piece that its producer holds is not needed a second time."""
    from asyncsink.engine.limits import memory

    lent = list[int]()

    class Pool(memory.BufferPool):
        def lend(self, length: int) -> Any:
            lent.append(length)
            return super().lend(length)

    async def huge() -> AsyncIterator[bytes]:
        yield body_of(64 << 20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("asyncsink.engine.limits.pools.BufferPool", Pool)
        async with asyncsink.AsyncSink(
            f"s3://{bucket}", part_size_bytes="8MiB", memory_bytes="16MiB", **options
        ) as sink:
            receipt = await sink.put_stream("huge", huge())
    assert receipt.size_bytes == 64 << 20
    assert receipt.etag.endswith("-8")
    assert lent == []


@pytest.mark.parametrize("size", [3, 6 << 20])
async def test_a_stream_is_compared_where_its_checksum_is_given_and_then_not_even_read(
    bucket: str, stored: Stored, options: dict[str, Any], size: int
) -> None:
    data = body_of(size)
    checksum = checksum_of(data, "CRC64NVME")
    read = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal read
        async for piece in pieces(data):
            read += len(piece)
            yield piece

    async with asyncsink.AsyncSink(f"s3://{bucket}", part_size_bytes=PART_BYTES, **options) as sink:
        assert isinstance(await sink.put_stream("a", counted()), Receipt)
        assert isinstance(await sink.put_stream("a", counted()), Receipt)
        assert read == 2 * size
        skip = await sink.put_stream("a", counted(), checksum=checksum)
        assert isinstance(skip, Skip)
        assert (skip.reason, skip.already_there, skip.size_bytes) == ("same checksum", True, size)
        assert read == 2 * size
        assert isinstance(await sink.put_stream("a", pieces(b"x"), checksum=checksum_of(b"x", "MD5")), Receipt)
        assert isinstance(await sink.put_stream("a", pieces(b"x"), checksum=checksum_of(b"x", "MD5")), Skip)
        nothing_is_held(sink)
    assert stored() == {"a": b"x"}
    assert (sink.report.objects_uploaded, sink.report.objects_skipped) == (3, 2)


async def test_never_leaves_what_is_there_and_reads_nothing(
    bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    async def untouched() -> AsyncIterator[bytes]:
        pytest.fail("it was read")
        yield b""

    async with asyncsink.AsyncSink(f"s3://{bucket}", overwrite="never", part_size_bytes=PART_BYTES, **options) as sink:
        for key, data in (("small", b"first"), ("large", body_of(6 << 20))):
            assert isinstance(await sink.put_stream(key, pieces(data)), Receipt)
            assert isinstance(await sink.put_stream(key, untouched()), Skip)
            async with sink.open(key) as writer:
                await writer.write(b"second")
            assert isinstance(writer.receipt, Skip)
    assert stored() == {"small": b"first", "large": body_of(6 << 20)}


async def test_a_local_copy_is_written_from_the_same_bytes(
    bucket: str, stored: Stored, options: dict[str, Any], tmp_path: Path
) -> None:
    bodies = {"a/small": b"small", "a/empty": b"", "parts": body_of(13 << 20)}
    async with asyncsink.AsyncSink(
        f"s3://{bucket}", local_copy=tmp_path / "copies", part_size_bytes=PART_BYTES, **options
    ) as sink:
        receipts = [await sink.put_stream(key, pieces(data)) for key, data in bodies.items()]
        with pytest.raises(SourceError):
            await sink.put_stream("broken", gives(bytes(6 << 20), None))
        nothing_is_held(sink)
    assert stored() == bodies
    assert [receipt.local_copy for receipt in receipts] == [str(tmp_path / "copies" / key) for key in bodies]
    copies = [path for path in (tmp_path / "copies").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "copies")): path.read_bytes() for path in copies} == bodies


async def test_a_directory_as_destination(tmp_path: Path) -> None:
    bodies = {"a/small": b"small", "empty": b"", "parts": body_of(13 << 20)}
    async with asyncsink.AsyncSink(tmp_path / "out", part_size_bytes=PART_BYTES) as sink:
        for key, data in bodies.items():
            assert isinstance(await sink.put_stream(key, pieces(data)), Receipt)
            checksum = checksum_of(data, "CRC64NVME")
            assert isinstance(await sink.put_stream(key, pieces(data), checksum=checksum), Skip)
        with pytest.raises(SourceError):
            await sink.put_stream("broken", gives(bytes(6 << 20), None))
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in files} == bodies


async def test_manifest_events_and_progress_count_streams(bucket: str, options: dict[str, Any], tmp_path: Path) -> None:
    manifest, events = tmp_path / "receipts.jsonl", list[Event]()

    async def watch(sink: asyncsink.AsyncSink) -> None:
        events.extend([event async for event in sink.events()])

    async with asyncio.TaskGroup() as group:
        async with asyncsink.AsyncSink(
            f"s3://{bucket}", manifest=manifest, part_size_bytes=PART_BYTES, **options
        ) as sink:
            group.create_task(watch(sink))
            await asyncio.sleep(0)
            await sink.put_stream("small", pieces(b"small"))
            await sink.put_stream("parts", pieces(body_of(6 << 20)))
            with pytest.raises(SourceError):
                await sink.put_stream("broken", gives(7))
            progress = sink._session.run.resources.progress  # type: ignore[union-attr]
            assert progress.bytes_moved == 5 + (6 << 20)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [(line["record"], line["source"], line["key"]) for line in lines if "key" in line] == [
        ("receipt", "stream", "small"),
        ("receipt", "stream", "parts"),
        ("failure", "stream", "broken"),
    ]
    outcomes = [event.outcome for event in events if isinstance(event, Finished)]
    assert [each.key for each in outcomes] == ["small", "parts", "broken"]
    assert (sink.report.objects_uploaded, sink.report.objects_failed) == (2, 1)
    verified = await asyncsink.verify_manifest(manifest, read_back=True, options=options)
    assert verified.checked == 2
    assert not verified.problems_total


async def test_encrypted_with_a_customers_key(bucket: str, s3: Any, options: dict[str, Any]) -> None:
    key = os.urandom(32)
    data = body_of(6 << 20)
    async with asyncsink.AsyncSink(f"s3://{bucket}", sse=key, part_size_bytes=PART_BYTES, **options) as sink:
        await sink.put_stream("a", pieces(data))
    found = s3.get_object(Bucket=bucket, Key="a", SSECustomerAlgorithm="AES256", SSECustomerKey=key)
    assert found["Body"].read() == data


@pytest.mark.parametrize("lane", LANES)
async def test_each_object_has_its_own_options(bucket: str, s3: Any, options: dict[str, Any], lane: Any) -> None:
    large, own = body_of(6 << 20), {"content_type": "text/x-own", "metadata": {"subject": "sub-01"}, "tags": {"a": "b"}}
    async with asyncsink.AsyncSink(
        f"s3://{bucket}", metadata={"of": "sink"}, transport=lane, part_size_bytes=PART_BYTES, **options
    ) as sink:
        await sink.put_bytes("bytes.json", b"x", **own)  # type: ignore[arg-type]
        await sink.put_bytes("large.json", large, **own)  # type: ignore[arg-type]
        await sink.put_stream("stream.json", pieces(b"x"), **own)  # type: ignore[arg-type]
        await sink.put_stream("parts.json", pieces(large), **own)  # type: ignore[arg-type]
        async with sink.open("written.json", **own) as writer:  # type: ignore[arg-type]
            await writer.write(b"x")
        await sink.put_bytes("plain.json", b"x")
        assert isinstance(await sink.put_stream("plain.json", pieces(b"y"), overwrite="never"), Skip)
        assert isinstance(await sink.put_bytes("plain.json", b"x", overwrite="always"), Receipt)
        with pytest.raises(ConfigError, match="storage"):
            await sink.put_bytes("other", b"x", storage="GLACIER")  # type: ignore[call-arg]
        with pytest.raises(ConfigError, match="content_types"):
            async with sink.open("other", content_types="x"):  # type: ignore[call-arg]
                pytest.fail("entered")
        nothing_is_held(sink)
    for name in ("bytes", "large", "stream", "parts", "written"):
        head = s3.head_object(Bucket=bucket, Key=f"{name}.json")
        assert head["ContentType"] == "text/x-own"
        assert head["Metadata"]["subject"] == "sub-01"
        assert "of" not in head["Metadata"]
        assert s3.get_object_tagging(Bucket=bucket, Key=f"{name}.json")["TagSet"] == [{"Key": "a", "Value": "b"}]
    head = s3.head_object(Bucket=bucket, Key="plain.json")
    assert (head["ContentType"], head["Metadata"]) == ("application/json", {"of": "sink"})


# -- open --------------------------------------------------------------------------------------------------------------


async def test_a_writer_takes_what_is_written_until_its_block_ends(
    bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    data, buffer = body_of(12 << 20), bytearray(100_003)
    async with asyncsink.AsyncSink(f"s3://{bucket}", **SMALLEST, **options) as sink:
        async with sink.open("log.txt") as writer:
            with pytest.raises(ConfigError, match="receipt when the block"):
                _ = writer.receipt
            for start in range(0, len(data), len(buffer)):
                piece = data[start : start + len(buffer)]
                buffer[: len(piece)] = piece
                await writer.write(memoryview(buffer)[: len(piece)])
        async with sink.open("empty") as nothing:
            pass
        receipt = writer.receipt
        assert isinstance(receipt, Receipt)
        assert (receipt.size_bytes, receipt.checksum) == (len(data), checksum_of(data, "CRC64NVME"))
        assert nothing.receipt.size_bytes == 0
        nothing_is_held(sink)
    assert stored() == {"log.txt": data, "empty": b""}


@pytest.mark.parametrize("size", [10, 12 << 20])
async def test_a_block_that_raises_publishes_nothing(
    bucket: str, stored: Stored, s3: Any, options: dict[str, Any], size: int
) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **SMALLEST, **options) as sink:
        with pytest.raises(KeyError, match="mine"):  # noqa: PT012 - the block is what is tested
            async with sink.open("log.txt") as writer:
                await writer.write(body_of(size))
                raise KeyError("mine")
        with pytest.raises(ConfigError, match="receipt when the block"):
            _ = writer.receipt
        nothing_is_held(sink)
    assert stored() == {}
    assert not s3.list_multipart_uploads(Bucket=bucket).get("Uploads")
    (failure,) = sink.report.failures
    assert failure.message == "The block that wrote 'log.txt' raised KeyError: 'mine'; nothing was published."


async def test_wrong_uses_of_a_writer_are_told(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    async with asyncsink.AsyncSink(f"s3://{bucket}", **options) as sink:
        writer = sink.open("a")
        with pytest.raises(ConfigError, match="inside its `async with` block"):
            await writer.write(b"x")
        async with writer:
            with pytest.raises(ConfigError, match="What was written to 'a' is a str"):
                await writer.write("text")  # type: ignore[arg-type]
            await writer.write(b"x")
        with pytest.raises(ConfigError, match="used before"):
            async with writer:
                pytest.fail("entered again")
        with pytest.raises(asyncsink.AsyncSinkError):
            await writer.write(b"x")
        with pytest.raises(asyncsink.InvalidKey):
            async with sink.open("../a"):
                pytest.fail("entered")
    assert stored() == {"a": b"x"}
    with pytest.raises(ConfigError, match="closed"):
        async with sink.open("b"):
            pytest.fail("entered")


async def test_a_writer_is_entered_and_left_in_different_tasks(
    bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    """As a fixture, or a dependency of a web framework, does it."""
    data = body_of(11 << 20)
    async with asyncsink.AsyncSink(f"s3://{bucket}", **SMALLEST, **options) as sink:
        writer = sink.open("a")
        await asyncio.create_task(writer.__aenter__())
        for start in range(0, len(data), 1 << 20):
            await asyncio.create_task(writer.write(data[start : start + (1 << 20)]))
        await asyncio.create_task(writer.__aexit__(None, None, None))
        nothing_is_held(sink)
    assert stored() == {"a": data}


async def test_streams_of_one_key_follow_each_other(bucket: str, stored: Stored, options: dict[str, Any]) -> None:
    began = list[int]()

    async def numbered(number: int) -> AsyncIterator[bytes]:
        began.append(number)
        async for piece in pieces(b"%d" % number * 3_000_000):
            yield piece

    async with asyncsink.AsyncSink(f"s3://{bucket}", **SMALLEST, **options) as sink:
        tasks = [asyncio.create_task(sink.put_stream("one", numbered(number))) for number in range(4)]
        await asyncio.sleep(0)
        tasks.append(asyncio.create_task(sink.put_bytes("one", b"last")))  # type: ignore[arg-type]
        await asyncio.gather(*tasks)
        nothing_is_held(sink)
    assert began == [0, 1, 2, 3]
    assert stored() == {"one": b"last"}
