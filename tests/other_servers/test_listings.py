"""Listings that are odd, broken in places, or without an end: what is there is grabbed, and a run ends."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.errors import ServerFault
from asyncsink.options.schema import Limits, S3Target
from asyncsink.s3 import listing as listing_module
from asyncsink.s3.operations import ListParts
from asyncsink.s3.stack import open_stack
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject

pytestmark = pytest.mark.anyio
OpenS3 = Callable[..., QuirkyS3]
IMPATIENT = asyncsink.RetryPolicy(attempts=1)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def xml(content: str, root: str = "ListBucketResult", space: str = "") -> Answer:
    return 200, {"Content-Type": "application/xml"}, f"<{root}{space}>{content}</{root}>".encode()


def lists(page: Callable[[int], Answer]) -> Callable[[Request], Answer | None]:
    """Answers each listing with `page` of its number; a listing of one object or of none is a look at the bucket."""
    numbers = itertools.count()

    def quirk(r: Request) -> Answer | None:
        if r.method != "GET" or r.key or "uploads" in r.query:
            return None
        return page(next(numbers) if r.query.get("max-keys") != "1" else 0)

    return quirk


def entry(key: str, **fields: str | None) -> str:
    told: dict[str, str | None] = {
        "Key": key,
        "LastModified": "2026-01-31T23:59:59.000Z",
        "ETag": "",
        "Size": "1",
    } | fields
    return f"<Contents>{''.join(f'<{n}>{v}</{n}>' for n, v in told.items() if v is not None)}</Contents>"


def more(number: int) -> str:
    return f"<IsTruncated>true</IsTruncated><NextContinuationToken>t{number + 1}</NextContinuationToken>"


PAGES_MAX = 25
"""Of a listing that has nothing new: enough to tell each of these from a slow one."""
ENDLESS: dict[str, Callable[[int], str]] = {
    "empty pages": more,
    "one page again and again": lambda number: entry("p/a") + entry("p/b") + more(number),
    "two pages in turn": lambda number: entry(f"p/{number % 2}") + more(number),
    "the last key again": lambda number: "".join(entry(f"p/{i}") for i in range(9 - min(number, 8), 10)) + more(number),
    "a cycle of tokens": lambda number: entry(f"p/{number}") + more(number % 7),
}


@pytest.mark.parametrize("how", ENDLESS)
async def test_a_listing_without_an_end_ends(
    open_s3: OpenS3, tmp_path: Path, lane: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing_module, "PAGES_WITHOUT_NEWS_MAX", PAGES_MAX)
    s3 = open_s3(lists(lambda number: xml(ENDLESS[how](number))))
    s3.objects["tryout"] = {f"p/{name}": StoredObject(b"1") for name in [*range(9), "a", "b"]}
    with pytest.raises(asyncsink.TransferError, match="does not go on"):
        await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane, retry=IMPATIENT)
    assert len([r for r in s3.log if r.method == "GET" and not r.key]) <= PAGES_MAX + 20


ODD: dict[str, str] = {
    "True": "<IsTruncated>True</IsTruncated>",
    "1": "<IsTruncated>1</IsTruncated>",
    "with space around": "<IsTruncated>\n   true\n  </IsTruncated>",
    "no flag": "",
}


@pytest.mark.parametrize("flag", ODD)
async def test_truncation_is_told_in_many_ways(open_s3: OpenS3, tmp_path: Path, lane: Any, flag: str) -> None:
    def page(number: int) -> Answer:
        if number == 0:
            return xml(f"{ODD[flag]}<NextContinuationToken>t</NextContinuationToken>{entry('p/a')}")
        return xml(f"<IsTruncated>false</IsTruncated>{entry('p/b')}")

    s3 = open_s3(lists(page))
    s3.objects["tryout"] = {"p/a": StoredObject(b"1"), "p/b": StoredObject(b"2")}
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    assert {p.name for p in (tmp_path / "back").iterdir()} == {"a", "b"}


async def test_a_pretty_printed_listing_without_namespace(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    s3 = open_s3()
    s3.objects["tryout"]["p/a"] = StoredObject(b"1")
    etag = s3.objects["tryout"]["p/a"].etag.replace('"', "&quot;")
    one = entry("\n      p/a\n    ", ETag=f"\n      {etag}\n    ", Size="\n   1\n  ", LastModified="\n 2026-01-31\n ")
    s3.quirk = lists(
        lambda _: xml(f"\n  <IsTruncated>\n false\n </IsTruncated>\n  {one}\n", space=' xmlns="urn:other"')
    )
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    assert (tmp_path / "back" / "a").read_bytes() == b"1"


async def test_an_empty_first_page(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    pages = [more(0), more(1), entry("p/a") + "<IsTruncated>false</IsTruncated>"]
    s3 = open_s3(lists(lambda number: xml(pages[number])))
    s3.objects["tryout"]["p/a"] = StoredObject(b"1")
    looks = itertools.cycle(pages)
    s3.quirk = lambda r: (
        xml(next(looks)) if r.method == "GET" and not r.key and r.query.get("max-keys") != "1" else None
    )
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    assert (tmp_path / "back" / "a").read_bytes() == b"1"


async def test_a_server_with_the_old_list_only(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    """It ignores list-type and continuation-token, and does not say where the list goes on."""
    s3 = open_s3()
    s3.objects["tryout"] = {f"p/ü {number}": StoredObject(b"%d" % number) for number in range(5)}

    def old(r: Request) -> Answer | None:
        if r.method != "GET" or r.key:
            return None
        keys = sorted(s3.objects["tryout"], key=str.encode)
        keys = [key for key in keys if key > r.query.get("marker", "")]
        flag = "true" if len(keys) > 2 else "false"
        head = f"<Marker>{r.query.get('marker', '')}</Marker><IsTruncated>{flag}</IsTruncated>"
        return xml(head + "".join(entry(key) for key in keys[:2]))

    s3.quirk = old
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    assert {p.name for p in (tmp_path / "back").iterdir()} == {f"ü {number}" for number in range(5)}


SIZES: dict[str, str | None] = {
    "missing": None,
    "no number": "many",
    "negative": "-5",
    "beyond all bounds": "9" * 30,
    "over 50 TB": str(60 * 1000**4),
}


@pytest.mark.parametrize("size", SIZES)
async def test_an_entry_with_an_odd_size_is_looked_at(open_s3: OpenS3, tmp_path: Path, lane: Any, size: str) -> None:
    s3 = open_s3()
    s3.objects["tryout"] = {f"p/{name}": StoredObject(b"1") for name in "ab"}
    entries = entry("p/a", Size=SIZES[size], LastModified=None, ETag=None) + entry("p/b") + entry("p/gone", Size="?")
    s3.quirk = lists(lambda _: xml(entries + "<Contents><Size>1</Size></Contents>"))
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert {p.name for p in (tmp_path / "back").iterdir()} == {"a", "b"}
    assert {failure.key for failure in report.failures} == {"p/gone", ""}


@pytest.mark.parametrize("length", ["-5", str(60 * 1000**4), "9" * 18, "9" * 30])
async def test_an_object_of_an_impossible_size_is_one_failure(
    open_s3: OpenS3, tmp_path: Path, lane: Any, length: str
) -> None:
    s3 = open_s3()
    s3.objects["tryout"] = {f"p/{name}": StoredObject(b"1") for name in "ab"}
    listing = lists(lambda _: xml(entry("p/a", Size=None) + entry("p/b")))

    def quirk(r: Request) -> Answer | None:
        if r.method == "HEAD" and r.key == "p/a":
            return 200, {"ETag": '"x"', "Content-Length": length}, b""
        return listing(r)

    s3.quirk = quirk
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane, retry=IMPATIENT)
    assert {p.name for p in (tmp_path / "back").iterdir()} == {"b"}
    (failure,) = report.failures
    assert failure.key == "p/a"


async def test_an_endless_answer_is_not_read_to_its_end(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    open_s3(lists(lambda _: (200, {"Content-Length": str(64 << 20)}, b"<ListBucketResult>" + b" " * (64 << 20))))
    with pytest.raises(asyncsink.TransferError, match="longer than"):
        await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane, retry=IMPATIENT)


@pytest.mark.parametrize("body", [b"<a>" * 100_000, b"<!DOCTYPE l [<!ENTITY a 'aa'>]><ListBucketResult/>"])
async def test_a_listing_that_is_a_trap(open_s3: OpenS3, tmp_path: Path, lane: Any, body: bytes) -> None:
    open_s3(lists(lambda _: (200, {}, body)))
    with pytest.raises(asyncsink.TransferError, match="ListObjectsV2"):
        await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane, retry=IMPATIENT)


async def test_an_export_goes_on_where_a_listing_says_too_little(open_s3: OpenS3, tmp_path: Path, lane: Any) -> None:
    s3 = open_s3()
    source = tmp_path / "source"
    source.mkdir()
    for name in "abc":
        (source / name).write_text(name)
    first = await asyncsink.export_directory(source, "s3://tryout/p", journal=False, transport=lane)
    assert not first.failures
    entries = entry("p/a", Size="?") + entry("p/b", Size=None)
    s3.quirk = lists(lambda _: xml(entries))
    again = await asyncsink.export_directory(source, "s3://tryout/p", journal=False, transport=lane)
    assert (len(again.failures), len(again.skips)) == (0, 3)


async def test_a_deep_state_file_costs_nothing(open_s3: OpenS3, tmp_path: Path) -> None:
    s3 = open_s3()
    body = b"x" * (20 << 20)
    s3.objects["tryout"]["p/big"] = StoredObject(body)
    await asyncsink.grab("s3://tryout/p", directory=tmp_path / "once")
    staging = tmp_path / "back" / ".asyncsink-grab"
    staging.mkdir(parents=True)
    import hashlib

    stem = hashlib.sha256(b"big").hexdigest()[:32]
    (staging / f"{stem}.part").write_bytes(body)
    (staging / f"{stem}.state").write_bytes(b"[" * 200_000 + b"\n" + json.dumps({"part": 1}).encode() + b"\n")
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back")
    assert not report.failures
    assert (tmp_path / "back" / "big").read_bytes() == body


@pytest.mark.parametrize(
    ("document", "right"),
    [
        ("<ListPartsResult>{parts}</ListPartsResult>", True),
        ('<ListPartsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{parts}</ListPartsResult>', True),
        ("<ListPartsResult><UploadId>the-upload</UploadId>{parts}</ListPartsResult>", True),
        ("<PartsResult><UploadId>the-upload</UploadId>{parts}</PartsResult>", True),
        ("<ListPartsResult><UploadId>another</UploadId>{parts}</ListPartsResult>", False),
        ("<html>{parts}</html>", False),
        ("<ListBucketResult>{parts}</ListBucketResult>", False),
    ],
)
async def test_a_list_of_parts_may_leave_the_upload_out_and_may_name_no_other(
    open_s3: OpenS3, lane: Any, document: str, right: bool
) -> None:
    parts = "<IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>5</Size></Part>"
    answer = 200, {"Content-Type": "application/xml"}, document.format(parts=parts).encode()
    s3 = open_s3(lambda r: answer if "uploadId" in r.query else None)
    target = S3Target(bucket="tryout", endpoint_url=s3.url)
    async with open_stack(target, IMPATIENT, Limits(), lane=lane) as stack:
        ask = ListParts(key="k", upload_id="the-upload")
        if right:
            (part,) = (await stack.transport.send(ask)).parts
            assert (part.part_number, part.size_bytes, part.etag) == (1, 5, "e")
        else:
            with pytest.raises(ServerFault, match="check that the endpoint is S3"):
                await stack.transport.send(ask)


# -- Empty objects that stand for folders, as several tools make them, are left out and counted; empty files arrive ----


@pytest.mark.parametrize("order", ["S3's", "another"])
@pytest.mark.parametrize("page", [1, 1000])
async def test_placeholders_are_left_out(
    open_s3: Callable[..., QuirkyS3], tmp_path: Path, lane: Any, order: str, page: int
) -> None:
    s3 = open_s3(page=page)
    files = {"p/d/x": b"1", "p/d.txt": b"2", "p/e/f/y": b"3", "p/empty": b"", "p/d/none": b"", "p/real_$folder$": b"4"}
    markers = ["p/d", "p/d/", "p/e", "p/e/f", "p/e_$folder$", "p/"]
    s3.objects["tryout"] = {key: StoredObject(body) for key, body in (files | dict.fromkeys(markers, b"")).items()}
    if order == "another":

        def backwards(r: Any) -> Any:
            if r.method != "GET" or r.key:
                return None
            keys = sorted(s3.objects["tryout"], reverse=True)
            entries = "".join(
                f"<Contents><Key>{key}</Key><Size>{len(s3.objects['tryout'][key].body)}</Size></Contents>"
                for key in keys
            )
            return 200, {}, f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>".encode()

        s3.quirk = backwards
    report = await asyncsink.grab("s3://tryout/p", directory=tmp_path / "back", transport=lane)
    assert not report.failures
    found = {f"p/{p.relative_to(tmp_path / 'back')}": p for p in (tmp_path / "back").rglob("*") if p.is_file()}
    assert {key: path.read_bytes() for key, path in found.items()} == files
    assert {skip.key for skip in report.skips} == set(markers)
