"""One run of small files and large ones, from its options to its report, and what ends it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.model import Event, Finished, Started
from asyncsink.options.parse import parse_options
from asyncsink.report.outcomes import BLOCK_LINES, OutcomeLog
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.records import StreamSource

from .results import contents, records

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
MIB = 1 << 20


@pytest.fixture
def many(many: Path) -> Path:
    """300 small files and two that are sent in parts."""
    for number in range(2):
        (many / f"large-{number}.nii").write_bytes(os.urandom(MIB) * 17)
    return many


async def test_everything_is_published_and_told_once(
    many: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    manifest, copies = tmp_path / "sent.jsonl", tmp_path / "copies"
    events: list[Event] = []
    arguments: dict[str, Any] = {**options, "manifest": manifest, "local_copy": copies}
    settings = parse_options(f"s3://{bucket}/p", arguments)
    report = await run_source(settings, DirectorySource(many, symlinks="follow"), observe=events.append)
    expected = contents(many)
    assert stored() == {f"p/{name}": content for name, content in expected.items()}
    assert contents(copies) == expected
    assert (report.objects_uploaded, report.objects_total, report.transport) == (302, 302, "wire")
    assert report.bytes_uploaded == sum(map(len, expected.values()))
    assert report.counts.confirmed_by == {"server-checksum": 302}
    assert (report.requests, report.retries, list(report.failures)) == (300 + 2 * 5 + 1, 0, [])
    assert not report.interrupted
    assert [type(event) for event in events if isinstance(event, Started)] == [Started]
    assert len([event for event in events if isinstance(event, Finished)]) == 302
    written = records(manifest)
    assert sorted(record["key"] for record in written[1:-1]) == sorted(f"p/{name}" for name in expected)
    assert (written[0]["record"], written[-1]["record"]) == ("run", "end")
    assert (await asyncsink.verify_manifest(manifest)).ok
    again = await asyncsink.export_directory(many, f"s3://{bucket}/p", **arguments)
    assert (again.objects_uploaded, again.objects_skipped, again.bytes_uploaded) == (0, 302, 0)


async def test_a_file_that_fails_is_in_the_report(
    many: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    gone = many / "sub-07" / "file-007 é.txt"

    def observe(event: Event) -> None:
        if isinstance(event, Started):
            gone.unlink()

    settings = parse_options(f"s3://{bucket}", options)
    report = await run_source(settings, DirectorySource(many, symlinks="follow"), observe=observe)
    (failure,) = report.failures
    assert (failure.source, failure.error, failure.stage) == (str(gone), "SourceMissing", "source")
    assert (report.objects_uploaded, len(stored())) == (301, 301)


async def test_a_run_whose_outcomes_cannot_be_kept_stops(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise asyncsink.JournalError("The disk is full.")

    arguments = {**options, "manifest": tmp_path / "sent.jsonl"}
    monkeypatch.setattr("asyncsink.report.manifest.ManifestWriter.write", refuse)
    with pytest.raises(asyncsink.JournalError, match="The disk is full"):
        await asyncsink.export_directory(many, f"s3://{bucket}", **arguments)


async def test_a_directory_that_stands_in_has_no_companions(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    headers = [tmp_path / f"{number}.hdr" for number in range(100)]
    for path in headers:
        path.touch()
        path.with_suffix(".img").touch()
    given = {**options, "on_unreachable": "local", "related_files": True}
    await asyncsink.export({"@f": headers}, "s3://no-such-bucket-here/p", **given)
    there = contents(tmp_path / "home/s3_datasink_no-such-bucket-here/p")
    assert there.keys() == {path.name for path in headers}


async def test_an_observer_that_fails_ends_the_run(many: Path, bucket: str, options: dict[str, Any]) -> None:
    def observe(event: Event) -> None:
        if isinstance(event, Finished):
            raise LookupError("of the caller")  # noqa: TRY004 - any error will do

    settings = parse_options(f"s3://{bucket}", options)
    with pytest.raises(LookupError, match="of the caller"):
        await run_source(settings, DirectorySource(many, symlinks="follow"), observe=observe)


async def test_a_dry_run_sends_nothing_and_says_what_it_would(
    tree: Path, bucket: str, stored: Stored, options: dict[str, Any], tmp_path: Path
) -> None:
    await asyncsink.export_directory(tree, f"s3://{bucket}", **options)
    (tree / "a.txt").write_bytes(b"ALPHA")
    (tree / "new").write_bytes(b"new")
    before = stored()
    settings = parse_options(f"s3://{bucket}", {**options, "local_copy": str(tmp_path / "copy")})
    report = await run_source(settings, DirectorySource(tree, symlinks="follow"), dry_run=True)
    assert {(planned.key, planned.reason) for planned in report.planned} == {
        ("a.txt", "checksum differs"),
        ("new", "not there"),
    }
    assert report.objects_skipped == 4
    assert stored() == before
    assert not (tmp_path / "copy").exists()


# -- Several machines publish the shards of one source -----------------------------------------------------------------


async def test_shards_are_disjoint_and_together_the_whole(
    many: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    published: list[set[str]] = []
    for index in range(3):
        manifest = tmp_path / f"sent-{index}.jsonl"
        report = await asyncsink.export_directory(
            many, f"s3://{bucket}", shard=f"{index}/3", manifest=manifest, **options
        )
        keys = {record["key"] for record in records(manifest)[1:-1]}
        assert len(keys) == report.objects_uploaded == report.objects_total
        published.append(keys)
    expected = contents(many)
    assert set.union(*published) == expected.keys()
    assert sum(map(len, published)) == 302
    assert min(map(len, published)) > 50
    assert stored() == expected
    again = await asyncsink.export_directory(many, f"s3://{bucket}", shard=(1, 3), **options)
    assert (again.objects_uploaded, again.objects_skipped) == (0, len(published[1]))


async def test_out_file_lists_what_the_shard_published(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(10)]
    for path in paths:
        path.write_text("x")
    listed = []
    for index in range(2):
        report = await asyncsink.export({"@f": paths}, tmp_path / "there", shard=(index, 2))
        assert 0 < len(report.out_file) == report.objects_uploaded
        listed += report.out_file
    assert sorted(listed) == [str(tmp_path / "there" / path.name) for path in paths]


async def test_what_is_there_already_is_not_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by a whole run, nor, beyond its first block, by a shard: a million skips would take seconds."""
    source, there, blocks = tmp_path / "source", tmp_path / "there", list[int]()
    source.mkdir()
    for number in range(3 * BLOCK_LINES):
        (source / f"{number}.txt").touch()
    await asyncsink.export_directory(source, there)
    real = OutcomeLog.read
    monkeypatch.setattr(OutcomeLog, "read", lambda self, kind, block: blocks.append(block) or real(self, kind, block))
    for shard, expected in ((None, []), ((0, 2), [0])):
        report = await asyncsink.export_directory(source, there, **({"shard": shard} if shard else {}))
        assert report.objects_skipped > BLOCK_LINES
        assert report.out_file == [str(there)]
        assert blocks == expected


