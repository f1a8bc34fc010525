"""The fault table of S3 and its look-alikes, row by row: what servers and networks do to an export, on both lanes.

Each scenario runs the public API against a real server behind the fault proxy. `Run.published` then asks boto3 for the
bytes, the server for open uploads, and the report for its receipts; and the fault must really have happened.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from asyncsink.testing.toxics import Request
from tests.support.changes import edit, grow, truncate
from tests.support.files import content_of
from tests.support.processes import run

pytestmark = pytest.mark.anyio
Export = Callable[..., Awaitable[Any]]
COMPLETE, PART, PUT = "CompleteMultipartUpload", "UploadPart", "PutObject"
LARGE, MEDIUM, SMALL = "sub/parts.nii.gz", "sub/medium.nii", "small.json"


async def test_200_with_an_error_in_the_body_of_complete(export: Export) -> None:
    run = await export(Rule(s.ErrorIn200(), operation=COMPLETE, times=2))
    run.published()
    assert run.proxy.count(s.ErrorIn200) == run.report.retries == 2


async def test_an_error_in_a_200_although_it_was_committed(export: Export) -> None:
    run = await export(Rule(s.ErrorIn200(committed=True), operation=COMPLETE, times=1))
    run.published()
    assert run.proxy.count(s.ErrorIn200) == 1
    assert run.report.retries >= 1


@pytest.mark.parametrize(
    "toxic",
    [
        s.LostAnswer(),
        t.ResetPeer(10, stream="downstream"),
        t.LimitData(10),
        t.Stall("before_answer"),
        t.Stall("answer"),
    ],
    ids=["swallowed", "reset in it", "cut in it", "stalled before it", "stalled in it"],
)
async def test_complete_is_committed_and_its_answer_lost(export: Export, toxic: t.Toxic, watchful: RetryPolicy) -> None:
    run = await export(Rule(toxic, operation=COMPLETE, times=1), retry=watchful)
    run.published()
    run.repeated(1)
    assert next(status for request, status in run.proxy.answers if request.operation == COMPLETE) == 200


async def test_no_such_upload_after_complete_and_nothing_there_is_a_failure(export: Export) -> None:
    """Nobody claims an object that is not there."""
    run = await export(Rule(s.Status(404, "NoSuchUpload"), operation=COMPLETE))
    run.failed("UploadMissing", LARGE)


@pytest.mark.parametrize("key", [LARGE, MEDIUM, SMALL])
async def test_if_none_match_and_the_answer_is_lost(export: Export, key: str) -> None:
    """The write token tells our own object from another's: the 412 of the second attempt is no conflict."""
    run = await export(Rule(s.LostAnswer(), operation=(PUT, COMPLETE), key=key, times=1), overwrite="never", alone=key)
    run.published()
    run.repeated(1)
    if key != LARGE:
        assert 412 in [status for request, status in run.proxy.answers if request.key == key]


@pytest.mark.parametrize("key", [LARGE, MEDIUM, SMALL])
async def test_if_none_match_and_somebody_else_was_faster(export: Export, s3: Any, bucket: str, key: str) -> None:
    """It stays theirs, and nobody claims it."""
    put = s.Meanwhile(lambda _: s3.put_object(Bucket=bucket, Key=key, Body=b"theirs"))
    run = await export(Rule(put, operation=(PUT, COMPLETE), key=key, times=1), overwrite="never", alone=key)
    run.content = {**run.content, key: b"theirs"}
    assert run.stored() == run.content
    assert run.open_uploads() == []
    [skip] = run.report.skips
    assert (skip.key, skip.size_bytes) == (key, 6)
    assert list(run.report.failures) == []
    assert key not in [receipt.key for receipt in run.report.receipts]


@pytest.mark.parametrize("key", [LARGE, MEDIUM, SMALL])
async def test_409_conditional_request_conflict(export: Export, key: str) -> None:
    """A PUT is sent again; an upload in parts cannot be completed any more, and is begun again (S3 API)."""
    conflict = Rule(s.Status(409, "ConditionalRequestConflict"), operation=(PUT, COMPLETE), key=key, times=1)
    run = await export(conflict, overwrite="never", alone=key)
    run.published()
    assert run.proxy.count() == 1
    assert len(run.proxy.sent("CreateMultipartUpload")) == (2 if key == LARGE else 0)


