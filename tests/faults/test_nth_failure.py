"""Any one request of a run fails, in every way that a request can fail: nothing is wrong, nothing is lost, nothing is
claimed that is not so, and the run after it completes everything.

The loop counts the requests of a run, and then does the run anew for each of them and each fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import random
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.devserver.seaweedfs import DevServer
from asyncsink.errors import AsyncSinkError
from asyncsink.integrity.checksums import checksum_of
from asyncsink.options import parse
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.testing.faulty_transport import Choose, Fault, Faults, nth_request

pytestmark = pytest.mark.anyio
FAULTS: tuple[tuple[Fault, bool, Fault | None], ...] = (
    ("fail", False, None),
    ("fail", True, None),
    ("refuse", True, None),
    ("deny", True, None),
    ("lose", False, None),
    ("lose", True, None),
    ("stall", False, None),
    ("refuse", True, "fail"),
    ("fail", True, "refuse"),
    ("lose", True, "lose"),
)
"""Each with whether it is for good: then every attempt fails alike; and what else every abort meets that follows."""
RETRY = RetryPolicy(
    attempts=2,
    backoff_seconds_base=0.001,
    backoff_seconds_max=0.002,
    stall_seconds=20.0,
    complete_seconds=20.0,
    abort_seconds=20.0,
)
"""Retries at once. A server on a busy machine is waited for: every failure is on purpose."""

dice = random.Random(5)
FRESH = {
    "known.json": dice.randbytes(300),  # the journal has it
    "listed.json": dice.randbytes(200),  # the bucket has it, as its listing tells
    "looked-at.bin": dice.randbytes(100),  # likewise, with an ETag that says nothing: it is looked at closely
    "empty": b"",
    "small.json": dice.randbytes(1000),
    "sub/é✓.json": dice.randbytes(2000),
    "medium.nii": dice.randbytes(MIB + 1),  # whole, by one hop to a thread
    "sub/parts.nii": dice.randbytes(5 * MIB + 1),  # in two parts
}
LEFT = {
    "known.json": FRESH["known.json"],
    # What earlier runs left open, each in another state:
    "left/open.nii": dice.randbytes(5 * MIB + 1),  # with the first of its two parts
    "left/changed.nii": dice.randbytes(MIB + 1),
    "left/completing.nii": dice.randbytes(MIB + 2),
    "left/creating.nii": dice.randbytes(MIB + 3),
    "left/small.nii": dice.randbytes(MIB + 4),
}
SMALL_NOW = b"small now"
THREAD_ENDS_SECONDS = 10.0
THRESHOLDS_BYTES = {id(FRESH): 5 * MIB, id(LEFT): MIB + 1}
"""From here on in parts; a part that is alone may be small, which spares most of the time."""


@dataclass
class World:
    """A tree, what an earlier run left of it in a bucket below a prefix of its own, and the means to look at it all."""

    content: dict[str, bytes]
    place: Path
    bucket: str
    s3: Any
    patch: pytest.MonkeyPatch
    options: dict[str, Any]
    copies: bool
    number: Iterator[int] = field(default_factory=itertools.count)
    prefix: str = ""

    def __post_init__(self) -> None:
        for name, data in self.content.items():
            (self.tree / name).parent.mkdir(parents=True, exist_ok=True)
            (self.tree / name).write_bytes(data)

    @property
    def tree(self) -> Path:
        return self.place / "tree"

    @property
    def own(self) -> Path:
        """Journal and local copies of the prefix in use."""
        return self.place / self.prefix

    def key(self, name: str) -> str:
        return f"{self.prefix}/{name}"

    def expected(self, name: str) -> bytes:
        return SMALL_NOW if name == "left/small.nii" else self.content[name]

    async def run(self, choose: Choose) -> tuple[Faults, asyncsink.Report | AsyncSinkError]:
        faults = Faults(choose)
        self.patch.setattr("asyncsink.s3.stack.open_lanes", faults.open_lanes)
        try:
            report = await asyncsink.export_directory(
                self.tree,
                f"s3://{self.bucket}/{self.prefix}",
                journal=self.own / "journal" / "j.sqlite",
                local_copy=self.own / "copy" if self.copies else None,
                part_size_bytes=5 * MIB,
                retry=RETRY,
                **self.options,
            )
        except AsyncSinkError as error:
            return faults, error
        return faults, report

    async def begin(self) -> None:
        """A prefix that nobody used, and the run before the one that is tried."""
        self.prefix = f"run-{next(self.number)}"
        (self.own / "journal").mkdir(parents=True)
        if "left/small.nii" in self.content:
            (self.tree / "left/small.nii").write_bytes(self.content["left/small.nii"])
        await self.run(self.earlier)
        for path in (self.own / "copy").rglob("*"):
            if path.is_file() and path.name != "known.json":
                path.unlink()
        if "left/small.nii" in self.content:
            (self.tree / "left/small.nii").write_bytes(SMALL_NOW)
            os.utime(self.tree / "left/changed.nii")
            assert {state for state, _ in self.journalled().values()} == {"open", "completing", "creating"}
        else:
            self.s3.put_object(Bucket=self.bucket, Key=self.key("listed.json"), Body=self.content["listed.json"])
            named = {"Bucket": self.bucket, "Key": self.key("looked-at.bin")}
            upload = self.s3.create_multipart_upload(**named)["UploadId"]
            part = self.s3.upload_part(
                **named, UploadId=upload, PartNumber=1, Body=self.content["looked-at.bin"]
            )["ETag"]  # fmt: skip
            parts = {"Parts": [{"PartNumber": 1, "ETag": part}]}
            self.s3.complete_multipart_upload(**named, UploadId=upload, MultipartUpload=parts)

    def earlier(self, _number: int, operation: Any) -> Fault | None:
        """The faults that make the run before leave what it is to leave."""
        name = getattr(operation, "key", "").removeprefix(f"{self.prefix}/")
        if not name or name == "known.json":
            return None
        if not name.startswith("left/"):
            return "refuse"
        loses = {"left/creating.nii": "CreateMultipartUpload", "left/completing.nii": "CompleteMultipartUpload"}
        if operation.name == loses.get(name):
            return "lose"
        refused = {"left/open.nii": 2, "left/changed.nii": 1, "left/small.nii": 1}
        at_part = refused.get(name) == getattr(operation, "part_number", 0)
        return "refuse" if at_part or operation.name in ("AbortMultipartUpload", "HeadObject") else None

    # -- looking ------------------------------------------------------------------------------------------------------

    def journalled(self) -> dict[str, tuple[str, str]]:
        """State and upload id of every upload that the journal knows, by key."""
        with contextlib.closing(sqlite3.connect(self.own / "journal" / "j.sqlite")) as database:
            rows = database.execute("SELECT key, state, upload_id FROM upload").fetchall()
        return {key.decode(): (state, upload_id or "") for key, state, upload_id in rows}

    def open_uploads(self, notices: Sequence[str]) -> list[dict[str, Any]]:
        """All but those that `notices` say stay open, or may: the user has to see to them."""
        found = self.s3.list_multipart_uploads(Bucket=self.bucket, Prefix=f"{self.prefix}/").get("Uploads", [])
        return [each for each in found if not self.told_of(each, notices)]

    def told_of(self, upload: dict[str, Any], notices: Sequence[str]) -> bool:
        """Whether a notice names it: by its id, or, where that was never heard, by its key; then it has no part."""
        key, upload_id = upload["Key"], upload["UploadId"]
        if any(f"{upload_id} of {key!r}" in notice for notice in notices):
            return True
        unheard = any(f"An upload of {key!r} whose begin was not answered" in notice for notice in notices)
        parts = self.s3.list_parts(Bucket=self.bucket, Key=key, UploadId=upload_id)
        return unheard and not parts.get("Parts")

    def stored(self) -> dict[str, bytes]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.prefix}/")
        names = [item["Key"] for page in pages for item in page.get("Contents", [])]
        return {name: self.s3.get_object(Bucket=self.bucket, Key=name)["Body"].read() for name in names}

    def copied(self) -> dict[str, bytes]:
        """Every file below the local copies, temporary ones too."""
        copies = self.own / "copy"
        return {str(path.relative_to(copies)): path.read_bytes() for path in copies.rglob("*") if path.is_file()}

    # -- what must be true --------------------------------------------------------------------------------------------

    def nothing_is_wrong(self, stored: dict[str, bytes], notices: Sequence[str]) -> None:
        """Every object and every copy has its bytes, and the journal knows every upload that is open."""
        for key, data in stored.items():
            assert data == self.expected(key.removeprefix(f"{self.prefix}/")), f"{key} has wrong bytes"
        for name, data in self.copied().items():
            assert name in self.content, f"{name} is left among the copies"
            assert data == self.expected(name), f"the copy {name} has wrong bytes"
        assert [path.name for path in (self.own / "journal").iterdir()] == ["j.sqlite"]
        journalled = self.journalled()
        for upload in self.open_uploads(notices):
            state, upload_id = journalled.get(upload["Key"], ("unknown", ""))
            if upload_id != upload["UploadId"]:
                # Its id was never heard: the next run looks for it, and knows it by its having no part.
                assert state == "creating", f"nobody knows an open upload of {upload['Key']}; the row is {state}"
                parts = self.s3.list_parts(Bucket=self.bucket, Key=upload["Key"], UploadId=upload["UploadId"])
                assert not parts.get("Parts")

    def told_truly(self, stored: dict[str, bytes], report: asyncsink.Report) -> None:
        """Every file has its outcome, and what is said to be there is there."""
        there = [*report.receipts, *(skip for skip in report.skips if skip.already_there)]
        for outcome in there:
            data = stored.get(outcome.key)
            assert data is not None, f"{outcome.key} is not there: {outcome}"
            assert len(data) == outcome.size_bytes
            if outcome.checksum is not None:
                assert checksum_of(data, outcome.checksum.algorithm) == outcome.checksum
        failed = [failure.key for failure in report.failures if failure.stage != "local copy"]
        told = [*(outcome.key for outcome in there), *failed]
        assert sorted(told) == sorted(self.key(name) for name in self.content)

    def completed(self, report: asyncsink.Report | AsyncSinkError, notices: Sequence[str] = ()) -> None:
        """Everything is published and copied, and no upload is open."""
        assert isinstance(report, asyncsink.Report), report
        report.raise_for_failures()
        stored = self.stored()
        self.nothing_is_wrong(stored, notices)
        self.told_truly(stored, report)
        assert sorted(stored) == sorted(self.key(name) for name in self.content)
        assert sorted(self.copied()) == (sorted(self.content) if self.copies else [])
        assert self.open_uploads(notices) == []
        assert self.journalled() == {}


def held() -> set[str]:
    """Descriptors, threads of our own and tasks of this process."""
    found = {f"task {task.get_name()} of {task.get_coro()!r:.60}" for task in asyncio.all_tasks()}
    found |= {f"thread {thread.name}" for thread in _threads()}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing itself
            found.add(f"descriptor {name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


async def nothing_leaks(before: set[str]) -> None:
    """Connections are closed in the loop's next turns, and threads that were told to end end by themselves."""
    for _ in range(5):
        await asyncio.sleep(0)
    for thread in _threads():
        thread.join(THREAD_ENDS_SECONDS)
    if held() - before:
        gc.collect()
    assert held() <= before, f"left behind: {held() - before}"


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("asyncsink")]


