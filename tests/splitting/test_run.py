"""Parts are published: by several runs one after the other and at once, again, moved, and in array jobs."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import anyio
import pytest

import asyncsink
from asyncsink.report.manifest import ManifestHeader, ManifestWriter, read_manifest
from asyncsink.splitting.files import read_plan
from asyncsink.splitting.numbers import numbers_of
from tests.support.files import content_of
from tests.support.holding_proxy import HoldingProxy
from tests.support.quirky_s3 import QuirkyS3, Request, StoredObject

from .parts import keys_of, lines_of

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]


@pytest.fixture
async def parts(cohort: Path, tmp_path: Path, bucket: str) -> Path:
    """The cohort in 4 parts."""
    await asyncsink.split(cohort, f"s3://{bucket}/study", tmp_path / "parts", parts=4)
    return tmp_path / "parts"


def receipts_of(parts: Path, number: int) -> list[dict[str, Any]]:
    return lines_of(parts / f"receipts-{number:05}.jsonl")


def expected(cohort: Path) -> dict[str, bytes]:
    return {f"study/{name}": content for name, content in content_of(cohort).items()}


async def test_all_parts_are_the_whole(parts: Path, cohort: Path, stored: Stored, options: dict[str, Any]) -> None:
    for number in range(4):
        report = await asyncsink.run_part(parts, number, **options)
        assert report.ok
        header, *records, end = receipts_of(parts, number)
        assert header["destination"].endswith("/study")
        assert [record["record"] for record in records] == ["receipt"] * len(keys_of(parts)[number])
        assert sorted(record["key"] for record in records) == keys_of(parts)[number]
        assert (end["record"], end["failures"], end["interrupted"]) == ("end", 0, False)
    assert stored() == expected(cohort)
    assert sorted(path.name for path in parts.iterdir()) == sorted(
        ["split.json", *(f"{kind}-0000{n}.jsonl" for kind in ("part", "receipts") for n in range(4))]
    )


async def test_a_part_asks_for_its_own_range_only_and_a_second_run_asks_nothing_else(
    parts: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    """The reports lie beside the subjects' folders, where the order of this server is not that of the keys."""
    options = {**options, "endpoint_url": proxy.endpoint_url}
    for repeated in (False, True):
        for number, keys in enumerate(keys_of(parts)):
            proxy.forget()
            report = await asyncsink.run_part(parts, number, **options)
            assert (report.objects_uploaded, report.objects_skipped) == ((0, len(keys)) if repeated else (len(keys), 0))
            asked = Counter(proxy.seen)
            assert asked == ({"List": 1} if repeated else {"List": 1, "Put": len(keys)})
            query = parse_qs(proxy.queries[proxy.seen.index("List")])
            (start,) = query.get("start-after", [""])
            (prefix,) = query["prefix"]
            before = [key for part in keys_of(parts) for key in part if key < keys[0]]
            assert all(key.startswith(prefix) and key > start for key in keys)
            # At most what is left of a folder of the part before.
            assert sum(key.startswith(prefix) and key > start for key in before) <= 10


