"""The examples of the guide's page extending.md do what it says, and pass the suites."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from tests.support.guide import example

pytestmark = pytest.mark.anyio

transport = example("extending.md", "A transport around asyncsink's")
server = transport.server
TestQuota = transport.TestQuota
destination = example("extending.md", "A destination of your own")
TestSqliteArchive = destination.TestSqliteArchive
source = example("extending.md", "A source of your own")
TestStudyFiles = source.TestStudyFiles


async def test_an_export_within_a_quota(tree: Path, bucket: str, options: dict[str, Any]) -> None:
    report, sent = await transport.export_within_quota({"x": tree}, f"s3://{bucket}/p", **options)
    assert report.ok
    assert report.objects_uploaded == 5
    assert (sent["PutObject"], sent["UploadPart"], sum(sent.values())) == (4, 3, report.requests)


def content_of(archive: Path) -> dict[str, bytes]:
    """The objects of an archive; none is unfinished."""
    connection = sqlite3.connect(archive)
    try:
        assert connection.execute("SELECT count(*) FROM unfinished").fetchone() == (0,)
        return dict(connection.execute("SELECT key, data FROM objects"))
    finally:
        connection.close()


async def test_an_archive_of_outputs_and_the_same_again(tree: Path, many: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive.sqlite"
    outputs = {"x": str(tree), "y": str(many)}
    report = await destination.archive(outputs, archive, container="sub001")
    assert (report.ok, report.objects_uploaded, report.transport) == (True, 305, "own")
    files = [path for root in (tree, many) for path in root.rglob("*") if path.is_file()]
    found = content_of(archive)
    assert sorted(found.values()) == sorted(path.read_bytes() for path in files)
    assert found["sub001/x/tree/sub/large.nii.gz"] == (tree / "sub/large.nii.gz").read_bytes()
    assert report.out_file == [f"sqlite:{archive}/sub001/x/tree", f"sqlite:{archive}/sub001/y/many"]
    (tree / "a.txt").write_text("changed")
    again = await destination.archive(outputs, archive, container="sub001")
    assert (again.ok, again.objects_uploaded, again.objects_skipped) == (True, 1, 304)
    assert content_of(archive)["sub001/x/tree/a.txt"] == b"changed"


async def test_an_archive_that_cannot_be_made(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="cannot be opened"):
        await destination.archive({"x": str(tree)}, tmp_path / "no folder" / "archive.sqlite")


async def test_a_study_of_a_database(
    tree: Path, bucket: str, stored: Callable[[], dict[str, bytes]], options: dict[str, Any], tmp_path: Path
) -> None:
    database = tmp_path / "lab.db"
    connection = sqlite3.connect(database)
    connection.execute("CREATE TABLE files (study, path, key)")
    rows = [
        ("one", str(tree / "a.txt"), "sub-01/a.txt"),
        ("one", str(tree / "sub/large.nii.gz"), "sub-01/anat/T1w.nii.gz"),
        ("other", str(tree / "empty"), "sub-02/empty"),
        ("holes", str(tree / "empty"), "sub-03/empty"),
        ("holes", str(tree / "gone"), "sub-03/gone"),
        ("twice", str(tree / "empty"), "same"),
        ("twice", str(tree / "a.txt"), "same"),
    ]
    connection.executemany("INSERT INTO files VALUES (?, ?, ?)", rows)
    connection.commit()
    connection.close()
    place = f"s3://{bucket}/p"
    report = await source.export_study(database, "one", place, **options)
    assert (report.ok, report.objects_uploaded) == (True, 2)
    large = (tree / "sub/large.nii.gz").read_bytes()
    assert stored() == {"p/sub-01/a.txt": b"alpha", "p/sub-01/anat/T1w.nii.gz": large}
    with pytest.raises(asyncsink.SourceError, match="of study holes is not there"):
        await source.export_study(database, "holes", place, **options)
    with pytest.raises(asyncsink.KeyCollision):
        await source.export_study(database, "twice", place, **options)
    with pytest.raises(asyncsink.ConfigError, match="cannot be opened"):
        await source.export_study(tmp_path / "no.db", "one", place, **options)
    assert len(stored()) == 2
    skipped = await source.export_study(database, "holes", place, on_missing="skip", **options)
    assert (skipped.objects_uploaded, skipped.objects_skipped) == (1, 1)


async def test_an_archive_of_content_without_files(tmp_path: Path) -> None:
    archive, body = tmp_path / "archive.sqlite", bytes(range(256)) * 80_000

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 1_000_003):
            yield body[start : start + 1_000_003]

    async def broken() -> AsyncIterator[bytes]:
        yield body
        raise LookupError("the client went away")

    async with asyncsink.AsyncSink(destination=destination.SqliteArchive(archive)) as sink:
        receipt = await sink.put_stream("raw/scan.dcm", pieces())
        await sink.put_bytes("qc/summary.json", b"{}", content_type="application/json")
        with pytest.raises(asyncsink.SourceError, match="the client went away"):
            await sink.put_stream("raw/other.dcm", broken())
        async with sink.open("log.txt") as writer:
            await writer.write(b"done")
    assert (receipt.size_bytes, receipt.confirmed_by) == (len(body), "server-checksum")
    assert content_of(archive) == {"raw/scan.dcm": body, "qc/summary.json": b"{}", "log.txt": b"done"}