def chosen(number: int, fault: Fault, for_good: bool, aborts: Fault | None) -> Choose:
    """The faults of one turn."""
    nth = nth_request(number, fault, for_good=for_good)

    def choose(count: int, operation: Any) -> Fault | None:
        later = aborts if count > number and operation.name == "AbortMultipartUpload" else None
        return nth(count, operation) or later

    return choose


async def fails_well(world: World, number: int, fault: Fault, for_good: bool, aborts: Fault | None) -> None:
    """One turn of the loop."""
    await world.begin()
    await nothing_leaks(held())
    before = held()
    faults, report = await world.run(chosen(number, fault, for_good, aborts))
    await nothing_leaks(before)
    assert faults.hits, f"only {len(faults.requests)} requests came"
    # What the server refuses for good is told to the user; all else is the next run's to end.
    notices = report.notices if fault in ("deny", "refuse") and isinstance(report, asyncsink.Report) else ()
    stored = world.stored()
    world.nothing_is_wrong(stored, notices)
    if isinstance(report, asyncsink.Report):
        world.told_truly(stored, report)
        failed = {failure.key for failure in report.failures}
        # What succeeds at the second attempt is no failure, nor is an object that is found to be complete.
        harmed = {hit.key for hit in faults.hits if (hit.operation, hit.fault) != ("CompleteMultipartUpload", "lose")}
        assert failed <= (harmed if for_good else set()), [str(failure) for failure in report.failures]
    else:
        assert for_good, report
        assert faults.hits[0].operation == "ListObjectsV2", report
    _, again = await world.run(lambda _number, _operation: None)
    world.completed(again, notices)