@pytest.mark.parametrize("operation", [PART, COMPLETE])
async def test_an_upload_that_is_gone_starts_over(export: Export, s3: Any, operation: str) -> None:
    """NoSuchUpload from the server itself: somebody aborted the upload while the last request was on its way."""

    def abort(request: Request) -> None:
        s3.abort_multipart_upload(Bucket=request.bucket, Key=request.key, UploadId=request.upload_id)

    run = await export(Rule(s.Meanwhile(abort), operation=operation, times=1))
    run.published()
    assert len(run.proxy.sent("CreateMultipartUpload")) == 2
    assert 404 in [status for request, status in run.proxy.answers if request.key == LARGE]


async def test_a_part_that_the_server_has_otherwise_is_sent_again(export: Export, s3: Any) -> None:
    """InvalidPart: the parts are listed, and the one that differs is sent again."""

    def spoil(request: Request) -> None:
        of = {"Bucket": request.bucket, "Key": request.key, "UploadId": request.upload_id}
        other = b"spoiled"
        s3.upload_part(**of, PartNumber=2, Body=other, ChecksumCRC64NVME=checksum_of(other, "CRC64NVME").value)

    run = await export(Rule(s.Meanwhile(spoil, s.Status(400, "InvalidPart")), operation=COMPLETE, times=1))
    run.published()
    assert sorted(request.part_number for request in run.proxy.sent(PART)) == [1, 2, 2, 3]
    assert len(run.proxy.sent("CreateMultipartUpload")) == 1


async def test_parts_that_are_refused_although_they_are_right_are_a_failure(export: Export) -> None:
    run = await export(Rule(s.Status(400, "EntityTooSmall"), operation=COMPLETE))
    run.failed("PartsRefused", LARGE)
    assert "raise part_size_bytes" in run.report.failures[0].message


async def test_create_is_committed_and_its_answer_lost(export: Export) -> None:
    """The upload whose id was lost with the answer is found, and ended."""
    run = await export(Rule(s.LostAnswer(), operation="CreateMultipartUpload", times=1))
    run.published()
    run.repeated(1)
    assert [status for request, status in run.proxy.answers if request.operation == "CreateMultipartUpload"] == [
        200
    ] * 2


ON_THE_WAY = {
    "reset before the body": t.ResetPeer(),
    "reset in the body": t.ResetPeer(1_000_000),
    "half-close in the body": t.HalfClose(1_000_000),
    "close in the body": t.LimitData(1_000_000, stream="upstream"),
    "answer lost": s.LostAnswer(),
    "reset in the answer": t.ResetPeer(10, stream="downstream"),
    "close in the answer": t.LimitData(10),
}


@pytest.mark.parametrize("toxic", ON_THE_WAY.values(), ids=ON_THE_WAY)
async def test_reset_or_half_close(export: Export, toxic: t.Toxic) -> None:
    """In mid-part, and for whole objects by each of their ways; the bytes are those of the file again."""
    run = await export(
        Rule(toxic, operation=PART, part_number=2, times=2),
        Rule(toxic, operation=PUT, key=MEDIUM, times=2),
        Rule(toxic, operation=PUT, key=SMALL, times=2),
    )
    run.published()
    run.repeated(6)


@pytest.mark.parametrize("phase", ["continue", "body", "before_answer", "answer"])
async def test_a_stall(export: Export, phase: Any, watchful: RetryPolicy) -> None:
    toxic = t.Stall(phase)
    run = await export(
        Rule(toxic, operation=PART, part_number=1, times=1),
        Rule(toxic, operation=PUT, key=MEDIUM, times=1),
        Rule(toxic, operation=PUT, key=SMALL, times=1),
        Rule(toxic, operation="ListObjectsV2", times=1) if phase != "body" else Rule(toxic, operation=PART, times=1),
        retry=watchful,
    )
    run.published()
    run.repeated(4)


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", COMPLETE])
async def test_a_stall_of_what_begins_and_ends_an_upload(export: Export, operation: str, watchful: RetryPolicy) -> None:
    run = await export(Rule(t.Stall("continue"), operation=operation, times=1), retry=watchful)
    run.published()
    run.repeated(1)


async def test_a_connection_that_is_taken_and_never_served(export: Export, watchful: RetryPolicy) -> None:
    never, not_for_long = Rule(t.Timeout(), operation=PUT, times=2), Rule(t.Timeout(0.01), operation=PART, times=2)
    run = await export(never, not_for_long, retry=watchful)
    run.published()
    run.repeated(4)


