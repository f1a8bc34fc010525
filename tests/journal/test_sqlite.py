"""The store: what is known afterwards, in how many commits, after a kill, in how much memory."""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import stat
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload
from unittest.mock import ANY

import anyio
import anyio.to_thread
import pytest

from asyncsink.errors import DestinationFull, JournalError
from asyncsink.journal.base import published_row
from asyncsink.journal.sqlite import WAITING_MAX, SqliteJournal
from asyncsink.model import (
    Checksum,
    JournalEntry,
    SourceFile,
    StoredPart,
    Transfer,
    UploadCompleting,
    UploadCreating,
    UploadGone,
    UploadOpened,
    UploadPartStored,
)
from asyncsink.options.schema import ObjectOptions
from asyncsink.options.settings import Secret

from .conftest import Open, published_of, source_of, transfer_of

pytestmark = pytest.mark.anyio
Start = Callable[..., "subprocess.Popen[str]"]


class Gate(Sequence[Transfer]):
    """Transfers whose look-up holds the journal's thread until `open` is set."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __len__(self) -> int:
        self.reached.set()
        assert self.open.wait(60)
        return 0

    @overload
    def __getitem__(self, index: int) -> Transfer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Transfer]: ...
    def __getitem__(self, index: int | slice) -> Transfer | Sequence[Transfer]:
        raise IndexError(index)


async def opened(open_it: Open, **changed: object) -> SqliteJournal:
    journal = await open_it(**changed)
    assert journal is not None
    return journal


async def test_what_was_published_is_known_of_the_same_file_only(open_it: Open) -> None:
    journal = await opened(open_it)
    await journal.publish([published_of(1), published_of(2)])
    await journal.aclose()
    journal = await opened(open_it)
    asked = [
        transfer_of(2),
        transfer_of(1),
        transfer_of(3),
        transfer_of(1, key="study/elsewhere"),
        transfer_of(1, size_bytes=7),
        transfer_of(1, mtime_ns=7),
        transfer_of(1, ctime_ns=7),
        transfer_of(1, inode=7),
        Transfer(SourceFile("/data/other", 1, 10**18 + 1, ctime_ns=10**18 + 1, inode=1), "study/1.nii", ""),
    ]
    found = journal.known(asked)
    await journal.aclose()
    assert found[1] == JournalEntry(True, "etag-1", "", Checksum("CRC64NVME", "AAAAAAAAAAA="), None)
    assert [each is not None and each.published for each in found] == [True, True, *[False] * 7]
    assert [each is not None and each.stale for each in found] == [*[False] * 4, *[True] * 5]


async def test_a_journal_is_blank_until_something_is_published_or_open(open_it: Open) -> None:
    journal = await opened(open_it)
    assert journal.blank
    await journal.publish([published_of(n) for n in range(300)])
    assert journal.blank  # it says what was there when it was opened
    await journal.aclose()
    journal = await opened(open_it)
    assert not journal.blank
    asked = [transfer_of(n) for n in range(301)]
    assert [each is not None and each.published for each in journal.known(asked)] == [*[True] * 300, False]
    await anyio.to_thread.run_sync(journal.forget, [each.key for each in asked])
    await journal.aclose()
    journal = await opened(open_it)
    assert journal.blank
    await journal.step(UploadCreating("study/1.nii", source_of(1), 5, None, "token"))
    await journal.aclose()
    journal = await opened(open_it)
    assert not journal.blank
    await journal.aclose()


async def test_what_is_forgotten_is_forgotten_for_good(open_it: Open) -> None:
    journal = await opened(open_it)
    await journal.publish([published_of(1), published_of(2)])
    await anyio.to_thread.run_sync(journal.forget, ["study/1.nii", "study/none"])
    await journal.aclose()
    journal = await opened(open_it)
    found = journal.known([transfer_of(1), transfer_of(2)])
    await journal.aclose()
    assert [each is not None and each.published for each in found] == [False, True]


@pytest.mark.parametrize(
    "other",
    [
        {"objects": ObjectOptions(sse="AES256")},
        {"objects": ObjectOptions(sse_customer_key=Secret(b"k" * 32))},
        {"objects": ObjectOptions(storage_class="GLACIER")},
        {"objects": ObjectOptions(acl="private")},
        {"objects": ObjectOptions(tags=(("a", "b"),))},
        {"objects": ObjectOptions(metadata=(("a", "b"),))},
        {"objects": ObjectOptions(content_type="text/plain")},
        {"algorithm": None},
    ],
    ids=str,
)
async def test_what_was_published_with_other_options_is_not_known(open_it: Open, other: dict[str, object]) -> None:
    journal = await opened(open_it)
    await journal.publish([published_of(1)])
    await journal.aclose()
    journal = await opened(open_it, **other)
    assert journal.known([transfer_of(1)]) == [JournalEntry(stale=True)]
    await journal.publish([published_of(1)])
    await journal.aclose()
    journal = await opened(open_it, **other)
    assert journal.known([transfer_of(1)]) != [None]
    await journal.aclose()


async def test_a_transfer_with_object_options_of_its_own_has_a_row_of_its_own(open_it: Open) -> None:
    plain = transfer_of(1)
    own = replace(plain, objects=ObjectOptions(metadata=(("a", "1"),)))
    other = replace(plain, objects=ObjectOptions(metadata=(("a", "2"),)))
    journal = await opened(open_it)
    await journal.publish([published_row(own, "e1", "", None), *[published_of(n) for n in range(2, 300)]])
    assert journal.known([plain, own, other, transfer_of(2)]) == [
        JournalEntry(stale=True), JournalEntry(True, "e1"), JournalEntry(stale=True), ANY
    ]  # fmt: skip
    await journal.publish([published_row(plain, "e2", "", None)])
    assert journal.known([plain, own]) == [JournalEntry(True, "e2"), JournalEntry(stale=True)]
    await journal.step(UploadCreating(own.key, own.source, 8 << 20, None, "", own.objects))
    uploads = [known and known.upload for known in journal.known([plain, own, other])]
    assert [upload and upload.same_source for upload in uploads] == [False, True, False]
    await journal.aclose()
    # The options of a transfer that are those of the next run make the same row.
    journal = await opened(open_it, objects=own.objects)
    await journal.publish([published_row(own, "e3", "", None)])
    assert journal.known([plain, own]) == [JournalEntry(True, "e3")] * 2
    await journal.aclose()


async def test_another_customer_key_is_noticed_and_none_is_kept(open_it: Open, path: Path) -> None:
    one, two = os.urandom(32), os.urandom(32)
    journal = await opened(open_it, objects=ObjectOptions(sse_customer_key=Secret(one)))
    await journal.publish([published_of(1)])
    await journal.aclose()
    assert one not in path.read_bytes()
    journal = await opened(open_it, objects=ObjectOptions(sse_customer_key=Secret(two)))
    assert journal.known([transfer_of(1)]) == [JournalEntry(stale=True)]
    await journal.aclose()


async def test_an_open_upload_is_told_also_of_a_changed_source(open_it: Open) -> None:
    journal = await opened(open_it)
    await journal.step(UploadCreating("study/1.nii", source_of(1), 8 << 20, "CRC32C", "token"))
    await journal.step(UploadOpened("study/1.nii", "upload-1"))
    parts = [StoredPart(number, f"e{number}", None) for number in (2, 1)]
    for part in parts:
        await journal.step(UploadPartStored("study/1.nii", part))
    await journal.aclose()
    journal = await opened(open_it)
    same, changed = journal.known([transfer_of(1), transfer_of(1, mtime_ns=7)])
    assert same is not None
    assert same.upload is not None
    assert not same.published
    assert (same.upload.upload_id, same.upload.token, same.upload.algorithm) == ("upload-1", "token", "CRC32C")
    assert (same.upload.same_source, same.upload.completing) == (True, False)
    assert same.upload.parts == (parts[1], parts[0])
    assert changed is not None
    assert changed.upload is not None
    assert not changed.upload.same_source
    await journal.step(UploadCompleting("study/1.nii"))
    await journal.publish([published_of(1)])
    (known,) = journal.known([transfer_of(1)])
    assert known is not None
    assert (known.published, known.upload) == (True, None)
    await journal.aclose()


async def test_nothing_is_known_of_an_object_that_is_being_replaced(open_it: Open) -> None:
    """Killed between Complete and its answer, nobody can say which of the two is there."""
    journal = await opened(open_it)
    await journal.publish([published_of(1)])
    await journal.step(UploadCreating("study/1.nii", source_of(2), 8 << 20, None, ""))
    await journal.step(UploadOpened("study/1.nii", "u"))
    (before,) = journal.known([transfer_of(1)])
    await journal.step(UploadCompleting("study/1.nii"))
    (after,) = journal.known([transfer_of(1)])
    assert before is not None
    assert after is not None
    assert (before.published, after.published) == (True, False)
    await journal.aclose()


async def test_an_error_whose_caller_went_away_is_told_when_it_is_closed(open_it: Open) -> None:
    journal = await opened(open_it)
    gate = Gate()
    looking = asyncio.get_running_loop().run_in_executor(None, journal.known, gate)
    await anyio.to_thread.run_sync(gate.reached.wait)
    with anyio.move_on_after(0):
        await journal.step(UploadCompleting("never/begun"))
    gate.open.set()
    await looking
    with pytest.raises(JournalError, match="UploadCompleting of 'never/begun' cannot follow"):
        await journal.aclose()


async def test_what_waits_is_committed_together(open_it: Open) -> None:
    journal = await opened(open_it)
    said: list[str] = []
    journal._database.set_trace_callback(said.append)
    gate = Gate()
    looking = asyncio.get_running_loop().run_in_executor(None, journal.known, gate)
    await anyio.to_thread.run_sync(gate.reached.wait)
    async with anyio.create_task_group() as group:
        for number in range(100):
            group.start_soon(journal.publish, [published_of(number)])
        await anyio.wait_all_tasks_blocked()
        gate.open.set()
    await looking
    assert said.count("COMMIT") == 1
    assert None not in journal.known([transfer_of(number) for number in range(100)])
    await journal.aclose()


async def test_an_upload_id_is_on_the_disk_before_a_part_is_sent(open_it: Open) -> None:
    journal = await opened(open_it)
    said: list[str] = []
    journal._database.set_trace_callback(said.append)
    await journal.step(UploadCreating("k", source_of(1), 8 << 20, None, ""))
    assert "PRAGMA synchronous=FULL" not in said
    await journal.step(UploadOpened("k", "u"))
    full, commit = said.index("PRAGMA synchronous=FULL"), len(said) - 1 - said[::-1].index("COMMIT")
    assert full < commit < said.index("PRAGMA synchronous=NORMAL")
    await journal.aclose()


async def test_steps_that_nobody_waits_for_are_bounded(open_it: Open) -> None:
    journal = await opened(open_it)
    await journal.step(UploadCreating("k", source_of(1), 8 << 20, None, ""))
    await journal.step(UploadOpened("k", "u"))
    gate = Gate()
    looking = asyncio.get_running_loop().run_in_executor(None, journal.known, gate)
    await anyio.to_thread.run_sync(gate.reached.wait)
    for number in range(1, WAITING_MAX + 1):
        await journal.step(UploadPartStored("k", StoredPart(number, "e", None)))
    with anyio.move_on_after(0) as scope:  # the next one waits, and is cancelled: it is written all the same
        await journal.step(UploadPartStored("k", StoredPart(WAITING_MAX + 1, "e", None)))
    assert scope.cancelled_caught
    gate.open.set()
    await looking
    await journal.aclose()
    journal = await opened(open_it)
    (known,) = journal.known([transfer_of(1, key="k")])
    assert known is not None
    assert known.upload is not None
    assert len(known.upload.parts) == WAITING_MAX + 1
    await journal.aclose()


async def test_closing_commits_what_was_handed_over_and_twice_is_harmless(open_it: Open) -> None:
    journal = await opened(open_it)
    await journal.step(UploadCreating("k", source_of(1), 8 << 20, None, ""))
    await journal.step(UploadGone("k"))
    with anyio.CancelScope() as scope:
        scope.cancel()
        await journal.aclose()
    await journal.aclose()
    journal = await opened(open_it)
    assert journal.known([transfer_of(1, key="k")]) == [None]
    await journal.aclose()


async def test_names_that_are_no_utf8_are_kept(open_it: Open) -> None:
    journal = await opened(open_it)
    names = [os.fsdecode(b"/d/\xff\xfe.nii"), "/d/\ud800", "/d/\u00e4\n'\";--", "/d/a\u0308"]
    sources = [SourceFile(name, 1, -1, ctime_ns=2**70, inode=2**64 - 1) for name in names]
    transfers = [Transfer(source, source.path[1:], "") for source in sources]
    await journal.publish([published_row(transfer, "e", "", None) for transfer in transfers])
    found = journal.known(transfers)
    assert all(known is not None and known.published for known in found)
    await journal.aclose()


async def test_only_its_owner_may_read_it(open_it: Open, path: Path) -> None:
    before = os.umask(0)
    try:
        journal = await opened(open_it)
        await journal.publish([published_of(1)])
    finally:
        os.umask(before)
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.glob(path.name + "*")} == {0o600}
    await journal.aclose()
    path.chmod(0o644)
    journal = await opened(open_it)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await journal.aclose()


async def test_a_full_disk_stops_everything_that_comes_after(open_it: Open) -> None:
    journal = await opened(open_it)
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(DestinationFull, match="no space is left; free some space"):
        await journal.publish([published_of(number) for number in range(10_000)])
    with pytest.raises(DestinationFull):
        await journal.publish([published_of(1)])
    with pytest.raises(DestinationFull):
        journal.known([transfer_of(1)])
    await journal.aclose()  # it was told already
    journal = await opened(open_it)
    assert journal.known([transfer_of(1)]) == [None]
    await journal.aclose()


async def test_a_fault_that_nobody_was_told_is_told_when_it_is_closed(open_it: Open) -> None:
    journal = await opened(open_it)
    await journal.step(UploadGone("never/begun"))
    with pytest.raises(JournalError, match="UploadGone of 'never/begun' cannot follow"):
        await journal.aclose()


async def test_a_damaged_page_is_told(open_it: Open, path: Path) -> None:
    journal = await opened(open_it)
    await journal.publish([published_of(number) for number in range(5000)])
    await journal.aclose()
    with sqlite3.connect(path) as database:
        page = database.execute("PRAGMA page_size").fetchone()[0]
    database.close()
    with path.open("r+b") as file:
        whole = path.stat().st_size // page
        file.seek(whole // 2 * page)
        file.write(b"\xff" * (whole - whole // 2) * page)
    journal = await opened(open_it)
    with pytest.raises(JournalError, match=r"is damaged, or no journal at all .* remove the file"):
        journal.known([transfer_of(number) for number in range(5000)])
    await journal.aclose()
    with path.open("r+b") as file:
        file.seek(2 * page)
        file.write(b"\xff" * (whole - 2) * page)
    with pytest.raises(JournalError, match=r"is damaged, or no journal at all .* remove the file"):
        await opened(open_it)


KILLED = """
async def main(path):
    journal = await open_it(path)
    round = int(sys.stdin.readline())
    async def publish(first):
        for number in range(round * 10**5 + first, 10**6, 8):
            await journal.publish([published_of(number)])
            print(number, flush=True)
    async def upload():
        for number in range((10 + round) * 10**5, 10**7):
            key = f"study/{number}.nii"
            await journal.step(UploadCreating(key, source_of(number), 8 << 20, None, ""))
            await journal.step(UploadOpened(key, f"upload-{number}"))
            print(number, flush=True)
            await journal.step(UploadPartStored(key, StoredPart(1, "e", None)))
    async with asyncio.TaskGroup() as group:
        for first in range(8):
            group.create_task(publish(first))
        group.create_task(upload())