async def every_request_fails(world: World, every: int = 1, first: int = 0) -> tuple[int, int]:
    """The loop; of its turns every `every`-th from the `first` on. How many requests a run has, and how many turns were
    taken."""
    await world.begin()
    counted, report = await world.run(lambda _number, _operation: None)
    world.completed(report)
    requests, wrong = len(counted.requests), list[str]()
    turns = list(itertools.product(range(1, requests + 1), FAULTS))[first::every]
    for number, kind in turns:
        try:
            await fails_well(world, number, *kind)
        except (AssertionError, AsyncSinkError) as error:
            hit = counted.requests[number - 1]
            wrong.append(f"{number} ({hit.operation} {hit.key}) {kind}: {type(error).__name__} {error}")
    assert not wrong, "\n".join(wrong)
    return requests, len(turns)


@pytest.fixture
def open_world(tmp_path: Path, bucket: str, s3: Any, seaweed: DevServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in seaweed.environment.items():
        monkeypatch.setenv(name, value)
    options = {"endpoint_url": seaweed.endpoint_url}
    limits = parse._limits

    def make(content: dict[str, bytes], **more: Any) -> World:
        threshold_bytes = THRESHOLDS_BYTES[id(content)]
        monkeypatch.setattr(
            parse, "_limits", lambda *given: replace(limits(*given), multipart_threshold_bytes=threshold_bytes)
        )
        return World(content, tmp_path, bucket, s3, monkeypatch, {**options, **more}, copies=content is FRESH)

    return make


# The steps and beginnings are such that all faults have their turn.
@pytest.mark.parametrize(("content", "every"), [(FRESH, 23), (LEFT, 67)], ids=["fresh", "left"])
@pytest.mark.parametrize(("concurrency", "first"), [(1, 0), (32, 5)])
async def test_some_requests_fail(
    open_world: Any, content: dict[str, bytes], every: int, concurrency: int, first: int
) -> None:
    await every_request_fails(open_world(content, concurrency=concurrency), every, first)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("content", "lane", "overwrite", "concurrency"),
    [
        pytest.param(FRESH, "wire", "journal", 1, id="fresh-1"),
        pytest.param(FRESH, "wire", "journal", 32, id="fresh-32"),
        pytest.param(LEFT, "wire", "journal", 1, id="left-1"),
        pytest.param(LEFT, "wire", "journal", 32, id="left-32"),
        pytest.param(FRESH, "wire", "never", 32, id="fresh-never"),
        pytest.param(FRESH, "aioboto3", "journal", 32, id="fresh-aioboto3"),
    ],
)
async def test_every_request_fails(
    open_world: Any, content: dict[str, bytes], lane: str, overwrite: str, concurrency: int, record_property: Any
) -> None:
    world = open_world(content, transport=lane, overwrite=overwrite, concurrency=concurrency)
    started = time.monotonic()
    requests, turns = await every_request_fails(world)
    seconds = time.monotonic() - started
    record_property("size", f"{requests} requests x {len(FAULTS)} faults = {turns} runs in {seconds:.0f} s")
