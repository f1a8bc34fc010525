"""Small objects that are asked for together: each ends as it would alone, whatever happens to its neighbours."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

import asyncsink
from asyncsink.download.placement import FOLDER
from asyncsink.engine.limits.memory import ByteBudget
from asyncsink.options.settings import RetryPolicy
from asyncsink.s3.get_object import GetObjects
from asyncsink.s3.http.client import HttpTransport
from asyncsink.testing.transport_kit import canned
from tests.support.files import content_of
from tests.support.object_peer import ObjectPeer
from tests.support.requests import DENIED, SLOW_DOWN

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("dummy_keys")]
QUICK = RetryPolicy(attempts=3, backoff_seconds_base=0.001, backoff_seconds_max=0.001, stall_seconds=1.0)
OBJECTS = {f"d{number % 3}/k{number}": b"<%d>" % number * (number * 7 % 900 + 1) for number in range(300)}
SOME = list(OBJECTS)[::40]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many objects each batch had."""
    found: list[int] = []
    send = HttpTransport.send

    async def watched(self: HttpTransport, operation: Any) -> Any:
        if isinstance(operation, GetObjects):
            found.append(len(operation.objects))
        return await send(self, operation)

    monkeypatch.setattr(HttpTransport, "send", watched)
    return found


async def grab(peer: ObjectPeer, directory: Path, **options: Any) -> asyncsink.GrabReport:
    given = {"retry": QUICK, "region": "us-east-1", "retries": 0} | options
    return await asyncsink.grab("s3://bucket", directory, endpoint_url=peer.endpoint_url, **given)


def once(peer: ObjectPeer, keys: Sequence[str], answer: Callable[[str, bytes], bytes]) -> Counter[str]:
    """Let the first GET of some keys be answered otherwise: made of the key and the right answer. Counts the GETs."""
    asked: Counter[str] = Counter()

    def fault(method: str, key: str, _: int) -> bytes | None:
        if method != "GET":
            return None
        asked[key] += 1
        if key not in keys or asked[key] > 1:
            return None
        return answer(key, peer._object("GET", key, "", None))

    peer.fault = fault
    return asked


async def test_all_are_received_in_batches(tmp_path: Path, batches: list[int]) -> None:
    async with ObjectPeer(dict(OBJECTS)) as peer:
        asked = once(peer, (), lambda _, right: right)
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == OBJECTS
    assert asked == Counter([*OBJECTS])
    assert sum(batches) == len(OBJECTS)
    assert min(batches) > 1
    assert {(r.attempts, r.confirmed_by) for r in report.receipts} == {(1, "server-checksum")}
    assert {r.key: r.etag for r in report.receipts} == {
        key: hashlib.md5(body).hexdigest() for key, body in OBJECTS.items()
    }
    assert report.retries == 0