"""


async def test_what_was_told_is_there_after_every_kill(open_it: Open, start: Start) -> None:
    moments = random.Random(4)
    told: set[int] = set()
    for turn in range(6):
        process = start(KILLED)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{turn}\n")
        process.stdin.flush()
        for _ in range(moments.randrange(1, 1500)):
            told.add(int(process.stdout.readline()))
        process.kill()
        told.update(int(line) for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n"))
        process.wait()
        journal = await opened(open_it)
        numbers = sorted(told)
        found = journal.known([transfer_of(number) for number in numbers])
        for number, known in zip(numbers, found, strict=True):
            assert known is not None, number
            if number < 10**6:
                assert known.published
            else:
                assert known.upload is not None
                assert known.upload.upload_id == f"upload-{number}"
        assert journal._database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        await journal.aclose()
    assert any(number >= 10**6 for number in told)


LARGE = """
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

async def main(path):
    journal = await open_it(path)
    await journal.publish([published_of(number) for number in range(256)])
    before = resident()
    for first in range(0, 100_000, 256):
        await journal.publish([published_of(number) for number in range(first, min(first + 256, 100_000))])
    known = 0
    for first in range(0, 100_000, 1000):
        asked = range(first, first + 1000)
        found = journal.known([Transfer(source_of(number), f"study/{number}.nii", "") for number in asked])
        known += sum(each is not None and each.published for each in found)
    await journal.aclose()
    print(known, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
async def test_a_hundred_thousand_objects_need_little_memory(start: Start, path: Path) -> None:
    process = start(LARGE)
    said, _ = await anyio.to_thread.run_sync(process.communicate)
    known, grown_kib = map(int, said.split())
    assert known == 100_000
    assert path.stat().st_size > 12 << 20  # it does not fit into what is allowed below by chance
    assert grown_kib < 16 << 10
