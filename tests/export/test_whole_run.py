"""One run of small files and large ones, from its options to its report, and what ends it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.engine.export import run_source
from asyncsink.model import Event, Finished, Started
from asyncsink.options.parse import parse_options
from asyncsink.sources.directory import DirectorySource

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