async def test_a_listing_begins_and_ends_with_the_range(
    tmp_path: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    """Of more than a page before the range nothing is listed, and of more than a page behind it no further page."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(300):
        (source / f"a-{number:03}.txt").write_text("x")
    await asyncsink.split(source, f"s3://{bucket}", tmp_path / "parts", parts=3)
    others = tmp_path / "others"
    others.mkdir()
    for first, number in product((0, 2), range(1010)):
        (others / f"a-{first}{number:04}.txt").write_text("of others")
    assert (await asyncsink.export_directory(others, f"s3://{bucket}", **options)).ok
    proxy.forget()
    (middle,) = (number for number, keys in enumerate(keys_of(tmp_path / "parts")) if keys[0] == "a-100.txt")
    report = await asyncsink.run_part(tmp_path / "parts", middle, **options | {"endpoint_url": proxy.endpoint_url})
    assert report.objects_uploaded == 100
    assert Counter(proxy.seen) == {"List": 1, "Put": 100}


async def test_no_file_is_asked_for_twice(
    parts: Path, cohort: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[tuple[str, str]] = Counter()

    def counted(name: str) -> None:
        real = getattr(os, name)

        def call(path: Any, *given: Any, **named: Any) -> Any:
            if isinstance(path, str) and path.endswith((".txt", ".html")):
                asked[name, os.path.basename(path)] += 1
            return real(path, *given, **named)

        monkeypatch.setattr(os, name, call)

    first = await asyncsink.run_part(parts, 0, **options)
    for name in ("open", "stat", "lstat", "access"):
        counted(name)
    second = await asyncsink.run_part(parts, 1, **options)
    assert first.ok
    assert second.objects_uploaded > 40
    total = Counter[str]()
    for (name, _), number in asked.items():
        total[name] += number
    # Each is opened, by one name, and looked at once by its path behind the last byte.
    assert total == {"open": second.objects_uploaded, "stat": second.objects_uploaded}


async def test_a_file_that_changed_since_the_split_is_not_published(
    parts: Path, cohort: Path, stored: Stored, options: dict[str, Any]
) -> None:
    (cohort / "sub-00/file-3.txt").write_text("other")
    same = cohort / "sub-00/file-4.txt"
    before = same.stat()
    same.write_bytes(bytes(before.st_size))
    os.utime(same, ns=(before.st_mtime_ns, before.st_mtime_ns))
    (cohort / "sub-00/file-5.txt").unlink()
    report = await asyncsink.run_part(parts, 0, **options)
    failed = {failure.key.rpartition("/")[2]: failure.error for failure in report.failures}
    assert failed == {"file-3.txt": "SourceChanged", "file-4.txt": "SourceChanged", "file-5.txt": "SourceMissing"}
    assert len(stored()) == len(keys_of(parts)[0]) - 3
    assert receipts_of(parts, 0)[-1]["failures"] == 3


async def test_a_second_attempt_keeps_the_receipts_of_an_interrupted_one(
    parts: Path, bucket: str, options: dict[str, Any], proxy: HoldingProxy
) -> None:
    keys = keys_of(parts)[2]
    options = {**options, "endpoint_url": proxy.endpoint_url}
    with anyio.move_on_after(60) as scope:
        put = 0

        def hold(name: str) -> Any:
            nonlocal put
            put += name == "Put"
            if put > 30:
                scope.cancel()
                return "request"
            return ""

        proxy.hold = hold
        await asyncsink.run_part(parts, 2, **options, concurrency=1)
    assert scope.cancelled_caught
    (left,) = parts.glob("receipts-*")
    assert left.name.startswith("receipts-00002.jsonl.")
    assert left.name.endswith(".partial")
    done = [line for line in lines_of(left) if line["record"] == "receipt"]
    assert 0 < len(done) < len(keys)
    proxy.forget()
    report = await asyncsink.run_part(parts, 2, **options)
    assert report.objects_uploaded < len(keys)
    assert [path.name for path in parts.glob("receipts-*")] == ["receipts-00002.jsonl"]
    records = {line["key"]: line for line in receipts_of(parts, 2)[1:-1]}
    assert sorted(records) == keys
    for line in done:
        assert (records[line["key"]]["record"], records[line["key"]]["confirmed_by"]) == ("skip", line["confirmed_by"])
        assert records[line["key"]]["checksum"] == line["checksum"]
    again = await asyncsink.run_part(parts, 2, **options)
    assert again.objects_skipped == len(keys)
    assert all(line["confirmed_by"] == "server-checksum" for line in receipts_of(parts, 2)[1:-1])


async def test_two_attempts_at_once_harm_nothing(
    parts: Path, cohort: Path, tmp_path: Path, stored: Stored, options: dict[str, Any]
) -> None:
    reports: list[asyncsink.Report] = []

    async def attempt(number: int) -> None:
        reports.append(await asyncsink.run_part(parts, number, **options))

    async with anyio.create_task_group() as group:
        for number in (0, 0, 1, 1, 2, 3):
            group.start_soon(attempt, number)
    assert all(report.ok for report in reports)
    assert stored() == expected(cohort)
    assert not list(parts.glob("*.partial"))
    for number, keys in enumerate(keys_of(parts)):
        files = list(parts.glob(f"receipts-{number:05}.jsonl*"))
        assert parts / f"receipts-{number:05}.jsonl" in files
        proven = {
            line["key"] for path in files for line in lines_of(path)[1:-1] if line["confirmed_by"] == "server-checksum"
        }
        assert sorted(proven) == keys
    merged = await asyncsink.merge_manifests(parts, tmp_path / "study.jsonl")
    assert merged.ok
    records = lines_of(tmp_path / "study.jsonl")[1:-1]
    assert sorted(record["key"] for record in records) == sorted(expected(cohort))
    assert {record["record"] for record in records} == {"receipt"}


async def test_an_attempt_neither_replaces_nor_removes_what_another_one_writes(tmp_path: Path) -> None:
    name, header = tmp_path / "receipts.jsonl", ManifestHeader(destination="/there")
    receipts = [
        asyncsink.Receipt(
            source=f"/{key}", key=key, url="", size_bytes=1, checksum=None, etag=key, version_id="", attempts=1,
            seconds=0.1, local_copy="", confirmed_by="size",
        )
        for key in "abc"
    ]  # fmt: skip
    writers = [ManifestWriter(name, header, attempt=f"attempt{number}") for number in range(3)]
    for writer, receipt in zip(writers, receipts, strict=True):
        await writer.open()
        await writer.write([receipt])
    await writers[0].close(interrupted=False)
    partial = sorted(path.name for path in tmp_path.glob("*.partial"))
    assert partial == [f"receipts.jsonl.attempt{number}.partial" for number in (1, 2)]
    await writers[1].close(interrupted=False)
    await writers[2].close(interrupted=True)
    keys = {path.name: [line.get("key") for line in lines_of(path)[1:-1]] for path in tmp_path.iterdir()}
    assert keys == {
        "receipts.jsonl": ["b"],
        "receipts.jsonl.attempt1": ["a"],
        "receipts.jsonl.attempt2.partial": ["c"],
    }
    last = ManifestWriter(name, header, attempt="attempt3")
    await last.open()
    await last.write(await last.carried([asyncsink.Skip("/b", "b", "", 1, "same", etag="b")]))
    await last.close(interrupted=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "receipts.jsonl",
        "receipts.jsonl.attempt1",
        "receipts.jsonl.attempt2.partial",
    ]
    (skip, _) = list(read_manifest(name).records())
    assert isinstance(skip, asyncsink.Skip)
    assert skip.confirmed_by == "size"


async def test_a_source_that_is_mounted_elsewhere(
    parts: Path, cohort: Path, tmp_path: Path, stored: Stored, options: dict[str, Any]
) -> None:
    everything = expected(cohort)
    (tmp_path / "elsewhere").mkdir()
    cohort.rename(tmp_path / "elsewhere/cohort")
    (tmp_path / "mounted").symlink_to(tmp_path / "elsewhere")
    report = await asyncsink.run_part(parts, 0, **options)
    assert report.objects_failed == len(keys_of(parts)[0])
    roots = {str(cohort): str(tmp_path / "mounted/cohort")}
    for number in range(4):
        assert (await asyncsink.run_part(parts, number, roots=roots, **options)).ok
    assert stored() == everything
    copied = tmp_path / "copied"
    shutil.copytree(tmp_path / "elsewhere/cohort", copied)
    report = await asyncsink.run_part(parts, 0, roots={str(cohort): str(copied)}, overwrite="always", **options)
    assert {failure.error for failure in report.failures} == {"SourceChanged"}


async def test_files_behind_links_are_published_from_where_they_are(
    cohort: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    source = tmp_path / "source"
    (source / "real").mkdir(parents=True)
    (source / "real/a.txt").write_text("a")
    (source / "linked").symlink_to("real")
    await asyncsink.split(source, f"s3://{bucket}", tmp_path / "parts")
    source.rename(tmp_path / "moved")
    report = await asyncsink.run_part(tmp_path / "parts", 0, roots={str(source): str(tmp_path / "moved")}, **options)
    assert report.ok
    assert stored() == {"linked/a.txt": b"a", "real/a.txt": b"a"}


async def test_what_every_object_is_given_was_said_at_the_split(
    cohort: Path, tmp_path: Path, bucket: str, s3: Any, options: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"metadata": {"lab": "one"}, "content_type": "text/x-own", "checksum": "SHA256"}
    await asyncsink.split(cohort, f"s3://{bucket}/study", tmp_path / "parts", **given)
    report = await asyncsink.run_part(tmp_path / "parts", 0, **options)
    head = s3.head_object(Bucket=bucket, Key="study/sub-00.html")
    assert (head["Metadata"]["lab"], head["ContentType"]) == ("one", "text/x-own")
    assert str(report.receipts[0].checksum).startswith("SHA256:")


async def test_a_directory_is_a_destination_too(cohort: Path, tmp_path: Path) -> None:
    await asyncsink.split(cohort, tmp_path / "there", tmp_path / "parts", parts=2)
    for number in range(2):
        assert (await asyncsink.run_part(tmp_path / "parts", number)).ok
    assert content_of(tmp_path / "there") == content_of(cohort)


async def test_no_journal_is_kept_unless_one_is_named(
    parts: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    await asyncsink.run_part(parts, 0, **options)
    assert not (tmp_path / "state").exists()
    await asyncsink.run_part(parts, 1, journal=tmp_path / "journal.sqlite", **options)
    assert (tmp_path / "journal.sqlite").exists()
    assert not list(parts.glob("*.sqlite*"))


async def test_a_listing_in_no_order_does_not_tell_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "example")
    (tmp_path / "source").mkdir()
    for number in range(6):
        (tmp_path / f"source/{number}.txt").write_text(f"content {number}")
    await asyncsink.split(tmp_path / "source", "s3://tryout/p", tmp_path / "parts")
    options: dict[str, Any] = {"region": "us-east-1"}
    with closing(QuirkyS3()) as s3:

        def quirk(request: Request) -> Any:
            """A listing as no S3 has it: the last key first, whatever it is to start after."""
            if request.key or request.query.get("list-type") != "2":
                return None
            whole = {**request.query, "start-after": ""}
            status, headers, body = s3.ordinary(replace(request, query=whole))
            rows = re.findall(rb"<Contents>.*?</Contents>", body)
            return status, headers, body.replace(b"".join(rows), b"".join(reversed(rows)))

        s3.quirk = quirk
        there = {f"p/{number}.txt": StoredObject(f"content {number}".encode()) for number in (1, 4)}
        s3.objects["tryout"].update(there)
        report = await asyncsink.run_part(tmp_path / "parts", 0, endpoint_url=s3.url, **options)
        assert (report.objects_uploaded, report.objects_skipped) == (4, 2)
        assert len(s3.requests("HEAD")) == 4


@pytest.mark.parametrize(
    "end", ['{"record": "end"}', '{"record": "end", "interrupted": false}', '["end"]', "end", "", "\x00" * 5000]
)
def test_receipts_with_a_strange_end_are_of_a_missing_part(tmp_path: Path, end: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a").write_text("a")
    place = tmp_path / "parts"
    anyio.run(asyncsink.split, tmp_path / "source", tmp_path / "target", place)
    (place / "receipts-00000.jsonl").write_text(f'{{"record": "run"}}\n{end}\n')
    assert numbers_of(str(place), read_plan(str(place)), "missing") == [0]