BUSY = {
    "503 SlowDown": s.SLOW_DOWN,
    "503 SlowDown at once": s.Status(503, "SlowDown", early=True),
    "500 InternalError": s.INTERNAL_ERROR,
    "429": s.TOO_MANY_REQUESTS,
    "503 without a word": s.Status(503, ""),
    "400 RequestTimeout": s.REQUEST_TIMEOUT,
    "409 ConditionalRequestConflict": s.Status(409, "ConditionalRequestConflict"),
}


@pytest.mark.parametrize("toxic", BUSY.values(), ids=BUSY)
async def test_a_server_that_says_try_again(export: Export, toxic: s.Status) -> None:
    run = await export(
        Rule(toxic, operation=PART, part_number=3, times=2),
        Rule(toxic, operation=PUT, key=MEDIUM, times=2),
        Rule(toxic, operation=PUT, key=SMALL, times=2),
        Rule(toxic, operation=("CreateMultipartUpload", COMPLETE, "ListObjectsV2"), times=3),
    )
    run.published()
    assert run.proxy.count(toxic) == 9
    assert run.report.retries == 9


async def test_retry_after_is_bounded(export: Export) -> None:
    """A server that asks for a day is obeyed for as long as the policy says, not for a day."""
    policy = RetryPolicy(backoff_seconds_base=0.01, backoff_seconds_max=0.02, retry_after_seconds_max=0.05)
    run = await export(Rule(s.Status(503, "SlowDown", retry_after="86400"), operation=PUT, times=2), retry=policy)
    run.published()
    assert run.report.retries == run.proxy.count() == 2


async def test_what_never_ends_is_one_failure_with_its_story(export: Export, patient: RetryPolicy) -> None:
    brief = replace(patient, throttled_seconds=0)
    run = await export(Rule(s.SLOW_DOWN, operation=PART, part_number=2), retry=brief, retries=0, journal=False)
    run.failed("Throttled", LARGE)
    [failure] = run.report.failures
    assert "SlowDown" in failure.message
    assert "tried 8 times" in failure.message
    assert run.proxy.count() == 8
    assert run.report.retries == 7


