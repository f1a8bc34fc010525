"""Few open files: a run takes as many transfers at a time as it has descriptors for, or is refused before it begins."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncsink.engine.limits import descriptors
from asyncsink.engine.limits.descriptors import (
    BESIDE,
    PER_FILE,
    PER_READER,
    PER_REQUEST,
    PER_SENDER,
    PER_TRANSFER,
    SETTLE_SECONDS,
    Account,
    Share,
    fitted,
)
from asyncsink.errors import ConfigError
from asyncsink.options.schema import Limits
from tests.support.files import content_of
from tests.support.processes import run
from tests.support.quirky_s3 import Answer, QuirkyS3, Request, StoredObject, quirky_s3
from tests.support.requests import until

pytestmark = pytest.mark.anyio

MIB = 1 << 20
LARGE_BYTES = 128 * MIB
COMMAND = (sys.executable, "-m", "asyncsink.cli.main")
FEWEST = BESIDE + PER_READER + PER_TRANSFER


@given(free=st.integers(FEWEST, 9000), fixed=st.none() | st.integers(1, 1024), readers=st.integers(1, 64))
def test_what_is_taken_fits(free: int, fixed: int | None, readers: int) -> None:
    asked = Limits(
        concurrency=fixed, concurrency_start=fixed or 64, concurrency_max=fixed or 1024, reader_threads=readers
    )
    limits = fitted(asked, free, free)
    taken = BESIDE + limits.reader_threads * PER_READER + limits.concurrency_max * PER_REQUEST
    taken += limits.workers * PER_FILE + limits.parts_held * PER_SENDER
    assert taken <= free
    assert limits.concurrency_max == asked.concurrency_max or taken > free - PER_TRANSFER, "no fewer than fit"
    assert 1 <= limits.reader_threads <= readers
    assert 1 <= limits.concurrency_start <= limits.concurrency_max <= asked.concurrency_max
    assert limits.concurrency is None or limits.concurrency == limits.concurrency_max
    assert limits.memory_bytes == asked.memory_bytes


@pytest.mark.parametrize("free", [-5, 0, FEWEST - 1])
def test_too_few_are_refused(free: int) -> None:
    with pytest.raises(ConfigError, match=r"may have 20 open files.*ulimit -n.*Nothing was sent\."):
        fitted(Limits(), free, 20)


@pytest.mark.parametrize(
    ("most", "requests", "workers"), [(256, 24, 24), (1024, 300, 128), (4096, 1024, 128), (8192, 1024, 128)]
)
def test_the_usual_limits_of_systems(most: int, requests: int, workers: int) -> None:
    """256 on macOS, 1,024 on Linux, and what the command asks for: from 3,000 on, nothing is lowered."""
    asked = Limits()
    limits = fitted(asked, most - 20, most)
    assert requests <= limits.concurrency_max <= 1.1 * requests
    assert workers <= limits.workers <= 1.1 * workers
    assert limits.concurrency_start == min(64, limits.concurrency_max)
    assert limits.reader_threads == asked.reader_threads
    assert (limits is asked) == (limits.concurrency_max == asked.concurrency_max)


async def settled(*shares: Share) -> None:
    """Wait until every share has what it is to have: each look at the others comes by a timer."""
    before: list[int] = []
    while before != [share.allowed for share in shares]:
        before = [share.allowed for share in shares]
        await asyncio.sleep(2 * SETTLE_SECONDS)


async def test_what_this_process_has_open_counts() -> None:
    few = (await Account(lambda: 1024, lambda: 10).open(Limits())).limits
    fewer = (await Account(lambda: 1024, lambda: 80).open(Limits())).limits
    assert few.concurrency_max - fewer.concurrency_max == 70 // PER_REQUEST
    assert replace(fewer, concurrency_max=1024) == Limits()


async def test_shares_are_even_when_others_open_and_grow_when_they_close() -> None:
    account = Account(lambda: 256, lambda: 10)
    first = await account.open(Limits())
    alone = first.allowed
    assert alone == first.limits.concurrency_max == fitted(Limits(), 246, 256).concurrency_max
    second = await account.open(Limits())
    third = await account.open(Limits(concurrency=2, concurrency_start=2, concurrency_max=2))
    await settled(first, second, third)
    assert (first.allowed, third.allowed) == (second.allowed, 2)
    assert sum(share.held() for share in (first, second, third)) <= 246
    second.close()
    third.close()
    await settled(first)
    assert first.allowed == alone


async def test_what_is_under_way_is_waited_for_before_another_gets_it() -> None:
    account = Account(lambda: 100, lambda: 10)
    first = await account.open(Limits())
    requests, bounds = first.allowed, list[int]()
    first.govern(bounds.append, lambda: requests)
    for _ in range(first.allowed):
        await first.turn()
    opening = asyncio.create_task(account.open(Limits()))
    await asyncio.sleep(3 * SETTLE_SECONDS)
    assert not opening.done()  # all that there is, is in use
    assert bounds[-1] < bounds[0]  # and no new request begins beyond the even share
    waiting = asyncio.create_task(first.turn())
    requests = first.allowed
    for _ in range(first.busy - first.allowed):
        first.over()
    second = await opening
    await settled(first, second)
    assert first.held() + second.held() <= 90
    assert second.allowed == first.allowed
    assert not waiting.done()
    second.close()
    await waiting
    assert first.busy == first.allowed or first.busy < first.limits.concurrency_max


async def test_one_more_than_fits_is_refused_and_one_that_waits_can_be_cancelled() -> None:
    account = Account(lambda: 80, lambda: 10)
    first = await account.open(Limits())
    for _ in range(first.allowed):
        await first.turn()
    requests = first.allowed
    first.govern(lambda _: None, lambda: requests)
    waiting = asyncio.create_task(account.open(Limits()))
    await asyncio.sleep(SETTLE_SECONDS)
    with pytest.raises(ConfigError, match=r"beside the 2 that run in it already.*ulimit -n"):
        await account.open(Limits())
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await settled(first)
    assert first.allowed == first.limits.concurrency_max


async def test_a_share_without_transfers_is_lent_to_those_that_have_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "IDLE_SECONDS", 2 * SETTLE_SECONDS)
    account = Account(lambda: 256, lambda: 10)
    first, second, third = [await account.open(Limits()) for _ in range(3)]
    for share in (first, third):
        await share.turn()
    third.govern(lambda _: None, lambda: 1)  # a request that belongs to no transfer
    third.over()
    await until(lambda: second.resting)
    await settled(first, second, third)
    assert (first.allowed, second.allowed, third.resting) == (third.allowed, 1, False)
    lent = first.allowed
    # One transfer more disturbs nobody.
    await second.turn()
    second.over()
    await settled(first, second, third)
    assert (first.allowed, second.allowed) == (lent, 1)
    # Two at a time, and one that lasts, have the even part again; the first one is still in use.
    turns = [asyncio.create_task(second.turn()) for _ in range(3)]
    await asyncio.gather(*turns)
    assert not second.resting
    assert first.allowed < lent
    await settled(first, second, third)
    assert first.allowed == second.allowed == third.allowed
    for _ in turns:
        second.over()
    await until(lambda: second.resting and first.allowed == lent)
    await second.turn()
    await until(lambda: second.allowed == first.allowed < lent)
    first.over()
    second.over()
    third.close()
    second.close()
    await until(lambda: first.allowed == first.limits.concurrency_max)


async def test_requests_without_transfers_end_the_rest_of_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader has none: its requests are bounded by tokens alone."""
    monkeypatch.setattr(descriptors, "IDLE_SECONDS", 2 * SETTLE_SECONDS)
    account = Account(lambda: 256, lambda: 10)
    reader, other = [await account.open(Limits()) for _ in range(2)]
    requests = 0
    reader.govern(lambda _: None, lambda: requests)
    await other.turn()
    other.over()
    await other.turn()
    await until(lambda: reader.resting)
    lent = other.allowed
    requests = 1
    reader.working()
    await until(lambda: reader.allowed == other.allowed < lent)
    requests = 0
    await until(lambda: reader.resting and other.allowed == lent)


