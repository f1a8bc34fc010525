"""Several processes publish one run; several machines publish the shards of one source."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

import asyncsink
from asyncsink.engine.whole_run import run_source
from asyncsink.engine.worker import Worker
from asyncsink.model import Event, Failure, Finished, Notice, Started
from asyncsink.options import parse_options
from asyncsink.report.outcomes import BLOCK_LINES, OutcomeLog
from asyncsink.sources.directory import DirectorySource
from asyncsink.sources.stream import StreamSource

pytestmark = pytest.mark.anyio
Stored = Callable[[], dict[str, bytes]]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the processes that a run starts, too."""
    monkeypatch.setenv("PYTHONWARNINGS", "error")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """300 small files and two that are sent in parts."""
    root = tmp_path / "many"
    for number in range(300):
        path = root / f"sub-{number % 20:02}" / f"file-{number:03} é.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"content {number}".encode() * (number % 7))
    for number in range(2):
        (root / f"large-{number}.nii").write_bytes(os.urandom(MIB) * 17)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def records(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()]


async def test_three_processes_publish_one_run(
    many: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    manifest, copies = tmp_path / "sent.jsonl", tmp_path / "copies"
    events: list[Event] = []
    arguments: dict[str, Any] = {**options, "processes": 3, "manifest": manifest, "local_copy": copies}
    settings = parse_options(f"s3://{bucket}/p", arguments)
    report = await run_source(settings, DirectorySource(many, symlinks="follow"), observe=events.append)
    expected = contents(many)
    assert stored() == {f"p/{name}": content for name, content in expected.items()}
    assert contents(copies) == expected
    assert (report.objects_uploaded, report.objects_total, report.transport) == (302, 302, "wire")
    assert report.bytes_uploaded == sum(map(len, expected.values()))
    assert report.counts.confirmed_by == {"server-checksum": 302}
    assert (report.requests, report.retries, list(report.failures)) == (300 + 2 * 5 + 3, 0, [])
    assert not report.interrupted
    assert [type(event) for event in events if isinstance(event, Started)] == [Started]
    assert len([event for event in events if isinstance(event, Finished)]) == 302
    written = records(manifest)
    assert sorted(record["key"] for record in written[1:-1]) == sorted(f"p/{name}" for name in expected)
    assert (written[0]["record"], written[-1]["record"]) == ("run", "end")
    assert (await asyncsink.verify_manifest(manifest)).ok
    again = await asyncsink.export_directory(many, f"s3://{bucket}/p", **arguments)
    assert (again.objects_uploaded, again.objects_skipped, again.bytes_uploaded) == (0, 302, 0)


async def test_a_local_destination_works_too(many: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    (there / "many").mkdir(parents=True)
    (there / "many/old").write_text("from another run")
    outputs = {"@all": [str(many)]}
    report = await asyncsink.export(outputs, there, processes=2, remove_dest_dir=True)
    assert contents(there / "many") == contents(many)
    assert (report.objects_uploaded, report.transport) == (302, "local")
    assert report.out_file == [str(there / "many")]


def test_inside_a_running_loop_and_without_one(
    many: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    """As in a notebook: the run's loop is in a thread of its own then."""

    async def notebook() -> asyncsink.Report:
        return asyncsink.export_sync({"@all": str(many)}, f"s3://{bucket}", processes=2, **options)

    assert asyncio.run(notebook()).objects_uploaded == 302
    again = asyncsink.export_sync({"@all": str(many)}, f"s3://{bucket}", processes=2, **options)
    assert again.objects_skipped == 302
    assert len(stored()) == 302


async def test_a_file_that_fails_in_a_process_is_in_the_report(
    many: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    gone = many / "sub-07" / "file-007 é.txt"

    def observe(event: Event) -> None:
        if isinstance(event, Started):
            gone.unlink()

    settings = parse_options(f"s3://{bucket}", {**options, "processes": 2})
    report = await run_source(settings, DirectorySource(many, symlinks="follow"), observe=observe)
    (failure,) = report.failures
    assert (failure.source, failure.error, failure.stage) == (str(gone), "SourceMissing", "source")
    assert (report.objects_uploaded, len(stored())) == (301, 301)


async def test_the_last_of_two_sources_wins_over_all_processes(
    many: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        for number in range(40):
            (folder / f"{number}.txt").write_text(folder.name)
    outputs = {"@a": [str(path) for path in sorted(first.iterdir())], "@b": [str(p) for p in sorted(second.iterdir())]}
    with pytest.raises(asyncsink.KeyCollision):
        await asyncsink.export(outputs, f"s3://{bucket}", processes=2, **options)
    assert stored() == {}
    report = await asyncsink.export(outputs, f"s3://{bucket}", processes=2, on_collision="last", **options)
    assert stored() == {f"{number}.txt": b"second" for number in range(40)}
    assert (report.objects_uploaded, report.objects_skipped) == (40, 40)


async def test_shards_are_disjoint_and_together_the_whole(
    many: Path, tmp_path: Path, bucket: str, stored: Stored, options: dict[str, Any]
) -> None:
    published: list[set[str]] = []
    for index in range(3):
        manifest = tmp_path / f"sent-{index}.jsonl"
        report = await asyncsink.export_directory(
            many, f"s3://{bucket}", shard=f"{index}/3", processes=2 if index else 1, manifest=manifest, **options
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
        await asyncsink.export_directory(tmp_path / "tree", tmp_path / "there", shard=(index, 2), processes=2)
        for index in range(2)
    ]
    assert sorted(report.objects_uploaded for report in reports) == [0, 1]
    (empty,) = [report for report in reports if not report.objects_total]
    assert "of the source holds no files" in empty.notices[0]


async def test_processes_that_are_not_needed_end_with_the_run(
    tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Worker] = []
    start = Worker.start

    async def noted(number: int) -> Worker:
        started.append(await start(number))
        return started[-1]

    monkeypatch.setattr(Worker, "start", noted)
    monkeypatch.setattr("asyncsink.engine.processes.available_cores", lambda: 2)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one.txt").write_text("one")
    report = await asyncsink.export_directory(tree, f"s3://{bucket}/p", processes=3, **options)
    assert (report.objects_uploaded, len(started)) == (1, 1)
    (tree / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(asyncsink.SourceError, match="nowhere"):
        await asyncsink.export_directory(tree, f"s3://{bucket}/q", processes=3, **options)
    assert len(started) == 2
    for worker in started:
        assert worker.ending == "was killed by SIGKILL"


async def test_a_stream_has_shards_but_one_process(tmp_path: Path) -> None:
    lines = []
    for number in range(20):
        (tmp_path / f"{number}.txt").write_text("x")
        lines.append(json.dumps({"source": str(tmp_path / f"{number}.txt"), "key": f"{number}.txt"}))
    read, write = os.pipe()
    with os.fdopen(read, "rb") as stream, os.fdopen(write, "wb") as pipe:
        source = StreamSource(stream, symlinks="follow")
        settings = parse_options(tmp_path / "there", {"processes": 2})
        with pytest.raises(asyncsink.ConfigError, match="processes=2 cannot be used here: the source is a stream"):
            await run_source(settings, source)
        pipe.write("\n".join(lines).encode())
        pipe.close()
        settings = parse_options(tmp_path / "there", {"processes": "auto", "shard": "0/2"})
        report = await run_source(settings, source)
    assert 0 < report.objects_uploaded < 20


async def test_async_sink_has_one_process(tmp_path: Path) -> None:
    with pytest.raises(asyncsink.ConfigError, match="an AsyncSink gets its files one by one; use processes=1"):
        asyncsink.AsyncSink(tmp_path, processes=2)
    with pytest.raises(asyncsink.ConfigError, match="an AsyncSink walks nothing"):
        asyncsink.AsyncSink(tmp_path, shard="0/2")
    asyncsink.AsyncSink(tmp_path, processes="auto")


def program(body: str) -> str:
    """A process of a run that differs from a real one by `body`."""
    return f"""
import json, sys
sys.path[:] = json.loads(sys.argv.pop())
from asyncsink import errors
from asyncsink.engine import child, publishing, run
{body}
child.main()
"""


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        ("import sys; sys.exit('no luck today')", asyncsink.ConfigError, "exit code 1: no luck today, before anything"),
        (
            "import sys, os, signal; os.kill(os.getpid(), signal.SIGKILL)",
            asyncsink.ConfigError,
            r"Process 2 of 2 was killed by SIGKILL, before anything was sent; use processes=1",
        ),
        (
            program(
                """
async def refuse(*_):
    raise errors.PermanentError("The bucket is gone.")
run.Opening._open_s3 = refuse
"""
            ),
            asyncsink.PermanentError,
            r"^The bucket is gone\.$",
        ),
    ],
    ids=["exits", "killed", "refuses"],
)
async def test_a_process_that_cannot_begin_refuses_the_run(
    many: Path,
    tmp_path: Path,
    bucket: str,
    stored: Stored,
    options: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setattr("asyncsink.engine.worker._CODE", code)
    manifest = tmp_path / "sent.jsonl"
    manifest.write_text("of the run before\n")
    with pytest.raises(error, match=message):
        await asyncsink.export_directory(many, f"s3://{bucket}", processes=2, manifest=manifest, **options)
    assert stored() == {}
    assert manifest.read_text() == "of the run before\n"


async def test_a_bug_in_a_process_is_a_failure_of_what_it_had(
    many: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that were started die of it, one after another; nothing hangs, and every transfer has an outcome."""
    code = program(
        """
async def fail(*_):
    raise ZeroDivisionError("not-to-be-told")
publishing.Publisher.publish = fail
"""
    )
    monkeypatch.setattr("asyncsink.engine.worker._CODE", code)
    report = await asyncsink.export_directory(many, f"s3://{bucket}", processes=3, **options)
    failures = list(report.failures)
    assert (report.objects_total, report.objects_uploaded) == (302, 302 - len(failures))
    assert len([failure for failure in failures if failure.key.startswith("large-")]) in (1, 2)
    for failure in failures:
        assert isinstance(failure, Failure)
        assert failure.error == "TransferError"
        assert failure.source in failure.message
        assert "its process ended with exit code 1: an unexpected ZeroDivisionError in <string>:8" in failure.message
        assert "not-to-be-told" not in failure.message


async def test_notices_of_processes_are_told_once(
    many: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = program(
        """
open_s3 = run.Opening._open_s3
async def told(self, *rest):
    self.events.notice("Good to know.")
    return await open_s3(self, *rest)
run.Opening._open_s3 = told
"""
    )
    monkeypatch.setattr("asyncsink.engine.worker._CODE", code)
    events: list[Event] = []
    settings = parse_options(f"s3://{bucket}", {**options, "processes": 2})
    report = await run_source(settings, DirectorySource(many, symlinks="follow"), observe=events.append)
    assert report.notices == ("Good to know.",)
    assert events.count(Notice("Good to know.")) == 1


async def test_a_run_whose_outcomes_cannot_be_kept_stops(
    many: Path, tmp_path: Path, bucket: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a process, or in the parent of all."""

    async def refuse(*_: object) -> None:
        raise asyncsink.JournalError("The disk is full.")

    arguments = {**options, "processes": 2, "manifest": tmp_path / "sent.jsonl"}
    with monkeypatch.context() as patch:
        patch.setattr("asyncsink.report.manifest.ManifestWriter.write", refuse)
        with pytest.raises(asyncsink.JournalError, match="The disk is full"):
            await asyncsink.export_directory(many, f"s3://{bucket}", **arguments)
    code = program(
        """
async def refuse(*_):
    raise errors.JournalError("The disk is full.")
child.Child.record = refuse
"""
    )
    monkeypatch.setattr("asyncsink.engine.worker._CODE", code)
    with pytest.raises(asyncsink.JournalError, match="The disk is full"):
        await asyncsink.export_directory(many, f"s3://{bucket}/again", **arguments)


async def test_a_process_that_does_not_answer_is_killed(
    many: Path, options: dict[str, Any], bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled while its processes begin, a run leaves none behind, even where one hangs."""
    before = children()
    monkeypatch.setattr("asyncsink.engine.worker._CODE", "import signal; signal.pause()")
    monkeypatch.setattr("asyncsink.engine.processes.LEAVE_SECONDS", 0.1)
    retry = asyncsink.RetryPolicy(abort_seconds=0.1)
    with anyio.move_on_after(1) as scope:
        await asyncsink.export_directory(many, f"s3://{bucket}", processes=2, retry=retry, **options)
    assert scope.cancelled_caught
    assert children() == before


def children() -> set[str]:
    lists = Path("/proc/self/task").glob("*/children")
    return {child for found in lists for child in found.read_text().split()}


async def test_what_cannot_reach_the_bucket_is_kept_here_by_all(
    many: Path, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    report = await asyncsink.export_directory(
        many, "s3://no-such-bucket-here/p", processes=2, on_unreachable="local", **options
    )
    assert contents(tmp_path / "home/s3_datasink_no-such-bucket-here/p") == contents(many)
    assert (report.objects_uploaded, report.transport, len(report.notices)) == (302, "local", 1)


async def test_a_directory_that_stands_in_has_no_companions_from_anybody(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    headers = [tmp_path / f"{number}.hdr" for number in range(100)]
    for path in headers:
        path.touch()
        path.with_suffix(".img").touch()
    given = {**options, "on_unreachable": "local", "related_files": True, "processes": 2}
    await asyncsink.export({"@f": headers}, "s3://no-such-bucket-here/p", **given)
    there = contents(tmp_path / "home/s3_datasink_no-such-bucket-here/p")
    assert there.keys() == {path.name for path in headers}


async def test_an_observer_that_fails_ends_the_run(many: Path, bucket: str, options: dict[str, Any]) -> None:
    def observe(event: Event) -> None:
        if isinstance(event, Finished):
            raise LookupError("of the caller")  # noqa: TRY004 - any error will do

    before = children()
    settings = parse_options(f"s3://{bucket}", {**options, "processes": 2})
    with pytest.raises(LookupError, match="of the caller"):
        await run_source(settings, DirectorySource(many, symlinks="follow"), observe=observe)
    assert children() == before
