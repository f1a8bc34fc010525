"""Objects read from a real server: whole and proven, ranges, streams, listings, heads; and what is refused before."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import asyncsink
from asyncsink.options.settings import KIB, MIB
from tests.support.quirky_s3 import QuirkyS3, StoredObject

pytestmark = pytest.mark.anyio
Make = Callable[..., asyncsink.S3Reader]
LARGE = os.urandom(3 * MIB + 17)
KEYS = [
    "plain.txt",
    "with space.txt",
    "é✓/naïve.tsv",
    "a//b.txt",
    "/leading",
    "plus+sign%25.json",
    "trailing ",
    "q?x=1&y#z",
]


async def collected(stream: asyncsink.ObjectStream) -> list[bytes]:
    return [chunk async for chunk in stream]


@pytest.mark.parametrize("size", [0, 1, 16 * KIB, 70_000, MIB, MIB + 1, 20 * MIB + 3])
async def test_whole_objects(reader: Make, put: Any, size: int) -> None:
    data = (LARGE * 7)[:size]
    put({"p/o": data})
    async with reader("p") as opened:
        content = await opened.get_object("o")
        assert (content.data == data, content.size_bytes, content.start, content.key) == (True, size, 0, "o")
        assert content.confirmed_by in ("server-checksum", "etag") if size else True
        assert await opened.get("o", etag=content.etag) == data
        stream = opened.stream("o")
        chunks = await collected(stream)
    assert b"".join(chunks) == data
    assert max(map(len, chunks), default=0) <= 256 * KIB
    assert (stream.size_bytes, stream.etag) == (size, content.etag)
    assert (stream.confirmed_by, stream.checksum) == (content.confirmed_by, content.checksum)


@pytest.mark.parametrize(
    ("start", "end"),
    [
        *[(0, 10), (5, 5), (9, 5), (5, None), (-5, None), (0, -5), (-9, -5), (-100, 3), (0, 10**12), (1, 10**12)],
        *[(30, None), (30, 31), (20, -25), (-5, -9), (29, None), (0, 30)],
    ],
)
async def test_ranges_are_slices(reader: Make, put: Any, start: int, end: int | None) -> None:
    data = bytes(range(30))
    put({"o": data})
    async with reader() as opened:
        assert await opened.get("o", start, end) == data[start:end]
        assert b"".join(await collected(opened.stream("o", start, end))) == data[start:end]


@pytest.mark.parametrize(("start", "end"), [(7, None), (0, 2 * MIB), (MIB - 1, -3), (-2 * MIB, None)])
async def test_large_ranges(reader: Make, put: Any, start: int, end: int | None) -> None:
    put({"o": LARGE})
    async with reader(part_size_bytes="5MiB") as opened:
        content = await opened.get_object("o", start, end)
        assert (content.data == LARGE[start:end], content.confirmed_by) == (True, "nothing")
        assert (content.start, content.size_bytes) == (slice(start, end).indices(len(LARGE))[0], len(LARGE))
        assert b"".join(await collected(opened.stream("o", start, end))) == LARGE[start:end]


@pytest.mark.parametrize("key", KEYS)
async def test_keys_are_exact(server: QuirkyS3, key: str) -> None:
    """From a server that keeps keys as they are; SeaweedFS folds some."""
    server.objects["tryout"] = {f"p/{key}": StoredObject(b"it"), "p/other": StoredObject(b"not it")}
    async with asyncsink.S3Reader("s3://tryout/p", endpoint_url=server.url) as opened:
        assert await opened.get(key) == b"it"
        assert (await opened.head(key)).size_bytes == 2
        assert key in [entry.key async for entry in opened.list()]


async def test_a_missing_object(reader: Make, put: Any) -> None:
    put({"p/there": b"1"})
    async with reader("p") as opened:
        for call in (
            opened.get("none"),
            opened.get("none", 5, 5),
            opened.get("none", -3),
            opened.get_object("none", 1),
            opened.head("none"),
            collected(opened.stream("none")),
        ):
            with pytest.raises(asyncsink.ObjectMissing, match="none"):
                await call
        with pytest.raises(asyncsink.PreconditionFailed):
            await opened.get("there", etag="0" * 32)
        with pytest.raises(asyncsink.PreconditionFailed):
            await opened.get("there", -1, etag="0" * 32)


async def test_a_head(reader: Make, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="p/o", Body=b"12345", ContentType="text/x", Metadata={"who": "me"})
    async with reader("p") as opened:
        head = await opened.head("o")
    told = s3.head_object(Bucket=bucket, Key="p/o")
    assert (head.key, head.size_bytes, head.content_type, head.metadata) == ("o", 5, "text/x", {"who": "me"})
    assert (f'"{head.etag}"', head.modified) == (told["ETag"], told["LastModified"])
    assert head.checksums
    assert not head.composite


async def test_listings(reader: Make, put: Any) -> None:
    names = ["sub-1/anat/t1.nii.gz", "sub-1/func/bold.json", "sub-10/anat/t1.nii.gz", "top.json"]
    put({f"p/{name}": b"x" * number for number, name in enumerate(names, 1)} | {"pother": b"o"})
    async with reader("p") as opened:

        async def keys(*given: Any, **named: Any) -> list[str]:
            return sorted([entry.key async for entry in opened.list(*given, **named)])

        assert await keys() == names
        assert await keys("sub-1/") == names[:2]
        assert await keys("sub-1") == names[:3]
        assert await keys(match="**/*.nii.gz") == [names[0], names[2]]
        assert await keys("sub-1/", match="**/*.nii.gz") == [names[0]]
        assert await keys("sub-1/", match="*/anat/*") == [names[0]]
        assert await keys(match="*.json") == [names[3]]
        assert await keys("sub-1/", match="sub-2/*") == []
        assert await keys("nothing/") == []
        entry = await anext(opened.list("top"))
        assert (entry.size_bytes, entry.modified is not None) == (4, True)
        assert await opened.get(entry.key, etag=entry.etag) == b"xxxx"


async def test_a_listing_of_many_pages_goes_on_only_when_it_is_read(server: QuirkyS3) -> None:
    server.page = 3
    server.objects["tryout"] = {f"{number:02}": StoredObject(b"") for number in range(10)} | {"dir/": StoredObject(b"")}
    async with asyncsink.S3Reader("s3://tryout", endpoint_url=server.url) as opened:
        found = []
        async for entry in opened.list():
            found.append(entry.key)
            if len(found) == 4:
                break
        assert len(server.requests("GET", **{"list-type": "2"})) == 3, "the first request proves the bucket"
        assert [entry.key async for entry in opened.list()] == [*sorted(f"{number:02}" for number in range(10)), "dir/"]
        assert "dir/" not in [entry.key async for entry in opened.list(match="**")]


async def test_what_was_not_asked_for_is_refused(server: QuirkyS3) -> None:
    listing = (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>elsewhere/x</Key><Size>1</Size></Contents>"
        b"</ListBucketResult>"
    )
    server.quirk = lambda request: (200, {}, listing) if not request.key else None
    async with asyncsink.S3Reader("s3://tryout/p", endpoint_url=server.url) as opened:
        with pytest.raises(asyncsink.ServerFault, match=r"elsewhere/x.*was not asked for"):
            await anext(opened.list())


async def test_objects_of_a_customer_key(reader: Make, s3: Any, bucket: str) -> None:
    key = os.urandom(32)
    given = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": key}
    s3.put_object(Bucket=bucket, Key="small", Body=LARGE[:1000], **given)
    s3.put_object(Bucket=bucket, Key="large", Body=LARGE, **given)
    async with reader(sse=key) as opened:
        assert await opened.get("small") == LARGE[:1000]
        assert await opened.get("large") == LARGE
        assert await opened.get("large", -10) == LARGE[-10:]
        assert b"".join(await collected(opened.stream("large"))) == LARGE
        assert (await opened.head("large")).sse == "customer"


async def test_objects_in_parts(reader: Make, put_in_parts: Any) -> None:
    data = (LARGE * 4)[: 11 * MIB]
    put_in_parts("with", data)
    put_in_parts("without", data, checksum=False)
    async with reader() as opened:
        for key, proof in (("with", "server-checksum"), ("without", "etag")):
            content = await opened.get_object(key)
            assert (content.data == data, content.confirmed_by) == (True, proof)
            stream = opened.stream(key)
            assert b"".join(await collected(stream)) == data
            assert stream.confirmed_by == proof


async def test_many_calls_at_once_have_bounded_memory(reader: Make, put: Any) -> None:
    put({f"{number}": LARGE for number in range(4)})
    async with reader(memory_bytes="8MiB", part_size_bytes="5MiB") as opened:
        assert opened._reads is not None
        budget = opened._reads.budget
        most = 0

        async def read(key: str) -> bool:
            nonlocal most
            if key in ("0", "1"):
                found = await opened.get(key) == LARGE
            else:
                found = b"".join(await collected(opened.stream(key))) == LARGE
            most = max(most, budget.held_bytes)
            return found

        assert all(await asyncio.gather(*(read(str(number % 4)) for number in range(24))))
        assert most <= budget.total_bytes
        assert not budget.held_bytes


async def test_streams_side_by_side_never_wait_for_each_other(reader: Make, put: Any) -> None:
    """A reader that takes one chunk of each in turn, and an object beside, although the memory is full."""
    put({"o": LARGE, "beside": b"b"})
    async with reader(memory_bytes="5MiB", part_size_bytes="5MiB") as opened:
        streams = [opened.stream("o") for _ in range(20)]
        received = [b""] * 20
        while any(len(each) < len(LARGE) for each in received):
            for number, stream in enumerate(streams):
                received[number] += await anext(stream, b"")
            assert await opened.get("beside") == b"b"
        assert all(each == LARGE for each in received)


async def test_a_stream_that_is_left_gives_its_memory_back(reader: Make, put: Any) -> None:
    put({"o": LARGE})
    async with reader() as opened:
        stream = opened.stream("o")
        await anext(stream)
        assert opened._reads is not None
        assert opened._reads.budget.held_bytes
        await stream.aclose()
        await stream.aclose()
        assert not opened._reads.budget.held_bytes
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"retries": 3}, r"'retries' is no option of a reader\. Did you mean 'retry'\?"),
        ({"regoin": "x"}, r"'regoin' is no option of a reader\. Did you mean 'region'\?"),
        ({"sse": "AES256"}, "customer key of 32 bytes"),
        ({"sse": b"short"}, "32 bytes"),
        ({"memory_bytes": "1KiB"}, "memory_bytes"),
        ({"concurrency": 0}, "concurrency=0 is out of range"),
    ],
)
async def test_wrong_options(given: dict[str, Any], words: str) -> None:
    with pytest.raises(asyncsink.ConfigError, match=words):
        asyncsink.S3Reader("s3://bucket/p", **given)


@pytest.mark.parametrize("source", ["/tmp/x", "", None, "gs://b", "s3://b/a//c", 5])
async def test_wrong_sources(source: Any) -> None:
    with pytest.raises(asyncsink.ConfigError):
        asyncsink.S3Reader(source)


async def test_wrong_arguments(server: QuirkyS3) -> None:
    async with asyncsink.S3Reader("s3://tryout/p", endpoint_url=server.url) as opened:
        asked = len(server.log)
        for key in ("", "a/../b", "..", "./x", "\ud800", "k" * 1025, b"bytes", None):
            for call in (opened.get, opened.head):
                with pytest.raises(asyncsink.InvalidKey, match="The key"):
                    await call(key)  # type: ignore[arg-type]
            with pytest.raises(asyncsink.InvalidKey, match="The key"):
                opened.stream(key)  # type: ignore[arg-type]
        for start, end in ((None, 1), (1.5, 2), (0, "3"), (True, None)):
            with pytest.raises(asyncsink.ConfigError, match="is no position"):
                await opened.get("k", start, end)  # type: ignore[arg-type]
        for given in ({"match": ""}, {"match": 5}, {"prefix": None}, {"prefix": "\ud800"}):
            with pytest.raises(asyncsink.ConfigError):
                opened.list(**given)
        with pytest.raises(asyncsink.ConfigError, match="deadline_seconds"):
            await opened.get("k", deadline_seconds=-1)
        assert len(server.log) == asked