async def test_shares_grow_again_although_the_loop_of_the_next_look_has_ended() -> None:
    """Threads with event loops of their own (`export_sync`) share the account."""
    account = Account(lambda: 100, lambda: 10)
    first = await account.open(Limits())
    first.govern(lambda _: None, lambda: first.busy)
    for _ in range(first.allowed):
        await first.turn()

    def impatient() -> None:
        async def waits() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(account.open(Limits()), 2 * SETTLE_SECONDS)

        asyncio.run(waits())

    await asyncio.to_thread(impatient)
    opening = asyncio.create_task(account.open(Limits()))
    await asyncio.sleep(0)
    for _ in range(first.busy):
        first.over()
    second = await opening
    await settled(first, second)
    assert first.allowed == second.allowed


SINKS = """
import asyncio, sys, asyncsink
async def one(bucket, number, small, large):
    async with asyncsink.AsyncSink(f"s3://{bucket}/{number}", journal=False) as sink:
        async with asyncio.TaskGroup() as group:
            group.create_task(sink.put("large", large))
            for path in small:
                group.create_task(sink.put("small", path))
    return sink.report
async def main(bucket, large, *small):
    reports = await asyncio.gather(*(one(bucket, number, small, large) for number in range(3)))
    print(sum(len(report.receipts) for report in reports), sum(len(report.failures) for report in reports))
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def distant() -> Iterator[QuirkyS3]:
    """A server whose answers take their time, so that many requests are in flight. It forgets what parts hold."""
    digests: dict[str, dict[int, bytes]] = {}

    def checksums(r: Request) -> dict[str, str]:
        return {name: value for name, value in r.headers.items() if name.startswith("x-amz-checksum-")}

    def late(r: Request) -> Answer | None:
        if not r.key:
            return None
        threading.Event().wait(0.1)
        upload_id, stored = r.query.get("uploadId", ""), server.objects["tryout"].get(r.key)
        if r.method == "PUT" and upload_id:
            digest = hashlib.md5(r.body)
            digests.setdefault(upload_id, {})[int(r.query["partNumber"])] = digest.digest()
            return 200, {"ETag": f'"{digest.hexdigest()}"', **checksums(r)}, b""
        if r.method == "POST" and upload_id:
            parts = digests[upload_id]
            etag = f"{hashlib.md5(b''.join(parts[number] for number in sorted(parts))).hexdigest()}-{len(parts)}"
            kept = server.uploads[upload_id]["headers"] | checksums(r)
            server.objects["tryout"][r.key] = StoredObject(b"", kept, f'"{etag}"')
            document = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag></CompleteMultipartUploadResult>"
            return 200, {"Content-Type": "application/xml"}, document.encode()
        if r.method == "HEAD" and stored is not None and r.key.endswith("large.bin"):
            modified = formatdate(stored.modified, usegmt=True)
            told = {"ETag": stored.etag, "Last-Modified": modified, "Content-Length": str(LARGE_BYTES)}
            return 200, stored.headers | told, b""
        return None

    with quirky_s3(late) as server:
        yield server


def limited_here(
    server: QuirkyS3, most: int, home: Path, *arguments: object, hard: int | None = None
) -> subprocess.CompletedProcess[str]:
    return limited(server.environment(home), most, *arguments, hard=hard)


def test_three_sinks_of_one_process_share_the_limit(tmp_path: Path, distant: QuirkyS3) -> None:
    small = [tmp_path / f"{number}.bin" for number in range(240)]
    for path in small:
        path.write_bytes(bytes(1000))
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)
    ended = limited_here(distant, 256, tmp_path, sys.executable, "-c", SINKS, "tryout", large, *small)
    assert (ended.stdout, ended.returncode) == (f"{3 * 241} 0\n", 0), ended.stderr[-2000:]
    assert len(distant.objects["tryout"]) == 3 * 241


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize(("most", "large"), [pytest.param(128, True, marks=pytest.mark.long), (96, True), (48, False)])
def test_a_grab_ends_well_with_few(lane: str, most: int, large: bool, tmp_path: Path, distant: QuirkyS3) -> None:
    body = bytes(21 * MIB) if large else b"small"
    # One body, however many keys: the server need not hold it more than once.
    distant.objects["tryout"] = {f"{number}": StoredObject(body) for number in range(10 if large else 150)}
    target = tmp_path / "grabbed"
    options = ("--transport", lane, "--part-size", "5MiB", "--json")
    ended = limited_here(distant, most, tmp_path, *COMMAND, "grab", "s3://tryout", target, *options)
    assert (ended.returncode, json.loads(ended.stdout)["failures"]) == (0, []), ended.stderr
    assert "few open files" in ended.stderr
    assert {path.name for path in target.iterdir()} == set(distant.objects["tryout"])


LIBRARY = """
import asyncio, asyncsink, resource, sys
report = asyncio.run(asyncsink.export_directory(sys.argv[1], "s3://tryout", overwrite="always", journal=False))
print(len(report.receipts), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


def test_the_command_raises_a_soft_limit_and_the_library_does_not(tmp_path: Path, distant: QuirkyS3) -> None:
    """A system's soft limit is low for the sake of old programs; a process that embeds the library has its own mind."""
    source = tmp_path / "source"
    source.mkdir()
    for number in range(60):
        (source / f"{number}").write_bytes(bytes(1000))
    command = (*COMMAND, "export", source, "s3://tryout", "--json")
    raised = limited_here(distant, 64, tmp_path, *command, hard=4096)
    assert (raised.returncode, json.loads(raised.stdout)["objects_uploaded"]) == (0, 60), raised.stderr
    assert "few open files" not in raised.stderr
    lowered = limited_here(distant, 64, tmp_path, *command, "--overwrite", "always", hard=70)
    assert (lowered.returncode, json.loads(lowered.stdout)["objects_uploaded"]) == (0, 60), lowered.stderr
    assert "few open files" in lowered.stderr
    left = limited_here(distant, 64, tmp_path, sys.executable, "-c", LIBRARY, source, hard=4096)
    assert left.stdout == "60 64\n", left.stderr


def test_a_check_ends_well_with_few(tmp_path: Path, distant: QuirkyS3) -> None:
    source, manifest = tmp_path / "source", tmp_path / "m.jsonl"
    source.mkdir()
    for number in range(120):
        (source / f"{number}").write_bytes(bytes(1000))
    sent = limited_here(distant, 1000, tmp_path, *COMMAND, "export", source, "s3://tryout", "--manifest", manifest)
    assert sent.returncode == 0, sent.stderr
    ended = limited_here(distant, 40, tmp_path, *COMMAND, "verify", manifest, "--read-back")
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("most", [30, 14])
def test_a_grab_with_too_few_is_refused_in_one_sentence(most: int, tmp_path: Path, seaweed: Any, bucket: str) -> None:
    environment = {**os.environ, **seaweed.environment}
    ended = limited(environment, most, *COMMAND, "grab", f"s3://{bucket}", tmp_path / "grabbed")
    assert ended.returncode in (1, 2)
    assert "ulimit -n" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert not (tmp_path / "grabbed").exists()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Many small files, some for threads of their own, and two in parts."""
    folder = tmp_path / "source"
    folder.mkdir()
    for number in range(200):
        (folder / f"small-{number}.txt").write_bytes(os.urandom(2000))
    for number in range(6):
        (folder / f"whole-{number}.bin").write_bytes(os.urandom(MIB + 5))
    for number in range(2):
        (folder / f"parts-{number}.bin").write_bytes(os.urandom(16 * MIB))
    return folder


def limited(
    environment: dict[str, str], most: int, *arguments: object, hard: int | None = None
) -> subprocess.CompletedProcess[str]:
    """A program in a process that may have `most` open files, and may raise that to `hard`."""

    def lower() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard or most))

    return run(list(map(str, arguments)), env=environment, preexec_fn=lower, timeout=100)


def export(seaweed: Any, most: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The command in a process that may have `most` open files."""
    return limited({**os.environ, **seaweed.environment}, most, *COMMAND, "export", *arguments, "--json")


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("most", [pytest.param(128, marks=pytest.mark.long), 48])
def test_a_run_ends_well_with_few(
    lane: str, most: int, root: Path, tmp_path: Path, seaweed: Any, bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    copies = tmp_path / "copies"
    ended = export(seaweed, most, root, f"s3://{bucket}", "--transport", lane, "--local-copy", copies)
    assert (ended.returncode, json.loads(ended.stdout)["failures"]) == (0, [])
    assert "few open files" in ended.stderr
    assert "at a time at most" in ended.stderr
    assert stored() == content_of(root) == content_of(copies)


@pytest.mark.parametrize("most", [30, 12])
def test_a_run_with_too_few_is_refused_in_one_sentence(
    most: int, root: Path, seaweed: Any, bucket: str, stored: Callable[[], dict[str, bytes]]
) -> None:
    ended = export(seaweed, most, root, f"s3://{bucket}")
    assert ended.returncode == 2
    assert ended.stderr.startswith("asyncsink: error: ")
    assert "ulimit -n" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert stored() == {}