@pytest.fixture
def provider_of_credentials(seaweed: DevServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Credentials come from a program, which writes a line into this file whenever it is asked."""
    asked, script = tmp_path / "asked", tmp_path / "provide.py"
    script.write_text(
        "import json, os\n"
        f"open({str(asked)!r}, 'a').write('asked\\n')\n"
        f"keys = {{'Version': 1, 'AccessKeyId': {seaweed.access_key_id!r}, 'SecretAccessKey': os.environ['DEV_KEY']}}\n"
        "print(json.dumps(keys))\n"
    )
    config = tmp_path / "config"
    config.write_text(f"[default]\ncredential_process = {sys.executable} {script}\n")
    monkeypatch.setenv("DEV_KEY", seaweed.secret_access_key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    return asked


@pytest.mark.parametrize("operation", [PUT, PART, COMPLETE])
async def test_credentials_that_expire_are_looked_up_again(
    harm: Any, provider_of_credentials: Path, export: Export, operation: str
) -> None:
    run = await export(Rule(s.EXPIRED_TOKEN, operation=operation, times=1))
    run.published()
    assert run.proxy.count() == run.report.retries == 1
    assert len(provider_of_credentials.read_text().splitlines()) >= 2


def signed_at(request: Any) -> float:
    return datetime.strptime(request.head.headers["x-amz-date"] + "+0000", "%Y%m%dT%H%M%SZ%z").timestamp()


@pytest.mark.parametrize("operation", [PUT, PART, "ListObjectsV2"])
async def test_a_clock_that_is_wrong_is_corrected(export: Export, operation: str) -> None:
    skewed = s.Status(403, "RequestTimeTooSkewed", date_offset_seconds=600)
    run = await export(Rule(skewed, operation=operation, times=1))
    run.published()
    assert run.proxy.count() == run.report.retries == 1
    [hit] = run.proxy.hits
    [again] = [r for r in run.proxy.sent(operation, hit.request.key) if r.part_number == hit.request.part_number][1:]
    assert 590 < signed_at(again) - signed_at(hit.request) < 700


@pytest.mark.parametrize("key", [LARGE, MEDIUM, SMALL])
async def test_damage_on_the_way_is_read_and_sent_once_more(export: Export, key: str) -> None:
    run = await export(Rule(s.CorruptBody(), operation=(PUT, PART), key=key, times=1), alone=key)
    run.published()
    assert run.proxy.count(s.CorruptBody) == 1


@pytest.mark.parametrize("key", [LARGE, MEDIUM, SMALL])
async def test_damage_that_does_not_end_is_an_integrity_error(export: Export, key: str) -> None:
    run = await export(Rule(s.CorruptBody(), operation=(PUT, PART), key=key))
    run.failed("IntegrityError", key)


@pytest.mark.parametrize("key", [LARGE, MEDIUM, SMALL])
async def test_damage_that_the_server_does_not_see_is_seen_in_its_answer(export: Export, key: str) -> None:
    """Without a checksum the server stores what came; its ETag tells."""
    run = await export(Rule(s.CorruptBody(), operation=(PUT, PART), key=key, times=1), checksum="none", alone=key)
    run.published()
    assert run.proxy.count(s.CorruptBody) == 1


async def test_spaces_while_parts_are_joined_are_progress(export: Export, patient: RetryPolicy) -> None:
    """Longer altogether than the time in which something must move."""
    watchful = replace(patient, complete_seconds=1.5, attempts=2)
    run = await export(Rule(s.Whitespace(12, 0.2), operation=COMPLETE), retry=watchful)
    run.published()
    assert run.proxy.count(s.Whitespace) == 1
    assert run.report.retries == 0


async def test_a_server_that_ignores_checksums_is_noticed(export: Export) -> None:
    run = await export(Rule(s.DropHeaders("x-amz-checksum-")))
    run.published()
    assert {r.confirmed_by for r in run.report.receipts if r.key != LARGE} == {"etag"}
    assert any("ignores CRC64NVME checksums" in notice for notice in run.report.notices)


async def test_no_body_is_framed_in_a_way_that_a_server_could_store(export: Export) -> None:
    run = await export()
    run.published()
    bodies = [r.head.headers for r in run.proxy.requests if r.operation in (PUT, PART)]
    assert len(bodies) == 6
    for headers in bodies:
        assert "x-amz-checksum-crc64nvme" in headers
        assert "content-length" in headers
        assert not {"transfer-encoding", "content-encoding", "x-amz-trailer", "expect"} & set(headers)


@pytest.mark.parametrize(
    "toxic",
    [t.Latency(0.05, 0.05), t.Bandwidth(20 * MIB), t.Slicer(3), t.SlowClose(0.0), t.Latency(0.1, stream="upstream")],
    ids=["latency", "bandwidth", "slices", "closed after each answer", "latency of requests"],
)
async def test_what_is_only_slow_or_odd_is_no_fault(export: Export, toxic: t.Toxic) -> None:
    run = await export(Rule(toxic))
    run.published()
    assert run.proxy.count(toxic) == len(run.proxy.requests)


# -- The fault table's rows about this side ----------------------------------------------------------------------------


# A full disk under the local copy is in tests/export/test_export_failures.py, where a small file system is mounted.


def replace_file(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [truncate, grow, edit, replace_file, Path.unlink], ids=lambda each: each.__name__)
async def test_a_file_that_changes_while_its_parts_are_sent(
    export: Export, tree: Path, change: Callable[[Path], Any]
) -> None:
    """Nothing appears under its key, its upload is aborted, and the rest of the run goes on."""
    change_it = s.Meanwhile(lambda _: change(tree / LARGE))
    run = await export(Rule(change_it, operation="UploadPart", part_number=2, times=1))
    [failure] = run.report.failures
    run.failed("SourceMissing" if failure.error == "SourceMissing" else "SourceChanged", LARGE)
    assert (failure.error == "SourceMissing") <= (change is Path.unlink)
    assert run.proxy.count(s.Meanwhile) == 1
    assert run.proxy.sent("CompleteMultipartUpload") == []
    assert len(run.proxy.sent("AbortMultipartUpload")) >= 1


async def test_a_refusal_costs_the_object_and_not_its_local_copy(
    export: Export, content: dict[str, bytes], tmp_path: Path
) -> None:
    denied = s.Status(403, "AccessDenied", "No.")
    run = await export(
        Rule(denied, operation="UploadPart", part_number=2),
        Rule(denied, operation="PutObject", key=SMALL),
        Rule(denied, operation="PutObject", key=MEDIUM),
        local_copy=tmp_path / "copy",
        journal=False,
    )
    run.failed("AccessDenied", LARGE, SMALL, MEDIUM)
    assert content_of(tmp_path / "copy") == content
    assert run.report.retries == 0


async def test_a_disk_that_hangs_holds_up_its_own_file_only(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads are in reader threads: everything else is published while one of them does not return."""
    published, hung = threading.Event(), threading.Event()
    preadv = os.preadv

    def reading(descriptor: int, *arguments: Any) -> int:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(MEDIUM):
            hung.set()
            assert published.wait(60), "the loop stood still with the disk"
        return preadv(descriptor, *arguments)

    monkeypatch.setattr(os, "preadv", reading)
    run = await export(Rule(s.Meanwhile(lambda _: published.set()), operation="CompleteMultipartUpload"))
    run.published()
    assert hung.is_set()


@pytest.mark.parametrize("cancels", [1, 2, 5])
async def test_cancelled_more_than_once(
    harm: Any, tree: Path, bucket: str, lane: Any, patient: Any, open_uploads: Callable[[], list[str]], cancels: int
) -> None:
    """The open upload is aborted all the same where that is asked for, and what was published before stays."""
    proxy: FaultProxy = harm(
        Rule(t.Stall("body"), operation="UploadPart"), Rule(t.Latency(0.05), operation="AbortMultipartUpload")
    )
    run = asyncio.create_task(
        asyncsink.export_directory(
            tree,
            f"s3://{bucket}",
            endpoint_url=proxy.endpoint_url,
            transport=lane,
            retry=patient,
            abort_on_interrupt=True,
        )
    )
    await asyncio.to_thread(proxy.wait_for_hits)
    assert open_uploads() == [LARGE]
    for _ in range(cancels):
        run.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await run
    assert open_uploads() == []
    assert proxy.count(t.Latency) >= 1


@pytest.mark.parametrize("phase", ["continue", "body", "before_answer"])
def test_killed_in_the_middle_of_a_part(
    harm: Any, tree: Path, content: dict[str, bytes], tmp_path: Path, bucket: str, stored: Any, phase: Any,
    open_uploads: Callable[[], list[str]],
) -> None:  # fmt: skip
    """SIGKILL: the next run with the journal goes on with the parts that the server has, and ends the upload.

    Whether the journal had them already does not matter: part 2 may have been answered a moment before, and part 3
    has been committed where its answer is what does not come.
    """
    proxy: FaultProxy = harm(Rule(t.Stall(phase), operation="UploadPart", part_number=3))
    command = [sys.executable, "-m", "asyncsink.cli.main", "export", str(tree), f"s3://{bucket}", "--json", "--quiet"]
    command += ["--journal", str(tmp_path / "journal"), "--part-size", "5MiB", "--concurrency", "1"]
    command += ["--endpoint-url", proxy.endpoint_url]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        proxy.wait_for_hits()
    finally:
        killed.kill()
        killed.wait()
    assert open_uploads() == [LARGE]
    proxy.rules = ()
    ended = subprocess.run(command, capture_output=True, check=False, text=True, timeout=100)
    assert (ended.returncode, stored(), open_uploads()) == (0, content, [])
    assert [request.part_number for request in proxy.sent("UploadPart")] == [1, 2, 3] + [3] * (phase != "before_answer")
    assert len(proxy.sent("CreateMultipartUpload")) == len(proxy.sent("CompleteMultipartUpload")) == 1


def test_descriptors_run_out(harm: Any, tmp_path: Path, stored: Callable[[], dict[str, bytes]], bucket: str) -> None:
    """Far fewer descriptors than there are requests in flight: the run goes on with those that there are."""
    files = {f"{number:03}": str(number).encode() * 100 for number in range(300)}
    source = tmp_path / "source"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    command = [sys.executable, "-m", "asyncsink.cli.main", "export", str(source), f"s3://{bucket}", "--json"]
    few = (40, 40)  # the command raises a soft limit
    ended = run(
        [*command, "--concurrency", "64", "--endpoint-url", harm(Rule(t.Latency(0.02))).endpoint_url],
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["objects_uploaded"] == 300
    assert stored() == files
