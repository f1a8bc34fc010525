"""The fault table's rows about this side: files that change, disks that hang, descriptors that run out, Ctrl-C twice.

A full disk under the local copy is in tests/export/test_export_failures.py, where a small file system is mounted.
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
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.testing import s3_toxics as s
from asyncsink.testing import toxics as t
from asyncsink.testing.fault_proxy import FaultProxy, Rule
from tests.support.files import content_of

pytestmark = pytest.mark.anyio
Export = Callable[..., Awaitable[Any]]
LARGE, MEDIUM, SMALL = "sub/parts.nii.gz", "sub/medium.nii", "small.json"


def truncate(path: Path) -> None:
    os.truncate(path, 1000)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def edit(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").replace(path)


@pytest.mark.parametrize("change", [truncate, grow, edit, replace, Path.unlink], ids=lambda change: change.__name__)
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
    ended = subprocess.run(
        [*command, "--concurrency", "64", "--endpoint-url", harm(Rule(t.Latency(0.02))).endpoint_url],
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, few),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["objects_uploaded"] == 300
    assert stored() == files