async def test_a_shard_refuses_what_the_whole_would_refuse(tmp_path: Path) -> None:
    """So that no machine sends anything where another one would have to refuse."""
    good = tmp_path / "good.txt"
    good.write_text("x")
    for index in range(2):
        with pytest.raises(asyncsink.SourceMissing):
            await asyncsink.export({"@f": [good, tmp_path / "missing"]}, tmp_path / "there", shard=(index, 2))
    assert not (tmp_path / "there").exists()


async def test_an_empty_shard_says_so(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/only.txt").write_text("x")
    reports = [
        await asyncsink.export_directory(tmp_path / "tree", tmp_path / "there", shard=(index, 2)) for index in range(2)
    ]
    assert sorted(report.objects_uploaded for report in reports) == [0, 1]
    (empty,) = [report for report in reports if not report.objects_total]
    assert "of the source holds no files" in empty.notices[0]


async def test_a_stream_has_shards(tmp_path: Path) -> None:
    lines = []
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("x")
        lines.append(json.dumps({"source": str(tmp_path / f"{number}.txt"), "key": f"{number}.txt"}))
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb") as pipe:
        source = StreamSource(stream, symlinks="follow")
        pipe.write("\n".join(lines).encode())
        pipe.close()
        settings = parse_options(tmp_path / "there", {"shard": "0/2"})
        report = await run_source(settings, source)
    assert 0 < report.objects_uploaded < 20


async def test_a_sink_has_no_shards(tmp_path: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="an AsyncSink walks nothing"):
        asyncsink.AsyncSink(tmp_path, shard="0/2")
