"""What a grab makes of kills, replaced objects, bytes that are wrong, keys that climb, and servers that hang up."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.download import range_download
from asyncsink.download.placement import FOLDER, UNFINISHED_SECONDS_MAX, FileWriter, StagingDirectory
from asyncsink.download.plan import check_relative
from asyncsink.download.range_download import PartialFile
from asyncsink.engine.recording.events import Progress
from asyncsink.errors import InvalidKey, ServerFault
from asyncsink.options.settings import MIB, RetryPolicy
from asyncsink.s3.multipart.parts import PartPlan
from tests.support.files import content_of
from tests.support.object_peer import ObjectPeer

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("dummy_keys")]

LARGE = os.urandom(42 * MIB + 7)
STARTS = [number * 8 * MIB for number in range(6)]
QUICK = RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.001)


async def grab(
    peer: ObjectPeer, directory: Path, *, source: str = "s3://bucket", **options: Any
) -> asyncsink.GrabReport:
    given = {"retry": QUICK, "region": "us-east-1"} | options
    return await asyncsink.grab(source, directory, endpoint_url=peer.endpoint_url, **given)


class Watched(Progress):
    """Says when so many bytes of unfinished objects are written."""

    def __init__(self, bytes_wanted: int) -> None:
        self.enough = asyncio.Event()
        self._bytes_wanted = bytes_wanted
        super().__init__()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "bytes_under_way" and value >= self._bytes_wanted:
            self.enough.set()


async def interrupted(peer: ObjectPeer, directory: Path, missing: set[int]) -> tuple[Path, Path]:
    """Cancel a grab when all ranges but `missing` are there; what it left behind: the file and its state."""
    peer.hold = missing
    progress = Watched(sum(len(LARGE[start : start + 8 * MIB]) for start in STARTS if start not in missing))
    grabber = asyncsink.S3Grabber("s3://bucket", directory, endpoint_url=peer.endpoint_url, region="us-east-1")
    grabbing = asyncio.create_task(grabber.run(progress=progress))
    await peer.held.wait()
    await progress.enough.wait()
    grabbing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await grabbing
    peer.hold, peer.requests = set(), []
    (part,), (state,) = (directory / FOLDER).glob("*.part"), (directory / FOLDER).glob("*.state")
    return part, state


async def test_a_large_object_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    async with ObjectPeer({"large": LARGE}) as peer:
        missing = {STARTS[2], STARTS[5]}
        part, state = await interrupted(peer, tmp_path, missing)
        assert not (tmp_path / "large").exists()
        assert {stat.S_IMODE(path.stat().st_mode) for path in (part, state)} == {0o600}
        report = await grab(peer, tmp_path)
        assert {first for method, _, first in peer.requests if method == "GET"} == missing
    report.raise_for_failures()
    assert content_of(tmp_path) == {"large": LARGE}
    assert report.receipts[0].confirmed_by == "server-checksum"


async def test_ranges_that_the_disk_lost_are_received_again(tmp_path: Path) -> None:
    async with ObjectPeer({"large": LARGE}) as peer:
        part, state = await interrupted(peer, tmp_path, {STARTS[5]})
        with part.open("r+b") as file:
            file.seek(STARTS[1] + 5)
            file.write(bytes(100))
        with state.open("ab") as file:
            file.write(b'{"part": 6, "checksum": "torn')
        await grab(peer, tmp_path)
        assert {first for method, _, first in peer.requests if method == "GET"} == {STARTS[1], STARTS[5]}
    assert content_of(tmp_path) == {"large": LARGE}


async def test_what_is_unfinished_of_another_version_is_not_used(tmp_path: Path) -> None:
    newer = LARGE[::-1]
    async with ObjectPeer({"large": LARGE}) as peer:
        await interrupted(peer, tmp_path, {STARTS[5]})
        peer.objects["large"] = newer
        await grab(peer, tmp_path)
        assert len([r for r in peer.requests if r[0] == "GET"]) == 6
    assert content_of(tmp_path) == {"large": newer}


@pytest.mark.parametrize("name", ["small", "large"])
async def test_an_object_that_is_replaced_on_the_way(tmp_path: Path, name: str) -> None:
    before, after = (b"before", b"after!!") if name == "small" else (LARGE, LARGE[1:])
    async with ObjectPeer({name: before}) as peer:

        def replace(method: str, _key: str, first: int) -> None:
            if method == "GET" and first == (0 if name == "small" else STARTS[3]):
                peer.objects[name] = after

        peer.fault = replace
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == {name: after}
    assert report.receipts[0].size_bytes == len(after)


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("times", [1, 1000])
async def test_bytes_that_are_wrong(tmp_path: Path, name: str, times: int) -> None:
    data = b"small body" if name == "small" else LARGE
    async with ObjectPeer({name: data}) as peer:
        left = [times]

        def flip(method: str, key: str, first: int) -> bytes | None:
            if method != "GET" or first or not left[0]:
                return None
            left[0] -= 1
            body = b"X" + data[1 : 8 * MIB]
            ranged = f"Content-Range: bytes 0-{len(body) - 1}/{len(data)}\r\n" if name == "large" else ""
            checksum = peer._object("HEAD", key, "", None).split(b"\r\n\r\n")[0].split(b"\r\n")[2:]
            lines = b"\r\n".join(checksum) + b"\r\n" + ranged.encode()
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n" % (len(body), lines) + body

        peer.fault = flip
        report = await grab(peer, tmp_path)
    if times == 1:
        report.raise_for_failures()
        assert content_of(tmp_path) == {name: data}
    else:
        (failure,) = report.failures
        assert (failure.error, failure.stage) == ("IntegrityError", "download")
        assert "are not those the server described" in failure.message
        assert content_of(tmp_path) == {}


async def test_a_server_that_hangs_up_is_asked_again(tmp_path: Path) -> None:
    async with ObjectPeer({f"k{n}": bytes([n]) * 1000 for n in range(40)}) as peer:
        seen: set[str] = set()

        def hang_up(_method: str, key: str, _first: int) -> bytes | None:
            known = key in seen
            seen.add(key)
            return None if known else b""

        peer.fault = hang_up
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == peer.objects
    assert report.retries


async def test_what_is_gone_since_it_was_listed_fails_alone(tmp_path: Path) -> None:
    gone = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    async with ObjectPeer({"a": b"1", "b": b"2", "c": b"3"}) as peer:
        peer.fault = lambda _, key, __: gone if key == "b" else None
        report = await grab(peer, tmp_path)
    assert [(f.key, f.error) for f in report.failures] == [("b", "ObjectMissing")]
    assert content_of(tmp_path) == {"a": b"1", "c": b"3"}


CLIMBING = ("../evil", "a/../../evil", "/etc/evil", "a//evil", "./evil", "a/.", "a/..", "nul\0evil", f"{FOLDER}/lock")


async def test_no_key_leaves_the_directory(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    async with ObjectPeer({**dict.fromkeys(CLIMBING, b"evil"), "good/..hidden": b"good"}) as peer:
        report = await grab(peer, target)
    assert content_of(tmp_path) == {"deep/target/good/..hidden": b"good"}
    assert sorted(f.key for f in report.failures) == sorted(CLIMBING)
    assert {(f.error, f.stage) for f in report.failures} == {("InvalidKey", "routing")}
    assert not any(method == "GET" and key in CLIMBING for method, key, _ in peer.requests)


@pytest.mark.parametrize("relative", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\0", "x/" * 2500 + "x"])
async def test_names_that_are_no_paths(relative: str) -> None:
    with pytest.raises(InvalidKey, match="nothing is written"):
        check_relative(relative, f"prefix/{relative}")


async def test_a_listing_that_does_not_go_on(tmp_path: Path) -> None:
    async with ObjectPeer({"a": b"1"}) as peer:
        peer.same_token = True
        with pytest.raises(ServerFault, match="the same token came twice"):
            await grab(peer, tmp_path)
    assert list(tmp_path.iterdir()) in ([], [tmp_path / "a"])


async def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "0-1.whole").write_bytes(b"x")
    (folder / "old.part").write_bytes(b"x")
    (folder / "new.part").write_bytes(b"x")
    age = (folder / "old.part").stat().st_mtime - UNFINISHED_SECONDS_MAX - 60
    os.utime(folder / "old.part", (age, age))
    async with ObjectPeer({"a": b"1"}) as peer:
        await grab(peer, tmp_path)
        assert content_of(tmp_path) == {"a": b"1", f"{FOLDER}/new.part": b"x", f"{FOLDER}/lock": b""}
        (folder / "new.part").unlink()
        await grab(peer, tmp_path)
    assert content_of(tmp_path) == {"a": b"1"}
    assert not folder.exists()


async def test_a_large_file_that_could_not_get_its_name_is_kept_for_the_next_run(tmp_path: Path) -> None:
    (tmp_path / "large" / "in-the-way").mkdir(parents=True)
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "orphan.state").write_bytes(b"x")
    async with ObjectPeer({"large": LARGE}) as peer:
        report = await grab(peer, tmp_path)
        assert [f.key for f in report.failures] == ["large"]
        assert sorted(path.suffix for path in folder.iterdir()) == ["", ".part", ".state"]
        assert not (folder / "orphan.state").exists()
        (tmp_path / "large" / "in-the-way").rmdir()
        (tmp_path / "large").rmdir()
        peer.requests = []
        (await grab(peer, tmp_path)).raise_for_failures()
        assert not [first for method, _, first in peer.requests if method == "GET"]
    assert content_of(tmp_path) == {"large": LARGE}


async def test_two_grabs_of_one_object_at_once(tmp_path: Path) -> None:
    async with ObjectPeer({"large": LARGE, "small": b"s"}) as peer:
        reports = await asyncio.gather(*(grab(peer, tmp_path) for _ in range(3)))
    for report in reports:
        report.raise_for_failures()
    assert content_of(tmp_path) == {"large": LARGE, "small": b"s"}


async def test_a_multipart_object_without_a_checksum_is_confirmed_by_its_size(tmp_path: Path) -> None:
    async with ObjectPeer({"large": LARGE, "small": b"s"}, multipart=True) as peer:
        report = await grab(peer, tmp_path)
    assert {r.key: r.confirmed_by for r in report.receipts} == {"large": "size", "small": "size"}


def test_a_file_that_another_run_finishes_meanwhile_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = StagingDirectory(str(tmp_path))
    staging.open()
    target = tmp_path / "k"
    plan = PartPlan(size_bytes=3, part_size_bytes=3)

    def unfinished() -> PartialFile:
        return PartialFile(staging, FileWriter(staging), "k", etag="e", plan=plan, algorithm="CRC64NVME")

    first, second = unfinished(), unfinished()
    first.open()
    digester = first.digester()
    first.write(0, b"abc", digester)
    first.note(1, digester)
    locked = range_download.lock

    def finish_first(descriptor: int, how: int) -> bool:
        first.publish(None)
        first.close()
        return locked(descriptor, how)

    monkeypatch.setattr(range_download, "lock", finish_first)
    second.open()
    assert target.read_bytes() == b"abc"
    second.close()
    staging.close()
    assert os.listdir(tmp_path) == ["k"]


async def test_no_key_takes_the_path_of_the_object_that_the_source_names(tmp_path: Path) -> None:
    objects = {"a/x": b"the one that was named", "a/x/x": b"another", "a/x/y": b"beside it"}
    async with ObjectPeer(objects) as peer:
        report = await grab(peer, tmp_path, source="s3://bucket/a/x")
    assert content_of(tmp_path) == {"x": objects["a/x"], "y": objects["a/x/y"]}
    assert [(f.key, f.error, f.stage) for f in report.failures] == [("a/x/x", "KeyCollision", "routing")]
    assert "'a/x'" in report.failures[0].message


def etag_of_parts(data: bytes, part_bytes: int) -> str:
    md5s = [hashlib.md5(data[at : at + part_bytes]).digest() for at in range(0, len(data), part_bytes)]
    return f"{hashlib.md5(b''.join(md5s)).hexdigest()}-{len(md5s)}"


class InParts(ObjectPeer):
    """Tells multipart ETags, and no checksum; `wrong` GETs, counted over all objects, are answered with other bytes.

    Attributes:
        parts: {key: ETag}.
        told: {key: sizes of its parts}, which HEAD tells.
    """

    def __init__(self, objects: dict[str, bytes], etags: dict[str, str], wrong: int = 0) -> None:
        super().__init__(objects, multipart=True)
        self.etags, self.wrong = etags, wrong
        self.told: dict[str, list[int]] = {}

    def etag(self, key: str) -> str:
        return self.etags[key]

    def _object(self, method: str, key: str, head: str, wanted: re.Match[str] | None) -> bytes:
        answer = super()._object(method, key, head, wanted)
        part = re.search(r"partNumber=(\d+)", head)
        if part and key in self.told:
            return re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % self.told[key][int(part[1]) - 1], answer)
        if method == "GET" and self.wrong:
            self.wrong -= 1
            return answer[:-1] + bytes([answer[-1] ^ 1])
        return answer


EIGHT = 8 * MIB


@pytest.mark.parametrize("wrong", [1, 1000])
@pytest.mark.parametrize(
    ("data", "part_bytes", "told"),
    [
        (b"a small body", EIGHT, []),
        (LARGE[: 2 * EIGHT + 5], 9 * MIB, [9 * MIB, 7 * MIB + 5]),
        (LARGE[: 2 * EIGHT + 5], 6 * MIB, [6 * MIB, 6 * MIB, 4 * MIB + 5]),
    ],
)
async def test_a_multipart_etag_of_known_parts_is_a_proof(
    tmp_path: Path, data: bytes, part_bytes: int, told: list[int], wrong: int
) -> None:
    async with InParts({"k": data}, {"k": etag_of_parts(data, part_bytes)}, wrong) as peer:
        peer.told["k"] = told or [len(data)]
        report = await grab(peer, tmp_path)
    if wrong == 1:
        assert [r.confirmed_by for r in report.receipts] == ["etag"]
        assert content_of(tmp_path) == {"k": data}
    else:
        assert [f.error for f in report.failures] == ["IntegrityError"]
        assert content_of(tmp_path) == {}


@pytest.mark.parametrize("told", [[], [5 * MIB, 7 * MIB, 4 * MIB + 5]])
async def test_parts_of_unknown_sizes_are_received_twice_before_their_size_is_a_proof(
    tmp_path: Path, told: list[int]
) -> None:
    data = LARGE[: 2 * EIGHT + 5]
    async with InParts({"k": data}, {"k": "0" * 32 + "-3"}) as peer:
        peer.told["k"] = told or [len(data)]
        report = await grab(peer, tmp_path)
        assert sorted(first for method, _, first in peer.requests if method == "GET") == sorted(
            [0, EIGHT, 2 * EIGHT] * 2
        )
    assert [r.confirmed_by for r in report.receipts] == ["size"]
    assert content_of(tmp_path) == {"k": data}


async def test_a_wrong_guess_and_wrong_bytes_are_told_apart(tmp_path: Path) -> None:
    objects = {"usual": LARGE[: 2 * EIGHT + 5], "small": LARGE[:6000]}
    etags = {"usual": etag_of_parts(objects["usual"], EIGHT), "small": "0" * 32 + "-1"}
    async with InParts(objects, etags, wrong=1) as peer:
        peer.told = {key: [len(data)] for key, data in objects.items()}
        report = await grab(peer, tmp_path)
    assert [r.confirmed_by for r in report.receipts] == ["etag"]
    assert [(f.key, f.error) for f in report.failures] == [("small", "IntegrityError")]
    assert content_of(tmp_path) == {"usual": objects["usual"]}


async def test_a_disk_that_cannot_be_read_back_fails_that_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> Iterator[memoryview]:
        raise OSError(errno.EIO, "Input/output error")
        yield memoryview(b"")

    monkeypatch.setattr(range_download, "pieces_of", broken)
    data = LARGE[: 2 * EIGHT + 5]
    small = {f"small-{number}": b"%d" % number for number in range(20)}
    etags = {key: hashlib.md5(body).hexdigest() for key, body in small.items()}
    async with InParts({"k": data, **small}, {"k": etag_of_parts(data, EIGHT), **etags}) as peer:
        peer.told["k"] = [len(data)]
        report = await grab(peer, tmp_path)
    assert [(f.key, f.error) for f in report.failures] == [("k", "PermanentError")]
    assert "cannot be read back: Input/output error" in report.failures[0].message
    assert {name: body for name, body in content_of(tmp_path).items() if FOLDER not in name} == small


async def test_what_becomes_large_on_the_way_is_received_in_ranges(tmp_path: Path) -> None:
    async with ObjectPeer({"k": b"small", "other": b"o"}) as peer:

        def grow(method: str, key: str, _first: int) -> None:
            if method == "GET" and key == "k":
                peer.objects["k"] = LARGE

        peer.fault = grow
        report = await grab(peer, tmp_path)
        received = [first for method, key, first in peer.requests if (method, key) == ("GET", "k")]
    report.raise_for_failures()
    assert content_of(tmp_path) == {"k": LARGE, "other": b"o"}
    assert sorted(received) == sorted([0, *STARTS])


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
async def test_an_answer_without_an_etag_is_compared_with_the_listings(tmp_path: Path, lane: str) -> None:
    async with ObjectPeer({"k": b"abc", "good": b"xyz"}) as peer:
        no_etag = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nxyz"
        peer.fault = lambda method, _, __: no_etag if method == "GET" else None
        report = await grab(peer, tmp_path, transport=lane)
    assert [(r.key, r.confirmed_by) for r in report.receipts] == [("good", "etag")]
    assert [(f.key, f.error) for f in report.failures] == [("k", "IntegrityError")]
    assert content_of(tmp_path) == {"good": b"xyz"}


@pytest.mark.parametrize("lane", ["wire", "aioboto3"])
@pytest.mark.parametrize("size_bytes", [4, 300_000])
async def test_more_bytes_than_there_are_are_not_cut(tmp_path: Path, lane: str, size_bytes: int) -> None:
    # Only an answer without a length can say too much.
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % size_bytes
    long = head + b"abcd".ljust(size_bytes, b"x") + b"\r\n0\r\n\r\n"
    async with InParts({"k": b"abc"}, {"k": "0" * 32 + "-7"}) as peer:
        peer.fault = lambda method, _, __: long if method == "GET" else None
        report = await grab(peer, tmp_path, transport=lane)
    assert [(f.key, f.error) for f in report.failures] == [("k", "ServerFault")]
    assert "more bytes came than were asked for" in report.failures[0].message
    assert content_of(tmp_path) == {}


async def test_the_totals_are_known_while_the_first_object_is_on_its_way(tmp_path: Path) -> None:
    progress = Progress()
    async with ObjectPeer({"large": LARGE, "small": b"content"}) as peer:
        peer.hold = {0}
        grabber = asyncsink.S3Grabber("s3://bucket", tmp_path, endpoint_url=peer.endpoint_url, region="us-east-1")
        grabbing = asyncio.create_task(grabber.run(progress=progress))
        await peer.held.wait()
        assert (progress.objects_total, progress.bytes_total) == (2, len(LARGE) + 7)
        assert progress.bytes_done == 0
        grabbing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await grabbing
    assert progress.bytes_under_way == 0


async def test_bytes_that_turn_out_wrong_are_never_counted_as_done(tmp_path: Path) -> None:
    """All ranges come, twice, and the proof fails: the bytes were under way, and then they are nothing."""
    progress = Progress()
    async with ObjectPeer({"large": LARGE, "small": b"content"}) as peer:

        def corrupt(method: str, key: str, first: int) -> bytes | None:
            if (method, key, first) != ("GET", "large", STARTS[3]):
                return None
            lines = ["206 Partial Content", f"Content-Length: {8 * MIB}", f'ETag: "{peer.etag("large")}"']
            lines.append(f"Content-Range: bytes {first}-{first + 8 * MIB - 1}/{len(LARGE)}")
            return ("HTTP/1.1 " + "\r\n".join([*lines, "", ""])).encode() + bytes(8 * MIB)

        peer.fault = corrupt
        grabber = asyncsink.S3Grabber(
            "s3://bucket", tmp_path, endpoint_url=peer.endpoint_url, region="us-east-1", retry=QUICK
        )
        report = await grabber.run(progress=progress)
    assert [failure.error for failure in report.failures] == ["IntegrityError"]
    assert (progress.bytes_done, progress.bytes_under_way, progress.bytes_failed) == (7, 0, len(LARGE))
    assert progress.bytes_moved >= 2 * len(LARGE)
    assert report.bytes_fetched == 7