WRONG: dict[str, Callable[[str, bytes], bytes]] = {
    "slow down": lambda *_: SLOW_DOWN,
    "an error of the server": lambda *_: canned(500, b""),
    "hanging up": lambda *_: b"",
    "nonsense": lambda *_: b"nonsense\r\n\r\n",
    "stopping in the middle": lambda _, right: right[:-1],
    "stopping in the head": lambda _, right: right[:40],
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_fault_of_some_costs_each_of_them_one_attempt(tmp_path: Path, batches: list[int], how: str) -> None:
    async with ObjectPeer(dict(OBJECTS)) as peer:
        asked = once(peer, SOME, WRONG[how])
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == OBJECTS
    assert batches
    if how == "hanging up":  # a kept connection may have been closed for being idle: that is asked once more at once
        assert all(asked[key] == (2 if key in SOME else 1) for key in OBJECTS)
        return
    assert asked == Counter([*OBJECTS, *SOME])
    assert {r.key for r in report.receipts if r.attempts == 2} == {*SOME}
    assert report.retries == len(SOME)


@pytest.mark.parametrize("times", [1, 1000])
async def test_bytes_that_are_wrong_fail_alone(tmp_path: Path, times: int) -> None:
    async with ObjectPeer(dict(OBJECTS)) as peer:
        left = Counter(dict.fromkeys(SOME, times))

        def flip(method: str, key: str, _: int) -> bytes | None:
            if method != "GET" or not left[key]:
                return None
            left[key] -= 1
            right = peer._object("GET", key, "", None)
            return right[:-1] + bytes([right[-1] ^ 1])

        peer.fault = flip
        report = await grab(peer, tmp_path)
    if times == 1:
        report.raise_for_failures()
        assert content_of(tmp_path) == OBJECTS
        return
    assert {f.key: (f.error, f.stage) for f in report.failures} == dict.fromkeys(SOME, ("IntegrityError", "download"))
    assert content_of(tmp_path) == {key: body for key, body in OBJECTS.items() if key not in SOME}


async def test_a_checksum_that_contradicts_right_bytes_is_a_failure(tmp_path: Path) -> None:
    async with ObjectPeer(dict(OBJECTS)) as peer:

        def other(method: str, key: str, _: int) -> bytes | None:
            right = peer._object(method, key, "", None)
            return right.replace(b"crc64nvme: ", b"crc64nvme: AAAA", 1) if key in SOME and method == "GET" else None

        peer.fault = other
        report = await grab(peer, tmp_path)
    assert {f.key: f.error for f in report.failures} == dict.fromkeys(SOME, "IntegrityError")
    assert content_of(tmp_path) == {key: body for key, body in OBJECTS.items() if key not in SOME}


async def test_what_is_gone_or_denied_fails_alone(tmp_path: Path) -> None:
    answers = dict(zip(SOME, [canned(404, b""), DENIED] * len(SOME), strict=False))
    async with ObjectPeer(dict(OBJECTS)) as peer:
        asked: Counter[str] = Counter()

        def fault(_: str, key: str, __: int) -> bytes | None:
            asked[key] += 1
            return answers.get(key)

        peer.fault = fault
        report = await grab(peer, tmp_path)
    expected = dict(zip(SOME, ["ObjectMissing", "AccessDenied"] * len(SOME), strict=False))
    assert {f.key: f.error for f in report.failures} == expected
    assert content_of(tmp_path) == {key: body for key, body in OBJECTS.items() if key not in SOME}
    assert set(asked.values()) == {1}


async def test_what_is_replaced_since_it_was_listed_is_grabbed_as_it_is(tmp_path: Path) -> None:
    newer = {key: body[::-1] if number % 2 else body + b"more" for number, (key, body) in enumerate(OBJECTS.items())}
    changed = {key: newer[key] for key in SOME}
    async with ObjectPeer(dict(OBJECTS)) as peer:

        def replace(method: str, _: str, __: int) -> None:
            if method == "GET":
                peer.objects.update(changed)

        peer.fault = replace
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == {**OBJECTS, **changed}
    assert {r.key: r.size_bytes for r in report.receipts if r.key in SOME} == {k: len(b) for k, b in changed.items()}


async def test_cancelled_in_the_middle_every_file_is_whole(tmp_path: Path) -> None:
    async with ObjectPeer(dict(OBJECTS)) as peer:
        held = asyncio.Event()

        def hold(method: str, key: str, _: int) -> None:
            if method == "GET" and key == SOME[3]:
                held.set()

        peer.fault = hold
        grabbing = asyncio.create_task(grab(peer, tmp_path))
        await held.wait()
        grabbing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await grabbing
        there = content_of(tmp_path)
        assert there.items() <= OBJECTS.items()
        assert not (tmp_path / FOLDER).exists()
        peer.fault = lambda *_: None
        (await grab(peer, tmp_path)).raise_for_failures()
    assert content_of(tmp_path) == OBJECTS


async def test_checksums_that_may_not_be_asked_for(tmp_path: Path) -> None:
    refused = canned(400, b"<Error><Code>InvalidArgument</Code><Message>x-amz-checksum-mode</Message></Error>")

    class Old(ObjectPeer):
        """Knows no checksums."""

        def _object(self, method: str, key: str, head: str, wanted: Any) -> bytes:
            if "x-amz-checksum-mode" in head.lower():
                return refused
            right = super()._object(method, key, head, wanted)
            return b"\r\n".join(line for line in right.split(b"\r\n") if not line.startswith(b"x-amz-checksum"))

    async with Old(dict(OBJECTS)) as peer:
        report = await grab(peer, tmp_path)
    report.raise_for_failures()
    assert content_of(tmp_path) == OBJECTS
    assert {r.confirmed_by for r in report.receipts} == {"etag"}
    assert any("refuses to be asked for checksums" in notice for notice in report.notices)


async def test_a_thousand_objects_of_a_real_server_with_64_at_once(
    options: dict[str, Any], bucket: str, batches: list[int], tmp_path: Path
) -> None:
    order = random.Random(12)
    source, target = tmp_path / "source", tmp_path / "target"
    for number in range(1000):
        path = source / f"d {number % 7}" / f"k{number}ü"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(order.randbytes(order.randrange(40_000)))
    (await asyncsink.export_directory(source, f"s3://{bucket}/p", **options)).raise_for_failures()
    report = await asyncsink.grab(f"s3://{bucket}/p", target, concurrency=64, **options)
    report.raise_for_failures()
    assert content_of(target) == content_of(source)
    assert sum(batches) >= 990
    assert {r.confirmed_by for r in report.receipts if r.size_bytes} == {"server-checksum"}


async def test_what_all_are_refused_for_stops_the_grab(tmp_path: Path) -> None:
    async with ObjectPeer(dict(OBJECTS)) as peer:
        asked = once(peer, [*OBJECTS], lambda *_: DENIED)
        report = await grab(peer, tmp_path, concurrency=4)
    assert "10 objects in a row were refused" in report.stop_reason
    assert set(asked.values()) == {1}
    assert len(asked) < len(OBJECTS) / 2
    assert content_of(tmp_path) == {}


async def test_a_batch_whose_objects_have_grown_stays_within_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    reserve = ByteBudget.reserve

    def watched(self: ByteBudget, count_bytes: int) -> Any:
        held.append(count_bytes)
        return reserve(self, count_bytes)

    monkeypatch.setattr(ByteBudget, "reserve", watched)
    objects = {f"k{number}": b"small" for number in range(64)}
    grown = {key: key.encode() * 200_000 for key in objects}
    async with ObjectPeer(dict(objects)) as peer:

        def fault(*_: object) -> None:
            peer.objects = grown  # the listing told of the small ones

        peer.fault = fault
        report = await grab(peer, tmp_path, memory_bytes="5MiB", part_size_bytes="5MiB", concurrency=1)
    report.raise_for_failures()
    assert content_of(tmp_path) == grown
    assert max(held) <= 5 << 20


async def test_a_folder_that_may_not_be_read_costs_no_other_its_objects(tmp_path: Path) -> None:
    denied = [f"a/k{number:02}" for number in range(40)]
    objects = dict.fromkeys(denied, b"closed") | {f"b/k{number:03}": b"open" for number in range(600)}
    async with ObjectPeer(objects) as peer:
        peer.fault = lambda _, key, __: DENIED if key.startswith("a/") else None
        report = await grab(peer, tmp_path, concurrency=64)
    assert report.stop_reason == ""
    assert sorted(failure.key for failure in report.failures) == denied
    assert report.objects_fetched == 600
